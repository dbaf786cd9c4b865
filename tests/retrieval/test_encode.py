import numpy as np
import pytest
import torch

from medshadow.data import read_image
from medshadow.errors import ImageReadError
from medshadow.retrieval import encode_cases, encode_images
from medshadow.retrieval.encode import tells_eyes_apart
from medshadow.transforms import dermatology_transforms, preset


@pytest.fixture
def one_by_one(embedder, drawn_cases):
    """Each image alone through preset and network, in float32."""
    transform = preset("dermatology")(32, False)
    with torch.no_grad():
        rows = [
            embedder(transform({"image": path})["image"][None])[0].numpy()
            for path in drawn_cases.frame["image"]
        ]
    return np.stack(rows)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_encodes_in_order_whatever_batches_and_workers(
    embedder, drawn_cases, one_by_one, num_workers, batch_size
):
    vectors = encode_cases(
        embedder, drawn_cases, batch_size=batch_size, num_workers=num_workers, progress=False
    )
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_paths_and_pixels_give_the_vectors_of_the_table(embedder, drawn_cases):
    from pathlib import Path

    paths = [Path(p) for p in drawn_cases.frame["image"]]
    of_table = encode_cases(embedder, drawn_cases, progress=False)
    np.testing.assert_array_equal(encode_cases(embedder, paths, progress=False), of_table)
    of_pixels = encode_images(embedder, [read_image(p) for p in paths])
    np.testing.assert_array_equal(of_pixels, of_table)


def test_nothing_gives_no_rows_of_its_dimension(embedder):
    assert encode_cases(embedder, [], progress=False).shape == (0, 16)
    assert encode_images(embedder, []).dtype == np.float32


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_is_named(embedder, drawn_cases, tmp_path, num_workers):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing more")
    paths = [*drawn_cases.frame["image"][:3], str(broken)]
    with pytest.raises(ImageReadError, match=r"broken\.jpg"):
        encode_cases(embedder, paths, batch_size=2, num_workers=num_workers, progress=False)
    with pytest.raises(ImageReadError, match=r"absent\.jpg"):
        encode_cases(embedder, [tmp_path / "absent.jpg"], progress=False)


def test_training_flags_are_as_before_even_after_an_error(embedder, drawn_cases, tmp_path):
    embedder.train()
    norm = embedder.backbone.features[1].eval()
    before = [module.training for module in embedder.modules()]
    encode_cases(embedder, drawn_cases, progress=False)
    assert [module.training for module in embedder.modules()] == before
    with pytest.raises(ImageReadError):
        encode_cases(embedder, [tmp_path / "absent.jpg"], progress=False)
    assert [module.training for module in embedder.modules()] == before
    assert not norm.training
    embedder.eval()


def test_batch_statistics_are_neither_used_nor_moved(embedder, drawn_cases, one_by_one):
    moved = embedder.backbone.features[1].running_mean.clone()
    embedder.train()
    vectors = encode_cases(embedder, drawn_cases, progress=False)
    embedder.eval()
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-6)
    assert torch.equal(embedder.backbone.features[1].running_mean, moved)


def test_stays_float32_under_autocast(embedder, drawn_cases, one_by_one):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = encode_cases(embedder, drawn_cases, progress=False)
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-6)


def test_shows_progress_when_asked(embedder, drawn_cases, capsys):
    encode_cases(embedder, drawn_cases, progress=False)
    assert capsys.readouterr().err == ""
    encode_cases(embedder, drawn_cases)
    assert "24/24" in capsys.readouterr().err


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_pixels_must_be_uint8_rgb(embedder, image):
    with pytest.raises(ValueError, match="image 0: expected uint8 H x W x 3"):
        encode_images(embedder, [image])


def test_the_table_s_eyes_reach_the_preset(fundus_embedder, drawn_eyes):
    frame = drawn_eyes.frame
    right, left = (np.flatnonzero(frame["eye"] == side) for side in ("right", "left"))
    told = encode_cases(fundus_embedder, drawn_eyes, progress=False)
    np.testing.assert_allclose(told[left], told[right], atol=1e-4)
    untold = encode_cases(fundus_embedder, frame["image"].tolist(), progress=False)
    np.testing.assert_array_equal(untold[right], told[right])
    assert (np.abs(untold[left] - told[left]).max(axis=1) > 1e-3).all()

    pixels = [read_image(path) for path in frame["image"][left]]
    as_left = encode_images(fundus_embedder, pixels, laterality="left")
    np.testing.assert_allclose(as_left, told[left], atol=1e-6)
    as_unknown = encode_images(fundus_embedder, pixels)
    np.testing.assert_allclose(as_unknown, untold[left], atol=1e-6)


def test_a_model_of_fundi_tells_eyes_apart(embedder, fundus_embedder):
    assert tells_eyes_apart(fundus_embedder)
    assert not tells_eyes_apart(embedder)


@pytest.mark.parametrize("views", [2, 4, 8])
def test_views_are_averaged_on_the_sphere(embedder, drawn_cases, views):
    path = drawn_cases.frame["image"].iloc[0]
    size = embedder.preprocess["size"]
    image = dermatology_transforms(size, train=False)({"image": path})["image"]
    turned = [torch.rot90(image, k, (1, 2)) for k in range(4)]
    everything = {2: [image, image.flip(2)], 4: [image, image.flip(1), image.flip(2), turned[2]]}
    chosen = everything.get(views, [*turned, *(t.flip(2) for t in turned)])
    with torch.no_grad():
        mean = embedder.eval()(torch.stack(chosen)).double().mean(0)
    found = encode_cases(embedder, [path], views=views, progress=False)[0]
    np.testing.assert_allclose(found, (mean / mean.norm()).numpy(), atol=1e-5)
    pixels = encode_images(embedder, [read_image(path)], views=views)[0]
    np.testing.assert_array_equal(pixels, found)
