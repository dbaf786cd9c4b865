"""Where in an image the square lies that a preset gives to the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from medshadow.networks import Embedder


class Frame(NamedTuple):
    """A preset's square in the coordinates of the image that it was made from, in pixels.

    The corner of the image is (0, 0), so the middle of its first pixel is (0.5, 0.5). A field of
    view that the image cuts reaches beyond it.

    Attributes:
        left: of the square's left edge.
        top: of its upper edge.
        width: of the square in the image.
        height: of the square in the image.
        mirrored: whether the square is the image's mirror image, as of a left eye.
        round: whether only the ellipse that touches the square's sides is seen.
    """

    left: float
    top: float
    width: float
    height: float
    mirrored: bool = False
    round: bool = False

    def spread(self, cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """A grid over the square, laid over the image: float32 H x W, bilinear between cells.

        Args:
            cells: h x w, over the square.
            shape: H and W of the image.
        """
        down, across = cells.shape
        grid = cells[:, ::-1] if self.mirrored else cells
        y, x = _middles(shape)
        columns = np.float32((x - self.left) / self.width * across - 0.5)
        rows = np.float32((y - self.top) / self.height * down - 0.5)
        return cv2.remap(
            np.ascontiguousarray(grid, dtype=np.float32),
            *np.meshgrid(columns, rows),
            interpolation=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def seen(self, shape: tuple[int, int]) -> np.ndarray:
        """Which pixels of an image the network sees: bool H x W."""
        y, x = _middles(shape)
        across = (x - self.left) / self.width * 2 - 1
        down = (y - self.top) / self.height * 2 - 1
        if self.round:
            return np.hypot(across, down[:, None]) < 1
        return (np.abs(across) < 1) & (np.abs(down[:, None]) < 1)


def frame_of(embedder: Embedder, pixels: np.ndarray, laterality: str = "") -> Frame:
    """Where the square lies that a model's preset makes of an image.

    Args:
        embedder: a trained model.
        pixels: uint8 H x W x 3, RGB.
        laterality: "left" or "right" for an image of such an eye, "" where unknown.

    Example:
        >>> from medshadow.networks import Embedder, backbone
        >>> model = Embedder(backbone("efficientnet-lite0", pretrained=False))
        >>> tuple(frame_of(model, np.zeros((450, 600, 3), np.uint8)))[:4]
        (75.0, 0.0, 450.0, 450.0)
    """
    from medshadow.retrieval.encode import pixel_preset
    from medshadow.transforms import AlignLateralityd, CropFundusd
    from medshadow.transforms.field_of_view import field_of_view
    from medshadow.transforms.resize import ResizeShorterd

    height, width = pixels.shape[:2]
    frame = Frame(0.0, 0.0, float(width), float(height))
    side = (float(width), float(height))  # of what a step is given, in its own pixels
    for step in pixel_preset(embedder).transforms:
        if isinstance(step, CropFundusd):
            field = field_of_view(pixels)
            if field is not None:
                corner = (field.x - field.radius_x, field.y - field.radius_y)
                frame = Frame(*corner, 2 * field.radius_x, 2 * field.radius_y, round=True)
                side = (1.0, 1.0)
        elif isinstance(step, AlignLateralityd):
            frame = frame._replace(mirrored=laterality == "left")
        elif isinstance(step, ResizeShorterd) and step.square:
            kept_across, kept_down = (min(side) / edge for edge in side)
            frame = frame._replace(
                left=frame.left + (1 - kept_across) / 2 * frame.width,
                top=frame.top + (1 - kept_down) / 2 * frame.height,
                width=kept_across * frame.width,
                height=kept_down * frame.height,
            )
    return frame


def _middles(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of the pixels of each row and of each column: H and W."""
    return np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
