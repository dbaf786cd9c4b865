import numpy as np
import pytest
from PIL import Image

from medshadow.data import image_files, readers
from medshadow.errors import ImageReadError

# MONAI says so each time it is asked to load, wherever pydicom is installed without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

HEIGHT, WIDTH = 6, 10


def test_monai_gets_rows_first_and_is_not_turned(tmp_path, pixels):
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    load = LoadImaged(keys="image", reader=readers.ClinicalImageReader)
    for name in ("upright.png", "turned.png"):
        item = load({"image": str(tmp_path / name)})
        assert tuple(item["image"].shape) == (HEIGHT, WIDTH, 3)
        first = Compose([load, EnsureChannelFirstd(keys="image")])({"image": tmp_path / name})
        assert tuple(first["image"].shape) == (3, HEIGHT, WIDTH)
        np.testing.assert_array_equal(first["image"].numpy(), pixels.transpose(2, 0, 1))


def test_monai_does_not_fall_back_to_its_own_reader(tmp_path, monkeypatch, pixels):
    from monai.transforms import LoadImage

    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 10)
    with pytest.raises(ImageReadError, match=r"a\.png: image too large"):
        LoadImage(reader=readers.ClinicalImageReader)(tmp_path / "a.png")


def test_monai_finds_the_reader_by_its_dotted_name(tmp_path, pixels):
    from monai.transforms import LoadImage

    Image.fromarray(pixels).save(tmp_path / "a.png")
    load = LoadImage(reader="medshadow.data.readers.ClinicalImageReader")
    assert tuple(load(tmp_path / "a.png").shape) == (HEIGHT, WIDTH, 3)


def test_reader_takes_a_frame_and_stacks_files(tmp_path, pixels):
    file = tmp_path / "pages.tif"
    Image.new("RGB", (WIDTH, HEIGHT)).save(
        file, save_all=True, append_images=[Image.fromarray(pixels)]
    )
    reader = readers.ClinicalImageReader(frame=1)
    data, meta = reader.get_data(reader.read(file))
    np.testing.assert_array_equal(data, pixels)
    assert meta["spatial_shape"].tolist() == [HEIGHT, WIDTH]
    both, _ = reader.get_data(reader.read([file, file]))
    assert both.shape == (HEIGHT, WIDTH, 6)
    Image.new("RGB", (3, 3)).save(
        tmp_path / "small.tif", save_all=True, append_images=[Image.new("RGB", (3, 3))]
    )
    with pytest.raises(ImageReadError, match=r"small\.tif: 3 x 3 pixels; expected 6 x 10"):
        reader.get_data(reader.read([file, tmp_path / "small.tif"]))


def test_suffixes():
    reader = readers.ClinicalImageReader()
    assert reader.verify_suffix("a.JPG")
    assert reader.verify_suffix(["a.png", "b.webp"])
    assert reader.verify_suffix(["a.dcm", "b.nii.gz"])
    assert not reader.verify_suffix(["a.png", "b.gz"])
