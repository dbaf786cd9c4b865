"""Public names of a package that load when they are first used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def load(package: str, file_of: Mapping[str, str], name: str) -> Any:
    """Import the module that holds a public name, and return what it names.

    Args:
        package: the package whose ``__getattr__`` asks.
        file_of: public name to the module within the package that holds it.
        name: the name asked for.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in file_of:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(f"{package}.{file_of[name]}"), name)
