"""HAM10000 as it is downloaded, in zip files: read in place, the same cases as unpacked."""

import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from medshadow.data.audit import audit
from medshadow.data.ham10k import ham10k_cases
from medshadow.data.readers import read_image
from medshadow.data.recognise import recognised_cases
from medshadow.errors import DataError


def pack(folder, archive, inner=""):
    """Move a folder's files into a zip file, under a folder of that name in it."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, f"{inner}{path.relative_to(folder)}")
    shutil.rmtree(folder)


@pytest.fixture
def parts(tmp_path, ham):
    """Harvard Dataverse's files: two zip files and the metadata beside them."""
    ham.write_kaggle(tmp_path, "HAM10000_metadata", "\t")
    for part in ("HAM10000_images_part_1", "HAM10000_images_part_2"):
        pack(tmp_path / part, tmp_path / f"{part}.zip")
    return tmp_path


def contents(root):
    return sorted((str(p.relative_to(root)), p.stat().st_mtime_ns) for p in root.rglob("*"))


def test_dataverse_as_downloaded(parts, ham, tmp_path_factory):
    before = contents(parts)
    table = ham10k_cases(parts)
    assert table.frame["image"].str.contains(r"images_part_[12]\.zip/ISIC").all()
    plain = tmp_path_factory.mktemp("plain")
    ham.write_kaggle(plain)
    unpacked = ham10k_cases(plain)
    assert table.frame["case_id"].tolist() == unpacked.frame["case_id"].tolist() == ham.ids
    assert table.digest == unpacked.digest
    for packed, path in zip(table.frame["image"], unpacked.frame["image"], strict=True):
        np.testing.assert_array_equal(read_image(packed), read_image(path))
    found, expected = (audit(t, progress=False) for t in (table, unpacked))
    assert found.to_dict() == expected.to_dict()
    assert contents(parts) == before
    assert recognised_cases(parts).name == "ham10000"


@pytest.mark.parametrize("inner", ["", "HAM10000_images/"])
@pytest.mark.parametrize("metadata", ["HAM10000_metadata.tab", "HAM10000_metadata.csv"])
def test_folders_within_the_zip_files(tmp_path, ham, inner, metadata):
    ham.write_kaggle(tmp_path, metadata)
    for part in (1, 2):
        folder = tmp_path / f"HAM10000_images_part_{part}"
        pack(folder, tmp_path / f"ham10000_images_part_{part}.ZIP", inner)
    frame = ham10k_cases(tmp_path).frame
    assert frame["case_id"].tolist() == ham.ids
    assert all(read_image(path).shape == (3, 4, 3) for path in frame["image"])


@pytest.mark.parametrize("inner", ["", "skin/"])
def test_everything_in_one_zip_file(tmp_path, ham, inner):
    ham.write_kaggle(tmp_path / "all")
    pack(tmp_path / "all", tmp_path / "archive.zip", inner)
    table = ham10k_cases(tmp_path)
    assert table.frame["case_id"].tolist() == ham.ids
    assert table.frame["group"].tolist() == ham.metadata["lesion_id"].tolist()
    for data in (tmp_path, tmp_path / "archive.zip"):
        assert recognised_cases(data).digest == ham10k_cases(data).digest == table.digest


def test_metadata_in_a_zip_file_of_their_own(parts, ham):
    metadata = parts / "HAM10000_metadata"
    with zipfile.ZipFile(parts / "HAM10000_metadata.csv.zip", "w") as file:
        file.write(metadata, "HAM10000_metadata.csv")
    metadata.unlink()
    assert ham10k_cases(parts).frame["case_id"].tolist() == ham.ids


def test_isic_2018_as_downloaded(tmp_path, ham):
    ham.write_isic(tmp_path, nested=True)
    for name in ("ISIC2018_Task3_Training_Input", "ISIC2018_Task3_Training_GroundTruth"):
        pack(tmp_path / name, tmp_path / f"{name}.zip", f"{name}/")
    frame = ham10k_cases(tmp_path).frame
    assert frame["case_id"].tolist() == ham.ids
    assert frame["label"].tolist() == ham.metadata["dx"].tolist()


@pytest.mark.parametrize("place", [".", "unpacked"])
@pytest.mark.parametrize("folder", ["HAM10000_images_part_1", "images"])
def test_unpacked_files_come_before_their_zip_file(tmp_path, ham, place, folder):
    root = tmp_path / place
    ham.draw(root / folder, ham.ids)
    ham.metadata.to_csv(root / "HAM10000_metadata.csv", index=False)
    shutil.copytree(root, tmp_path / "copy")
    pack(tmp_path / "copy", tmp_path / "download.zip")
    frame = ham10k_cases(tmp_path).frame
    assert frame["case_id"].tolist() == ham.ids
    assert not frame["image"].str.contains(".zip", regex=False).any()


def test_one_part_may_be_unpacked(parts, ham):
    with zipfile.ZipFile(parts / "HAM10000_images_part_1.zip") as file:
        file.extractall(parts / "HAM10000_images_part_1")
    (parts / "HAM10000_images_part_1.zip").unlink()
    frame = ham10k_cases(parts).frame
    assert frame["case_id"].tolist() == ham.ids
    assert frame["image"].str.contains(".zip", regex=False).sum() == 4


def test_a_zip_file_that_cannot_be_read_is_named_where_images_are_missing(parts, ham):
    broken = parts / "HAM10000_images_part_2.zip"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(
        DataError, match=r"part_2\.zip: damaged or incomplete zip.*4 images cannot be used"
    ):
        ham10k_cases(parts)
    assert len(ham10k_cases(parts, on_error="skip")) == 4
    (parts / "HAM10000_images_part_1.zip").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=rf"none of the 8 images.*{ham.ids[0]}\.jpg.*part_1\.zip: damaged"
    ):
        ham10k_cases(parts)
    (parts / "HAM10000_metadata").unlink()
    with pytest.raises(DataError, match=r"not found.*part_1\.zip: damaged"):
        ham10k_cases(parts)
    with pytest.raises(DataError, match=r"no data set that is known.*part_1\.zip: damaged"):
        recognised_cases(parts)


def test_another_damaged_zip_file_does_no_harm(parts, ham):
    (parts / "ISIC2018_Task3_Test_Images.zip").write_bytes(b"<html>503</html>")
    assert len(ham10k_cases(parts)) == len(ham.ids)


def test_a_zip_file_that_is_none(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>503</html>")
    for find in (ham10k_cases, recognised_cases):
        with pytest.raises(DataError, match=r"a\.zip: damaged or incomplete zip file"):
            find(tmp_path / "a.zip")


def test_zip_files_in_a_zip_file_are_named(parts):
    with zipfile.ZipFile(parts.parent / "dataverse_files.zip", "w") as file:
        for path in sorted(parts.iterdir()):
            file.write(path, path.name)
    outer = parts / "download"
    outer.mkdir()
    shutil.move(parts.parent / "dataverse_files.zip", outer)
    with pytest.raises(
        DataError, match=r"HAM10000_images_part_1\.zip lies in dataverse_files\.zip: unpack the la"
    ):
        ham10k_cases(outer)


def test_a_damaged_image_in_a_zip_file_is_named_by_case(parts, ham):
    path = parts / "HAM10000_images_part_1.zip"
    content = bytearray(path.read_bytes())
    content[content.index(f"{ham.ids[2]}.jpg".encode()) + 40] ^= 255
    path.write_bytes(content)
    (bad,) = audit(ham10k_cases(parts), progress=False).unreadable
    assert bad.case_id == ham.ids[2]
    assert "damaged in its zip file" in bad.reason
    assert str(parts) not in bad.reason


# Python 3.12 warns of any fork beside threads; the loader's own workers are forks.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_dataset_and_its_workers_read_zip_files(tmp_path, ham, workers):
    from torch.utils.data import DataLoader

    from medshadow.data.ham10k_dataset import HAM10KDataset

    ids = [f"ISIC_{i:07d}" for i in range(60)]
    ham.draw(tmp_path / "images", ids)
    frame = pd.DataFrame({"lesion_id": ids, "image_id": ids, "dx": ["nv"] * 40 + ["mel"] * 20})
    frame.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    plain = HAM10KDataset(tmp_path, "training", progress=False, cache_rate=0)
    expected = {item["case_id"]: item["image"].numpy() for item in plain}
    pack(tmp_path / "images", tmp_path / "HAM10000_images_part_1.zip")
    packed = HAM10KDataset(tmp_path, "training", progress=False, cache_rate=0)
    loader = DataLoader(packed, batch_size=4, num_workers=workers)
    found = {c: i for b in loader for c, i in zip(b["case_id"], b["image"].numpy(), strict=True)}
    assert found.keys() == expected.keys()
    for case, image in found.items():
        np.testing.assert_array_equal(image, expected[case])
