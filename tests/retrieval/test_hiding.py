import numpy as np
import pytest

from medshadow.retrieval.hiding import (
    FILLS,
    around,
    blurred,
    hidden,
    mean_colored,
    mean_fall,
    patches,
    strongest,
)


def test_patches_cover_the_square_alike():
    for size in (32, 160, 224):
        regions = patches(size)
        assert regions.shape == (16, size, size)
        assert regions.any(axis=0).all()
        assert set(regions.sum(axis=(1, 2))) == {round(0.4 * size) ** 2}
        np.testing.assert_array_equal(regions.sum(axis=0), regions[:, ::-1, ::-1].sum(axis=0))


def test_the_strongest_are_those_of_the_highest_values_that_are_seen():
    values = np.arange(100.0).reshape(10, 10)
    seen = np.ones((10, 10), bool)
    seen[9] = False
    region = strongest(values, seen)
    assert region.sum() == 18
    assert region.ravel().nonzero()[0].tolist() == list(range(72, 90))
    assert strongest(np.zeros((4, 5)), np.ones((4, 5), bool)).sum() == 4
    assert strongest(values, np.zeros((10, 10), bool)).sum() == 0


@pytest.mark.parametrize("fill", FILLS)
def test_hides_the_region_and_nothing_else(fill):
    rng = np.random.default_rng(0)
    image = rng.random((3, 40, 48), np.float32)
    region = np.zeros((40, 48), bool)
    region[5:20, 10:30] = True
    (found,) = hidden(image, [region], fill)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, ~region], image[:, ~region])
    assert found[:, region].std() < 0.2 * image[:, region].std()
    np.testing.assert_allclose(found[:, region].mean(), image.mean(), atol=0.05)


@pytest.mark.parametrize("fill", FILLS)
def test_black_surroundings_stay_black_and_darken_nothing(fill):
    y, x = np.mgrid[:64, :64]
    disc = np.hypot(y - 32, x - 32) < 25
    image = np.float32(np.stack([0.6 * disc, 0.3 * disc, 0.1 * disc]))
    found = fill(image)
    np.testing.assert_allclose(found, image, atol=1e-3)
    assert not fill(np.zeros((3, 64, 64), np.float32)).any()


def test_a_blur_keeps_what_colors_lie_where():
    image = np.zeros((3, 64, 64), np.float32)
    image[0, :, :32], image[2, :, 32:] = 1, 1
    smooth, even = blurred(image), mean_colored(image)
    assert smooth[0, 32, 4] > 0.9
    assert smooth[2, 32, 60] > 0.9
    np.testing.assert_allclose(even[:, 0, 0], [0.5, 0, 0.5], atol=1e-6)


def test_the_mean_fall_is_highest_where_hiding_lowered_most():
    regions = patches(64)
    falls = np.where(regions[:, 10, 50], 0.3, 0.0)
    mean = mean_fall(falls, regions)
    assert mean.shape == (64, 64)
    assert mean[10, 50] > 0.25
    assert mean[60, 4] < 0.01
    np.testing.assert_allclose(mean_fall(np.full(16, 0.2), regions), 0.2)


def test_around_a_region_is_nearest_to_its_middle():
    near = around(patches(60)[0])
    row, column = np.unravel_index(near.argmax(), near.shape)
    assert (row, column) in {(11, 11), (11, 12), (12, 11), (12, 12)}
    assert near[0, 0] > near[40, 40]
