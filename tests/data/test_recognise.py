import shutil

import pytest
from openpyxl import Workbook
from PIL import Image

from medshadow.data import write_phantoms
from medshadow.data.odir5k_rows import COLUMNS
from medshadow.data.recognise import recognised_cases
from medshadow.errors import DataError


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("above") / "lesions"
    return write_phantoms(folder, lesions=22, progress=False)


def test_dermoscopy_is_recognised_from_a_folder_above(lesions):
    assert recognised_cases(lesions.parent).name == "phantoms"
    assert set(recognised_cases(lesions).frame["label"]) >= {"mel", "nv"}


@pytest.mark.parametrize("name", ["full_df.csv", "ODIR-5K_Training_Annotations(Updated)_V2.xlsx"])
def test_fundus_annotations_go_to_their_own_reader(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a table")
    with pytest.raises(DataError, match=name.split(".")[0].replace("(", r"\(").replace(")", r"\)")):
        recognised_cases(tmp_path)


def write_xlsx(path, header):
    book = Workbook()
    book.active.append(header)
    book.save(path)


def test_a_workbook_is_known_by_its_columns_and_not_by_its_name(lesions, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "0" * 32)
    shutil.copytree(lesions, tmp_path / "lesions")
    write_xlsx(tmp_path / "data.xlsx", ["file", "diagnosis"])
    (tmp_path / "notes.xlsx").write_bytes(b"no workbook")
    assert recognised_cases(tmp_path).name == "phantoms"
    shutil.rmtree(tmp_path / "lesions")
    (tmp_path / "nv").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "nv" / "1.PNG")
    assert recognised_cases(tmp_path).name == "archive"
    write_xlsx(tmp_path / "data.xlsx", COLUMNS)
    with pytest.raises(DataError, match=r"data\.xlsx: no rows below the header"):
        recognised_cases(tmp_path)


def test_a_folder_with_two_data_sets_is_refused(lesions, tmp_path):
    (tmp_path / "HAM10000_metadata.csv").touch()
    (tmp_path / "full_df.csv").touch()
    with pytest.raises(DataError, match="holds HAM10000 and ODIR-5K; expected one"):
        recognised_cases(tmp_path)


def test_an_unknown_folder_or_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="no data set that is known"):
        recognised_cases(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        recognised_cases(tmp_path / "absent")


def test_what_is_neither_is_an_own_archive(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "0" * 32)
    for name in ("melanoma/1.png", "naevus/2.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(path)
    assert set(recognised_cases(tmp_path / "images").frame["label"]) == {"melanoma", "naevus"}
    table = tmp_path / "cases.csv"
    table.write_text("image,diagnosis,patient\nimages/melanoma/1.png,mel,A\n")
    cases = recognised_cases(table, label="diagnosis", group="patient")
    assert cases.frame["label"].tolist() == ["mel"]
