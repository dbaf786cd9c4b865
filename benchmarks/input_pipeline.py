"""Does the input pipeline keep up? Training with real batches against the same steps in memory.

python benchmarks/input_pipeline.py --data HAM10000 [--steps 24] [--workers 0 1]

The same network, frozen where the configurations freeze it, batch shape and optimizer; one side
draws, augments and collates real images, the other repeats one batch that lies in memory. The sides
take turns of eight steps, so that a slower or faster moment of the machine meets both; the first
three steps of a turn are not counted, since workers have made batches ahead during the other side's
turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from medshadow.data import ham10k_cases, split_cases, write_phantoms
from medshadow.losses import ShadowLoss
from medshadow.networks import Embedder
from medshadow.training import adamw, training_loader
from medshadow.training.precision import keep_freed_memory, training_dtype
from medshadow.transforms import dermatology_transforms

TURN, UNCOUNTED = 8, 3
FROZEN = ("_conv_stem", "_bn0", "_blocks.0", "_blocks.1", "_blocks.2")


def compare(table: Any, steps: int, workers: int) -> tuple[float, float]:
    """Median seconds of a step with the pipeline, and of one on a batch in memory."""
    transform = dermatology_transforms(128, train=True)
    loader = training_loader(
        table, transform, batches_per_epoch=steps + 2, num_workers=workers, progress=False
    )
    embedder = Embedder().train().to(memory_format=torch.channels_last)
    frozen = [f"features.net.{name}" for name in FROZEN]
    optimizer, loss = adamw(embedder, frozen=frozen), ShadowLoss()
    for name in frozen:
        embedder.backbone.get_submodule(name).eval()  # as the trainer does
    dtype = training_dtype("auto", torch.device("cpu"))

    def step(batch: dict[str, Any]) -> None:
        images = batch["image"].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            embeddings = embedder(images)
        optimizer.zero_grad()
        loss(embeddings, batch["label"]).backward()
        optimizer.step()

    batches = iter(loader)
    kept = next(batches)
    step(kept)
    real, memory = [], []
    for _ in range(steps // TURN):
        for number in range(TURN):
            started = time.perf_counter()
            step(next(batches))
            if number >= UNCOUNTED:
                real.append(time.perf_counter() - started)
        for number in range(TURN):
            started = time.perf_counter()
            step(kept)
            if number >= UNCOUNTED:
                memory.append(time.perf_counter() - started)
    return statistics.median(real), statistics.median(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="HAM10000; phantoms are drawn without it")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        root = options.data or write_phantoms(folder, lesions=400)
        table = split_cases(ham10k_cases(root))
        print(f"{'workers':>8}{'pipeline s':>12}{'in memory s':>13}{'throughput':>12}")
        for workers in options.workers:
            real, memory = compare(table, options.steps, workers)
            print(f"{workers:>8}{real:>12.3f}{memory:>13.3f}{memory / real:>12.3f}")


if __name__ == "__main__":
    main()
