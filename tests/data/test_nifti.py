"""NIfTI: colors, slices, scales, orientation of the axes, and files that lie."""

import gzip
import io
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.data.readers import read_image
from medshadow.errors import ImageReadError

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
RGBA = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])


def save(path, values, kind=nib.Nifti1Image, **header):
    image = kind(values, np.eye(4))
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def columns_first(pixels):
    return pixels.swapaxes(0, 1)


@pytest.mark.parametrize("name", ["photo.nii", "photo.nii.gz", "photo.jpg"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_rgb24(tmp_path, pixels, name, kind):
    packed = np.ascontiguousarray(columns_first(pixels)).view(RGB)[..., 0]
    path = save(tmp_path / name.replace(".jpg", ".nii"), packed, kind)
    path = path.rename(tmp_path / name)
    read = read_image(path)
    np.testing.assert_array_equal(read, pixels)
    assert read.flags.writeable
    assert read.flags.c_contiguous


@pytest.mark.parametrize("extra", [(), (1,), (1, 1)])
def test_a_last_axis_of_three_is_color(tmp_path, pixels, extra):
    values = columns_first(pixels)
    shape = (*values.shape[:2], *extra, 3)
    path = save(tmp_path / "photo.nii", values.reshape(shape))
    np.testing.assert_array_equal(read_image(path), pixels)
    with pytest.raises(ImageReadError, match="no frame 1; expected 0 to 0"):
        read_image(path, frame=1)


def test_rgba_is_laid_over_white(tmp_path):
    values = np.array([[(10, 20, 30, 255), (10, 20, 30, 0)]], RGBA)
    read = read_image(save(tmp_path / "a.nii", values))
    assert read[:, 0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_big_endian_files(tmp_path, pixels):
    values = columns_first(pixels)
    header = nib.Nifti1Image(values, np.eye(4)).header
    header["vox_offset"], header["magic"] = 352, b"n+1"
    whole = header.as_byteswapped(">").binaryblock + bytes(4) + values.tobytes(order="F")
    (tmp_path / "big.nii").write_bytes(whole)
    np.testing.assert_array_equal(read_image(tmp_path / "big.nii"), pixels)


@pytest.mark.parametrize("name", ["volume.nii", "volume.nii.gz"])
def test_slices_of_a_volume(tmp_path, name):
    volume = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)
    path = save(tmp_path / name, volume)
    with pytest.raises(ImageReadError, match=r"volume\.nii.*: holds 4 frames; expected one"):
        read_image(path)
    for frame in range(4):
        read = read_image(path, frame=frame)
        assert read.shape == (5, 7, 3)
        np.testing.assert_array_equal(read[..., 1], volume[:, :, frame].T)
    with pytest.raises(ImageReadError, match="no frame 4; expected 0 to 3"):
        read_image(path, frame=4)


def test_slices_of_a_color_volume(tmp_path):
    volume = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 1, 3), dtype=np.uint8)
    read = read_image(save(tmp_path / "v.nii.gz", volume), frame=2)
    np.testing.assert_array_equal(read, columns_first(volume[:, :, 2, 0]))


def test_deep_values_span_the_picture_or_the_range_of_the_header(tmp_path):
    values = np.array([[-100.0, 0], [100, 155], [np.nan, np.inf]], np.float32)
    read = read_image(save(tmp_path / "a.nii", values))
    # From -100 to 155: 255 steps; what is no number is black, infinity white.
    assert read[..., 0].tolist() == [[0, 200, 0], [100, 255, 255]]
    read = read_image(save(tmp_path / "b.nii", values, cal_min=0, cal_max=200))
    assert read[..., 0].tolist() == [[0, 128, 0], [0, 198, 255]]
    flat = save(tmp_path / "flat.nii", np.full((3, 2), 7, np.int16))
    assert not read_image(flat).any()


def test_the_scale_of_the_header_is_applied(tmp_path):
    image = nib.Nifti1Image(np.array([[0, 50, 200]], np.uint8), np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    whole = bytearray((tmp_path / "a.nii").read_bytes())
    whole[112:120] = np.array([-2.0, 100], "<f4").tobytes()  # scl_slope, scl_inter
    whole[124:132] = np.array([100, -300], "<f4").tobytes()  # cal_max, cal_min
    (tmp_path / "a.nii").write_bytes(whole)
    assert read_image(tmp_path / "a.nii")[:, 0, 0].tolist() == [255, 192, 0]
    whole[112:120] = np.array([1.0, 0], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(whole)
    assert read_image(tmp_path / "a.nii")[:, 0, 0].tolist() == [0, 50, 200]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"dim": [2, 30_000, 30_000, 1, 1, 1, 1, 1]}, r"image too large \(30000 x 30000 pixels\)"),
        ({"dim": [3, 4000, 4000, 30_000, 1, 1, 1, 1]}, r"image too large \(480000000000 bytes"),
        ({"dim": [2, 40, 30, 1, 1, 1, 1, 1]}, "truncated NIfTI"),
        ({"dim": [2, -4, 3, 1, 1, 1, 1, 1]}, "expected two axes"),
        ({"dim": [1, 12, 1, 1, 1, 1, 1, 1]}, "expected two axes"),
        ({"dim": [5, 4, 3, 2, 2, 2, 1, 1]}, "expected a picture, a volume"),
        ({"datatype": 32, "bitpix": 64}, "of type complex64; expected"),
        ({"vox_offset": 1e30}, r"begin at byte 1e\+30; expected 348 to 16777216"),
        ({"vox_offset": np.nan}, "begin at byte nan"),
        ({"magic": b"ni1"}, r"another file \(\.hdr and \.img\)"),
    ],
)
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_headers_that_promise_too_much_are_refused(tmp_path, change, found, end):
    header = nib.Nifti1Image(np.zeros((4, 3), np.uint8), np.eye(4)).header
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in change.items():
        header[name] = value
    whole = header.binaryblock + bytes(4 + 12)
    path = tmp_path / f"liar{end}"
    path.write_bytes(gzip.compress(whole) if end.endswith("gz") else whole)
    if end.endswith("gz") and found == "truncated NIfTI":
        found = "damaged or truncated NIfTI"
    frame = 0 if len(np.atleast_1d(change.get("dim", 0))) > 1 and change["dim"][0] > 2 else None
    with pytest.raises(ImageReadError, match=rf"liar\.nii.*: .*{found}"):
        read_image(path, frame=frame)


def test_a_gzip_bomb_is_not_inflated(tmp_path):
    image = nib.Nifti1Image(np.full((4, 3), 9, np.uint8), np.eye(4))
    whole = image.to_bytes()
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        file.write(whole)
        for _ in range(60):
            file.write(bytes(10**6))
    (tmp_path / "bomb.nii.gz").write_bytes(packed.getvalue())
    read_image(tmp_path / "bomb.nii.gz")
    tracemalloc.start()
    assert (read_image(tmp_path / "bomb.nii.gz") == 9).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


def test_gzip_of_something_else_and_damage_are_named(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"patient list"))
    with pytest.raises(ImageReadError, match=r"a\.nii\.gz: a gzip file without a NIfTI image"):
        read_image(path)
    path.write_bytes(b"\x1f\x8b" + bytes(50))
    with pytest.raises(ImageReadError, match=r"a\.nii\.gz: damaged or truncated NIfTI"):
        read_image(path)
    save(path, np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ImageReadError, match=r"damaged or truncated NIfTI file \(EOFError\)"):
        read_image(path)


def test_free_text_of_the_header_stays_out_of_errors(tmp_path):
    header = nib.Nifti1Header()
    header["descrip"], header["intent_name"], header["db_name"] = b"Marked", b"Marked", b"Marked"
    header.set_data_dtype(np.complex64)
    header.set_data_shape((4, 3))
    path = tmp_path / "a.nii"
    header["magic"] = b"n+1"
    path.write_bytes(header.binaryblock + bytes(200))
    with pytest.raises(ImageReadError) as caught:
        read_image(path)
    assert "Marked" not in str(caught.value)


SEEDS = {
    "rgb": nib.Nifti1Image(np.zeros((7, 5), RGB), np.eye(4)).to_bytes(),
    "float": nib.Nifti2Image(np.ones((7, 5, 2), np.float32), np.eye(4)).to_bytes(),
}


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
    packed=st.booleans(),
)
def test_damaged_bytes_give_an_image_or_our_error(tmp_path_factory, name, edits, keep, packed):
    data = bytearray(SEEDS[name])
    for place, value in edits:
        data[place % len(data)] = value
    file = tmp_path_factory.getbasetemp() / "damaged.nii"
    kept = bytes(data[: max(1, int(len(data) * keep))])
    file.write_bytes(gzip.compress(kept, 1) if packed else kept)
    try:
        read = read_image(file, frame=0)
    except ImageReadError as error:
        assert str(error).startswith(f"{file}: ")  # noqa: PT017 - both ways out are right
    else:
        assert read.ndim == 3
        assert read.shape[2] == 3
