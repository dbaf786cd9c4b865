import io
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medshadow.data import image_files, readers
from medshadow.data.readers import read_image
from medshadow.errors import ImageReadError

HEIGHT, WIDTH = 6, 10
RASTER = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
    ],
)
def test_lossless_formats_come_back_bit_for_bit(tmp_path, pixels, name, options):
    Image.fromarray(pixels).save(tmp_path / name, **options)
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    np.testing.assert_array_equal(read, pixels)


def test_jpeg_comes_back_as_pillow_decodes_it(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.jpg")), expected)


def test_the_content_decides_not_the_name(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "really_png.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "really_png.jpg"), pixels)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, pixels, orientation, suffix):
    # What the camera stores, so that undoing the orientation gives the scene again.
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    file = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(file, exif=exif, **options.get(suffix, {}))
    read = read_image(file)
    assert read.shape == pixels.shape
    tolerance = 60 if suffix == "jpg" else 0
    np.testing.assert_allclose(read.astype(int), pixels.astype(int), atol=tolerance)


def test_palette_grey_and_bilevel_become_rgb(tmp_path, pixels):
    Image.fromarray(pixels).quantize(8).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "grey.png"), np.repeat(pixels[..., :1], 3, axis=2)
    )
    Image.fromarray(pixels[..., 0]).point(lambda v: 255 * (v > 100), mode="1").save(
        tmp_path / "bilevel.png"
    )
    assert set(np.unique(read_image(tmp_path / "bilevel.png"))) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_are_laid_over_white(tmp_path, mode):
    file = tmp_path / f"{mode}.png"
    if mode == "RGBA":
        Image.fromarray(np.array([[[9, 9, 9, 0], [10, 20, 30, 255]]], np.uint8)).save(file)
    elif mode == "LA":
        Image.fromarray(np.array([[[9, 0], [40, 255]]], np.uint8), "LA").save(file)
    elif mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([9, 9, 9, 10, 20, 30])
        image.putdata([0, 1])
        image.save(file, transparency=0)
    else:
        Image.fromarray(np.array([[[9, 9, 9], [10, 20, 30]]], np.uint8)).save(
            file, transparency=(9, 9, 9)
        )
    clear, solid = read_image(file)[0]
    assert clear.tolist() == [255, 255, 255]
    assert solid.tolist() == ([40, 40, 40] if mode == "LA" else [10, 20, 30])


def test_half_transparent_is_mixed_with_white(tmp_path):
    Image.fromarray(np.array([[[0, 0, 0, 128]]], np.uint8)).save(tmp_path / "half.png")
    np.testing.assert_allclose(read_image(tmp_path / "half.png")[0, 0], 127, atol=1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path, suffix):
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / f"deep.{suffix}")
    read = read_image(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(read, np.repeat([[[0], [0], [1], [128], [255]]], 3, axis=2))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / f"ink.{suffix}")
    red, green, blue = read_image(tmp_path / f"ink.{suffix}")[4, 4].tolist()
    assert red > 240
    assert green < 15
    assert blue < 15


def test_pixels_whose_range_is_unknown_are_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageReadError, match=r"float\.tif: TIFF with pixels of mode F"):
        read_image(tmp_path / "float.tif")


def test_a_file_of_several_frames_wants_a_number(tmp_path, pixels):
    first, second = Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())
    file = tmp_path / "pages.tif"
    first.save(file, save_all=True, append_images=[second])
    with pytest.raises(ImageReadError, match="holds 2 frames"):
        read_image(file)
    np.testing.assert_array_equal(read_image(file, frame=0), pixels)
    np.testing.assert_array_equal(read_image(file, frame=1), pixels[::-1])
    with pytest.raises(ImageReadError, match="no frame 2; expected 0 to 1"):
        read_image(file, frame=2)
    with pytest.raises(ImageReadError, match="no frame -1"):
        read_image(file, frame=-1)


def test_frame_of_a_single_image(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", frame=0), pixels)
    with pytest.raises(ImageReadError, match="expected 0 to 0"):
        read_image(tmp_path / "a.png", frame=1)


def test_a_cameras_multi_picture_jpeg_gives_its_photograph(tmp_path, pixels):
    photo, preview = Image.fromarray(pixels), Image.new("RGB", (4, 4))
    photo.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert read_image(tmp_path / "a.jpg").shape == pixels.shape


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp"])
def test_truncated_files_are_refused_by_name(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    read_image(whole)
    with pytest.raises(ImageReadError, match=rf"cut\.{suffix}: .*expected"):
        read_image(cut)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", r"empty file \(0 bytes\)"),
        (b"<html>not found</html>", r"begins with b'<html>no'"),
        (b"GIF89a" + bytes(40), r"GIF89a"),
        (b"\x08\x01notDICOM", r"not an image of a known format"),
    ],
)
def test_files_of_another_kind_are_refused_by_name(tmp_path, content, found):
    file = tmp_path / "lesion.jpg"
    file.write_bytes(content)
    with pytest.raises(ImageReadError, match=rf"lesion\.jpg: .*{found}.*expected.*JPEG.*WEBP"):
        read_image(file)


def test_missing_file_and_folder_are_refused_by_name(tmp_path):
    with pytest.raises(ImageReadError, match=r"gone\.jpg: cannot be opened \(No such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageReadError, match="not a file"):
        read_image(tmp_path)
    with pytest.raises(ImageReadError, match="cannot be opened"):
        read_image("nul\0byte.jpg")


def test_damaged_exif_counts_as_upright(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense", quality=100)
    assert read_image(tmp_path / "a.jpg").shape == pixels.shape


def test_oversized_images_are_refused_before_decoding(tmp_path):
    # 20,000 x 20,000 pixels declared by a file of a few bytes.
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, format="BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = (20_000).to_bytes(4, "little") * 2
    bomb = tmp_path / "bomb.bmp"
    bomb.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(ImageReadError, match=r"bomb\.bmp: image too large .*67108864 pixels"):
        read_image(bomb)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_an_image_50_000_pixels_wide_is_refused(tmp_path, suffix):
    Image.new("1", (50_000, 2)).save(tmp_path / f"wide.{suffix}")
    with pytest.raises(ImageReadError, match=r"wide\.\w+: image too large \(50000 x 2 pixels\)"):
        read_image(tmp_path / f"wide.{suffix}")


@pytest.mark.parametrize("limit", [None, 10])
def test_the_limit_holds_whatever_pillows_own(tmp_path, monkeypatch, pixels, limit):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageReadError, match=r"image too large.*expected at most 59 pixels"):
        read_image(tmp_path / "a.png")


def test_oversized_files_are_not_opened(tmp_path, monkeypatch, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    with pytest.raises(ImageReadError, match=r"file of \d+ bytes; expected at most 100 bytes"):
        read_image(tmp_path / "a.bmp")


def _seed_file(suffix):
    noise = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=suffix)
    return buffer.getvalue()


SEEDS = {name: _seed_file(name) for name in RASTER}


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(RASTER),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
)
def test_damaged_bytes_give_an_image_or_our_error(tmp_path_factory, name, edits, keep):
    data = bytearray(SEEDS[name])
    for place, value in edits:
        data[place % len(data)] = value
    file = tmp_path_factory.getbasetemp() / "damaged.image"
    file.write_bytes(data[: max(1, int(len(data) * keep))])
    try:
        read = read_image(file)
    except ImageReadError as error:
        assert str(error).startswith(f"{file}: ")  # noqa: PT017 - both ways out are right
    else:
        assert read.ndim == 3
        assert read.shape[2] == 3


def test_reading_does_not_import_monai():
    code = (
        "import sys; from medshadow.data.readers import read_image; print('monai' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DicomReader'"):
        _ = readers.DicomReader


@pytest.mark.real_data
def test_real_images_agree_with_pillow(ham10000_root):
    files = sorted(ham10000_root.rglob("*.jpg"))[:20]
    for file in files:
        with Image.open(file) as image:
            np.testing.assert_array_equal(read_image(file), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiff_that_calls_black_white(tmp_path, order):
    image = Image.fromarray(np.array([[0, 65535, 32768]], f"{order}u2"))
    image.save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert (tmp_path / "white.tif").read_bytes()[:2] == {"<": b"II", ">": b"MM"}[order]
    assert read_image(tmp_path / "white.tif")[0, :, 0].tolist() == [255, 0, 127]


def test_sixteen_bit_png_with_a_transparent_value(tmp_path):
    image = Image.fromarray(np.array([[40_000, 1_000]], np.uint16))
    image.save(tmp_path / "t.png", transparency=40_000)
    assert read_image(tmp_path / "t.png")[0, :, 0].tolist() == [255, 3]
