"""The exact triplet engine against its peers and against its own matrix products.

    python benchmarks/triplet_engine.py                        # the whole table
    python benchmarks/triplet_engine.py --sizes 256 640 --seconds 1
    python benchmarks/triplet_engine.py --device cuda

Every figure comes from a fresh process: the best time of a forward and backward pass over one batch
(random unit embeddings, equal classes, margin 0.2), and the peak memory above what the process held
before, after a small batch has loaded all code (on CUDA: torch.cuda.max_memory_allocated). All ways
see the same batch, and the table says how far their values lie apart. Three matrix products,
S x S x D each, are the floor that no engine of this kind can pass. Peers list every triplet: where
that list does not fit --limit, the table says "no room", and larger batches are not tried.
sentence-transformers averages over the triplets with a positive hinge and is compared with that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from measuring import (
    add_arguments,
    best_pass,
    heading,
    in_fresh_process,
    installed,
    settle_device,
    timed,
)
from torch import Tensor

MARGIN = 0.2
ALONE = ("engine", "products")
WITH_SETS = (*ALONE, "sets")
ALL = (*WITH_SETS, "metric_learning", "sentence_transformers")
# batch, dimension, classes, and which ways are tried
SHAPES = [
    (256, 256, 8, ALL),
    (512, 256, 8, ALL),
    (640, 256, 8, ALL),
    (1024, 256, 8, ALL),
    (1280, 256, 8, ALL),
    (2048, 256, 8, ALL),
    (4096, 256, 8, ALL),
    (8192, 512, 64, WITH_SETS),
    (32768, 128, 256, ALONE),
    (65536, 128, 256, ALONE),
]
LARGEST_ON_CPU = 32768
# package and the reduction that it is compared under
PEERS = {
    "metric_learning": ("pytorch-metric-learning", "mean"),
    "sentence_transformers": ("sentence-transformers", "mean_active"),
}
NAMES = {
    "engine": "engine",
    "sets": "engine, label sets",
    "products": "three matrix products",
    **{way: package for way, (package, _) in PEERS.items()},
}
AGREE = 1e-4  # relative; float32 sums of up to 10^8 hinges


class Batch(NamedTuple):
    """Embeddings that want a gradient, S x D, and their S labels."""

    rows: Tensor
    labels: Tensor


def main() -> None:
    options = parse()
    if options.measure:
        way, *shape = options.measure
        print(json.dumps(measure(way, shape, options)))
        return
    settle_device(options)
    largest = LARGEST_ON_CPU if options.device == "cpu" else SHAPES[-1][0]
    sizes = options.sizes or [size for size, *_ in SHAPES if size <= largest]
    print(heading(options, ["torch", *(package for package, _ in PEERS.values())]))
    columns = f"{'ms':>10}{'MB':>9}{'x engine ms':>13}{'x engine MB':>13}{'apart by':>10}"
    print(f"{'S':>6}{'D':>5}{'classes':>9}  {'':<24}{columns}")
    full: set[str] = set()
    agree = True
    for size, width, classes, ways in SHAPES:
        if size in sizes:
            chosen = [way for way in ways if way in options.ways]
            agree &= print_shape((size, width, classes), chosen, full, options)
    if not agree:
        sys.exit(f"values differ by more than {AGREE}, relative")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [size for size, *_ in SHAPES]
    parser.add_argument(
        "--sizes", type=int, nargs="+", choices=known, metavar="S", help=f"of {known}"
    )
    parser.add_argument("--ways", nargs="+", choices=ALL, default=ALL, help="what is measured")
    add_arguments(parser)
    return parser.parse_args()


def print_shape(
    shape: tuple[int, int, int], ways: list[str], full: set[str], options: argparse.Namespace
) -> bool:
    """Print a line for each way; return whether all values agree. ``full`` gathers who is out."""
    found: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for way in ways:
            if way in full or (way in PEERS and installed(PEERS[way][0]) is None):
                continue
            new = in_fresh_process(__file__, [way, *map(str, shape)], options)
            if not new:
                full.add(way)
            elif way not in found or new["ms"] < found[way]["ms"]:
                found[way] = new
    agree = True
    for way in ways:
        start = "{:>6}{:>5}{:>9}  ".format(*shape) + f"{NAMES[way]:<24}"
        if way not in found:
            print(start + ("   no room" if way in full else "   not installed"), flush=True)
            continue
        apart = distance(way, found)
        agree &= apart is None or apart < AGREE
        print(start + cells(found[way], found.get("engine"), apart), flush=True)
    return agree


def cells(own: dict[str, Any], engine: dict[str, Any] | None, apart: float | None) -> str:
    line = f"{own['ms']:>10.2f}{own['mb']:>9.1f}"
    if engine is None or engine is own:
        return line
    line += f"{own['ms'] / engine['ms']:>13.2f}"
    line += f"{own['mb'] / engine['mb']:>13.2f}" if engine["mb"] > 0 else f"{'':>13}"
    return line + ("" if apart is None else f"{apart:>10.0e}")


def distance(way: str, found: dict[str, dict[str, Any]]) -> float | None:
    """How far a value lies from the engine's, relative; None where there is nothing to compare."""
    if "engine" not in found or way in ALONE:
        return None
    reduction = PEERS[way][1] if way in PEERS else "mean"
    expected, value = (found[one]["values"][reduction] for one in ("engine", way))
    return float(abs(value - expected) / expected)


def measure(way: str, shape: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Time one way of computing the loss in this process; nothing where there is no room."""
    torch.set_num_threads(options.threads)
    size, width, classes = map(int, shape)
    device = torch.device(options.device)
    reduction = PEERS[way][1] if way in PEERS else "mean"
    WAYS[way](random_batch(4 * classes, width, classes, device), reduction)()
    batch = random_batch(size, width, classes, device)
    figures = best_pass(WAYS[way](batch, reduction), options)
    if figures is None:
        return {}
    values = {}
    if way != "products":
        values[reduction] = figures.result.item()
    if way == "engine":
        values["mean_active"] = engine(batch, "mean_active")().item()
    return {"ms": figures.ms, "mb": figures.mb, "values": values}


def random_batch(size: int, width: int, classes: int, device: torch.device) -> Batch:
    rows = torch.randn(size, width, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(rows).to(device).requires_grad_()
    return Batch(rows, torch.arange(size, device=device) % classes)


def engine(batch: Batch, reduction: str) -> Callable[[], Tensor]:
    from medshadow.losses import ShadowLoss

    return forward_and_backward(ShadowLoss(MARGIN, reduction=reduction), batch)


def label_sets(batch: Batch, reduction: str) -> Callable[[], Tensor]:
    return engine(Batch(batch.rows, torch.nn.functional.one_hot(batch.labels)), reduction)


def metric_learning(batch: Batch, reduction: str) -> Callable[[], Tensor]:
    from pytorch_metric_learning import distances, losses, reducers

    reducer = {"mean": reducers.MeanReducer, "mean_active": reducers.AvgNonZeroReducer}[reduction]()
    cosine = distances.CosineSimilarity()
    loss = losses.TripletMarginLoss(MARGIN, distance=cosine, reducer=reducer)
    return forward_and_backward(loss, batch)


def sentence_transformers(batch: Batch, reduction: str) -> Callable[[], Tensor]:
    try:
        losses = import_module("sentence_transformers.sentence_transformer.losses")
    except ImportError:  # where they were before version 6
        losses = import_module("sentence_transformers.losses")
    assert reduction == "mean_active"
    cosine = losses.BatchHardTripletLossDistanceFunction.cosine_distance
    loss = losses.BatchAllTripletLoss(model=None, margin=MARGIN, distance_metric=cosine)
    return forward_and_backward(
        lambda rows, labels: loss.batch_all_triplet_loss(labels, rows), batch
    )


def forward_and_backward(
    loss: Callable[[Tensor, Tensor], Tensor], batch: Batch
) -> Callable[[], Tensor]:
    def once() -> Tensor:
        batch.rows.grad = None
        value = loss(*batch)
        value.backward()
        return value.detach()

    return once


def products(batch: Batch, reduction: str) -> Callable[[], Tensor]:
    """The Gram product and the two that make the gradient, in the tiles that are fastest."""
    rows = batch.rows.detach()
    gradient = torch.zeros_like(rows)

    def in_tiles(height: int) -> Tensor:
        gradient.zero_()
        for start in range(0, len(rows), height):
            tile = rows[start : start + height]
            similarity = tile @ rows.T
            gradient[start : start + height].addmm_(similarity, rows)
            gradient.addmm_(similarity.T, tile)
        return gradient

    heights = (1024, 4096) if rows.is_cuda else (128, 256, 512, 1024)
    fastest = min(heights, key=lambda height: timed(lambda: in_tiles(height), rows.device)[0])
    return lambda: in_tiles(fastest)


WAYS = {
    "engine": engine,
    "sets": label_sets,
    "products": products,
    "metric_learning": metric_learning,
    "sentence_transformers": sentence_transformers,
}


if __name__ == "__main__":
    main()
