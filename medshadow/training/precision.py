"""What suits the machine: bfloat16 where it is native, freed memory kept by the process."""

from __future__ import annotations

import ctypes
import logging
import platform

import torch

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a training step's convolutions and matrix products.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 where the device has instructions for
            it, else float32.
        device: where the step runs.

    Raises:
        ValueError: the precision is not known.

    Example:
        >>> training_dtype("float32", torch.device("cpu"))
        torch.float32
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not known; expected one of {PRECISIONS}")
    if precision == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions; emulated ones are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
    return False


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for this process instead of returning it to the system.

    A training step on a CPU allocates and frees gigabytes; fetching each page anew from the system
    costs a third of the step (``benchmarks/train_step.py``). Holds for the whole process and until
    it ends.

    Returns:
        Whether the C library (glibc) took the setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL("libc.so.6")
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20}
    taken = [libc.mallopt(name, value) for name, value in settings.items()]
    return all(taken)
