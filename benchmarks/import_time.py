"""What ``import medshadow`` costs beyond ``import torch``: each in new processes, in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 7


def seconds(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def main() -> None:
    statements = ["import torch", "import torch, medshadow", "import torch, medshadow.losses"]
    for statement in statements:
        seconds(statement)  # files into the cache
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    for _ in range(REPEATS):
        for statement in statements:
            times[statement].append(seconds(statement))
    base = statistics.median(times[statements[0]])
    print(f"{'statement':<34}{'median s':>10}{'beyond torch s':>16}{'ratio':>8}")
    for statement in statements:
        median = statistics.median(times[statement])
        print(f"{statement:<34}{median:>10.3f}{median - base:>16.3f}{median / base:>8.2f}")


if __name__ == "__main__":
    main()
