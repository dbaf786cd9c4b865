"""What the benchmarks share: functions timed in fresh processes, peak memory above the start.

On Linux the peak is that of the process's resident memory, on CUDA that of torch's allocator.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")

MOST_PASSES = 500
LEAST_ROUNDS = 5


class Figures(NamedTuple):
    """Best and median time of a pass, the most memory above the start, and what a pass gave."""

    ms: float
    median_ms: float
    mb: float
    result: Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every script of this kind can be told."""
    parser.add_argument("--seconds", type=float, default=4, help="for each figure, about")
    parser.add_argument("--rounds", type=int, default=1, help="processes a figure; the best counts")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--limit", type=float, help="GB for one process; 8, on CUDA all there is")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)


def settle_device(options: argparse.Namespace) -> None:
    """Replace an "auto" device and a limit that was not given by what this machine has."""
    if options.device != "cpu" and not torch.cuda.is_available():
        print("no CUDA device: CPU")
        options.device = "cpu"
    options.device = "cpu" if options.device == "cpu" else "cuda"
    if options.limit is None and options.device == "cpu":
        options.limit = 8.0
    elif options.limit is None:
        options.limit = torch.cuda.get_device_properties(0).total_memory / 1e9


def heading(options: argparse.Namespace, packages: list[str], kind: str = "best") -> str:
    """What was measured where, with versions; ``kind`` is what stands for many passes."""
    versions = [f"{name} {installed(name) or 'not installed'}" for name in packages]
    return (
        f"{_machine(options)}; Python {platform.python_version()}, {', '.join(versions)}\n"
        f"{kind} of about {options.seconds:g} s x {options.rounds}; MB (2^20 bytes) above the "
        f"start; {options.limit:.0f} GB a process"
    )


def installed(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def in_fresh_process(script: str, what: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run ``script --measure what...`` and return what it prints as JSON; empty: no room."""
    command = [sys.executable, script, "--measure", *what]
    for name in ("seconds", "threads", "device", "limit"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def best_pass(once: Callable[[], Any], options: argparse.Namespace) -> Figures | None:
    """Time a function, three times at least, until the seconds are spent; None: no room.

    A pass before those, which first takes hold of its memory, counts for the memory alone.
    """
    device = torch.device(options.device)
    _limit_memory(device, options.limit)
    held = _reset_peak(device)
    times: list[float] = []
    try:
        once()
        while len(times) < 3 or (sum(times) < options.seconds and len(times) < MOST_PASSES):
            seconds, result = timed(once, device)
            times.append(seconds)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return None
    used = (_peak(device) - held) / 2**20
    return Figures(1000 * min(times), 1000 * statistics.median(times), used, result)


def alternately(
    ways: dict[str, Callable[[], T]], options: argparse.Namespace
) -> dict[str, tuple[float, T]]:
    """Time several functions in turn in this process, each once a round, for a fair comparison.

    What else the machine does meanwhile, and how warm it is, then concerns all of them alike.

    Returns:
        Median time of each in ms, over at least five rounds, and what its last pass gave.
    """
    device = torch.device(options.device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, T] = {name: once() for name, once in ways.items()}
    rounds, spent = 0, 0.0
    while rounds < LEAST_ROUNDS or (spent < options.seconds * len(ways) and rounds < MOST_PASSES):
        for name, once in ways.items():
            seconds, given[name] = timed(once, device)
            times[name].append(seconds)
            spent += seconds
        rounds += 1
    return {name: (1000 * statistics.median(times[name]), given[name]) for name in ways}


def timed(function: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds that one call takes, its work on the device included, and what it gives."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def _machine(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {options.threads} threads"


def _limit_memory(device: torch.device, gigabytes: float) -> None:
    """Refuse memory beyond this instead of letting the machine swap or kill."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total))
        return
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (mapped + int(gigabytes * 1e9), hard))


def _reset_peak(device: torch.device) -> int:
    """Forget the peak so far; return the bytes held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024
