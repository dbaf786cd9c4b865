"""A training step of EfficientNet-Lite0 on the CPU: what layout, precision and our changes bring.

Each row adds one change to the row above and runs in a process of its own, the whole table twice in
turn; the better time of each row counts. ``python benchmarks/train_step.py [--size 128]``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

ROWS = (
    ("float32, channels first", ()),
    ("+ channels last", ("channels_last",)),
    ("+ bfloat16", ("channels_last", "bfloat16")),
    ("+ float32 backward of depthwise", ("channels_last", "bfloat16", "depthwise")),
    ("+ freed memory kept", ("channels_last", "bfloat16", "depthwise", "memory")),
)


def step_seconds(size: int, images: int, changes: list[str]) -> float:
    """The median of the last steps, after the memory has settled."""
    import statistics

    import torch

    from medshadow.networks import Embedder
    from medshadow.networks.depthwise import SameConv2d
    from medshadow.training import adamw
    from medshadow.training.precision import keep_freed_memory

    if "memory" in changes:
        keep_freed_memory()
    embedder = Embedder().train()
    if "depthwise" not in changes:
        for module in embedder.modules():
            if isinstance(module, SameConv2d):
                module._slow_in_bfloat16 = False
    batch = torch.rand(images, 3, size, size)
    if "channels_last" in changes:
        embedder = embedder.to(memory_format=torch.channels_last)
        batch = batch.contiguous(memory_format=torch.channels_last)
    optimizer = adamw(embedder)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in changes):
            embeddings = embedder(batch)
        loss = (embeddings @ embeddings.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return statistics.median(times[-5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=112)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        print(step_seconds(options.size, options.images, json.loads(options.row)))
        return
    best = dict.fromkeys((name for name, _ in ROWS), float("inf"))
    for _ in range(2):
        for name, changes in ROWS:
            arguments = ["--size", str(options.size), "--images", str(options.images)]
            command = [sys.executable, __file__, *arguments, "--row", json.dumps(changes)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            best[name] = min(best[name], float(done.stdout))
    first = next(iter(best.values()))
    print(f"{options.images} images of {options.size} px, forward, backward and AdamW")
    print(f"{'':<34}{'s a step':>10}{'speed-up':>10}")
    for name, seconds in best.items():
        print(f"{name:<34}{seconds:>10.2f}{first / seconds:>10.2f}")


if __name__ == "__main__":
    main()
