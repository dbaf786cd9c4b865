"""The exact triplet engine against pytorch-metric-learning and against its own matrix products.

Each figure comes from a fresh process: the best time of a forward and backward pass over one batch
(random unit embeddings, equal classes, margin 0.2), and the peak memory above what the process
held before. Three matrix products, S x S x D each, are the floor that no engine of this kind can
pass. ``python benchmarks/triplet_engine.py --threads 2`` prints one table.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch

MARGIN = 0.2
# batch, dimension, classes, and whether the peer's list of triplets fits a usual machine
SHAPES = [
    (640, 256, 8, True),
    (1024, 256, 8, True),
    (4096, 256, 8, False),
    (8192, 512, 64, False),
    (32768, 128, 256, False),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--largest", type=int, default=8192, help="leave out larger batches")
    parser.add_argument("--measure", nargs=4, metavar=("WAY", "S", "D", "CLASSES"))
    chosen = parser.parse_args()
    if chosen.measure:
        way, *shape = chosen.measure
        size, width, classes = map(int, shape)
        print(json.dumps(measure(way, size, width, classes, chosen.threads)))
        return
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, ", end="")
    print(f"{chosen.threads} threads; times in ms, peak memory above the start in MB")
    columns = ["S", "D", "classes", "engine", "memory", "label sets", "memory"]
    columns += ["3 products", "x products", "peer", "memory", "x faster"]
    print("".join(f"{column:>12}" for column in columns))
    for size, width, classes, with_peer in SHAPES:
        if size <= chosen.largest:
            print(row(size, width, classes, with_peer, chosen.threads), flush=True)


def row(size: int, width: int, classes: int, with_peer: bool, threads: int) -> str:
    def figures(way: str) -> dict[str, float]:
        shape = [str(number) for number in (size, width, classes)]
        command = [sys.executable, __file__, "--threads", str(threads), "--measure", way, *shape]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    engine, sets, products = figures("engine"), figures("sets"), figures("products")
    cells = [size, width, classes, f"{engine['ms']:.1f}", f"{engine['mb']:.0f}"]
    cells += [f"{sets['ms']:.1f}", f"{sets['mb']:.0f}"]
    cells += [f"{products['ms']:.1f}", f"{engine['ms'] / products['ms']:.2f}"]
    if with_peer:
        peer = figures("peer")
        cells += [f"{peer['ms']:.0f}", f"{peer['mb']:.0f}", f"{peer['ms'] / engine['ms']:.0f}"]
    else:
        cells += ["no room", "-", "-"]
    return "".join(f"{cell:>12}" for cell in cells)


def measure(way: str, size: int, width: int, classes: int, threads: int) -> dict[str, float]:
    """Time one way of computing the loss in this process and track its peak memory."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(size, width, generator=generator)
    rows = torch.nn.functional.normalize(rows).requires_grad_()
    once = WAYS[way](rows, torch.arange(size) % classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = [timed(once)]
    # At least three passes, then as many as fit a few seconds: the best one is reported.
    while len(times) < 3 or (sum(times) < 4 and len(times) < 30):
        times.append(timed(once))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": 1000 * min(times), "mb": (after - before) / 1024}


def timed(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def engine(rows: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    from medshadow.losses import ShadowLoss

    loss = ShadowLoss(MARGIN)

    def once() -> None:
        rows.grad = None
        loss(rows, labels).backward()

    return once


def label_sets(rows: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    return engine(rows, torch.nn.functional.one_hot(labels))


def peer(rows: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.reducers import MeanReducer

    loss = TripletMarginLoss(margin=MARGIN, distance=CosineSimilarity(), reducer=MeanReducer())

    def once() -> None:
        rows.grad = None
        loss(rows, labels).backward()

    return once


def products(rows: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    rows = rows.detach()
    height = min(256, len(rows))
    gradient = torch.zeros_like(rows)

    def once() -> None:
        for some in range(0, len(rows), height):
            tile = rows[some : some + height]
            similarity = tile @ rows.T
            gradient[some : some + height].addmm_(similarity, rows)
            gradient.addmm_(similarity.T, tile)
        gradient.zero_()

    return once


WAYS = {"engine": engine, "sets": label_sets, "peer": peer, "products": products}


if __name__ == "__main__":
    main()
