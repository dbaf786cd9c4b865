import numpy as np
import pytest
import torch

from medshadow.transforms import EvenIlluminationd
from medshadow.transforms.illumination import even_illumination


def retina(light, spot=0, size=120):
    """A masked disc lit by ``light`` (H x W x 1 or a number), with one small bright spot."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    seen = (np.hypot(x, y) < 0.49 * size)[..., None]
    pixels = np.broadcast_to(light, (size, size, 1)) * np.array([1.0, 0.6, 0.3])
    pixels = pixels + spot * (np.hypot(x - 20, y) < 2)[..., None]
    return np.where(seen, np.clip(pixels, 1, 255), 0).astype(np.uint8)


def slope(size=120):
    return np.linspace(60, 180, size)[None, :, None]


def test_uneven_light_and_tint_are_taken_out():
    lit = even_illumination(retina(slope()))
    inside = retina(1.0).any(axis=2)
    assert retina(slope())[inside].std(axis=0).max() > 20
    assert np.abs(lit[inside].astype(int) - 128).max() <= 12
    flat = even_illumination(retina(100.0))
    assert np.abs(flat[inside].astype(int) - 128).max() <= 1


def test_what_lies_around_the_field_stays_black_and_makes_no_rim():
    evened = even_illumination(retina(100.0))
    outside = ~retina(100.0).any(axis=2)
    assert not evened[outside].any()
    assert np.abs(evened[~outside].astype(int) - 128).max() <= 1


def test_small_lesions_stand_out_alike_in_dark_and_bright_light():
    differences = []
    for light in (60.0, 180.0):
        with_spot = even_illumination(retina(light, spot=20)).astype(int)
        differences.append(with_spot[60, 80] - even_illumination(retina(light))[60, 80])
    assert (np.array(differences) > 30).all()
    assert np.abs(differences[0] - differences[1]).max() <= 2


def test_types_and_ranges_are_kept():
    image = retina(slope())
    as_float = even_illumination(image.astype(np.float32) / 255)
    assert as_float.dtype == np.float32
    np.testing.assert_allclose(as_float, even_illumination(image) / 255, atol=2e-2)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    evened = EvenIlluminationd("image")({"image": tensor, "other": 1})
    assert isinstance(evened["image"], torch.Tensor)
    assert evened["image"].shape == tensor.shape
    assert evened["other"] == 1
    assert not even_illumination(np.zeros((20, 20, 3), np.uint8)).any()
    with pytest.raises(ValueError, match="found shape"):
        EvenIlluminationd("image")({"image": np.zeros((5, 5), np.uint8)})
