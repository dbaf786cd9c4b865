"""The drawn eye before any disease: ground, choroid, optic disc, vessels, macula, fibre sheen."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from medshadow.data.phantom_anatomy import Anatomy
from medshadow.data.phantom_marks import SIDE, Map, grown, noise, ramp
from medshadow.data.phantom_vessels import Vessels, grow_vessels

ROW, COLUMN = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)

# Optical density a unit, red, green, blue.
_BLOOD = (0.34, 0.92, 0.74)
_PIGMENT = (0.62, 0.85, 0.95)
_CHOROID = (0.10, 0.55, 0.75)
# What a layer's pixels turn to.
_PALE, _CUP = (1.0, 0.72, 0.40), (1.0, 0.94, 0.70)
_LIPID, _WHITE = (1.0, 0.88, 0.42), (1.0, 0.95, 0.84)


def _empty() -> Map:
    return np.zeros((SIDE, SIDE), np.float32)


@dataclass
class Retina:
    """A drawn eye: what lies where, from the choroid up to the vitreous. Each map SIDE x SIDE.

    Attributes:
        anatomy: what it was drawn from.
        vessels: where arteries and veins run.
        away: distance from the disc's centre, in disc radii.
        angle: direction from the disc's centre, in radians, 0 nasal, pi temporal.
        macula: distance from the fovea, in disc radii.
        choroid: choroidal vessels and the dark between them, about -1 to 1.
        pigment: brown, at or under the retina.
        pale: towards pale orange under the vessels: disc, drusen, scars.
        bare: towards white under the vessels: cup, atrophy.
        blood: vessels and haemorrhages.
        lipid: yellow over the vessels.
        white: white over the vessels: fibres, cotton wool, membranes.
        front: out-of-focus bodies in the vitreous.
        veil: haze of lens and vitreous.
        blur: what the haze does to sharpness, in pixels.
    """

    anatomy: Anatomy
    vessels: Vessels
    away: Map
    angle: Map
    macula: Map
    choroid: Map
    pigment: Map = field(default_factory=_empty)
    pale: Map = field(default_factory=_empty)
    bare: Map = field(default_factory=_empty)
    blood: Map = field(default_factory=_empty)
    lipid: Map = field(default_factory=_empty)
    white: Map = field(default_factory=_empty)
    front: Map = field(default_factory=_empty)
    veil: Map = field(default_factory=_empty)
    blur: float = 0.0

    def picture(self, tone: tuple[float, float, float]) -> Map:
        """Red, green, blue of the eye in even light: 3 x SIDE x SIDE, about 0 to 1."""
        planes = []
        bare = np.clip(self.bare, 0, 1)
        pale = np.clip(self.pale, 0, 1)
        lipid = np.clip(self.lipid, 0, 1)
        white = np.clip(self.white, 0, 1)
        choroid = self.choroid * (1 - 0.6 * bare)
        for n, ground in enumerate(tone):
            plane = np.float32(ground) * np.exp(-np.float32(_CHOROID[n]) * choroid)
            plane += pale * (np.float32(_PALE[n]) - plane)
            plane += bare * (np.float32(_CUP[n]) - plane)
            density = np.float32(_BLOOD[n]) * self.blood + np.float32(_PIGMENT[n]) * self.pigment
            plane *= np.exp(-np.maximum(density, -0.5))
            plane += lipid * (np.float32(_LIPID[n]) - plane)
            plane += white * (np.float32(_WHITE[n]) - plane)
            planes.append(plane)
        return np.asarray(np.stack(planes), np.float32)


def draw_healthy(rng: np.random.Generator, anatomy: Anatomy) -> Retina:
    """Draw an eye of this anatomy; findings are painted onto what comes back."""
    x, y = anatomy.disc
    away, angle = cv2.cartToPolar(COLUMN - np.float32(x), np.float32(y) - ROW)
    macula = np.hypot(COLUMN - np.float32(anatomy.fovea[0]), ROW - np.float32(anatomy.fovea[1]))
    vessels = grow_vessels(rng, anatomy)
    retina = Retina(
        anatomy,
        vessels,
        away=np.asarray(away, np.float32) / np.float32(anatomy.radius),
        angle=np.asarray(angle, np.float32),
        macula=macula / np.float32(anatomy.radius),
        choroid=_choroid(rng, anatomy),
    )
    _ground(rng, retina)
    _disc(rng, retina)
    _macula(rng, retina)
    _sheen(rng, retina)
    crossing = np.clip(1 - np.float32(anatomy.nicking) * vessels.over, 0, 1)
    retina.blood += 0.46 * vessels.arteries + 0.76 * vessels.veins * crossing
    retina.blood -= np.float32(0.5 * anatomy.reflex) * vessels.reflex
    return retina


def _choroid(rng: np.random.Generator, anatomy: Anatomy) -> Map:
    """Orange streaks of choroidal vessels with dark between, plainer away from the macula."""
    if anatomy.choroid <= 0.06:
        return _empty()
    half = SIDE // 2  # as smooth as it is, half the resolution will do
    column, row = COLUMN[:half, :half] - half / 2, ROW[:half, :half] - half / 2
    bend = grown(rng, 6, 6, half, half) * np.float32(6)
    streaks = np.zeros((half, half), np.float32)
    turn = rng.uniform(-0.5, 0.5)
    for lean in (turn + rng.uniform(0.3, 0.6), turn - rng.uniform(0.3, 0.6)):
        long = grown(rng, int(rng.integers(38, 48)), int(rng.integers(11, 16)), half, half)
        c, s = np.float32(np.cos(lean)), np.float32(np.sin(lean))
        x, y = c * column - s * row + half / 2, s * column + c * row + half / 2 + bend
        bent = cv2.remap(long, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        line = 1 - ramp(np.abs(np.asarray(bent, np.float32)), 0.0, 0.5)
        streaks = np.maximum(streaks, line)
    streaks = np.asarray(cv2.resize(streaks, (SIDE, SIDE)), np.float32)
    away = np.hypot(COLUMN - np.float32(anatomy.fovea[0]), ROW - np.float32(anatomy.fovea[1]))
    plain = np.float32(0.35) + np.float32(0.65) * ramp(away, 20, 85)
    return np.asarray(np.float32(anatomy.choroid) * plain * (0.55 - 0.75 * streaks))


def _ground(rng: np.random.Generator, retina: Retina) -> None:
    retina.pigment += 0.06 * noise(rng, 4) + 0.035 * noise(rng, 40)
    # The retina is thickest, and so lightest, about the disc and along the arcades.
    thick = np.exp(-((retina.away / 5) ** 2)) * ramp(retina.macula, 0.8, 3)
    retina.pigment -= np.float32(rng.uniform(0.05, 0.45)) * thick


def _disc(rng: np.random.Generator, retina: Retina) -> None:
    """The optic disc: pink rim, pale cup, crescent, a darker border."""
    anatomy = retina.anatomy
    rough = 0.03 * noise(rng, 12)
    edge = _ellipse(anatomy, (0.0, 0.0), 1.0) + rough
    disc = 1 - ramp(edge, 0.88, 1.12)
    if anatomy.crescent > 0:
        _crescent(rng, retina, edge, disc)
    retina.pigment *= 1 - 0.8 * disc
    retina.choroid *= 1 - disc
    retina.pigment += 0.10 * (1 - ramp(np.abs(edge - 1.12), 0.0, 0.16)) * rng.uniform(0, 1)
    retina.pale = np.maximum(retina.pale, disc * np.float32(0.74 + 0.2 * anatomy.pallor))
    where, depth = anatomy.notch
    reach = 0.72 * max(0.0, 1 - anatomy.cup) * np.array([0.25, 0.0])
    cup = _ellipse(anatomy, (-reach[0] * anatomy.radius, 0.0), anatomy.cup)
    towards = np.cos(retina.angle - np.float32(where))
    cup = cup / (1 + np.float32(depth) * ramp(towards, 0.3, 1.0))
    inner = (1 - ramp(cup + rough, 0.72, 1.2)) * disc
    light = np.float32(0.78 + 0.2 * anatomy.pallor)
    retina.bare = np.maximum(retina.bare, inner * light)
    retina.bare = np.maximum(retina.bare, disc * np.float32(0.35 * anatomy.pallor))


def _crescent(rng: np.random.Generator, retina: Retina, edge: Map, disc: Map) -> None:
    """Peripapillary atrophy: pale, temporal or all round, with an uneven pigmented rim."""
    anatomy = retina.anatomy
    temporal = np.cos(retina.angle - np.float32(np.pi + 0.35 * anatomy.turn))
    wide = np.float32(anatomy.crescent) * ramp(temporal + np.float32(2 * anatomy.halo), 0.1, 1.1)
    reach = edge - 1 - wide * (1 + 0.18 * noise(rng, 14))
    zone = (1 - ramp(reach, -0.1, 0.1)) * (1 - disc)
    retina.bare = np.maximum(retina.bare, zone * np.float32(rng.uniform(0.45, 0.75)))
    rim = (1 - ramp(np.abs(reach - 0.06), 0.02, 0.16)) * ramp(wide, 0.05, 0.3)
    retina.pigment += rim * ramp(noise(rng, 10), -0.6, 1.0) * np.float32(rng.uniform(0.2, 0.7))


def _ellipse(anatomy: Anatomy, shift: tuple[float, float], size: float) -> Map:
    """Distance from the disc's centre over the way to an ellipse of the disc's shape."""
    x = COLUMN - np.float32(anatomy.disc[0] + shift[0])
    y = ROW - np.float32(anatomy.disc[1] + shift[1])
    c, s = np.float32(np.cos(anatomy.turn)), np.float32(np.sin(anatomy.turn))
    long = np.float32(anatomy.radius * max(size, 0.05))
    return np.hypot((c * x + s * y) * np.float32(anatomy.tilt), c * y - s * x) / long


def _macula(rng: np.random.Generator, retina: Retina) -> None:
    """The macula's pigment, and the small bright reflex of a young fovea."""
    wide, dark = rng.uniform(1.2, 1.9), rng.uniform(0.22, 0.5)
    retina.pigment += np.float32(dark) * np.exp(-((retina.macula / np.float32(wide)) ** 2))
    retina.pigment += np.float32(rng.uniform(0.1, 0.3)) * np.exp(-((retina.macula / 0.45) ** 2))
    if retina.anatomy.sheen > 0.15:
        retina.white += np.float32(rng.uniform(0.1, 0.4)) * np.exp(-((retina.macula / 0.09) ** 2))


def fibres(rng: np.random.Generator, retina: Retina) -> Map:
    """Streaks of the nerve fibres, fanning from the disc and bending round the macula, 0 to 1."""
    bend = np.sin(retina.angle) * ramp(-np.cos(retina.angle), -0.2, 1.0) * 0.22 * retina.away
    turns = (retina.angle + bend) * np.float32(220 / (2 * np.pi))
    values = cv2.GaussianBlur(rng.standard_normal((1, 512), dtype=np.float32), (3, 1), 0.8)
    row = np.zeros_like(turns)
    streak = cv2.remap(values, turns, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.clip(0.5 + np.float32(0.6) * np.asarray(streak, np.float32), 0, 1)


def _sheen(rng: np.random.Generator, retina: Retina) -> None:
    """Silvery fibres above and below the disc, with the dark wedge where they are lost."""
    anatomy = retina.anatomy
    where, broad = anatomy.defect
    if anatomy.sheen < 0.04 and broad == 0:
        return
    arch = ramp(np.abs(np.sin(retina.angle)), 0.25, 0.9) * ramp(retina.away, 0.8, 1.5)
    fade = arch * np.exp(-retina.away / np.float32(3.2))
    shine = fade * (0.55 + 0.9 * fibres(rng, retina))
    if broad > 0:
        off = np.abs(np.mod(retina.angle - where + np.pi, 2 * np.pi) - np.pi)
        lost = 1 - ramp(off, 0.6 * broad, 1.1 * broad)
        shine *= 1 - lost
        retina.pigment += 0.22 * lost * ramp(retina.away, 0.9, 1.4) * np.exp(-retina.away / 7)
    retina.white += np.float32(anatomy.sheen) * shine
