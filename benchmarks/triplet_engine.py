"""The exact triplet engine and its miners against their peers and against three matrix products.

    python benchmarks/triplet_engine.py
    python benchmarks/triplet_engine.py --sizes 256 640 --seconds 1
    python benchmarks/triplet_engine.py --device cuda

Times are medians of forward and backward passes over one batch (random unit embeddings, equal
classes, margin 0.2). The engine, with single labels and with label sets, and the three matrix
products run alternately in one process, each once a round, five rounds or more: "x products" is
the ratio of their medians. The three products, S x S x D each, are cut into the tiles that are
fastest; where one tile holds the batch, the engine itself needs only two. Peers run in processes
of their own. Peak memory, above what the process held after a small batch had loaded all code,
always comes from a fresh process that ran nothing else (on CUDA: torch.cuda.max_memory_allocated).

"x ours" is a row's time or memory over that of ours with the same rule of mining. All ways see the
same batch, and the table says how far their values lie apart. Peers list every triplet: where that
list does not fit --limit, the table says "no room", and larger batches are not tried.
sentence-transformers averages over the triplets with a positive hinge and is compared with that.
The semi-hard miner of pytorch-metric-learning takes every semi-hard negative of a pair, ours the
hardest of them: their values are not compared.
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
    alternately,
    best_pass,
    heading,
    in_fresh_process,
    installed,
    settle_device,
    timed,
)
from torch import Tensor

MARGIN = 0.2
PRODUCTS = "products"
ALTERNATELY = ("engine", "sets", PRODUCTS)
PEERS = ("metric_learning", "sentence_transformers")
MINERS = ("semihard", "hardest_negative", "batch_hard")
# batch, dimension, classes, and which ways are tried
SHAPES = [
    (256, 256, 8, ALTERNATELY + PEERS),
    (512, 256, 8, ALTERNATELY + PEERS),
    (640, 256, 8, ALTERNATELY + PEERS),
    (1024, 256, 8, ALTERNATELY + PEERS),
    (1280, 256, 8, ALTERNATELY + PEERS),
    (2048, 256, 8, ALTERNATELY + PEERS),
    (4096, 256, 8, ALTERNATELY + PEERS),
    (8192, 512, 64, ALTERNATELY),
    (32768, 128, 256, ALTERNATELY),
    (65536, 128, 256, ALTERNATELY),
]
MINED_SHAPES = [(256, 256, 8), (512, 256, 8), (1024, 256, 8), (2048, 256, 8), (4096, 256, 8)]
LARGEST_ON_CPU = 32768
# package and the reduction that it is compared under
PACKAGES = {
    "metric_learning": ("pytorch-metric-learning", "mean"),
    "sentence_transformers": ("sentence-transformers", "mean_active"),
    **{f"{miner}_peer": ("pytorch-metric-learning", "mean") for miner in MINERS},
}
NAMES = {
    "engine": "all triplets",
    "sets": "all triplets, label sets",
    PRODUCTS: "three matrix products",
    **{way: f"all triplets, {PACKAGES[way][0]}" for way in PEERS},
    **{miner: miner for miner in MINERS},
    **{f"{miner}_peer": f"{miner}, pytorch-metric-learning" for miner in MINERS},
}
AGREE = 1e-4  # relative; float32 sums of up to 10^8 hinges
Found = dict[str, dict[str, Any]]


class Batch(NamedTuple):
    """Embeddings that want a gradient, S x D, and their S labels."""

    rows: Tensor
    labels: Tensor


def main() -> None:
    options = parse()
    if options.measure:
        ways, *shape = options.measure
        several = ways.split(",")
        print(json.dumps((together if len(several) > 1 else measure)(ways, shape, options)))
        return
    settle_device(options)
    largest = LARGEST_ON_CPU if options.device == "cpu" else SHAPES[-1][0]
    packages = ["torch", "numba", *dict.fromkeys(package for package, _ in PACKAGES.values())]
    print(heading(options, packages, "median"))
    full: set[str] = set()
    agree = True
    print_columns()
    for size, width, classes, ways in SHAPES:
        if size in (options.sizes or [size]) and size <= largest:
            chosen = [way for way in ways if way in options.ways]
            found = figures_of((size, width, classes), chosen, full, options)
            agree &= print_shape((size, width, classes), chosen, found, "engine", full)
    for shape in MINED_SHAPES:
        for miner in MINERS:
            chosen = [way for way in (miner, f"{miner}_peer") if way in options.ways]
            if shape[0] in (options.sizes or [shape[0]]) and chosen:
                found = figures_of(shape, chosen, full, options)
                agree &= print_shape(shape, chosen, found, miner, full)
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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="what is measured")
    add_arguments(parser)
    return parser.parse_args()


def figures_of(
    shape: tuple[int, int, int], ways: list[str], full: set[str], options: argparse.Namespace
) -> Found:
    """Time and memory of each way that is installed and has room; ``full`` gathers who has none."""
    size = [str(number) for number in shape]
    found: Found = {}
    for _ in range(options.rounds):
        for way in ways:
            if way in full or (way in PACKAGES and installed(PACKAGES[way][0]) is None):
                continue
            new = in_fresh_process(__file__, [way, *size], options)
            if not new:
                full.add(way)
            elif way not in found or new["ms"] < found[way]["ms"]:
                found[way] = new
    in_turn = [way for way in found if way in ALTERNATELY]
    if len(in_turn) > 1:
        times = in_fresh_process(__file__, [",".join(in_turn), *size], options)
        for way, ms in times.items():
            found[way]["ms"] = ms
    return found


def print_columns() -> None:
    columns = f"{'ms':>10}{'MB':>9}{'x ours ms':>13}{'x ours MB':>13}{'apart by':>10}"
    print(f"{'S':>6}{'D':>5}{'classes':>9}  {'':<40}{columns}{'x products':>12}")


def print_shape(
    shape: tuple[int, int, int], ways: list[str], found: Found, ours: str, full: set[str]
) -> bool:
    """Print a line for each way; return whether all values agree."""
    agree = True
    for way in ways:
        start = "{:>6}{:>5}{:>9}  ".format(*shape) + f"{NAMES[way]:<40}"
        if way not in found:
            print(start + ("   no room" if way in full else "   not installed"), flush=True)
            continue
        apart = distance(way, ours, found)
        agree &= apart is None or apart < AGREE
        print(start + cells(way, ours, found, apart), flush=True)
    return agree


def cells(way: str, ours: str, found: Found, apart: float | None) -> str:
    own, against = found[way], found.get(ours)
    line = f"{own['ms']:>10.2f}{own['mb']:>9.1f}"
    if against is None or against is own:
        line += f"{'':>26}"
    else:
        line += f"{own['ms'] / against['ms']:>13.2f}"
        line += f"{own['mb'] / against['mb']:>13.2f}" if against["mb"] > 0 else f"{'':>13}"
    line += f"{'':>10}" if apart is None else f"{apart:>10.0e}"
    if way in ALTERNATELY and way != PRODUCTS and PRODUCTS in found:
        line += f"{own['ms'] / found[PRODUCTS]['ms']:>12.2f}"
    return line.rstrip()


def distance(way: str, ours: str, found: Found) -> float | None:
    """How far a value lies from ours, relative; None where there is nothing to compare."""
    if ours not in found or way in (ours, PRODUCTS, "semihard_peer"):
        return None
    reduction = PACKAGES[way][1] if way in PACKAGES else "mean"
    expected, value = (found[one]["values"][reduction] for one in (ours, way))
    return float(abs(value - expected) / expected)


def measure(way: str, shape: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Time one way of computing the loss in this process; nothing where there is no room."""
    reduction = PACKAGES[way][1] if way in PACKAGES else "mean"
    batch = prepared([way], shape, options)
    figures = best_pass(WAYS[way](batch, reduction), options)
    if figures is None:
        return {}
    values = {}
    if way != PRODUCTS:
        values[reduction] = figures.result.item()
    if way == "engine":
        values["mean_active"] = engine(batch, "mean_active")().item()
    return {"ms": figures.median_ms, "mb": figures.mb, "values": values}


def together(ways: str, shape: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Time several ways in turn in this process: median ms of each."""
    names = ways.split(",")
    batch = prepared(names, shape, options)
    times = alternately({name: WAYS[name](batch, "mean") for name in names}, options)
    return {name: ms for name, (ms, _) in times.items()}


def prepared(ways: list[str], shape: list[str], options: argparse.Namespace) -> Batch:
    """The batch, after a small one has loaded the code of these ways."""
    torch.set_num_threads(options.threads)
    size, width, classes = map(int, shape)
    device = torch.device(options.device)
    small = random_batch(max(4 * classes, min(size, 256)), width, classes, device)
    for way in ways:
        WAYS[way](small, PACKAGES[way][1] if way in PACKAGES else "mean")()
    return random_batch(size, width, classes, device)


def random_batch(size: int, width: int, classes: int, device: torch.device) -> Batch:
    rows = torch.randn(size, width, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(rows).to(device).requires_grad_()
    return Batch(rows, torch.arange(size, device=device) % classes)


def engine(batch: Batch, reduction: str, mining: str = "batch_all") -> Callable[[], Tensor]:
    from medshadow.losses import ShadowLoss

    return forward_and_backward(ShadowLoss(MARGIN, mining, reduction), batch)


def label_sets(batch: Batch, reduction: str) -> Callable[[], Tensor]:
    return engine(Batch(batch.rows, torch.nn.functional.one_hot(batch.labels)), reduction)


def mined(mining: str) -> Callable[[Batch, str], Callable[[], Tensor]]:
    return lambda batch, reduction: engine(batch, reduction, mining)


def metric_learning(
    batch: Batch, reduction: str, mining: str | None = None
) -> Callable[[], Tensor]:
    from pytorch_metric_learning import distances, losses, miners, reducers

    reducer = {"mean": reducers.MeanReducer, "mean_active": reducers.AvgNonZeroReducer}[reduction]()
    cosine = distances.CosineSimilarity()
    loss = losses.TripletMarginLoss(MARGIN, distance=cosine, reducer=reducer)
    if mining is None:
        return forward_and_backward(loss, batch)
    miner = {
        "semihard": lambda: miners.TripletMarginMiner(MARGIN, "semihard", distance=cosine),
        "hardest_negative": lambda: miners.BatchEasyHardMiner("all", "hard", distance=cosine),
        "batch_hard": lambda: miners.BatchHardMiner(distance=cosine),
    }[mining]()
    return forward_and_backward(lambda rows, labels: loss(rows, labels, miner(rows, labels)), batch)


def mined_by_peer(mining: str) -> Callable[[Batch, str], Callable[[], Tensor]]:
    return lambda batch, reduction: metric_learning(batch, reduction, mining)


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


WAYS: dict[str, Callable[[Batch, str], Callable[[], Tensor]]] = {
    "engine": engine,
    "sets": label_sets,
    PRODUCTS: products,
    "metric_learning": metric_learning,
    "sentence_transformers": sentence_transformers,
    **{miner: mined(miner) for miner in MINERS},
    **{f"{miner}_peer": mined_by_peer(miner) for miner in MINERS},
}


if __name__ == "__main__":
    main()
