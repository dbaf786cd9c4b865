"""The transform presets that a model folder's JSON can name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from monai.transforms import Compose

from medshadow.transforms.dermatology import dermatology_transforms
from medshadow.transforms.fundus import fundus_transforms

_PRESETS: dict[str, Callable[[int, bool], Compose]] = {
    "dermatology": dermatology_transforms,
    "fundus": fundus_transforms,
    "fundus_even": partial(fundus_transforms, even=True),
}


def preset(name: str) -> Callable[[int, bool], Compose]:
    """The preset of that name, to be called with (size, train).

    Args:
        name: as it stands in a model folder, for example ``"dermatology"``.

    Returns:
        A function of the image size in pixels and of whether to augment, giving the MONAI
        ``Compose`` from ``{"image": path}`` to ``{"image": 3 x size x size tensor in [0, 1]}``.

    Raises:
        ValueError: there is no preset of that name; the message lists those there are.

    Example:
        >>> preset("dermatology").__name__
        'dermatology_transforms'
    """
    if name not in _PRESETS:
        raise ValueError(f"no transform preset {name!r}; there are: {sorted(_PRESETS)}")
    return _PRESETS[name]
