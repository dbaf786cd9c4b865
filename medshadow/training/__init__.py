"""Training an embedder on MONAI's engine."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "CollapseGuard": "collapse",
    "FinalHead": "final_head",
    "MetricTrainer": "trainer",
    "MiningCurriculum": "curriculum",
    "OBJECTIVES": "objectives",
    "Probe": "probe",
    "Stage": "curriculum",
    "adamw": "optimization",
    "cached_backward": "large_batch",
    "cosine": "optimization",
    "fit_final_head": "final_head",
    "gather_with_gradient": "distributed",
    "mixed_chunks": "large_batch",
    "objective": "objectives",
    "one_cycle": "optimization",
    "training_loader": "loader",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
