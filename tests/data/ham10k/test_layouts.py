"""HAM10000 in the layouts that it is passed on in, whole and with files missing."""

import logging
import shutil

import numpy as np
import pytest

from medshadow.data.ham10k import ham10k_cases
from medshadow.errors import DataError


@pytest.mark.parametrize(
    ("metadata", "separator"),
    [
        ("HAM10000_metadata.csv", ","),
        ("HAM10000_metadata", ","),
        ("HAM10000_metadata", "\t"),
        ("HAM10000_metadata.tab", "\t"),
        ("ham10000_metadata.tsv", "\t"),
    ],
)
def test_kaggle_and_dataverse(tmp_path, ham, metadata, separator):
    ham.write_kaggle(tmp_path, metadata, separator)
    table = ham10k_cases(tmp_path)
    ham.assert_is_in(table)
    frame = table.frame
    assert frame["dx_type"].tolist() == ham.metadata["dx_type"].tolist()
    assert frame["sex"].tolist() == ["male", "female", "unknown", "unknown"] * 2
    assert frame["localization"].tolist() == ham.metadata["localization"].tolist()
    np.testing.assert_array_equal(frame["age"], [45.0, np.nan, 0.0, 80.0] * 2)
    assert table.metadata_columns == ("dx_type", "age", "sex", "localization")


@pytest.mark.parametrize("nested", [False, True])
def test_isic_2018_task_3(tmp_path, ham, nested):
    ham.write_isic(tmp_path, nested)
    table = ham10k_cases(tmp_path)
    ham.assert_is_in(table)
    assert table.frame["dx_type"].tolist() == ["histo", "follow_up", "consensus", "confocal"] * 2
    assert table.frame["age"].isna().all()
    assert set(table.frame["sex"]) == {"unknown"}
    assert table.metadata_columns == ("dx_type", "age", "sex", "localization")


@pytest.mark.parametrize("folder", [".", "images", "all/jpeg"])
def test_all_images_in_one_folder(tmp_path, ham, folder):
    ham.draw(tmp_path / folder, ham.ids)
    ham.metadata.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    ham.assert_is_in(ham10k_cases(tmp_path))


def test_metadata_in_a_folder_of_its_own(tmp_path, ham):
    ham.draw(tmp_path / "images", ham.ids)
    (tmp_path / "tables").mkdir()
    ham.metadata.to_csv(tmp_path / "tables" / "HAM10000_metadata.csv", index=False)
    ham.assert_is_in(ham10k_cases(tmp_path))


def test_the_parent_folder_will_do(tmp_path, ham):
    ham.write_kaggle(tmp_path / "skin" / "ham10000")
    ham.draw(tmp_path / "skin" / "other", ["ISIC_9999999"])
    ham.assert_is_in(ham10k_cases(tmp_path / "skin"))
    ham.assert_is_in(ham10k_cases(str(tmp_path)))


def test_two_copies_are_ambiguous(tmp_path, ham):
    ham.write_kaggle(tmp_path / "one")
    ham.write_kaggle(tmp_path / "two")
    with pytest.raises(DataError, match=r"several copies of HAM10000: .*one.*two"):
        ham10k_cases(tmp_path)
    ham.assert_is_in(ham10k_cases(tmp_path / "two"))


def test_ham10000s_own_metadata_comes_before_isics(tmp_path, ham):
    ham.write_isic(tmp_path)
    ham.metadata.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    assert ham10k_cases(tmp_path).frame["localization"].tolist()[0] == "back"


def test_kaggles_second_copy_of_the_folders_is_not_counted(tmp_path, ham):
    ham.write_kaggle(tmp_path)
    ham.draw(tmp_path / "ham10000_images_part_1", ham.ids[:4])
    table = ham10k_cases(tmp_path)
    ham.assert_is_in(table)
    assert table.frame["image"].str.contains("HAM10000_images").all()


def test_derived_images_beside_the_named_folders_are_not_taken(tmp_path, ham):
    ham.write_kaggle(tmp_path)
    shutil.copytree(tmp_path / "HAM10000_images_part_1", tmp_path / "128px")
    (tmp_path / "HAM10000_images_part_1" / f"{ham.ids[0]}.jpg").unlink()
    table = ham10k_cases(tmp_path, on_error="skip")
    assert [gone.case_id for gone in table.left_out] == [ham.ids[0]]
    assert not table.frame["image"].str.contains("128px").any()


def test_an_image_twice_in_unnamed_folders_is_ambiguous(tmp_path, ham):
    ham.draw(tmp_path / "a", ham.ids)
    ham.draw(tmp_path / "b", ham.ids[3:4])
    ham.metadata.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    with pytest.raises(DataError, match=rf"two files for image {ham.ids[3]}"):
        ham10k_cases(tmp_path)


def test_a_folder_without_the_data_set(tmp_path):
    with pytest.raises(DataError, match=r"looked for HAM10000_metadata .*GroundTruth\.csv"):
        ham10k_cases(tmp_path)
    with pytest.raises(DataError, match="gone: not a folder"):
        ham10k_cases(tmp_path / "gone")


def test_isic_without_groupings_is_refused(tmp_path, ham):
    ham.write_isic(tmp_path)
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    with pytest.raises(DataError, match=r"without ISIC2018_Task3_Training_LesionGroupings\.csv"):
        ham10k_cases(tmp_path)


def test_missing_images_are_refused_by_name(tmp_path, ham):
    ham.write_kaggle(tmp_path)
    (tmp_path / "HAM10000_images_part_2" / f"{ham.ids[5]}.jpg").unlink()
    with pytest.raises(
        DataError, match=rf"1 images cannot be used: {ham.ids[5]} \(no image file\)"
    ):
        ham10k_cases(tmp_path)


def test_missing_images_are_left_out_on_request(tmp_path, ham, caplog):
    ham.write_kaggle(tmp_path)
    for image_id in ham.ids[4:6]:
        (tmp_path / "HAM10000_images_part_2" / f"{image_id}.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        table = ham10k_cases(tmp_path, on_error="skip")
    assert f"2 images left out: {ham.ids[4]} (no image file); {ham.ids[5]}" in caplog.text
    assert str(tmp_path) not in caplog.text
    assert table.frame["case_id"].tolist() == ham.ids[:4] + ham.ids[6:]
    assert [gone.case_id for gone in table.left_out] == ham.ids[4:6]


def test_an_unknown_policy_is_refused(tmp_path):
    with pytest.raises(DataError, match="found 'ignore'; expected 'raise' or 'skip'"):
        ham10k_cases(tmp_path, on_error="ignore")
