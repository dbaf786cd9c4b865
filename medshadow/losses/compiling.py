"""How loops are compiled for processors. Importing needs numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(fast: bool | set[str] = False) -> Callable[[F], F]:
    """Compile at the first call; keep the result on disk where there is a place for it.

    Args:
        fast: liberties with floating point, by LLVM's names; none by default.
    """

    def decorated(function: F) -> F:
        way: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fast}
        try:
            return njit(cache=True, **way)(function)
        except RuntimeError:  # neither this folder nor the user's own can be written
            return njit(**way)(function)

    return decorated
