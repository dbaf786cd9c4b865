"""Images to vectors: a trained embedder's own preset, then the embedder, batch after batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from medshadow.data.cases import CaseTable
from medshadow.data.readers import read_image
from medshadow.retrieval.ahead import ahead

if TYPE_CHECKING:
    from monai.transforms import Compose

    from medshadow.networks import Embedder


def encode_cases(
    embedder: Embedder,
    table_or_paths: CaseTable | Sequence[str | Path],
    *,
    batch_size: int = 64,
    num_workers: int = 2,
    views: int = 1,
    progress: bool = True,
) -> np.ndarray:
    """Encode image files through the model's own transform preset.

    A table's column ``eye`` goes with the images, for a preset that mirrors left eyes. Inference is
    float32 whatever autocast the caller has on: bfloat16 falls to 0.994 cosine with it. Every
    module's training flag is as before when this returns.

    Args:
        embedder: a trained model; its ``preprocess`` names preset and size.
        table_or_paths: a case table, or the paths of image files.
        batch_size: images that go through the network together.
        num_workers: threads that read and transform ahead while the network computes; 0 does one
            after the other.
        views: how many flips and quarter turns of an image to average over, 1 to 8; for queries
            ``embedder.query_views``.
        progress: whether to show a progress bar.

    Returns:
        float32 N x D unit vectors, in the order given; 0 x D without images.

    Raises:
        ImageReadError: a file cannot be read; the message names it.
    """
    if isinstance(table_or_paths, CaseTable):
        frame = table_or_paths.frame
        paths = frame["image"].tolist()
        sides = frame["eye"].tolist() if "eye" in frame else [""] * len(paths)
    else:
        paths = [str(path) for path in table_or_paths]
        sides = [""] * len(paths)
    transform = _preset_of(embedder)

    def load(item: dict[str, Any]) -> Tensor:
        return _from_file(transform, item)

    items = [{"image": path, "laterality": side} for path, side in zip(paths, sides, strict=True)]
    images = ahead(load, items, workers=num_workers, depth=2 * batch_size)
    shown = tqdm(images, total=len(items), desc="encoding", unit="image", disable=not progress)
    return _encode(embedder, shown, batch_size, views)


def encode_images(
    embedder: Embedder,
    images: Sequence[np.ndarray],
    *,
    batch_size: int = 64,
    views: int = 1,
    laterality: str = "",
) -> np.ndarray:
    """Encode images that are already in memory, through the model's own preset less its reading.

    Args:
        embedder: a trained model.
        images: uint8 H x W x 3 arrays, RGB, as ``read_image`` gives them; sizes may differ.
        batch_size: images that go through the network together.
        views: as for :func:`encode_cases`.
        laterality: "left" or "right" where these are images of such eyes; "" where unknown.

    Returns:
        float32 N x D unit vectors, as :func:`encode_cases` gives for the same pixels.

    Raises:
        ValueError: an array is no uint8 H x W x 3.
    """
    for at, image in enumerate(images):
        check_pixels(image, f"image {at}")
    transform = pixel_preset(embedder)
    items = ({"image": image, "laterality": laterality} for image in images)
    tensors = (_as_tensor(transform, item) for item in items)
    return _encode(embedder, tensors, batch_size, views)


def check_pixels(image: np.ndarray, name: str = "image") -> None:
    """Refuse an array that is no uint8 H x W x 3, calling it by ``name``."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name}: expected uint8 H x W x 3; found {image.dtype} {image.shape}")


def pixel_preset(embedder: Embedder) -> Compose:
    """The model's own preset less its reading: it begins with pixels that are in memory."""
    from monai.transforms import Compose, LoadImaged

    steps = _preset_of(embedder).transforms
    return Compose([step for step in steps if not isinstance(step, LoadImaged)])


def views_of(images: Tensor) -> Iterator[Tensor]:
    """The eight flips and quarter turns of N x C x S x S images, the images themselves first."""
    for turned in (images, images.transpose(2, 3)):
        yield turned
        yield turned.flip(3)
        yield turned.flip(2)
        yield turned.flip(2, 3)


def tells_eyes_apart(embedder: Embedder) -> bool:
    """Whether a model's preset mirrors left eyes, and so wants to know which eye it is given."""
    from medshadow.transforms import AlignLateralityd

    return any(isinstance(step, AlignLateralityd) for step in _preset_of(embedder).transforms)


def _preset_of(embedder: Embedder) -> Compose:
    from medshadow.transforms import preset

    settings = embedder.preprocess
    return preset(settings["preset"])(settings["size"], train=False)


def _from_file(transform: Compose, item: dict[str, Any]) -> Tensor:
    try:
        return _as_tensor(transform, item)
    except RuntimeError:
        # MONAI wraps what a reader raises; reading again tells an unreadable file, by name, from
        # a fault in the transforms.
        read_image(item["image"])
        raise


def _as_tensor(transform: Compose, item: dict[str, Any]) -> Tensor:
    transformed: dict[str, Any] = transform(item)
    tensor: Tensor = transformed["image"]
    return tensor


def _encode(
    embedder: Embedder, images: Iterable[Tensor], batch_size: int, views: int
) -> np.ndarray:
    device = next(embedder.parameters()).device
    vectors = [np.empty((0, embedder.embedding_dim), dtype=np.float32)]
    remaining = iter(images)
    with _evaluating(embedder), torch.inference_mode(), torch.autocast(device.type, enabled=False):
        while batch := list(islice(remaining, batch_size)):
            stacked = torch.stack(batch).to(device)
            seen = [
                embedder(view.contiguous(memory_format=torch.channels_last))
                for view in islice(views_of(stacked), views)
            ]
            mean = seen[0] if views == 1 else normalize(torch.stack(seen).mean(0), dim=1)
            vectors.append(mean.cpu().numpy())
    return np.concatenate(vectors)


@contextmanager
def _evaluating(embedder: Embedder) -> Iterator[None]:
    # Flag by flag: parts that training keeps frozen in evaluation mode must stay so.
    modes = {module: module.training for module in embedder.modules()}
    embedder.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
