"""One recipe a diagnosis: how a drawn lesion of that class is put together, in dermoscopic terms.

A recipe lays down how much of five things lies where: melanin near the surface (brown), melanin
deep down (blue-grey), blood (red), keratin (yellow) and white (scar, scale, cysts). Colour follows
from these by absorption, as in skin, so that no class owns a colour. Vocabulary: Kittler et al.
2016, "Standardization of terminology in dermoscopy", doi:10.1016/j.jaad.2015.12.038.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medshadow.data.phantom_marks import (
    SIDE,
    Map,
    Shape,
    commas,
    network,
    noise,
    off_centre,
    organic,
    outline,
    patches,
    ramp,
    ridges,
    spots,
    streaks,
    vessels,
)

# Optical density a unit of each pigment, red, green, blue.
_MELANIN = np.array([0.42, 0.80, 1.15], np.float32)
_DEEP = np.array([1.00, 0.78, 0.55], np.float32)
_BLOOD = np.array([0.16, 0.95, 0.70], np.float32)
_KERATIN = np.array([0.05, 0.25, 0.75], np.float32)


def _empty() -> Map:
    return np.zeros((SIDE, SIDE), np.float32)


@dataclass
class Layers:
    """What lies where in a lesion: five maps of SIDE x SIDE, each 0 or above."""

    melanin: Map = field(default_factory=_empty)
    deep: Map = field(default_factory=_empty)
    blood: Map = field(default_factory=_empty)
    keratin: Map = field(default_factory=_empty)
    white: Map = field(default_factory=_empty)


def draw_lesion(rng: np.random.Generator, dx: str) -> NDArray[np.float32]:
    """Draw one lesion on its own canvas.

    Args:
        rng: the generator that decides everything about it.
        dx: one of the seven codes of ``RECIPES``.

    Returns:
        SIDE x SIDE x 4: optical density of red, green and blue (0 is bare skin), and whiteness in
        [0, 1], how far the colour is drawn to white.

    Example:
        >>> draw_lesion(np.random.default_rng(0), "mel").shape
        (256, 256, 4)
    """
    layers = RECIPES[dx](rng)
    density = (
        layers.melanin[..., None] * _MELANIN
        + layers.deep[..., None] * _DEEP
        + layers.blood[..., None] * _BLOOD
        + layers.keratin[..., None] * _KERATIN
    )
    stacked = np.dstack([density, np.clip(layers.white, 0, 1)])
    return organic(rng, stacked, rng.uniform(0.8, 2.0))


def _ground(rng: np.random.Generator, shape: Shape, red: tuple[float, float]) -> Layers:
    """A lesion's even ground: any class may be pale, brown, dark or pink within its range."""
    tone = shape.inside * (1 + 0.15 * noise(rng, rng.uniform(5, 14)))
    pigment = rng.uniform(0.1, 0.75)
    layers = Layers(melanin=tone * pigment, blood=tone * rng.uniform(*red))
    layers.blood += 0.12 * rng.random() * ramp(shape.depth, -30, 0) * np.abs(noise(rng, 6))
    return layers


def _borrow(rng: np.random.Generator, shape: Shape, layers: Layers) -> None:
    """Marks that any class may carry, so that no single one of them gives a class away."""
    within = shape.inside * (shape.depth > 6)
    if rng.random() < 0.25:
        layers.melanin += 0.7 * spots(rng, within, int(rng.integers(2, 9)), (1.2, 2.6))
    if rng.random() < 0.2:
        layers.blood += 0.7 * commas(rng, within, int(rng.integers(2, 7)), 12)
    if rng.random() < 0.2:
        layers.white += 0.5 * spots(rng, within, int(rng.integers(1, 5)), (1.2, 2.4), blur=1.0)
    if rng.random() < 0.25:
        layers.deep += rng.uniform(0.15, 0.4) * off_centre(
            rng, shape, size=16, far=rng.uniform(0, 30)
        )
    if rng.random() < 0.15:
        layers.keratin += 0.5 * patches(rng, 9, 0.15) * within


def _nevus(rng: np.random.Generator) -> Layers:
    """nv: symmetric, evenly fading border, regular network or even globules, one or two colours."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.6),
        irregular=rng.uniform(0.02, 0.11), soft=rng.uniform(10, 30),
    )  # fmt: skip
    layers = _ground(rng, shape, red=(0, 0.45))
    centre = ramp(shape.depth, 0, 60) * rng.uniform(-0.25, 0.5)
    layers.melanin += np.maximum(centre, -0.8 * layers.melanin)
    kind = rng.choice(3, p=[0.6, 0.25, 0.15])
    if kind == 0:
        mesh = network(rng, spacing=rng.uniform(9, 13), jitter=0.1, lines=rng.uniform(0.2, 0.6))
        layers.melanin += rng.uniform(0.35, 0.75) * mesh * shape.inside
    elif kind == 1:
        dots = network(rng, spacing=rng.uniform(11, 15), jitter=0.13, lines=0.55)
        layers.melanin += rng.uniform(0.4, 0.8) * (1 - dots) * shape.inside
    else:
        layers.blood += 0.25 * rng.random() * shape.inside
    if rng.random() < 0.12:
        layers.melanin += 0.6 * streaks(rng, shape, count=46, length=11, arc=1.0)
    _borrow(rng, shape, layers)
    return layers


def _melanoma(rng: np.random.Generator) -> Layers:
    """mel: asymmetric, several colours, irregular network, blots, veil, streaks on one side."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.7),
        irregular=rng.uniform(0.09, 0.24), soft=rng.uniform(5, 20), uneven=rng.uniform(0.3, 0.9),
    )  # fmt: skip
    layers = _ground(rng, shape, red=(0, 0.5))
    mesh = network(
        rng, spacing=rng.uniform(10, 15), jitter=rng.uniform(0.22, 0.34),
        lines=rng.uniform(0.2, 0.8), gaps=rng.uniform(0.08, 0.3),
    )  # fmt: skip
    layers.melanin += (
        rng.uniform(0.4, 0.9) * mesh * patches(rng, 5, rng.uniform(0.3, 0.7)) * shape.inside
    )
    layers.melanin += (
        rng.uniform(0.5, 1.3) * patches(rng, 6, rng.uniform(0.15, 0.35)) * shape.inside
    )
    if rng.random() < 0.75:
        veil = off_centre(rng, shape, size=rng.uniform(20, 38), far=rng.uniform(14, 40))
        layers.melanin *= 1 - 0.75 * veil
        layers.deep += rng.uniform(0.5, 1.1) * veil
        layers.white += rng.uniform(0.12, 0.3) * veil
    if rng.random() < 0.65:
        side = off_centre(rng, shape, size=30, far=40)
        layers.melanin += 1.1 * spots(rng, side, int(rng.integers(8, 26)), (1.4, 4.5), 1.6)
    if rng.random() < 0.6:
        arc = rng.uniform(0.15, 0.4)
        layers.melanin += 0.9 * streaks(rng, shape, count=int(50 * arc), length=16, arc=arc)
    if rng.random() < 0.4:
        scar = off_centre(rng, shape, size=rng.uniform(14, 24), far=rng.uniform(15, 45))
        layers.melanin *= 1 - 0.8 * scar
        layers.white += 0.35 * scar
        layers.deep += 0.8 * spots(rng, scar, 40, (0.6, 1.1))
    _borrow(rng, shape, layers)
    return layers


def _keratosis(rng: np.random.Generator) -> Layers:
    """bkl: sharp, moth-eaten edge, milia-like cysts, comedo-like openings, ridges and fissures."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.6),
        irregular=rng.uniform(0.05, 0.16), soft=rng.uniform(2, 6),
    )  # fmt: skip
    layers = _ground(rng, shape, red=(0, 0.5))
    within = shape.inside * (shape.depth > 5)
    layers.keratin += rng.uniform(0, 0.5) * shape.inside
    if rng.random() < 0.6:
        furrows = ridges(rng, period=rng.uniform(8, 14), wander=rng.uniform(1, 4.5))
        layers.melanin += rng.uniform(0.3, 0.8) * furrows * shape.inside
    cysts = spots(rng, within, int(rng.integers(10, 34)), (1.4, 3.4), 1.2, blur=1.0)
    layers.white += rng.uniform(0.5, 0.9) * cysts
    plugs = spots(rng, within, int(rng.integers(5, 26)), (1.8, 4.0), 1.6, blur=0.5)
    layers.melanin += rng.uniform(0.8, 1.6) * plugs
    if rng.random() < 0.3:
        layers.white += 0.3 * patches(rng, 16, 0.2) * within
    _borrow(rng, shape, layers)
    return layers


def _basal_cell(rng: np.random.Generator) -> Layers:
    """bcc: arborising vessels, blue-grey ovoid nests, leaf-like areas, ulceration, pearly ground."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.6),
        irregular=rng.uniform(0.07, 0.18), soft=rng.uniform(8, 24),
    )  # fmt: skip
    layers = _ground(rng, shape, red=(0.05, 0.5))
    layers.melanin *= rng.uniform(0.2, 1.0)
    within = shape.inside * (shape.depth > 3)
    tree = vessels(rng, shape, trees=int(rng.integers(3, 8)), length=rng.uniform(24, 38))
    layers.blood += rng.uniform(0.7, 1.4) * tree
    nests = spots(rng, within, int(rng.integers(3, 13)), (4, 9), 2.0, blur=1.2)
    layers.deep += rng.uniform(0.5, 1.2) * nests
    if rng.random() < 0.4:
        leaves = streaks(rng, shape, count=int(rng.integers(5, 12)), length=12, arc=0.35)
        layers.melanin += 0.8 * leaves
        layers.deep += 0.4 * leaves
    if rng.random() < 0.35:
        ulcer = off_centre(rng, shape, size=rng.uniform(9, 18), far=rng.uniform(0, 40))
        layers.blood += 1.0 * ulcer
        layers.melanin += 0.5 * ulcer
    layers.white += rng.uniform(0, 0.2) * patches(rng, 8, 0.4) * within
    _borrow(rng, shape, layers)
    return layers


def _actinic(rng: np.random.Generator) -> Layers:
    """akiec: strawberry pattern (red mesh round pale follicles), scale, dotted vessels, vague edge."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.7),
        irregular=rng.uniform(0.08, 0.2), soft=rng.uniform(14, 34),
    )  # fmt: skip
    layers = _ground(rng, shape, red=(0.15, 0.55))
    layers.melanin *= rng.uniform(0.2, 1.0)
    spacing = rng.uniform(16, 22)
    seen = rng.spawn(1)[0].bit_generator.state  # the same holes twice: mesh and follicles agree
    twin = np.random.default_rng()
    twin.bit_generator.state = seen
    mesh = network(twin, spacing=spacing, jitter=0.16, lines=0.5)
    twin.bit_generator.state = seen
    follicles = 1 - network(twin, spacing=spacing, jitter=0.16, lines=0.95)
    layers.blood += rng.uniform(0.35, 0.8) * mesh * shape.inside
    layers.white += rng.uniform(0.25, 0.6) * follicles * shape.inside
    if rng.random() < 0.7:
        scale = patches(rng, rng.uniform(16, 28), rng.uniform(0.12, 0.3), 0.8) * shape.inside
        scale *= patches(rng, 5, 0.6)
        layers.white += rng.uniform(0.4, 0.8) * scale
        layers.keratin += 0.4 * scale
    if rng.random() < 0.5:
        some = patches(rng, 5, 0.4) * shape.inside
        layers.blood += 1.0 * spots(rng, some, int(rng.integers(20, 60)), (0.9, 1.7))
    _borrow(rng, shape, layers)
    return layers


def _vascular(rng: np.random.Generator) -> Layers:
    """vasc: red, purple or black lacunae with pale septa between them, sharply bordered."""
    shape = outline(
        rng, size=rng.uniform(52, 80), stretch=rng.uniform(1, 1.5),
        irregular=rng.uniform(0.03, 0.13), soft=rng.uniform(3, 12),
    )  # fmt: skip
    layers = _ground(rng, shape, red=(0.1, 0.6))
    layers.melanin *= rng.uniform(0, 0.9)
    cells = network(
        rng, spacing=rng.uniform(20, 34), jitter=rng.uniform(0.12, 0.22), lines=rng.uniform(-0.4, 0)
    )
    lacunae = (1 - cells) * shape.inside * patches(rng, 6, rng.uniform(0.6, 0.95))
    layers.blood += rng.uniform(0.5, 1.3) * lacunae
    layers.deep += rng.uniform(0, 0.8) * lacunae
    if rng.random() < 0.4:
        clot = lacunae * patches(rng, 6, rng.uniform(0.15, 0.5))
        layers.deep += 1.2 * clot
        layers.melanin += 0.6 * clot
    layers.white += rng.uniform(0, 0.35) * cells * shape.inside
    _borrow(rng, shape, layers)
    return layers


def _dermatofibroma(rng: np.random.Generator) -> Layers:
    """df: central white patch with shiny lines, fine light-brown network at the periphery."""
    shape = outline(
        rng, size=rng.uniform(56, 80), stretch=rng.uniform(1, 1.35),
        irregular=rng.uniform(0.03, 0.1), soft=rng.uniform(16, 34),
    )  # fmt: skip
    layers = _ground(rng, shape, red=(0, 0.5))
    layers.melanin *= rng.uniform(0.4, 1.0)
    centre = off_centre(rng, shape, size=rng.uniform(22, 36), far=rng.uniform(0, 12))
    mesh = network(rng, spacing=rng.uniform(7, 9.5), jitter=0.12, lines=rng.uniform(0.1, 0.4))
    layers.melanin += rng.uniform(0.3, 0.65) * mesh * shape.inside
    layers.melanin *= 1 - rng.uniform(0.7, 0.95) * centre
    layers.white += rng.uniform(0.25, 0.6) * centre
    shiny = ridges(rng, period=rng.uniform(7, 11), wander=1.5) > 0.85
    layers.white += 0.3 * shiny * centre
    if rng.random() < 0.4:
        layers.blood += 0.4 * ramp(shape.depth, 0, 14) * (1 - ramp(shape.depth, 14, 34))
    _borrow(rng, shape, layers)
    return layers


RECIPES: dict[str, Callable[[np.random.Generator], Layers]] = {
    "akiec": _actinic,
    "bcc": _basal_cell,
    "bkl": _keratosis,
    "df": _dermatofibroma,
    "mel": _melanoma,
    "nv": _nevus,
    "vasc": _vascular,
}
