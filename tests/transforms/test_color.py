import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms.traits import RandomizableTrait

from medshadow.transforms import ShadesOfGrayd
from medshadow.transforms.color import shades_of_gray


def slow(image, p):
    """The formula, channel by channel, in float64; values in [0, 1]."""
    light = [np.mean(image[..., c] ** p) ** (1 / p) for c in range(image.shape[-1])]
    evened = np.stack([image[..., c] / (light[c] or 1) for c in range(image.shape[-1])], axis=-1)
    return np.clip(evened * image.mean() / evened.mean(), 0, 1)


def lesion(seed=0, cast=(0.9, 0.55, 0.5)):
    rng = np.random.default_rng(seed)
    grey = 0.7 + 0.1 * rng.random((20, 30, 1))
    grey[6:14, 8:20] *= 0.4
    return grey * np.asarray(cast)


@pytest.mark.parametrize("p", [1, 2, 6, 6.5])
def test_follows_the_formula(p):
    image = lesion()
    np.testing.assert_allclose(shades_of_gray(image, p), slow(image, p), rtol=1e-12)
    whole = np.rint(image * 255).astype(np.uint8)
    expected = slow(whole / 255.0, p) * 255
    assert np.abs(shades_of_gray(whole, p) - expected).max() <= 0.5 + 1e-6


def test_light_becomes_grey_and_brightness_stays():
    image = lesion()
    corrected = shades_of_gray(image)
    light = (corrected**6).mean(axis=(0, 1)) ** (1 / 6)
    np.testing.assert_allclose(light, light[0], rtol=1e-12)
    assert corrected.mean() == pytest.approx(image.mean(), rel=1e-12)


def test_one_skin_under_two_lamps_looks_alike():
    warm, cold = lesion(cast=(0.95, 0.6, 0.55)), lesion(cast=(0.6, 0.7, 0.8))
    assert np.abs(warm - cold).mean() > 0.1
    ratio = shades_of_gray(warm) / shades_of_gray(cold)
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-6)


def test_grey_images_stay_as_they_are():
    grey = np.repeat(np.arange(24, dtype=np.uint8).reshape(4, 6, 1), 3, axis=2)
    np.testing.assert_array_equal(shades_of_gray(grey), grey)


def test_black_stays_black():
    black = np.zeros((4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(shades_of_gray(black), black)
    np.testing.assert_array_equal(shades_of_gray(black / 255.0), black)
    red = black.copy()
    red[..., 0] = 90
    np.testing.assert_array_equal(shades_of_gray(red), red)
    np.testing.assert_allclose(shades_of_gray(red / 255.0), red / 255.0)


def test_bright_values_are_clipped_not_wrapped():
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 0] = (255, 30, 30)
    image[1, 1] = (250, 255, 255)
    assert shades_of_gray(image)[1, 1].min() > 200


@pytest.mark.parametrize("kind", ["array", "tensor", "meta"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_dictionary_transform_keeps_layout_and_kind(kind, dtype):
    pixels = np.moveaxis(lesion(), -1, 0)
    pixels = np.rint(pixels * 255).astype(np.uint8) if dtype == "uint8" else pixels.astype(dtype)
    image = {"array": np.asarray, "tensor": torch.tensor, "meta": MetaTensor}[kind](pixels)
    item = {"image": image, "case_id": "a"}
    result = ShadesOfGrayd("image")(item)
    assert type(result["image"]) is (np.ndarray if kind == "array" else torch.Tensor)
    assert item["image"] is image
    assert result["case_id"] == "a"
    found = np.moveaxis(np.asarray(result["image"]), 0, -1)
    assert found.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    np.testing.assert_allclose(found, shades_of_gray(np.moveaxis(pixels, 0, -1)), rtol=1e-5)


def test_is_deterministic_for_caches():
    assert not isinstance(ShadesOfGrayd("image"), RandomizableTrait)


def test_takes_one_channel():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    np.testing.assert_array_equal(ShadesOfGrayd("image")({"image": image})["image"], image)


@pytest.mark.parametrize("p", [0.5, 0, -1, float("nan"), float("inf")])
def test_order_of_the_norm_is_checked(p):
    with pytest.raises(ValueError, match="p must be a finite number of at least 1"):
        ShadesOfGrayd("image", p=p)
    with pytest.raises(ValueError, match="p must be a finite number of at least 1"):
        shades_of_gray(np.zeros((2, 2, 3), dtype=np.uint8), p)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"photo: want an image .* found shape \(4, 4\)"),
        (np.zeros((4, 4, 3), np.uint8), r"found shape \(4, 4, 3\)"),
        (np.zeros((3, 0, 3), np.uint8), r"found shape \(3, 0, 3\)"),
        (np.zeros((3, 4, 4), np.int64), "want uint8 or floating point; found int64"),
        (np.full((3, 4, 4), 255.0), r"want floating point in \[0, 1\]; found 255 to 255"),
        (np.full((3, 4, 4), np.nan), r"want floating point in \[0, 1\]; found nan"),
    ],
)
def test_what_is_no_image_is_refused_by_key(image, message):
    with pytest.raises(ValueError, match=message):
        ShadesOfGrayd("photo")({"photo": image})
