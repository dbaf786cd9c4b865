"""ODIR-5K in the layouts that it is passed on in, and what its table of eyes holds."""

import logging
import shutil

import numpy as np
import pytest

from medshadow.data import odir5k_keywords
from medshadow.data.odir5k import DIAGNOSES, SIGHT_THREATENING, odir5k_cases
from medshadow.data.phantom_cohort import FIRST_ID
from medshadow.data.readers import read_image
from medshadow.errors import DataError

WORKBOOK = "ODIR-5K_Training_Annotations(Updated)_V2.xlsx"


def test_an_eye_has_the_labels_of_its_own_keywords(tmp_path, odir):
    table = odir5k_cases(odir.write(tmp_path))
    odir.assert_is_in(table)
    assert table.multi_label
    assert table.classes == tuple(odir.letters) == tuple(DIAGNOSES)
    assert table.finding_names[:8] == (*odir.letters[:7], "O: abnormal color of optic disc")
    assert table.healthy == {"N"}
    assert table.malignant == SIGHT_THREATENING < set(odir.letters)
    assert table.source.endswith(f"annotations from {odir.workbook}")


def test_metadata_are_kept_apart(tmp_path, odir):
    frame = odir5k_cases(odir.write(tmp_path)).frame.set_index("case_id")
    assert frame.loc["0_left", ["age", "sex", "eye"]].tolist() == [69.0, "female", "left"]
    assert frame.loc["1_right", ["sex", "eye"]].tolist() == ["male", "right"]
    assert np.isnan(frame.loc["3_left", "age"])
    assert frame.loc["4_right", "sex"] == "unknown"
    assert frame.loc["2_left", "keywords"] == "laser spot; diabetic retinopathy"
    assert frame.loc["4_right", "keywords"] == "drusen; suspected retinitis pigmentosa"
    assert frame["patient_labels"].to_dict()["2_right"] == "DO"
    assert frame.loc["0_right", "patient_labels"] == "C"
    assert frame.index[frame["lens_dust"]].tolist() == ["3_right"]
    flags = [word.replace(" ", "_") for word in odir5k_keywords.QUALITY]
    assert frame[flags].to_numpy().sum() == 1
    assert frame[flags].dtypes.eq(bool).all()


def test_items_carry_label_sets_and_the_eye(tmp_path, odir):
    table = odir5k_cases(odir.write(tmp_path))
    item = next(i for i in table.datalist() if i["case_id"] == "3_left")
    assert item["laterality"] == "left"
    named = [name for name, one in zip(table.finding_names, item["label"], strict=True) if one]
    assert named == ["G", "O: drusen"]


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        (WORKBOOK, "Training Images"),
        ("tables/ODIR-5K_Training_Annotations(Updated)_V2.XLSX", "preprocessed_images"),
        ("ODIR-5K/ODIR-5K/data.xlsx", "ODIR-5K/ODIR-5K/Training Images"),
        ("ODIR-5K/ODIR-5K/data.xlsx", "preprocessed_images"),
        (WORKBOOK, "."),
        (WORKBOOK, "all/jpeg"),
    ],
)
@pytest.mark.parametrize("above", [".", "eyes"])
def test_layouts_with_a_workbook(tmp_path, odir, annotations, images, above):
    odir.write_workbook(tmp_path / above / annotations)
    odir.draw(tmp_path / above / images)
    odir.assert_is_in(odir5k_cases(tmp_path))


@pytest.mark.parametrize("images", ["preprocessed_images", "ODIR-5K/ODIR-5K/Training Images", "."])
def test_the_csv_gives_the_same_eyes(tmp_path, odir, images, caplog):
    odir.write_csv(tmp_path / "full_df.csv")
    odir.draw(tmp_path / images)
    with caplog.at_level(logging.INFO):
        table = odir5k_cases(str(tmp_path))
    odir.assert_is_in(table)
    assert table.source.endswith("annotations from full_df.csv")
    assert "5 patients annotated in full_df.csv" in caplog.text


def test_the_workbook_comes_before_the_csv(tmp_path, odir, caplog):
    odir.write_csv(
        tmp_path / "full_df.csv",
        [odir.patient(i, "maculopathy", "maculopathy", "O") for i in range(5)],
    )
    odir.write(tmp_path / "below" / "it")
    with caplog.at_level(logging.INFO):
        table = odir5k_cases(tmp_path)
    odir.assert_is_in(table)
    assert f"patients annotated in {odir.workbook}" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_originals_come_before_reduced_images(tmp_path, odir):
    odir.write(tmp_path)
    odir.draw(tmp_path / "preprocessed_images")
    odir.draw(tmp_path / "Testing Images")
    (tmp_path / "Training Images" / "1_left.jpg").unlink()
    table = odir5k_cases(tmp_path)
    assert table.frame["image"].str.contains("Training Images").all()
    assert table.left_out[-1].case_id == "1_left"


def test_images_without_annotation_are_not_looked_at(tmp_path, odir):
    odir.write_workbook(tmp_path / odir.workbook)
    odir.draw(tmp_path / "images")
    odir.draw(tmp_path / "Testing Images")
    odir.assert_is_in(odir5k_cases(tmp_path))


def test_an_image_twice_is_ambiguous(tmp_path, odir):
    odir.write_workbook(tmp_path / odir.workbook)
    odir.draw(tmp_path / "a")
    odir.draw(tmp_path / "b", ["2_left"])
    with pytest.raises(DataError, match=r"two files for image 2_left: .*a.2_left\.jpg and .*b"):
        odir5k_cases(tmp_path)


def test_eyes_without_an_image_are_counted_and_listed(tmp_path, odir, caplog):
    odir.write(tmp_path)
    for name in ("2_left", "1_right"):
        (tmp_path / "Training Images" / f"{name}.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        table = odir5k_cases(tmp_path)
    assert "2 images left out: 1_right (no image file); 2_left (no image file)" in caplog.text
    assert len(table) == 7
    assert [g.case_id for g in table.left_out] == ["4_left", "1_right", "2_left"]


def test_a_folder_without_the_data_set(tmp_path, odir):
    with pytest.raises(DataError, match=r"ODIR-5K not found; looked for ODIR-5K_Training_Anno"):
        odir5k_cases(tmp_path)
    with pytest.raises(DataError, match="gone: not a folder"):
        odir5k_cases(tmp_path / "gone")
    with pytest.raises(DataError, match="found 'ignore'; expected 'raise' or 'skip'"):
        odir5k_cases(tmp_path, on_error="ignore")
    (tmp_path / "Training Images.zip").write_bytes(b"PK")
    odir.write_workbook(tmp_path / odir.workbook)
    with pytest.raises(
        DataError, match=r"none of the 10 images .*0_left\.jpg.*Images\.zip: damaged or incomplete"
    ):
        odir5k_cases(tmp_path)


@pytest.mark.parametrize("whole", [True, False])
def test_zip_files_are_read_in_place(tmp_path, odir, whole):
    root = odir.write(tmp_path / "all")
    packed = root if whole else root / "Training Images"
    shutil.make_archive(str(tmp_path / packed.name), "zip", packed)
    shutil.rmtree(packed)
    odir.draw(tmp_path / "preprocessed_images", ["0_left"])
    if not whole:
        odir.draw(tmp_path / "Testing Images", ["1_left"])
        shutil.make_archive(str(tmp_path / "Testing Images"), "zip", tmp_path / "Testing Images")
    table = odir5k_cases(tmp_path)
    odir.assert_is_in(table)
    assert table.frame["image"].str.contains(".zip/", regex=False).all()
    assert read_image(table.frame["image"][0]).shape == (3, 4, 3)


def test_another_workbook_called_data_is_none_of_its(tmp_path, odir):
    odir.write_workbook(tmp_path / "data.xlsx", [["a", 1]], ["name", "value"])
    (tmp_path / "broken.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"ODIR-5K not found; .*another \.xlsx of its columns"):
        odir5k_cases(tmp_path)
    odir.write_workbook(tmp_path / "ODIR" / "annotations of 2019.xlsx")
    odir.draw(tmp_path / "ODIR" / "Training Images")
    odir.assert_is_in(odir5k_cases(tmp_path))


def test_two_copies_are_ambiguous(tmp_path, odir):
    odir.write(tmp_path / "one")
    odir.write(tmp_path / "two")
    with pytest.raises(DataError, match=r"several copies of ODIR-5K: .*one.*two"):
        odir5k_cases(tmp_path)
    odir.assert_is_in(odir5k_cases(tmp_path / "two"))


def test_no_image_of_a_labelled_eye(tmp_path, odir):
    odir.write_workbook(tmp_path / odir.workbook)
    odir.draw(tmp_path / "Training Images", ["4_left"])
    with pytest.raises(DataError, match="no image of an eye with a label"):
        odir5k_cases(tmp_path)


def test_a_file_without_a_side_is_its_columns_eye(tmp_path, odir):
    patients = [list(p) for p in odir.patients]
    patients[0][3:5] = ["a.jpg", "b.png"]
    odir.write(tmp_path, patients)
    for side, name in (("left", "a"), ("right", "b")):
        (tmp_path / "Training Images" / f"0_{side}.jpg").rename(
            tmp_path / "Training Images" / f"{name}.jpg"
        )
    frame = odir5k_cases(tmp_path).frame.set_index("case_id")
    assert frame.loc["0_left", "image"].endswith("a.jpg")
    assert frame.loc["0_right", "eye"] == "right"


def test_drawn_patients_are_phantoms(tmp_path, odir):
    odir.write_workbook(
        tmp_path / odir.workbook, [odir.patient(FIRST_ID, "glaucoma", "glaucoma", "G")]
    )
    odir.draw(tmp_path / "Training Images", [f"{FIRST_ID}_left"])
    assert odir5k_cases(tmp_path).name == "phantoms"
