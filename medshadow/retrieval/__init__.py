"""Encoding, the case store, exact search and lookup: from an image to the known cases like it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILE_OF = {
    "CaseLookup": "lookup",
    "CaseStore": "store",
    "Condition": "where",
    "ExactSearch": "search",
    "Hit": "ranking",
    "LookupAnswer": "answer",
    "Ranking": "ranking",
    "contact_sheet": "sheet",
    "encode_cases": "encode",
    "encode_images": "encode",
    "jpeg_thumbnail": "thumbnails",
    "parse_where": "where",
    "thumbnails_of": "thumbnails",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'medshadow.retrieval' has no attribute {name!r}")
    return getattr(import_module(f"medshadow.retrieval.{_FILE_OF[name]}"), name)
