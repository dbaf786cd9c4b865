"""Photographs of a drawn lesion: skin, pose, light, hairs, gel, ruler, ink, vignette, camera.

Nothing here knows the diagnosis: what varies here is nuisance, the same for every class. Pictures
are held as three planes, red, green, blue, until the camera: arithmetic a plane is the quicker.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medshadow.data.phantom_lesions import draw_lesion
from medshadow.data.phantom_marks import SIDE, grown

Picture = NDArray[np.float32]

WIDTH, HEIGHT = 300, 225  # half of HAM10000's own 600 x 450
_SUBPIXEL = 4


@dataclass(frozen=True)
class Clinic:
    """How one site photographs: its colour cast, contrast, and how often each artefact is seen."""

    gain: tuple[float, float, float]
    gamma: float
    vignette: float
    ruler: float
    gel: float


CLINICS = (
    Clinic(gain=(1.00, 0.97, 0.95), gamma=1.0, vignette=0.15, ruler=0.05, gel=0.3),
    Clinic(gain=(1.06, 0.90, 0.84), gamma=1.1, vignette=0.10, ruler=0.25, gel=0.1),
    Clinic(gain=(0.96, 0.94, 1.12), gamma=0.9, vignette=0.60, ruler=0.10, gel=0.2),
    Clinic(gain=(1.04, 1.02, 0.86), gamma=1.2, vignette=0.35, ruler=0.15, gel=0.5),
)


def photograph_lesion(rng: np.random.Generator, dx: str, views: int = 1) -> list[NDArray[np.uint8]]:
    """Draw one lesion and photograph it ``views`` times.

    Each view has its own rotation, shift, zoom, light, hairs and artefacts; most come from the
    lesion's own clinic, some from another.

    Args:
        rng: the generator that decides everything.
        dx: diagnosis, one of ``medshadow.data.phantom_lesions.RECIPES``.
        views: how many photographs.

    Returns:
        ``views`` images, RGB uint8 225 x 300 x 3.

    Example:
        >>> first, again = photograph_lesion(np.random.default_rng(0), "nv", views=2)
        >>> first.shape, first.dtype.name
        ((225, 300, 3), 'uint8')
    """
    lesion = draw_lesion(rng, dx)
    skin = _skin_tone(rng)
    home = int(rng.integers(len(CLINICS)))
    hairy = rng.choice([0.0, 0.35, 1.0], p=[0.5, 0.35, 0.15])
    pictures = []
    for _ in range(views):
        clinic = CLINICS[int(rng.integers(len(CLINICS))) if rng.random() < 0.25 else home]
        picture = _skin(rng, skin)
        _place(rng, picture, lesion)
        _light(rng, picture)
        _hairs(rng, picture, hairy)
        _artefacts(rng, picture, clinic)
        pictures.append(_camera(rng, picture, clinic))
    return pictures


def _field(rng: np.random.Generator, cells: int) -> Picture:
    return grown(rng, cells + 2, round(cells * 4 / 3) + 2, HEIGHT, WIDTH)


def _planes(*values: float) -> Picture:
    return np.array(values, np.float32)[:, None, None]


def _skin_tone(rng: np.random.Generator) -> NDArray[np.float32]:
    """Linear RGB of the skin around: mostly light, as in HAM10000, with some darker."""
    melanin = rng.gamma(1.6, 0.09)
    blood = rng.uniform(0.02, 0.3)
    tone = np.array([0.93, 0.84, 0.79]) * np.exp(
        -melanin * np.array([0.42, 0.8, 1.15]) - blood * np.array([0.16, 0.95, 0.7])
    )
    return tone.astype(np.float32)


def _skin(rng: np.random.Generator, tone: NDArray[np.float32]) -> Picture:
    """Skin with mottling, fine grain and, on some, freckles."""
    redness = 0.05 * rng.uniform(0.3, 1.6) * _field(rng, int(rng.integers(4, 9)))
    grain = 0.03 * rng.uniform(0.3, 1.4) * (_field(rng, 60) + 0.8 * _field(rng, 26))
    density = _planes(0.2, 1.0, 0.8) * redness.astype(np.float32)
    density += _planes(0.5, 0.8, 1.0) * grain.astype(np.float32)
    if rng.random() < 0.3:
        freckles = np.clip(_field(rng, 22) - rng.uniform(1.3, 2.0), 0, 1) * rng.uniform(0.2, 0.6)
        density += _planes(0.4, 0.8, 1.1) * freckles.astype(np.float32)
    _around(rng, density)
    return _planes(*tone) * _exp(-density)


def _exp(picture: Picture) -> Picture:
    tall = cv2.exp(picture.reshape(-1, WIDTH))  # OpenCV takes no three planes, but a tall picture
    return np.asarray(tall, np.float32).reshape(picture.shape)


def _around(rng: np.random.Generator, density: Picture) -> None:
    """Marks of the skin itself, lesion or not: vessels, follicles, furrows."""
    if rng.random() < 0.3:
        drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(int(rng.integers(2, 9))):
            heading = rng.uniform(0, 7) + np.cumsum(rng.normal(0, 0.45, 12))
            moves = rng.uniform(3, 6) * np.stack([np.cos(heading), np.sin(heading)], 1)
            path = rng.uniform((0, 0), (WIDTH, HEIGHT)) + np.cumsum(moves, 0)
            pixels = (path * (1 << _SUBPIXEL)).round().astype(np.int32)
            cv2.polylines(drawn, [pixels], False, 255, 1, cv2.LINE_AA, _SUBPIXEL)
        vessel = cv2.GaussianBlur(drawn, (0, 0), 0.7) * np.float32(rng.uniform(0.2, 0.6) / 255)
        density += _planes(0.16, 0.95, 0.7) * vessel
    if rng.random() < 0.3:
        drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
        for x, y in rng.uniform((0, 0), (WIDTH, HEIGHT), (int(rng.integers(15, 60)), 2)):
            radius = int(rng.uniform(1.0, 2.6) * (1 << _SUBPIXEL))
            centre = (round(x * (1 << _SUBPIXEL)), round(y * (1 << _SUBPIXEL)))
            cv2.circle(drawn, centre, radius, 255, -1, cv2.LINE_AA, _SUBPIXEL)
        pore = cv2.GaussianBlur(drawn, (0, 0), 0.9) * np.float32(rng.uniform(-0.25, 0.2) / 255)
        density += pore
    if rng.random() < 0.35:
        furrow = np.abs(_field(rng, 34)) + np.abs(_field(rng, 30))
        crease = np.clip(0.6 - furrow, 0, 1) * np.float32(rng.uniform(0.1, 0.3))
        density += crease


def _place(rng: np.random.Generator, picture: Picture, lesion: NDArray[np.float32]) -> None:
    """Lay the lesion into the picture: turned, mirrored, zoomed, shifted."""
    zoom = float(np.exp(rng.uniform(np.log(0.72), np.log(1.2))))
    angle = rng.uniform(0, 2 * np.pi)
    flip = rng.choice([-1.0, 1.0])
    turn = zoom * np.array(
        [[np.cos(angle) * flip, -np.sin(angle)], [np.sin(angle) * flip, np.cos(angle)]]
    )
    centre = np.array([WIDTH / 2 + rng.normal(0, 14), HEIGHT / 2 + rng.normal(0, 10)])
    shift = centre - turn @ np.array([SIDE / 2, SIDE / 2])
    matrix = np.hstack([turn, shift[:, None]])
    seen = cv2.warpAffine(lesion, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    *density, white = cv2.split(seen)
    picture *= _exp(np.float32(-rng.uniform(0.85, 1.15)) * np.stack(density))
    picture += np.float32(0.9) * white * (_planes(0.97, 0.93, 0.92) - picture)


def _light(rng: np.random.Generator, picture: Picture) -> None:
    """Uneven light and exposure."""
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    y = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    slope = rng.normal(0, 0.06, 2)
    light = rng.uniform(0.85, 1.12) + slope[0] * x + slope[1] * y - 0.05 * (x * x + y * y)
    picture *= light.astype(np.float32)


def _hairs(rng: np.random.Generator, picture: Picture, hairy: float) -> None:
    """Bent hairs, dark or fair, mostly in one direction."""
    count = int(rng.poisson(26 * hairy))
    if count == 0:
        return
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    lie = rng.uniform(0, np.pi)
    t = np.linspace(0, 1, 14)[:, None]
    for _ in range(count):
        at = rng.uniform((0, 0), (WIDTH, HEIGHT))
        heading = lie + rng.normal(0, 0.5)
        half = rng.uniform(25, 110) * np.array([np.cos(heading), np.sin(heading)])
        bend = at + rng.normal(0, 22, 2)
        curve = (1 - t) ** 2 * (at - half) + 2 * t * (1 - t) * bend + t**2 * (at + half)
        pixels = (curve * (1 << _SUBPIXEL)).round().astype(np.int32)
        width = int(rng.choice([1, 1, 2]))
        cv2.polylines(drawn, [pixels], False, 255, width, cv2.LINE_AA, _SUBPIXEL)
    fair = rng.random() < 0.25
    colour = _planes(0.80, 0.72, 0.60) if fair else _planes(0.10, 0.07, 0.06)
    cover = drawn * np.float32(rng.uniform(0.6, 0.95) / 255)
    picture += cover * (colour - picture)


def _artefacts(rng: np.random.Generator, picture: Picture, clinic: Clinic) -> None:
    if rng.random() < clinic.gel:
        _bubbles(rng, picture)
    if rng.random() < clinic.ruler:
        _ruler(rng, picture)
    if rng.random() < 0.07:
        _ink(rng, picture)
    if rng.random() < clinic.vignette:
        _vignette(rng, picture)


def _bubbles(rng: np.random.Generator, picture: Picture) -> None:
    """Gel bubbles: bright rims with a glint."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    one = 1 << _SUBPIXEL
    for _ in range(int(rng.integers(2, 14))):
        x, y = rng.uniform((0, 0), (WIDTH, HEIGHT))
        radius = rng.uniform(1.5, 4) if rng.random() < 0.8 else rng.uniform(6, 16)
        centre = (round(x * one), round(y * one))
        cv2.circle(drawn, centre, round(radius * one), 130, 1, cv2.LINE_AA, _SUBPIXEL)
        glint = (round((x - 0.5 * radius) * one), round((y - 0.5 * radius) * one))
        cv2.circle(drawn, glint, round(0.25 * radius * one), 230, -1, cv2.LINE_AA, _SUBPIXEL)
    cover = cv2.GaussianBlur(drawn, (0, 0), 0.6).astype(np.float32) / 255
    picture += cover * (np.float32(1.0) - picture)


def _ruler(rng: np.random.Generator, picture: Picture) -> None:
    """Millimetre ticks along one side, every fifth longer."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    step, offset = rng.uniform(9, 16), rng.uniform(4, 14)
    upright = rng.random() < 0.5
    far = rng.random() < 0.5
    for tick, at in enumerate(np.arange(rng.uniform(0, step), WIDTH, step)):
        long = 14 if tick % 5 == 0 else 8
        a = round(offset if not far else (HEIGHT if not upright else WIDTH) - offset - long)
        ends = ((round(at), a), (round(at), a + long))
        if upright:
            ends = ((a, round(at)), (a + long, round(at)))
        cv2.line(drawn, *ends, 255, 1, cv2.LINE_AA)
    cover = drawn * np.float32(rng.uniform(0.5, 0.9) / 255)
    picture += cover * (np.float32(0.12) - picture)


def _ink(rng: np.random.Generator, picture: Picture) -> None:
    """Strokes of a surgical marker near the corners."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        corner = np.array([rng.choice([25, WIDTH - 25]), rng.choice([20, HEIGHT - 20])])
        path = corner + np.cumsum(rng.normal(0, 9, (6, 2)), 0)
        cv2.polylines(drawn, [path.round().astype(np.int32)], False, 255, 4, cv2.LINE_AA)
    cover = cv2.GaussianBlur(drawn, (0, 0), 1.2) / np.float32(255)
    picture *= 1 - cover * _planes(0.6, 0.65, 0.25)


def _vignette(rng: np.random.Generator, picture: Picture) -> None:
    """The round dark edge of a dermatoscope's tube."""
    x = np.arange(WIDTH, dtype=np.float32) - np.float32(WIDTH / 2 + rng.normal(0, 8))
    y = np.arange(HEIGHT, dtype=np.float32)[:, None] - np.float32(HEIGHT / 2 + rng.normal(0, 6))
    away = np.sqrt(x * x + y * y)
    radius, soft = rng.uniform(128, 175), rng.uniform(6, 30)
    dark = 1 / (1 + np.exp(np.clip((away - radius) / soft * 4, -30, 30)))
    picture *= (0.04 + 0.96 * dark).astype(np.float32)


def _camera(rng: np.random.Generator, picture: Picture, clinic: Clinic) -> NDArray[np.uint8]:
    """Colour cast, contrast, focus and sensor noise of the site's camera."""
    gain = np.array(clinic.gain) * np.exp(rng.normal(0, 0.03, 3))
    seen = np.clip(picture * _planes(*gain), 0.002, 1).reshape(-1, WIDTH)
    seen = cv2.pow(seen, float(clinic.gamma * np.exp(rng.normal(0, 0.08)))).reshape(picture.shape)
    grain = rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32)
    blur = rng.uniform(0, 0.9)
    if blur > 0.3:
        seen = np.stack([cv2.GaussianBlur(plane, (0, 0), blur) for plane in seen])
    seen = seen * np.float32(255) + np.float32(rng.uniform(0.5, 3)) * grain
    return cv2.merge(list(np.clip(seen + 0.5, 0, 255).astype(np.uint8)))
