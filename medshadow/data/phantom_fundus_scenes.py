"""Photographs of a drawn eye: gaze, field of view, light, haze, dust, the camera's colours.

Nothing here knows the diagnosis: what varies here is nuisance, the same for every disease.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medshadow.data.phantom_anatomy import Person
from medshadow.data.phantom_fundus import Retina
from medshadow.data.phantom_marks import SIDE, Map, ramp

HEIGHT = 272
_RADIUS = 104.0  # of the field on the drawn eye's canvas
_ONE = 16  # OpenCV draws at 1/16 pixel


@dataclass(frozen=True)
class Camera:
    """How one device photographs.

    Attributes:
        gain: of red, green, blue.
        gamma: contrast, 1 as drawn.
        warmth: how far the haze is yellow rather than blue-grey.
        rim: colour of stray light at the field's edge.
        flat: share of the radius at which top and bottom are cut off; 1 for a whole circle.
        sides: the same for left and right.
        width: of the picture, in pixels; its height is 272.
        radius: of the field, in pixels; more than half the height cuts it at the frame.
        black: level of the border.
        tab: whether the field carries a small notch at its edge.
        dust: where dust sits on the lens: x, y in radii, size in pixels.
    """

    gain: tuple[float, float, float]
    gamma: float
    warmth: float
    rim: tuple[float, float, float]
    flat: float
    sides: float
    width: int
    radius: float
    black: float
    tab: bool
    dust: tuple[tuple[float, float, float], ...]


CAMERAS = (
    Camera((1.00, 1.00, 1.00), 1.00, 0.5, (0.55, 0.42, 0.28), 1.0, 1.0, 272, 134, 0, False,
           ((-0.3, -0.35, 5.0), (0.25, 0.5, 3.5), (0.1, -0.6, 3.0))),
    Camera((0.98, 1.25, 1.75), 0.85, 0.3, (0.80, 0.72, 0.66), 1.0, 1.0, 320, 132, 2, True,
           ((0.4, 0.1, 4.0), (-0.55, 0.3, 5.0))),
    Camera((0.80, 0.98, 0.60), 0.95, 0.9, (0.55, 0.60, 0.25), 1.0, 1.0, 290, 130, 1, False,
           ((-0.1, 0.45, 3.5), (0.5, -0.4, 4.5), (-0.5, -0.1, 3.0))),
    Camera((1.15, 0.82, 0.70), 1.05, 0.6, (0.45, 0.55, 0.50), 0.90, 1.0, 340, 136, 3, False,
           ((0.2, 0.3, 5.5),)),
    Camera((0.95, 1.12, 1.05), 0.95, 0.6, (0.75, 0.72, 0.45), 0.96, 0.97, 272, 142, 0, True,
           ((-0.4, 0.2, 4.0), (0.3, -0.2, 3.0), (0.05, 0.65, 5.0))),
    Camera((1.05, 0.95, 1.15), 1.15, 0.2, (0.25, 0.62, 0.62), 1.0, 1.0, 360, 130, 5, False,
           ((0.55, 0.25, 4.5), (-0.2, -0.5, 4.0))),
)  # fmt: skip


def photograph_eye(
    rng: np.random.Generator,
    retina: Retina,
    person: Person,
    camera: Camera,
    left: bool,
    dusty: float = 0.0,
    poor: bool = False,
) -> NDArray[np.uint8]:
    """Photograph a drawn eye.

    Args:
        rng: the generator that decides gaze, light, haze and noise.
        retina: the eye, drawn as a right one.
        person: whose eye it is, for the colour of its ground.
        camera: the device.
        left: whether it is a left eye, which is the mirror image of a right one.
        dusty: how plainly dust on the lens shows, 0 to 1.
        poor: whether the picture came out dark and unsharp.

    Returns:
        RGB uint8, 272 x ``camera.width`` x 3.

    Example:
        >>> from medshadow.data.phantom_anatomy import draw_person
        >>> from medshadow.data.phantom_fundus_findings import draw_eye
        >>> rng = np.random.default_rng(0)
        >>> person = draw_person(rng, 60)
        >>> eye = draw_eye(rng, person, {})
        >>> photograph_eye(rng, eye, person, CAMERAS[0], left=True).shape
        (272, 272, 3)
    """
    blur = max(retina.blur, rng.uniform(2.0, 3.2) if poor else 0.0)
    seen = _through_the_media(rng, retina, person, camera, blur)
    framed = _frame(rng, seen, camera, left)
    field, across, down = _field(rng, camera)
    _light(rng, framed, camera, across, down, poor)
    _dust(rng, framed, camera, dusty)
    return _develop(rng, framed, camera, field)


def _through_the_media(
    rng: np.random.Generator, retina: Retina, person: Person, camera: Camera, blur: float
) -> Map:
    """The eye behind its own lens and vitreous: haze, blur, floating bodies."""
    planes = retina.picture(person.tone)
    veil = np.clip(retina.veil + np.float32(rng.uniform(0, 0.10)), 0, 0.95)
    old = min(1.0, max(0.0, (person.age - 40) / 45))
    yellow = 0.25 + 0.5 * camera.warmth * old
    haze = np.array([0.62, 0.50 - 0.06 * yellow, 0.42 - 0.30 * yellow]) * rng.uniform(0.75, 1.15)
    body = (0.98, 0.88, 0.58)
    for n in range(3):
        plane = planes[n]
        if blur > 0.25:
            plane = cv2.GaussianBlur(plane, (0, 0), blur)
        plane += veil * (np.float32(haze[n]) - plane)
        plane += np.clip(retina.front, 0, 0.9) * (np.float32(body[n]) - plane)
        planes[n] = plane
    return planes


def _frame(rng: np.random.Generator, seen: Map, camera: Camera, left: bool) -> Map:
    """Lay the eye into the picture: mirrored for a left one, slightly turned and shifted."""
    zoom = camera.radius / _RADIUS
    turn = rng.normal(0, 0.05)
    flip = -1.0 if left else 1.0
    matrix = zoom * np.array(
        [[flip * np.cos(turn), -np.sin(turn)], [flip * np.sin(turn), np.cos(turn)]]
    )
    gaze = np.array([SIDE / 2, SIDE / 2]) + rng.normal(0, (5, 4))
    shift = np.array([camera.width / 2, HEIGHT / 2]) - matrix @ gaze
    affine = np.hstack([matrix, shift[:, None]])
    picture = cv2.warpAffine(
        cv2.merge(list(seen)), affine, (camera.width, HEIGHT),
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    return np.asarray(np.stack(cv2.split(picture)), np.float32)


def _field(rng: np.random.Generator, camera: Camera) -> tuple[Map, Map, Map]:
    """The field of view (1 inside), and how far right of and below its centre, in radii."""
    x = np.arange(camera.width, dtype=np.float32) - np.float32(camera.width / 2 + rng.normal(0, 4))
    y = np.arange(HEIGHT, dtype=np.float32) - np.float32(HEIGHT / 2 + rng.normal(0, 2))
    radius = np.float32(camera.radius * rng.uniform(0.97, 1.03))
    across, down = np.meshgrid(x / radius, y / radius)
    away = np.hypot(across, down)
    edge = np.maximum(away, np.maximum(np.abs(down) / camera.flat, np.abs(across) / camera.sides))
    if camera.tab:
        tab = (_toward(across, down, 0.7) > 0.955) & (np.abs(_toward(across, down, 2.27)) < 0.035)
        edge = np.where(tab, 2, edge)
    field = 1 - ramp(np.asarray(edge, np.float32), 0.985, 1.0)
    return field, across, down


def _toward(across: Map, down: Map, angle: float) -> Map:
    """How far in one direction from the field's centre, in radii."""
    return np.float32(np.cos(angle)) * across + np.float32(np.sin(angle)) * down


def _light(
    rng: np.random.Generator, picture: Map, camera: Camera, across: Map, down: Map, poor: bool
) -> None:
    """Vignette, shadows of the iris, stray light along the rim, a ghost of the flash."""
    away = np.hypot(across, down)
    side = _toward(across, down, rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0.30, 0.62) if poor else rng.uniform(0.75, 1.35)
    fall = rng.uniform(0.05, 0.5)
    shade = light * (1 - fall * away * away + rng.uniform(0, 0.28) * side)
    if rng.random() < 0.2:
        shade = shade * (1 - rng.uniform(0.3, 0.75) * ramp(away - 0.5 * side, 0.45, 1.3))
    picture *= np.asarray(shade, np.float32)
    if rng.random() < 0.45:
        arc = 0.35 + 0.65 * ramp(_toward(across, down, rng.uniform(0, 2 * np.pi)), -0.4, 0.9)
        start = rng.uniform(0.45, 0.85)
        glow = np.float32(rng.uniform(0.2, 0.85)) * arc * ramp(away, start, 1.05)
        for n in range(3):
            picture[n] += glow * (np.float32(camera.rim[n]) - picture[n])
    if rng.random() < 0.15:
        x, y = rng.normal(0, 0.2, 2)
        ghost = np.hypot(across - np.float32(x), down - np.float32(y))
        spot = np.float32(rng.uniform(0.1, 0.4)) * (1 - ramp(ghost, 0.03, rng.uniform(0.08, 0.16)))
        for n, colour in enumerate((0.85, 0.80, 0.88)):
            picture[n] += spot * (np.float32(colour) - picture[n])


def _dust(rng: np.random.Generator, picture: Map, camera: Camera, dusty: float) -> None:
    """Unsharp specks, at the same places in every picture of one camera, and some new ones."""
    level = max(dusty, rng.uniform(0, 0.25))
    canvas = np.zeros((HEIGHT, camera.width), np.uint8)
    specks = [*camera.dust]
    for _ in range(int(rng.poisson(9 * dusty))):
        x, y = rng.uniform(-0.75, 0.75, 2)
        specks.append((float(x), float(y), float(rng.uniform(1.2, 4.5))))
    for x, y, size in specks:
        at = np.array([camera.width / 2 + x * camera.radius, HEIGHT / 2 + y * camera.radius])
        centre = (round(at[0] * _ONE), round(at[1] * _ONE))
        cv2.circle(canvas, centre, round(size * _ONE), 255, -1, cv2.LINE_AA, 4)
        if size > 3.2:
            cv2.circle(canvas, centre, round(0.6 * size * _ONE), 140, -1, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(canvas, (0, 0), 1.3).astype(np.float32) / 255
    cover = soft * np.float32(0.75 * level)
    for n, colour in enumerate((0.66, 0.60, 0.55)):
        picture[n] += cover * (np.float32(colour) - picture[n])


def _develop(
    rng: np.random.Generator, picture: Map, camera: Camera, field: Map
) -> NDArray[np.uint8]:
    """Colour cast, contrast, sensor noise, the black border."""
    gain = np.array(camera.gain) * np.exp(rng.normal(0, 0.05, 3))
    gamma = float(camera.gamma * np.exp(rng.normal(0, 0.07)))
    grain = rng.standard_normal((HEIGHT, camera.width), dtype=np.float32)
    grain = cv2.GaussianBlur(grain, (3, 3), 0.6) * np.float32(rng.uniform(0.6, 2.6))
    planes = []
    for n in range(3):
        plane = np.clip(picture[n] * np.float32(gain[n]), 0.002, 1.3)
        plane = cv2.pow(plane, gamma)
        plane = plane / (1 + np.float32(0.25) * plane * plane)  # highlights roll off
        plane = (plane * 262 + grain) * field + np.float32(camera.black) * (1 - field)
        planes.append(np.clip(plane + 0.5, 0, 255).astype(np.uint8))
    return np.asarray(cv2.merge(planes), np.uint8)
