"""Whether spoilt images are told from sound ones, by limits of the sound ones' own."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from medshadow.retrieval.image_quality import Quality, QualityLimits, quality_of


@pytest.fixture(scope="module")
def photograph():
    return load_sample_images().images[0]


@pytest.fixture(scope="module")
def limits(photograph):
    """Of forty pieces of a photograph."""
    rng = np.random.default_rng(0)
    corners = zip(rng.integers(0, 180, 40), rng.integers(0, 380, 40), strict=True)
    return QualityLimits.fit(
        [quality_of(photograph[y : y + 240, x : x + 256]) for y, x in corners], model_size=160
    )


def blurred(pixels, radius):
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def test_sound_images_have_no_problem(limits, photograph):
    assert limits.problems(quality_of(photograph[60:300, 100:356])) == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda image: blurred(image, 6), "blurred"),
        (lambda image: image // 6, "dark"),
        (lambda image: np.clip(image.astype(int) * 3, 0, 255).astype(np.uint8), "overexposed"),
        (lambda image: (image // 16 + 120).astype(np.uint8), "almost without contrast"),
        (lambda image: image[:90, :100], "small (90 pixels)"),
    ],
)
def test_each_way_of_spoiling_is_named(limits, photograph, spoil, word):
    assert word in limits.problems(quality_of(spoil(photograph[60:300, 100:356])))


def test_blur_rises_with_blurring_as_scikit_image_says(photograph):
    measure = pytest.importorskip("skimage.measure")
    images = [photograph, *(blurred(photograph, radius) for radius in (2, 4, 8))]
    ours = [quality_of(image).blur for image in images]
    grey = [np.asarray(Image.fromarray(i).convert("L").resize((256, 170))) for i in images]
    theirs = [measure.blur_effect(image / 255, h_size=11) for image in grey]
    assert (np.diff(ours) > 0).all()
    np.testing.assert_allclose(ours[1:], theirs[1:], atol=0.06)


def test_blur_does_not_depend_on_the_camera(photograph):
    small = np.array(Image.fromarray(photograph).resize((320, 213), Image.Resampling.LANCZOS))
    assert quality_of(small).blur == pytest.approx(quality_of(photograph).blur, abs=0.03)


def test_the_black_around_a_picture_does_not_count(photograph):
    piece = photograph[40:240, 200:400]
    framed = np.zeros((400, 400, 3), dtype=np.uint8)
    framed[100:300, 100:300] = piece
    sound, dark = quality_of(framed), quality_of(framed // 6)
    assert sound.light == pytest.approx(quality_of(piece).light, abs=0.05)
    assert sound.contrast == pytest.approx(quality_of(piece).contrast, abs=0.05)
    assert dark.light < sound.light / 3
    assert quality_of(np.zeros((50, 50, 3), dtype=np.uint8)).light == 0


def test_limits_leave_out_one_in_two_hundred_on_each_side():
    measured = [Quality(i / 1000, 0.5 + i / 2000, 0.0, 0.1, 450) for i in range(1000)]
    limits = QualityLimits.fit(measured, 160)
    outside = [bool(limits.problems(one)) for one in measured]
    assert sum(outside) == 10
    assert limits.shorter_side == 160
    assert QualityLimits.fit([Quality(0, 0, 0, 0, 45)], 160).shorter_side == 45
    with pytest.raises(ValueError, match="at least one image"):
        QualityLimits.fit([], 160)


def test_survives_being_kept_as_json(limits):
    assert QualityLimits.from_dict(limits.to_dict()) == limits
