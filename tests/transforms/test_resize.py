import numpy as np
import pytest
import torch

from medshadow.transforms.resize import ResizeShorterd, resize_shorter


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [
        ((450, 600), 128, (128, 171)),
        ((600, 450), 128, (171, 128)),
        ((50, 50), 128, (128, 128)),
        ((3, 1000), 2, (2, 667)),
        ((451, 600), 451, (451, 600)),
    ],
)
def test_shorter_side_and_shape(shape, side, expected):
    for channels in (1, 3):
        image = np.zeros((*shape, channels), dtype=np.uint8)
        assert resize_shorter(image, side).shape == (*expected, channels)


def test_shrinking_averages_areas():
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    means = image.reshape(6, 4, 9, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize_shorter(image, 6) - means).max() <= 0.5 + 1e-6


def test_fine_stripes_become_grey_not_broad_stripes():
    stripes = np.zeros((100, 100, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = resize_shorter(stripes, 30).astype(float)
    assert small.std() < 25 < stripes[::3, ::3].std() / 4
    assert small.mean() == pytest.approx(127.5, abs=1)


def test_square_is_the_middle():
    image = np.zeros((3, 10, 20), dtype=np.uint8)
    image[:, :, 5:15] = 200
    square = ResizeShorterd("image", 10, square=True)({"image": image})["image"]
    assert square.shape == (3, 10, 10)
    assert (square == 200).all()
    tall = np.swapaxes(image, 1, 2)
    assert (ResizeShorterd("image", 10, square=True)({"image": tall})["image"] == 200).all()


def test_the_square_does_not_keep_the_whole_image_in_memory():
    image = torch.zeros((3, 10, 400), dtype=torch.uint8)
    square = ResizeShorterd("image", 10, square=True)({"image": image})["image"]
    assert square.untyped_storage().nbytes() == 300


def test_side_is_checked():
    with pytest.raises(ValueError, match="side must be at least 1 pixel; found 0"):
        ResizeShorterd("image", 0)
