"""The whole way and each part of it as functions; the command and the pipelines are thin."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILE_OF = {
    "OutputFolder": "output",
    "Pipeline": "pipeline",
    "RetrievalValidation": "validation",
    "build_index": "index",
    "evaluate": "evaluation",
    "prepare_cases": "preparation",
    "run_config": "configuration",
    "run_demo": "demo",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'medshadow.workflows' has no attribute {name!r}")
    return getattr(import_module(f"medshadow.workflows.{_FILE_OF[name]}"), name)
