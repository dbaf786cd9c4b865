"""Diagnostics of an embedding: how well it retrieves, how it lies in space, how sure that is."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "Diagnostics": "report",
    "EmbeddedCases": "embedded",
    "Neighbours": "retrieval",
    "alignment": "geometry",
    "collapse_signs": "geometry",
    "diagnose": "report",
    "effective_rank": "geometry",
    "group_bootstrap": "uncertainty",
    "hubness": "geometry",
    "majority_baseline": "baseline",
    "majority_vote": "votes",
    "map_at_r": "retrieval",
    "nearest_groups": "retrieval",
    "precision_at_k": "retrieval",
    "r_precision": "retrieval",
    "recall_at_k": "retrieval",
    "reciprocal_rank": "retrieval",
    "score_rankings": "scoring",
    "silhouettes": "geometry",
    "uniformity": "geometry",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
