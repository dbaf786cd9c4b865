import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms.traits import RandomizableTrait
from PIL import Image

from medshadow.data import read_image
from medshadow.transforms import AlignLateralityd, CropFundusd, fundus_transforms
from medshadow.transforms.field_of_view import field_of_view
from medshadow.transforms.fundus import crop_to_field

drawing = settings(max_examples=40, deadline=None)


def photograph(
    shape, centre, radius, *, level=120, border=0, noise=0.0, top=0, bottom=0, squeeze=1.0, seed=0
):
    """A disc of retina, brighter to one side, with vessels, on a border; chords cut off its ends.

    ``radius`` is the vertical one, ``squeeze`` times it the horizontal one; ``top`` and ``bottom``
    are the shares of the radius that are cut off.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    dx, dy = (x - centre[0]) / (radius * squeeze), (y - centre[1]) / radius
    seen = (np.hypot(dx, dy) < 1) & (dy > top - 1) & (dy < 1 - bottom)
    retina = level * (1 + 0.4 * dx) * (1 - 0.3 * (np.abs(np.sin(4 * dx + 3 * dy)) < 0.1))
    plane = np.where(seen, retina, border)
    colours = plane[..., None] * np.where(seen[..., None], (1.0, 0.6, 0.3), 1.0)
    return np.clip(colours + rng.normal(0, noise, (*shape, 3)), 0, 255).astype(np.uint8)


def assert_found(image, centre, radius_x, radius_y, within=0.03):
    found = field_of_view(image)
    assert found is not None
    off = np.abs(np.subtract(found, (*centre, radius_x, radius_y)))
    assert off.max() <= max(2.5, within * max(radius_x, radius_y)), found


@drawing
@given(
    width=st.integers(200, 600),
    height=st.integers(200, 600),
    size=st.floats(0.25, 0.5),
    right=st.floats(0, 1),
    down=st.floats(0, 1),
    level=st.floats(25, 170),
    border=st.floats(0, 12),
    noise=st.floats(0, 5),
    seed=st.integers(0, 99),
)
def test_a_whole_field_is_found(width, height, size, right, down, level, border, noise, seed):
    radius = size * min(width, height)
    centre = (radius + right * (width - 2 * radius), radius + down * (height - 2 * radius))
    image = photograph(
        (height, width), centre, radius, level=level + border, border=border, noise=noise, seed=seed
    )
    assert_found(image, centre, radius, radius)


@drawing
@given(
    top=st.floats(0, 0.35),
    bottom=st.floats(0, 0.35),
    border=st.floats(0, 10),
    noise=st.floats(0, 4),
    seed=st.integers(0, 99),
)
def test_a_flat_topped_field_is_found(top, bottom, border, noise, seed):
    image = photograph(
        (300, 340), (165, 152), 140, border=border, noise=noise, top=top, bottom=bottom, seed=seed
    )
    assert_found(image, (165, 152), 140, 140, within=0.04)


@drawing
@given(
    right=st.floats(-0.3, 0.3),
    down=st.floats(-0.3, 0.3),
    size=st.floats(0.35, 0.55),
    seed=st.integers(0, 99),
)
def test_a_field_cut_by_the_image_edge_is_found(right, down, size, seed):
    centre = (200 + 200 * right, 200 + 200 * down)
    radius = 400 * size
    image = photograph((400, 400), centre, radius, noise=2, seed=seed)
    assert_found(image, centre, radius, radius, within=0.04)


@pytest.mark.parametrize("squeeze", [0.7, 0.85, 1.2])
def test_a_squeezed_field_is_found_and_stretched_back(squeeze):
    image = photograph((256, 256), (128, 128), 100, squeeze=squeeze, top=0.15, bottom=0.15)
    assert_found(image, (128, 128), 100 * squeeze, 100, within=0.04)
    disc = crop_to_field(image, field_of_view(image))
    side = disc.shape[0]
    assert disc.shape == (side, side, 3)
    assert side == pytest.approx(200 * max(1, squeeze), rel=0.04)


def test_what_else_is_in_the_picture_does_not_move_the_field():
    image = photograph((400, 500), (260, 200), 170, level=60)
    cv2.putText(image, "OD 12:30", (5, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    cv2.rectangle(image, (425, 190), (442, 210), (200, 200, 200), -1)  # the camera's notch
    cv2.circle(image, (130, 150), 50, (3, 2, 1), -1)  # a shadow at the rim
    assert_found(image, (260, 200), 170, 170)


@pytest.mark.parametrize("scale", [1, np.float32(1 / 255)])
def test_a_field_printed_on_white_is_found_and_the_paper_masked(scale):
    image = photograph((300, 400), (190, 150), 120)
    cv2.circle(image, (190, 150), 12, (255, 255, 255), -1)  # a glare is no paper
    paper = np.full_like(image, 255)
    paper[60:280, 50:330] = image[60:280, 50:330]
    paper = (paper * scale).astype(np.asarray(scale).dtype if scale != 1 else np.uint8)
    assert_found(paper, (190, 150), 120, 120)
    disc = CropFundusd("image")({"image": np.moveaxis(paper, -1, 0)})["image"] / scale
    assert disc[:, :25].max() < 130
    assert disc[:, 115:125, 115:125].min() > 250


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((200, 200, 3), dtype=np.uint8),
        np.full((200, 300, 3), 90, dtype=np.uint8),
        np.full((1, 1, 3), 90, dtype=np.uint8),
        np.random.default_rng(0).integers(0, 8, (200, 200, 3), dtype=np.uint8),
        np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8),
        np.tile(np.linspace(0, 200, 300).astype(np.uint8)[:, None], (200, 1, 3)),
        photograph((200, 200), (100, 100), 300),
    ],
    ids=["black", "flat", "one pixel", "dark noise", "noise", "a ramp", "inside the field"],
)
def test_an_image_without_a_field_passes_unchanged(image):
    assert field_of_view(image) is None
    item = CropFundusd("image")({"image": np.moveaxis(image, -1, 0)})
    assert np.array_equal(np.moveaxis(item["image"], 0, -1), image)


def test_the_crop_is_the_disc_and_nothing_else():
    image = photograph((300, 420), (250, 140), 100, border=9, noise=2)
    cropped = np.moveaxis(
        CropFundusd("image")({"image": np.moveaxis(image, -1, 0)})["image"], 0, -1
    )
    side = cropped.shape[0]
    assert abs(side - 200) <= 2
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    from_middle = np.hypot(x, y) / (side / 2)
    assert (cropped[from_middle > 1] == 0).all()
    assert (cropped[from_middle < 0.97].max(axis=1) > 30).all()
    inner = cropped[side // 2 - 50 : side // 2 + 50, side // 2 - 50 : side // 2 + 50].astype(int)
    assert np.abs(inner - image[90:190, 200:300]).mean() < 8


def test_a_cut_field_is_padded_where_it_was_cut():
    image = photograph((200, 300), (150, 100), 130)
    cropped = crop_to_field(image, field_of_view(image))
    assert abs(cropped.shape[0] - 260) <= 6
    assert cropped[:25].max() == cropped[-25:].max() == 0
    assert cropped[60:200, 130].max(axis=1).min() > 30


@pytest.mark.parametrize("kind", [np.uint8, np.float32, "tensor", "grey"])
def test_types_and_channels_are_kept(kind):
    image = np.moveaxis(photograph((150, 150), (75, 75), 60), -1, 0)
    want = CropFundusd("image")({"image": image})["image"]
    if kind == "tensor":
        got = CropFundusd("image")({"image": torch.from_numpy(image)})["image"]
        assert type(got) is torch.Tensor
        assert np.array_equal(got.numpy(), want)
    elif kind == "grey":
        got = CropFundusd("image")({"image": image[:1]})["image"]
        assert np.array_equal(got, want[:1])
    else:
        scale = 255 if kind is np.float32 else 1
        got = CropFundusd("image")({"image": (image / scale).astype(kind)})["image"]
        assert got.dtype == kind
        assert np.abs(got * float(scale) - want).max() <= 1


def test_left_eyes_are_mirrored_and_no_others():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    align = AlignLateralityd("image", laterality_key="eye")
    assert np.array_equal(align({"image": image, "eye": "left"})["image"], image[:, :, ::-1])
    for item in ({"image": image, "eye": "right"}, {"image": image, "eye": ""}, {"image": image}):
        assert np.array_equal(align(item)["image"], image)
    with pytest.raises(ValueError, match='eye: want "left", "right" or ""; found \'OS\''):
        align({"image": image, "eye": "OS"})


@pytest.fixture
def eye(tmp_path):
    """A file of a fundus whose right half is brighter, 260 x 200 pixels, off-centre."""
    path = tmp_path / "eye.png"
    Image.fromarray(photograph((200, 260), (140, 95), 80, border=4)).save(path)
    return path


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [33, 64])
@pytest.mark.parametrize("kind", ["field", "black", "wide"])
def test_gives_a_plain_tensor_of_the_size_asked_for(tmp_path, train, size, kind):
    pixels = {
        "field": photograph((120, 150), (70, 60), 50),
        "black": np.zeros((90, 120, 3), dtype=np.uint8),
        "wide": np.full((8, 50, 3), 120, dtype=np.uint8),
    }[kind]
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    item = fundus_transforms(size, train)({"image": str(path), "label": 2, "laterality": ""})
    tensor = item["image"]
    assert type(tensor) is torch.Tensor
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, size, size)
    assert tensor.is_contiguous()
    assert 0 <= tensor.min() <= tensor.max() <= 1
    assert (item["label"], item["laterality"]) == (2, "")


def test_evaluation_is_the_documented_steps(eye):
    evaluate = fundus_transforms(40, False)
    photo = read_image(eye)
    disc = crop_to_field(photo, field_of_view(photo))
    want = cv2.resize(disc, (40, 40), interpolation=cv2.INTER_AREA) / 255
    right = evaluate({"image": eye, "laterality": "right"})["image"].numpy().transpose(1, 2, 0)
    left = evaluate({"image": eye, "laterality": "left"})["image"].numpy().transpose(1, 2, 0)
    assert np.abs(right - want).max() < 1e-6
    assert np.abs(left - want[:, ::-1]).max() < 0.02
    assert right[:, 20:].mean() > 1.2 * right[:, :20].mean()
    assert torch.equal(evaluate({"image": eye})["image"], evaluate({"image": eye})["image"])
    assert not any(isinstance(step, RandomizableTrait) for step in evaluate.transforms)


@pytest.mark.parametrize("train", [True, False])
def test_what_is_cached_is_a_small_uint8_image(eye, train):
    compose = fundus_transforms(40, train)
    first = compose.get_index_of_first(
        lambda step: isinstance(step, RandomizableTrait) or not hasattr(step, "backend")
    )
    cached = compose({"image": eye}, end=first)["image"]
    assert cached.shape == (3, 40, 40)
    assert cached.dtype == torch.uint8
    assert len(compose.transforms) - first == (2 if train else 1)


def test_training_mirrors_but_never_turns_upside_down(tmp_path):
    pixels = photograph((200, 200), (100, 100), 90, level=90)
    pixels[30:60, 90:110] = (20, 220, 20)  # a mark near the top
    path = tmp_path / "marked.png"
    Image.fromarray(pixels).save(path)
    train = fundus_transforms(48, True)
    heights, mirrored, brightness = [], [], []
    for seed in range(60):
        train.set_random_state(seed=seed)
        red, green, _ = train({"image": path})["image"]
        rows, _ = torch.nonzero(green > red + 0.2, as_tuple=True)
        if len(rows):  # else a black patch hides it
            heights.append(float(rows.float().mean()))
        mirrored.append(bool(red[12:36, :24].mean() > red[12:36, 24:].mean()))
        brightness.append(float(red.amax()))
    assert len(heights) > 40
    assert max(heights) < 22
    assert 15 < sum(mirrored) < 45
    assert max(brightness) > 1.3 * min(brightness)


@pytest.mark.parametrize("size", [0, -3])
def test_size_is_checked(size):
    with pytest.raises(ValueError, match=f"size must be at least 1 pixel; found {size}"):
        fundus_transforms(size, True)


@pytest.mark.slow
def test_albumentations_loads_only_for_training():
    code = """
import sys, medshadow.transforms
assert "monai" not in sys.modules
from medshadow.transforms import preset
preset("fundus")(32, False)
assert "albumentations" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.real_data
def test_fields_of_real_photographs_are_plausible(odir5k_root):
    paths = sorted((odir5k_root / "preprocessed_images").glob("*.jpg"))
    chosen = np.random.default_rng(0).choice(len(paths), 300, replace=False)
    missed = 0
    for path in (paths[i] for i in chosen):
        image = read_image(path)
        field = field_of_view(image)
        if field is None:
            missed += 1
            continue
        # The copy was cut to the field and squeezed to a square: 256 or 512 pixels a side.
        side = image.shape[0]
        assert abs(field.x - side / 2) < 0.1 * side, path.name
        assert abs(field.y - side / 2) < 0.2 * side, path.name
        assert 0.35 * side < field.radius_x < 0.55 * side, path.name
        assert 0.4 * side < field.radius_y < 0.75 * side, path.name
        disc = crop_to_field(image, field).max(axis=2)
        assert (disc > 12).mean() > 0.5, path.name
    assert missed <= 3
