"""Encoding, the case store, exact search and lookup: from an image to the known cases like it."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "ArchiveCalibration": "calibration",
    "CaseLookup": "lookup",
    "CaseStore": "store",
    "Condition": "where",
    "Encoded": "encoders",
    "ExactSearch": "search",
    "Explanation": "explain",
    "Hit": "ranking",
    "LookupAnswer": "answer",
    "LookupWarning": "cautions",
    "MilvusSearch": "search",
    "OnnxEncoder": "encoders",
    "Ranking": "ranking",
    "Search": "search",
    "TorchEncoder": "encoders",
    "best_encoder": "encoders",
    "calibrate": "calibration",
    "contact_sheet": "sheet",
    "encode_cases": "encode",
    "encode_images": "encode",
    "jpeg_thumbnail": "thumbnails",
    "parse_where": "where",
    "thumbnails_of": "thumbnails",
    "upgrade_store": "upgrade",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
