"""The whole way and each part of it as functions; the command and the pipelines are thin."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "OutputFolder": "output",
    "Pipeline": "pipeline",
    "RetrievalValidation": "validation",
    "add_cases": "additions",
    "build_store": "building",
    "evaluate": "evaluation",
    "prepare_cases": "preparation",
    "run_config": "configuration",
    "run_demo": "demo",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
