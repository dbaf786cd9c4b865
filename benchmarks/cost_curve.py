"""How the engine's time and memory grow with the batch: a table, the slopes, and a plot.

    python benchmarks/cost_curve.py                                  # S = 256 to 16384
    python benchmarks/cost_curve.py --largest 2048 --seconds 0.5 --plot /tmp/cost_curve.png

Forward and backward over all triplets of one batch (random unit embeddings, equal classes), each
figure from a fresh process, as in triplet_engine.py; the peer, which lists every triplet, as far as
it has room. A slope is that of a straight line through the logarithms, fitted to the batches from
--fit-from on: below that, what does not grow with the batch weighs in.
"""

from __future__ import annotations

import argparse
import json
import math
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
        slopes = {name: slope(curve, name, options.fit_from) for name, _ in QUANTITIES}
        print(f"{NAMES[way]}: time ~ S^{slopes['ms']:.2f}, memory ~ S^{slopes['mb']:.2f}")
    if sum(size >= options.fit_from for size in curves.get(ENGINE, ())) > 1:
        fixed, each = straight_line(curves[ENGINE], options.fit_from)
        print(f"{NAMES[ENGINE]}: memory ~ {fixed:.0f} MB + {1024 * each:.1f} kB for each row")
    if options.plot:
        draw({way: curve for way, curve in curves.items() if curve}, options)
        print(f"plot: {options.plot}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smallest", type=int, default=256, help="first S, then doubled")
    parser.add_argument("--largest", type=int, default=16384, help="last S")
    parser.add_argument("--fit-from", type=int, default=1024, help="smallest S of the slopes")
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
    curve[size] = min(found, key=lambda figures: float(figures["ms"]))
    return f"{curve[size]['ms']:>18.2f}{curve[size]['mb']:>10.1f}"


def slope(curve: Curve, quantity: str, smallest: int) -> float:
    """The exponent of growth: slope of log(quantity) over log(S)."""
    points = [(s, f[quantity]) for s, f in curve.items() if s >= smallest and f[quantity] > 0]
    if len(points) < 2:
        points = [(s, f[quantity]) for s, f in curve.items() if f[quantity] > 0]
    if len(points) < 2:
        return math.nan
    sizes, values = np.log(np.array(points)).T
    return float(np.polyfit(sizes, values, 1)[0])


def straight_line(curve: Curve, smallest: int) -> tuple[float, float]:
    """Memory as a fixed part, a tile, and one for each row of the batch: MB and MB a row."""
    sizes = [size for size in curve if size >= smallest]
    each, fixed = np.polyfit(sizes, [curve[size]["mb"] for size in sizes], 1)
    return float(fixed), float(each)


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
    """Draw one quantity of every curve, and a guide below the engine's."""
    for way, curve in curves.items():
        points = [(size, figures[quantity]) for size, figures in curve.items()]
        sizes, values = zip(*points, strict=True)
        axes.loglog(sizes, values, marker="o", markersize=5, linewidth=2, color=COLOURS[way])
        label = f"{NAMES[way]}\nslope {slope(curve, quantity, fit_from):.2f}"
        at, place = len(points) // 2, {"xytext": (-8, 8), "ha": "right", "va": "bottom"}
        if way == PEER:
            label += ", no room beyond" if len(curve) < len(curves.get(ENGINE, ())) else ""
            at, place = -1, {"xytext": (10, 0), "ha": "left", "va": "center"}
        axes.annotate(
            label, points[at], textcoords="offset points", color=COLOURS[way], fontsize=9, **place
        )
        if way == ENGINE:
            guide = [values[-1] / 3 * (size / sizes[-1]) ** power for size in sizes]
            axes.loglog(sizes, guide, linestyle=(0, (4, 3)), color="0.6", linewidth=1.2, zorder=0)
            axes.annotate(
                f"slope {power}",
                (sizes[at], guide[at]),
                xytext=(8, -6),
                textcoords="offset points",
                ha="left",
                va="top",
                color="0.45",
                fontsize=9,
            )
    ticks = sorted({size for curve in curves.values() for size in curve})
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.minorticks_off()
    axes.margins(y=0.12)
    axes.grid(True, color="0.92", linewidth=0.8)


if __name__ == "__main__":
    main()
