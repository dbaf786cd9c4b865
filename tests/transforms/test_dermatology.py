import logging
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from monai.transforms.traits import RandomizableTrait
from PIL import Image

from medshadow.transforms import dermatology_transforms
from medshadow.transforms.color import shades_of_gray


@pytest.fixture
def photo(tmp_path):
    """A file of 60 x 40 pixels: red left half, blue right half, a green corner at the top left."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, :30, 0] = 200
    pixels[:, 30:, 2] = 200
    pixels[:10, :10] = (0, 200, 0)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


def plain(tensor, size):
    assert type(tensor) is torch.Tensor
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, size, size)
    assert tensor.is_contiguous()
    assert 0 <= tensor.min() <= tensor.max() <= 1
    return tensor


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [20, 33])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (8, 9)])
def test_gives_a_plain_tensor_of_the_size_asked_for(tmp_path, train, size, shape):
    path = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    item = dermatology_transforms(size, train)({"image": str(path), "label": 2, "case_id": "a"})
    plain(item["image"], size)
    assert (item["label"], item["case_id"]) == (2, "a")


def test_evaluation_keeps_up_and_left_and_the_middle(photo):
    path, _ = photo
    image = dermatology_transforms(40, False, color_constancy=False)({"image": path})["image"]
    red, green, blue = plain(image, 40)
    assert red[20, 5] == pytest.approx(200 / 255)
    assert blue[20, 35] == pytest.approx(200 / 255)
    assert (red[:, 20:] == 0).all()
    assert (green.sum() > 0) == False  # noqa: E712 - the corner lies outside the middle square


def test_evaluation_is_the_documented_steps(photo):
    path, pixels = photo
    image = dermatology_transforms(20, False)({"image": path})["image"]
    square = shades_of_gray(pixels)[:, 10:50]
    expected = square.reshape(20, 2, 20, 2, 3).mean(axis=(1, 3))
    assert np.abs(image.numpy().transpose(1, 2, 0) * 255 - expected).max() <= 1


def test_evaluation_repeats(photo):
    path, _ = photo
    evaluate = dermatology_transforms(20, False)
    assert torch.equal(evaluate({"image": path})["image"], evaluate({"image": path})["image"])
    assert not any(isinstance(step, RandomizableTrait) for step in evaluate.transforms)


@pytest.mark.parametrize(("train", "shape"), [(True, (3, 25, 38)), (False, (3, 20, 20))])
def test_what_is_cached_is_a_small_uint8_image(photo, train, shape):
    compose = dermatology_transforms(20, train)
    first = compose.get_index_of_first(
        lambda step: isinstance(step, RandomizableTrait) or not hasattr(step, "backend")
    )
    cached = compose({"image": photo[0]}, end=first)["image"]
    assert cached.shape == shape
    assert cached.dtype == torch.uint8
    assert type(cached) is torch.Tensor
    assert len(compose.transforms) - first == (2 if train else 1)


def test_training_turns_flips_crops_and_colours(photo):
    path, _ = photo
    train = dermatology_transforms(20, True, color_constancy=False)
    corners, brightness = set(), []
    for seed in range(80):
        train.set_random_state(seed=seed)
        image = plain(train({"image": path})["image"], 20)
        red = image[0] > image[2]
        corners.add(tuple(bool(red[i, j]) for i, j in ((1, 1), (1, -2), (-2, 1), (-2, -2))))
        brightness.append(float(image.amax()))
    halves = {
        (True, False, True, False),
        (False, True, False, True),
        (True, True, False, False),
        (False, False, True, True),
    }
    assert halves <= corners
    assert 0.5 < min(brightness) < 0.7
    assert 0.82 < max(brightness) <= 1


def test_making_it_warns_and_logs_nothing(caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        dermatology_transforms(20, False)
        dermatology_transforms(20, True)
    assert not caplog.records


@pytest.mark.parametrize("size", [0, -3])
def test_size_is_checked(size):
    with pytest.raises(ValueError, match=f"size must be at least 1 pixel; found {size}"):
        dermatology_transforms(size, True)


@pytest.mark.slow
def test_albumentations_loads_only_for_training():
    code = """
import sys, medshadow.transforms
assert "monai" not in sys.modules
from medshadow.transforms import Albumentationsd, preset
preset("dermatology")(32, False)
assert "albumentations" not in sys.modules
preset("dermatology")(32, True)
assert "albumentations" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.real_data
def test_real_images_lose_their_cast(ham10000_root):
    paths = sorted(ham10000_root.glob("HAM10000_images_part_1/*.jpg"))[::1000]
    casts = {}
    for corrected in (False, True):
        evaluate = dermatology_transforms(64, False, color_constancy=corrected)
        means = [evaluate({"image": path})["image"].mean(dim=(1, 2)) for path in paths]
        casts[corrected] = float(np.mean([mean.max() - mean.min() for mean in means]))
    assert casts[True] < casts[False] / 2
