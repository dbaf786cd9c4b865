from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from medshadow.errors import ImageReadError
from medshadow.retrieval import jpeg_thumbnail, thumbnails_of
from medshadow.retrieval.thumbnails import decode_thumbnail


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((450, 600), (192, 144)),
        ((600, 450), (144, 192)),
        ((30, 20), (20, 30)),
        ((2, 900), (192, 1)),
    ],
)
def test_keeps_the_shape_and_never_enlarges(shape, size):
    jpeg = jpeg_thumbnail(np.zeros((*shape, 3), dtype=np.uint8))
    assert Image.open(BytesIO(jpeg)).size == size


def test_looks_like_the_image():
    left_red = np.zeros((400, 400, 3), dtype=np.uint8)
    left_red[:, :200, 0] = 200
    small = decode_thumbnail(jpeg_thumbnail(left_red)).astype(int)
    assert small.shape == (192, 192, 3)
    assert abs(small[96, 40] - [200, 0, 0]).max() < 6
    assert small[96, 150].max() < 6


def test_nothing_but_pixels_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "patient Anna"
    exif[0x0112] = 6
    path = tmp_path / "anna.jpg"
    Image.new("RGB", (40, 20)).save(path, exif=exif, comment=b"Anna again")
    assert b"Anna" in path.read_bytes()
    (jpeg,) = thumbnails_of([path], progress=False)
    assert b"nna" not in jpeg
    assert b"Exif" not in jpeg
    assert Image.open(BytesIO(jpeg)).size == (20, 40)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_one_for_each_path_in_order(tmp_path, num_workers):
    paths = []
    for value in range(0, 200, 10):
        paths.append(tmp_path / f"{value}.png")
        Image.new("RGB", (8, 8), (value,) * 3).save(paths[-1])
    made = thumbnails_of(paths, num_workers=num_workers, progress=False)
    grey = [int(decode_thumbnail(jpeg)[0, 0, 0]) for jpeg in made]
    np.testing.assert_allclose(grey, range(0, 200, 10), atol=2)
    with pytest.raises(ImageReadError, match="absent"):
        list(thumbnails_of([tmp_path / "absent.png"], num_workers=num_workers, progress=False))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_wants_uint8_rgb(image):
    with pytest.raises(ValueError, match="expected uint8 H x W x 3"):
        jpeg_thumbnail(image)
