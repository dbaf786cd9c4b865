"""One recipe a diagnosis: how a drawn lesion of that class is put together, in dermoscopic terms.

A recipe lays down how much of five things lies where: melanin near the surface (brown), melanin
deep down (blue-grey), blood (red), keratin (yellow) and white (scar, scale, cysts). Colour follows
from these by absorption, as in skin, so that no class owns a colour. Vocabulary: Kittler et al.
2016, "Standardization of terminology in dermoscopy", doi:10.1016/j.jaad.2015.12.038.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

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
_MELANIN = (0.52, 0.86, 1.15)
_DEEP = (0.95, 0.76, 0.55)
_BLOOD = (0.16, 0.88, 0.66)
_KERATIN = (0.06, 0.28, 0.75)


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

    def density(self) -> Map:
        """Optical density of red, green, blue (0 is bare skin) and whiteness: SIDE x SIDE x 4."""
        pigments = (self.melanin, self.deep, self.blood, self.keratin)
        channels = []
        for weights in zip(_MELANIN, _DEEP, _BLOOD, _KERATIN, strict=True):
            total = _empty()
            for pigment, weight in zip(pigments, weights, strict=True):
                total += np.float32(weight) * pigment
            channels.append(np.maximum(total, 0))
        return np.asarray(cv2.merge([*channels, np.clip(self.white, 0, 1)]), np.float32)


def draw_lesion(rng: np.random.Generator, dx: str) -> Map:
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
    return organic(rng, RECIPES[dx](rng).density(), rng.uniform(1.0, 2.4))


def _ground(rng: np.random.Generator, shape: Shape) -> Layers:
    """A lesion's ground, from the same range of pale, brown, dark and pink for every class."""
    grain = 1 + 0.16 * noise(rng, rng.uniform(5, 14)) + 0.10 * noise(rng, 48)
    tone = shape.inside * grain.astype(np.float32)
    layers = Layers(melanin=tone * rng.uniform(0.08, 0.8), blood=tone * rng.uniform(0.0, 0.45))
    halo = ramp(shape.depth, -34, 4) * ramp(noise(rng, 6), -0.6, 1.4)
    layers.blood += rng.uniform(0, 0.22) * halo
    return layers


def _fading(rng: np.random.Generator, shape: Shape, least: float = 0.25) -> Map:
    """Where a pattern is seen: patchy, weaker towards the border, nowhere above 1."""
    return (least + (1 - least) * patches(rng, 5, 0.6, 1.8)) * shape.inside


def _borrow(rng: np.random.Generator, shape: Shape, layers: Layers) -> None:
    """Marks that any class may carry, so that no single one of them gives a class away."""
    within = shape.inside * (shape.depth > 6)
    if rng.random() < 0.3:
        layers.melanin += rng.uniform(0.3, 0.9) * spots(
            rng, within, int(rng.integers(2, 10)), (1.2, 2.8)
        )
    if rng.random() < 0.25:
        layers.blood += 0.7 * commas(rng, within, int(rng.integers(2, 9)), 12)
    if rng.random() < 0.25:
        cysts = spots(rng, within, int(rng.integers(1, 6)), (1.2, 2.4), blur=1.0)
        layers.white += rng.uniform(0.2, 0.5) * cysts
    if rng.random() < 0.3:
        haze = off_centre(rng, shape, size=rng.uniform(12, 30), far=rng.uniform(0, 35))
        layers.deep += rng.uniform(0.1, 0.45) * haze
    if rng.random() < 0.25:
        layers.melanin += rng.uniform(0.2, 0.6) * patches(rng, 6, 0.25) * shape.inside
    if rng.random() < 0.2:
        layers.keratin += 0.5 * patches(rng, 9, 0.2) * within
    if rng.random() < 0.2:
        layers.white += rng.uniform(0.15, 0.4) * patches(rng, 22, 0.15) * within


def _nevus(rng: np.random.Generator) -> Layers:
    """nv: symmetric, evenly fading border, regular network or even globules, one or two colours."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.6),
        irregular=rng.uniform(0.03, 0.12), soft=rng.uniform(8, 26),
    )  # fmt: skip
    layers = _ground(rng, shape)
    centre = ramp(shape.depth, 0, 60) * rng.uniform(-0.3, 0.5)
    layers.melanin += np.maximum(centre, -0.8 * layers.melanin)
    kind = rng.choice(3, p=[0.6, 0.27, 0.13])
    if kind == 0:
        spacing, lines = rng.uniform(8.5, 13), rng.uniform(0.1, 0.6)
        mesh = network(rng, spacing=spacing, jitter=rng.uniform(0.08, 0.16), lines=lines)
        layers.melanin += rng.uniform(0.2, 0.6) * mesh * _fading(rng, shape)
    elif kind == 1:
        dots = network(rng, spacing=rng.uniform(10, 15), jitter=0.15, lines=0.55)
        layers.melanin += rng.uniform(0.25, 0.7) * (1 - dots) * _fading(rng, shape)
    else:
        layers.blood += rng.uniform(0, 0.2) * shape.inside
    if rng.random() < 0.1:
        layers.melanin += 0.6 * streaks(rng, shape, count=46, length=11, arc=1.0)
    _borrow(rng, shape, layers)
    return layers


def _melanoma(rng: np.random.Generator) -> Layers:
    """mel: asymmetric, several colours, irregular network, blots, veil, streaks on one side."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.7),
        irregular=rng.uniform(0.06, 0.2), soft=rng.uniform(5, 22), uneven=rng.uniform(0.3, 0.9),
    )  # fmt: skip
    layers = _ground(rng, shape)
    mesh = network(
        rng, spacing=rng.uniform(9.5, 15), jitter=rng.uniform(0.22, 0.34),
        lines=rng.uniform(0.2, 0.8), gaps=rng.uniform(0.08, 0.3),
    )  # fmt: skip
    some = patches(rng, 5, rng.uniform(0.3, 0.7)) * shape.inside
    layers.melanin += rng.uniform(0.3, 0.8) * mesh * some
    blots = patches(rng, 6, rng.uniform(0.15, 0.35), 0.8) * shape.inside
    layers.melanin += rng.uniform(0.4, 1.1) * blots
    signs = rng.random(4) < (0.65, 0.6, 0.5, 0.4)
    if signs[0] or not signs.any():
        veil = off_centre(rng, shape, size=rng.uniform(20, 40), far=rng.uniform(10, 40))
        layers.melanin *= 1 - 0.7 * veil
        layers.deep += rng.uniform(0.35, 0.9) * veil
        layers.white += rng.uniform(0.1, 0.28) * veil
    if signs[1]:
        side = off_centre(rng, shape, size=34, far=40)
        globules = spots(rng, side, int(rng.integers(8, 26)), (1.3, 4.2), 1.6)
        layers.melanin += rng.uniform(0.6, 1.1) * globules
    if signs[2]:
        arc = rng.uniform(0.15, 0.4)
        rays = streaks(rng, shape, count=int(50 * arc), length=16, arc=arc)
        layers.melanin += rng.uniform(0.5, 0.9) * rays
    if signs[3]:
        scar = off_centre(rng, shape, size=rng.uniform(16, 26), far=rng.uniform(15, 45))
        layers.melanin *= 1 - 0.8 * scar
        layers.white += 0.3 * scar
        layers.deep += 0.7 * spots(rng, scar, 40, (0.6, 1.1))
    _borrow(rng, shape, layers)
    return layers


def _keratosis(rng: np.random.Generator) -> Layers:
    """bkl: sharp, moth-eaten edge, milia-like cysts, comedo-like openings, ridges and fissures."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.6),
        irregular=rng.uniform(0.05, 0.16), soft=rng.uniform(2, 9),
    )  # fmt: skip
    layers = _ground(rng, shape)
    within = shape.inside * (shape.depth > 5)
    layers.keratin += rng.uniform(0, 0.4) * shape.inside
    if rng.random() < 0.55:
        furrows = ridges(rng, period=rng.uniform(8, 14), wander=rng.uniform(1.5, 5))
        layers.melanin += rng.uniform(0.2, 0.6) * furrows * _fading(rng, shape)
    cysts = spots(rng, within, int(rng.integers(8, 30)), (1.3, 3.2), 1.2, blur=1.0)
    layers.white += rng.uniform(0.35, 0.8) * cysts
    plugs = spots(rng, within, int(rng.integers(5, 24)), (1.6, 3.8), 1.6, blur=0.6)
    layers.melanin += rng.uniform(0.5, 1.3) * plugs
    _borrow(rng, shape, layers)
    return layers


def _basal_cell(rng: np.random.Generator) -> Layers:
    """bcc: arborising vessels, blue-grey ovoid nests, leaf-like areas, ulcers, pearly ground."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.6),
        irregular=rng.uniform(0.05, 0.17), soft=rng.uniform(6, 24),
    )  # fmt: skip
    layers = _ground(rng, shape)
    layers.melanin *= rng.uniform(0.3, 1.0)
    within = shape.inside * (shape.depth > 3)
    tree = vessels(rng, shape, trees=int(rng.integers(3, 8)), length=rng.uniform(22, 36))
    layers.blood += rng.uniform(0.5, 1.2) * tree
    nests = spots(rng, within, int(rng.integers(3, 13)), (3, 9), 2.0, blur=rng.uniform(1.2, 2.6))
    layers.deep += rng.uniform(0.3, 0.9) * nests * (0.5 + 0.5 * patches(rng, 8, 0.6))
    if rng.random() < 0.35:
        leaves = streaks(rng, shape, count=int(rng.integers(5, 12)), length=12, arc=0.35)
        layers.melanin += 0.6 * leaves
        layers.deep += 0.3 * leaves
    if rng.random() < 0.35:
        ulcer = off_centre(rng, shape, size=rng.uniform(10, 20), far=rng.uniform(0, 40))
        layers.blood += 0.8 * ulcer
        layers.melanin += 0.4 * ulcer
    layers.white += rng.uniform(0, 0.22) * patches(rng, 8, 0.4) * within
    _borrow(rng, shape, layers)
    return layers


def _actinic(rng: np.random.Generator) -> Layers:
    """akiec: strawberry pattern (red mesh round pale follicles), scale, dotted vessels."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.7),
        irregular=rng.uniform(0.06, 0.18), soft=rng.uniform(8, 30),
    )  # fmt: skip
    layers = _ground(rng, shape)
    layers.melanin *= rng.uniform(0.3, 1.0)
    spacing, state = rng.uniform(15, 22), rng.integers(2**32)
    mesh, rims = (  # the same holes twice: the follicles sit in the meshes
        network(np.random.default_rng(state), spacing=spacing, jitter=0.2, lines=width)
        for width in (0.5, 1.0)
    )
    seen = _fading(rng, shape)
    layers.blood += rng.uniform(0.25, 0.6) * mesh * seen
    layers.white += rng.uniform(0.15, 0.5) * (1 - rims) * seen
    if rng.random() < 0.7:
        scale = patches(rng, rng.uniform(16, 28), rng.uniform(0.12, 0.3)) * patches(rng, 5, 0.6)
        layers.white += rng.uniform(0.3, 0.7) * scale * shape.inside
        layers.keratin += 0.4 * scale * shape.inside
    if rng.random() < 0.5:
        some = patches(rng, 5, 0.4) * shape.inside
        layers.blood += 0.9 * spots(rng, some, int(rng.integers(20, 60)), (0.9, 1.7))
    _borrow(rng, shape, layers)
    return layers


def _vascular(rng: np.random.Generator) -> Layers:
    """vasc: red, purple or black lacunae with pale septa between them, sharply bordered."""
    shape = outline(
        rng, size=rng.uniform(54, 82), stretch=rng.uniform(1, 1.5),
        irregular=rng.uniform(0.04, 0.14), soft=rng.uniform(3, 14),
    )  # fmt: skip
    layers = _ground(rng, shape)
    layers.melanin *= rng.uniform(0.1, 1.0)
    spacing, jitter = rng.uniform(18, 32), rng.uniform(0.14, 0.24)
    septa = network(rng, spacing=spacing, jitter=jitter, lines=rng.uniform(-0.3, 0.1))
    lacunae = (1 - septa) * shape.inside * (0.3 + 0.7 * patches(rng, 6, rng.uniform(0.5, 0.9)))
    layers.blood += rng.uniform(0.35, 1.0) * lacunae
    layers.deep += rng.uniform(0, 0.6) * lacunae
    if rng.random() < 0.35:
        clot = lacunae * patches(rng, 6, rng.uniform(0.15, 0.5))
        layers.deep += 1.0 * clot
        layers.melanin += 0.5 * clot
    layers.white += rng.uniform(0, 0.3) * septa * shape.inside
    _borrow(rng, shape, layers)
    return layers


def _dermatofibroma(rng: np.random.Generator) -> Layers:
    """df: central white patch with shiny lines, fine light-brown network at the periphery."""
    shape = outline(
        rng, size=rng.uniform(58, 84), stretch=rng.uniform(1, 1.5),
        irregular=rng.uniform(0.03, 0.12), soft=rng.uniform(10, 30),
    )  # fmt: skip
    layers = _ground(rng, shape)
    centre = off_centre(rng, shape, size=rng.uniform(20, 36), far=rng.uniform(0, 12))
    mesh = network(rng, spacing=rng.uniform(7, 9.5), jitter=0.14, lines=rng.uniform(0.1, 0.4))
    layers.melanin += rng.uniform(0.25, 0.55) * mesh * _fading(rng, shape, 0.5)
    layers.melanin *= 1 - rng.uniform(0.7, 0.95) * centre
    layers.white += rng.uniform(0.2, 0.5) * centre
    shiny = ramp(ridges(rng, period=rng.uniform(7, 11), wander=1.5), 0.7, 1.0)
    layers.white += rng.uniform(0.1, 0.35) * shiny * centre
    if rng.random() < 0.4:
        layers.blood += 0.35 * ramp(shape.depth, 0, 14) * (1 - ramp(shape.depth, 14, 34))
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
