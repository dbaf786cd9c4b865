"""How the engine's time and memory grow with the batch: a table, the growth, and a plot.

    python benchmarks/cost_curve.py                                  # S = 256 to 32768
    python benchmarks/cost_curve.py --largest 2048 --seconds 0.5 --plot /tmp/cost_curve.png

Forward and backward over all triplets of one batch (random unit embeddings, equal classes), each
figure from a fresh process, as in triplet_engine.py; the peer, which lists every triplet, as far as
it has room. A slope is that of a straight line through the logarithms.

The engine's memory has a part that does not grow: a tile of 32 MB, once a batch is large enough to
fill it (below that the tile grows as S^2). So its memory is fitted as fixed + each * S, from the
batches of --fit-from on, where the tile is full, and what a further row costs is told from size to
size: where memory grows as S, that stays the same.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from measuring import add_arguments, heading, in_fresh_process, settle_device
from triplet_engine import measure

ENGINE, PEER = "engine", "metric_learning"
NAMES = {ENGINE: "MedShadow engine", PEER: "pytorch-metric-learning"}
COLOURS = {ENGINE: "#0b6e6e", PEER: "#b4532a"}
QUANTITIES = (("ms", "time of forward and backward (ms)"), ("mb", "peak memory above start (MB)"))
Curve = dict[int, dict[str, Any]]


def main() -> None:
    options = parse()
    if options.measure:
        way, *shape = options.measure
        print(json.dumps(measure(way, shape, options)))
        return
    settle_device(options)
    print(heading(options, ["torch", "numba", "pytorch-metric-learning"], "median"))
    print(f"D={options.dim}, {options.classes} classes")
    print(f"{'S':>6}" + "".join(f"{NAMES[way]:>28}" for way in options.ways))
    print(f"{'':>6}" + f"{'ms':>18}{'MB':>10}" * len(options.ways))
    curves: dict[str, Curve] = {way: {} for way in options.ways}
    size = options.smallest
    while size <= options.largest:
        print(f"{size:>6}" + "".join(column(size, way, curves, options) for way in options.ways))
        size *= 2
    for way, curve in curves.items():
        print("\n".join(growth(way, curve, options.fit_from)))
    if options.plot:
        draw({way: curve for way, curve in curves.items() if curve}, options)
        print(f"plot: {options.plot}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smallest", type=int, default=256, help="first S, then doubled")
    parser.add_argument("--largest", type=int, default=32768, help="last S")
    parser.add_argument(
        "--fit-from", type=int, default=4096, help="smallest S of the engine's fits"
    )
    parser.add_argument("--dim", type=int, default=128, help="D")
    parser.add_argument("--classes", type=int, default=8, help="equal classes")
    parser.add_argument("--ways", nargs="+", choices=NAMES, default=list(NAMES), help="curves")
    where = Path("docs/images/cost_curve.png")
    parser.add_argument("--plot", type=Path, default=where, help=f"PNG to write; {where}")
    parser.add_argument("--no-plot", dest="plot", action="store_const", const=None, help="or none")
    add_arguments(parser)
    return parser.parse_args()


def column(size: int, way: str, curves: dict[str, Curve], options: argparse.Namespace) -> str:
    """Measure one point, add it to its curve, and return its cells."""
    curve = curves[way]
    if size > options.smallest and size // 2 not in curve:
        return f"{'no room':>28}"
    shape = [str(number) for number in (size, options.dim, options.classes)]
    found = [in_fresh_process(__file__, [way, *shape], options) for _ in range(options.rounds)]
    if not all(found):
        return f"{'no room':>28}"
    # What else runs, and what the allocator happens to keep, only adds to either figure.
    curve[size] = {name: min(figures[name] for figures in found) for name, _ in QUANTITIES}
    return f"{curve[size]['ms']:>18.2f}{curve[size]['mb']:>10.1f}"


def growth(way: str, curve: Curve, fit_from: int) -> list[str]:
    """Say how time and memory grow, the engine's memory as a fixed part and a growing one."""
    large = full_tiles(curve, fit_from)
    if way == PEER or len(large) < 3:
        time, memory = slope(curve, "ms"), slope(curve, "mb")
        return [f"{NAMES[way]}: time ~ S^{time:.2f}, memory ~ S^{memory:.2f}"]
    fixed, each, apart = fit(large)
    pairs = list(pairwise(sorted(large)))
    steps = [(large[more]["mb"] - large[less]["mb"]) / (more - less) for less, more in pairs]
    return [
        f"{NAMES[way]}, S >= {fit_from}: time ~ S^{slope(large, 'ms'):.2f}",
        f"    memory = {fixed:.0f} MB + {1024 * each:.2f} kB x S, within {apart:.0%}",
        "    a further row, from size to size: "
        + ", ".join(
            f"{1024 * step:.2f} kB (to {more})"
            for step, (_, more) in zip(steps, pairs, strict=True)
        ),
    ]


def full_tiles(curve: Curve, fit_from: int) -> Curve:
    """The part of a curve where the engine's tile no longer grows."""
    return {size: figures for size, figures in curve.items() if size >= fit_from}


def slope(curve: Curve, quantity: str) -> float:
    """The exponent of growth: slope of log(quantity) over log(S)."""
    points = [(size, f[quantity]) for size, f in curve.items() if f[quantity] > 0]
    if len(points) < 2:
        return math.nan
    sizes, values = np.log(np.array(points)).T
    return float(np.polyfit(sizes, values, 1)[0])


def fit(curve: Curve) -> tuple[float, float, float]:
    """Memory as fixed + each * S: both in MB, and the largest relative distance from it."""
    sizes = np.array(list(curve), dtype=float)
    values = np.array([figures["mb"] for figures in curve.values()])
    terms = np.stack([np.ones_like(sizes), sizes], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(terms / values[:, None], np.ones_like(values), rcond=None)
    return fixed, each, float(np.abs(terms @ (fixed, each) / values - 1).max())


def draw(curves: dict[str, Curve], options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    style: Any = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    with plt.rc_context(style):
        figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
        for axes, (quantity, label), power in zip(panels, QUANTITIES, (2, 1), strict=True):
            draw_panel(axes, curves, quantity, power, options.fit_from)
            axes.set(xlabel="batch size S")
            axes.set_title(label, loc="left", fontsize=10)
        where = "one GPU" if options.device == "cuda" else f"{options.threads} CPU threads"
        title = f"Every triplet of a batch: D = {options.dim}, {options.classes} classes, {where}"
        figure.suptitle(title, fontsize=12)
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.plot, dpi=150)
        plt.close(figure)


def draw_panel(
    axes: Any, curves: dict[str, Curve], quantity: str, power: int, fit_from: int
) -> None:
    """Draw one quantity of every curve, and a guide of slope 2 or 1 below the engine's."""
    for way, curve in curves.items():
        sizes = list(curve)
        values = [figures[quantity] for figures in curve.values()]
        axes.loglog(sizes, values, marker="o", markersize=5, linewidth=2, color=COLOURS[way])
        at = len(sizes) // 2
        place: dict[str, Any] = {"xytext": (-8, 8), "ha": "right", "va": "bottom"}
        if way == PEER:
            at, place = -1, {"xytext": (10, 0), "ha": "left", "va": "center"}
        note(axes, (sizes[at], values[at]), label(way, curves, quantity, fit_from), way, **place)
        if way == ENGINE:
            below = values[-1] / (4 if power == 2 else 30)
            guide = [below * (size / sizes[-1]) ** power for size in sizes]
            axes.loglog(sizes, guide, linestyle=(0, (4, 3)), color="0.6", linewidth=1.2, zorder=0)
            place = {"xytext": (8, -6), "ha": "left", "va": "top"}
            note(axes, (sizes[at], guide[at]), f"as S$^{power}$" if power > 1 else "as S", **place)
    ticks = sorted({size for curve in curves.values() for size in curve})
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.minorticks_off()
    axes.margins(y=0.12)
    axes.grid(True, color="0.92", linewidth=0.8)


def label(way: str, curves: dict[str, Curve], quantity: str, fit_from: int) -> str:
    """What a curve is, and how it grows."""
    curve = curves[way]
    large = full_tiles(curve, fit_from)
    if way == PEER or len(large) < 3:
        room = ", no room beyond" if len(curve) < len(curves.get(ENGINE, ())) else ""
        return f"{NAMES[way]}\nas S$^{{{slope(curve, quantity):.1f}}}${room}"
    if quantity == "ms":
        return f"{NAMES[way]}\nas S$^{{{slope(large, quantity):.2f}}}$"
    fixed, each, _ = fit(large)
    return f"{NAMES[way]}\n{fixed:.0f} MB + {1024 * each:.1f} kB x S"


def note(axes: Any, point: tuple[float, float], text: str, way: str = "", **place: Any) -> None:
    colour = COLOURS.get(way, "0.45")
    axes.annotate(text, point, textcoords="offset points", color=colour, fontsize=9, **place)


if __name__ == "__main__":
    main()
