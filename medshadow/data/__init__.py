"""Data sets, readers, audit, splits and sampling: from files on disk to batches of cases."""

from __future__ import annotations

from typing import Any

# Not when first used, as the others: the module of that name would stand in its place by then.
from medshadow.data.audit import audit
from medshadow.lazy import load

_FILE_OF = {
    "CaseDataset": "dataset",
    "CaseTable": "cases",
    "ClinicalImageReader": "readers",
    "Draw": "draws",
    "HAM10KDataset": "ham10k",
    "LeftOut": "cases",
    "ODIR5KDataset": "odir5k",
    "PKSampler": "sampler",
    "archive_cases": "archive",
    "fold_cases": "splits",
    "ham10k_cases": "ham10k",
    "labels_from_keywords": "odir5k",
    "load_published_split": "published_split",
    "measure_leakage": "published_split",
    "odir5k_cases": "odir5k",
    "read_image": "readers",
    "split_cases": "splits",
    "write_phantoms": "phantoms",
}

__all__ = ["audit", *_FILE_OF]


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
