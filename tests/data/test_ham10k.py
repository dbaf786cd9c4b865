import logging
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medshadow.data.ham10k import DIAGNOSES, MALIGNANT, ham10k_cases
from medshadow.errors import DataError

# MONAI says so each time it is asked to load, wherever pydicom is installed without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

IDS = [f"ISIC_{i:07d}" for i in range(24306, 24306 + 8)]
METADATA = pd.DataFrame(
    {
        "lesion_id": [f"HAM_{i // 2:07d}" for i in range(8)],
        "image_id": IDS,
        "dx": ["nv", "nv", "mel", "mel", "bcc", "bcc", "df", "df"],
        "dx_type": ["histo", "follow_up", "histo", "histo"] * 2,
        "age": ["45.0", "", "0.0", "80"] * 2,
        "sex": ["male", "female", "unknown", ""] * 2,
        "localization": ["back", "face", "unknown", "scalp"] * 2,
    }
)


def draw(folder, ids):
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in ids:
        shade = np.random.default_rng(int(image_id[5:])).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(shade).save(folder / f"{image_id}.jpg")


def write_kaggle(root, metadata="HAM10000_metadata.csv", separator=","):
    draw(root / "HAM10000_images_part_1", IDS[:4])
    draw(root / "HAM10000_images_part_2", IDS[4:])
    METADATA.to_csv(root / metadata, index=False, sep=separator)


def write_isic(root, nested=False):
    draw(root / "ISIC2018_Task3_Training_Input", IDS)
    truth = pd.DataFrame({"image": IDS})
    for code in ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"):
        truth[code] = (METADATA["dx"] == code.lower()).astype(float)
    place = root / "ISIC2018_Task3_Training_GroundTruth" if nested else root
    place.mkdir(exist_ok=True)
    truth.to_csv(place / "ISIC2018_Task3_Training_GroundTruth.csv", index=False)
    words = [
        "histopathology",
        "serial imaging showing no change",
        "single image expert consensus",
        "confocal microscopy with consensus dermoscopy",
    ]
    pd.DataFrame(
        {
            "image": IDS[::-1],
            "lesion_id": METADATA["lesion_id"][::-1],
            "diagnosis_confirm_type": (words * 2)[::-1],
        }
    ).to_csv(root / "ISIC2018_Task3_Training_LesionGroupings.csv", index=False)


def rewrite_metadata(root, **columns):
    METADATA.assign(**columns).to_csv(root / "HAM10000_metadata.csv", index=False)


def changed(column, row, value):
    values = METADATA[column].tolist()
    values[row] = value
    return {column: values}


def assert_is_the_small_set(table):
    frame = table.frame
    assert table.name == "ham10000"
    assert table.source.startswith("HAM10000 (Tschandl")
    assert table.malignant == MALIGNANT == {"mel", "bcc", "akiec"}
    assert table.left_out == ()
    assert frame["case_id"].tolist() == IDS
    assert frame["group"].tolist() == METADATA["lesion_id"].tolist()
    assert frame["label"].tolist() == METADATA["dx"].tolist()
    for case_id, path in zip(frame["case_id"], frame["image"], strict=True):
        assert path.endswith(f"{case_id}.jpg")
        with Image.open(path) as image:
            assert image.size == (4, 3)


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
def test_kaggle_and_dataverse(tmp_path, metadata, separator):
    write_kaggle(tmp_path, metadata, separator)
    table = ham10k_cases(tmp_path)
    assert_is_the_small_set(table)
    frame = table.frame
    assert frame["dx_type"].tolist() == METADATA["dx_type"].tolist()
    assert frame["sex"].tolist() == ["male", "female", "unknown", "unknown"] * 2
    assert frame["localization"].tolist() == METADATA["localization"].tolist()
    np.testing.assert_array_equal(frame["age"], [45.0, np.nan, 0.0, 80.0] * 2)
    assert table.metadata_columns == ("dx_type", "age", "sex", "localization")


@pytest.mark.parametrize("nested", [False, True])
def test_isic_2018_task_3(tmp_path, nested):
    write_isic(tmp_path, nested)
    table = ham10k_cases(tmp_path)
    assert_is_the_small_set(table)
    assert table.frame["dx_type"].tolist() == ["histo", "follow_up", "consensus", "confocal"] * 2
    assert table.frame["age"].isna().all()
    assert set(table.frame["sex"]) == {"unknown"}
    assert table.metadata_columns == ("dx_type", "age", "sex", "localization")


@pytest.mark.parametrize("folder", [".", "images", "all/jpeg"])
def test_all_images_in_one_folder(tmp_path, folder):
    draw(tmp_path / folder, IDS)
    METADATA.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    assert_is_the_small_set(ham10k_cases(tmp_path))


def test_metadata_in_a_folder_of_its_own(tmp_path):
    draw(tmp_path / "images", IDS)
    (tmp_path / "tables").mkdir()
    METADATA.to_csv(tmp_path / "tables" / "HAM10000_metadata.csv", index=False)
    assert_is_the_small_set(ham10k_cases(tmp_path))


def test_the_parent_folder_will_do(tmp_path):
    write_kaggle(tmp_path / "skin" / "ham10000")
    draw(tmp_path / "skin" / "other", ["ISIC_9999999"])
    assert_is_the_small_set(ham10k_cases(tmp_path / "skin"))
    assert_is_the_small_set(ham10k_cases(str(tmp_path)))


def test_two_copies_are_ambiguous(tmp_path):
    write_kaggle(tmp_path / "one")
    write_kaggle(tmp_path / "two")
    with pytest.raises(DataError, match=r"several copies of HAM10000: .*one.*two"):
        ham10k_cases(tmp_path)
    assert_is_the_small_set(ham10k_cases(tmp_path / "two"))


def test_ham10000s_own_metadata_comes_before_isics(tmp_path):
    write_isic(tmp_path)
    METADATA.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    assert ham10k_cases(tmp_path).frame["localization"].tolist()[0] == "back"


def test_kaggles_second_copy_of_the_folders_is_not_counted(tmp_path):
    write_kaggle(tmp_path)
    draw(tmp_path / "ham10000_images_part_1", IDS[:4])
    table = ham10k_cases(tmp_path)
    assert_is_the_small_set(table)
    assert table.frame["image"].str.contains("HAM10000_images").all()


def test_derived_images_beside_the_named_folders_are_not_taken(tmp_path):
    write_kaggle(tmp_path)
    shutil.copytree(tmp_path / "HAM10000_images_part_1", tmp_path / "128px")
    (tmp_path / "HAM10000_images_part_1" / f"{IDS[0]}.jpg").unlink()
    table = ham10k_cases(tmp_path, on_error="skip")
    assert [gone.case_id for gone in table.left_out] == [IDS[0]]
    assert not table.frame["image"].str.contains("128px").any()


def test_an_image_twice_in_unnamed_folders_is_ambiguous(tmp_path):
    draw(tmp_path / "a", IDS)
    draw(tmp_path / "b", IDS[3:4])
    METADATA.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    with pytest.raises(DataError, match=rf"two files for image {IDS[3]}"):
        ham10k_cases(tmp_path)


def test_a_folder_without_the_data_set(tmp_path):
    with pytest.raises(DataError, match=r"looked for HAM10000_metadata .*GroundTruth\.csv"):
        ham10k_cases(tmp_path)
    with pytest.raises(DataError, match="gone: not a folder"):
        ham10k_cases(tmp_path / "gone")


def test_zips_must_be_unpacked(tmp_path):
    METADATA.to_csv(tmp_path / "HAM10000_metadata", index=False)
    (tmp_path / "HAM10000_images_part_1.zip").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=rf"none of the 8 images.*{IDS[0]}\.jpg.*part_1\.zip: unpack first"
    ):
        ham10k_cases(tmp_path)
    (tmp_path / "HAM10000_metadata").unlink()
    with pytest.raises(DataError, match=r"not found.*part_1\.zip: unpack first"):
        ham10k_cases(tmp_path)


def test_isic_without_groupings_is_refused(tmp_path):
    write_isic(tmp_path)
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    with pytest.raises(DataError, match=r"without ISIC2018_Task3_Training_LesionGroupings\.csv"):
        ham10k_cases(tmp_path)


def test_missing_images_are_refused_by_name(tmp_path):
    write_kaggle(tmp_path)
    (tmp_path / "HAM10000_images_part_2" / f"{IDS[5]}.jpg").unlink()
    with pytest.raises(DataError, match=rf"1 images cannot be used: {IDS[5]} \(no image file\)"):
        ham10k_cases(tmp_path)


def test_missing_images_are_left_out_on_request(tmp_path, caplog):
    write_kaggle(tmp_path)
    for image_id in IDS[4:6]:
        (tmp_path / "HAM10000_images_part_2" / f"{image_id}.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        table = ham10k_cases(tmp_path, on_error="skip")
    assert f"2 images left out: {IDS[4]} (no image file); {IDS[5]}" in caplog.text
    assert str(tmp_path) not in caplog.text
    assert table.frame["case_id"].tolist() == IDS[:4] + IDS[6:]
    assert [gone.case_id for gone in table.left_out] == IDS[4:6]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (changed("dx", 2, "melanoma"), r"found \['melanoma'\] in lines \[4\]; expected one of"),
        (changed("age", 1, "old"), r"found \['old'\] in lines \[3\]; expected years"),
        (changed("age", 7, "-3"), r"found \['-3'\] in lines \[9\]"),
        (changed("age", 0, "inf"), r"found \['inf'\] in lines \[2\]"),
        (changed("image_id", 1, IDS[0]), rf"found \['{IDS[0]}'\] in lines \[3\]; .*once"),
        (
            changed("lesion_id", 3, " "),
            r"found \[''\] in lines \[5\]; expected a value for lesion_id",
        ),
    ],
)
def test_wrong_rows_are_named_by_line(tmp_path, columns, message):
    write_kaggle(tmp_path)
    rewrite_metadata(tmp_path, **columns)
    with pytest.raises(DataError, match=rf"HAM10000_metadata\.csv: {message}"):
        ham10k_cases(tmp_path)


def test_wrong_tables_are_named(tmp_path):
    write_kaggle(tmp_path)
    file = tmp_path / "HAM10000_metadata.csv"
    file.write_text("lesion_id,image,dx\na,b,nv\n")
    with pytest.raises(DataError, match=r"columns \['image_id'\] missing; found \['lesion_id'"):
        ham10k_cases(tmp_path)
    file.write_text("lesion_id,image_id,dx\n")
    with pytest.raises(DataError, match="no rows below the header"):
        ham10k_cases(tmp_path)
    file.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(DataError, match=r"HAM10000_metadata\.csv: cannot be read as a table"):
        ham10k_cases(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"HAM10000_metadata\.csv: cannot be read as a table"):
        ham10k_cases(tmp_path)


@pytest.mark.parametrize(("code", "value"), [("MEL", 1.0), ("NV", 0.0), ("NV", 0.5), ("NV", "x")])
def test_one_hot_rows_hold_a_single_one(tmp_path, code, value):
    write_isic(tmp_path)
    file = tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv"
    truth = pd.read_csv(file).astype({code: object})
    truth.loc[1, code] = value
    truth.to_csv(file, index=False)
    with pytest.raises(DataError, match=r"GroundTruth\.csv: .* in lines \[3\]; expected a single"):
        ham10k_cases(tmp_path)


def test_every_one_hot_image_needs_its_lesion(tmp_path):
    write_isic(tmp_path)
    file = tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv"
    pd.read_csv(file).query("image != @IDS[2]").to_csv(file, index=False)
    with pytest.raises(DataError, match=rf"found \['{IDS[2]}'\] in lines \[4\]; expected images"):
        ham10k_cases(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=200),
    kind=st.sampled_from(["metadata", "truth", "groupings"]),
    header=st.booleans(),
)
def test_random_annotations_are_refused(tmp_path_factory, content, kind, header):
    """Nothing but a DataError, whatever stands in the files."""
    root = tmp_path_factory.mktemp("random")
    write_isic(root)
    names = {
        "metadata": ("HAM10000_metadata.csv", b"lesion_id,image_id,dx,dx_type,age\n"),
        "truth": (
            "ISIC2018_Task3_Training_GroundTruth.csv",
            b"image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n",
        ),
        "groupings": ("ISIC2018_Task3_Training_LesionGroupings.csv", b"image,lesion_id\n"),
    }
    name, line = names[kind]
    (root / name).write_bytes((line if header else b"") + content)
    with pytest.raises(DataError, match=re.escape(name)):
        ham10k_cases(root)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 600), new=st.binary(min_size=1, max_size=3))
def test_damaged_metadata_are_read_or_refused(tmp_path_factory, place, new):
    root = tmp_path_factory.getbasetemp() / "damaged"
    if not root.exists():
        write_kaggle(root)
    content = METADATA.to_csv(index=False).encode()
    place %= len(content)
    damaged = content[:place] + new + content[place + len(new) // 2 :]
    (root / "HAM10000_metadata.csv").write_bytes(damaged)
    try:
        cases = len(ham10k_cases(root, on_error="skip"))
    except DataError:
        cases = 8
    assert 0 < cases <= 9


def test_an_unknown_policy_is_refused(tmp_path):
    with pytest.raises(DataError, match="found 'ignore'; expected 'raise' or 'skip'"):
        ham10k_cases(tmp_path, on_error="ignore")


def test_finding_cases_does_not_import_monai():
    code = (
        "import sys; from medshadow.data.ham10k import ham10k_cases; print('monai' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.fixture
def many(tmp_path):
    """Forty lesions of two images; the first images of lesions 0 and 1 are the same file."""
    ids = [f"ISIC_{i:07d}" for i in range(80)]
    draw(tmp_path / "images", ids)
    shutil.copy(tmp_path / "images" / f"{ids[0]}.jpg", tmp_path / "images" / f"{ids[2]}.jpg")
    pd.DataFrame(
        {
            "lesion_id": [f"HAM_{i // 2:07d}" for i in range(80)],
            "image_id": ids,
            "dx": ["nv"] * 60 + ["mel"] * 20,
        }
    ).to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    return tmp_path


def test_dataset_sections_share_no_lesion_and_hold_everything(many):
    from medshadow.data.ham10k_dataset import HAM10KDataset

    parts = {
        name: HAM10KDataset(many, name, progress=False, seed=3)
        for name in ("training", "validation", "test")
    }
    groups = [set(part.table.frame["group"]) for part in parts.values()]
    assert len(set.union(*groups)) == sum(len(names) for names in groups) == 39
    assert sum(len(part) for part in parts.values()) == 80
    assert len(parts["training"]) == pytest.approx(56, abs=4)
    assert len(parts["test"]) == pytest.approx(16, abs=4)
    merged = pd.concat([part.table.frame for part in parts.values()]).set_index("case_id")
    assert merged.loc["ISIC_0000000", "group"] == merged.loc["ISIC_0000003", "group"]
    for part in parts.values():
        assert part.get_num_classes() == 2
        for position, row in enumerate(part.table.frame.itertuples()):
            assert part[position]["label"] == ["mel", "nv"].index(row.label)
            assert part[position]["case_id"] == row.case_id


def test_dataset_loads_images_channel_first_by_default(many):
    from medshadow.data.ham10k_dataset import HAM10KDataset

    part = HAM10KDataset(many, "test", progress=False, val_frac=0.2, test_frac=0.4)
    assert tuple(part[0]["image"].shape) == (3, 3, 4)
    assert len(part) == pytest.approx(32, abs=4)
    with Image.open(part.table.frame["image"][0]) as image:
        expected = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(part[0]["image"].numpy(), expected)


def test_dataset_leaves_unreadable_images_out_on_request(many):
    from medshadow.data.ham10k_dataset import HAM10KDataset

    (many / "images" / "ISIC_0000010.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match="ISIC_0000010"):
        HAM10KDataset(many, "training", progress=False)
    part = HAM10KDataset(many, "training", progress=False, on_error="skip")
    assert [gone.case_id for gone in part.table.left_out] == ["ISIC_0000010"]


def test_dataset_audits_again_only_when_a_file_has_changed(many, monkeypatch):
    from medshadow.data import ham10k_dataset, section_dataset

    calls = []
    plain = section_dataset.audit
    monkeypatch.setattr(section_dataset, "audit", lambda *a, **k: calls.append(1) or plain(*a, **k))
    for section in ("training", "test"):
        ham10k_dataset.HAM10KDataset(many, section, progress=False, cache_rate=0)
    assert len(calls) == 1
    draw(many / "images", ["ISIC_0000002"])
    ham10k_dataset.HAM10KDataset(many, "test", progress=False, cache_rate=0)
    assert len(calls) == 2


def test_dataset_refuses_an_unknown_section(many):
    from medshadow.data.ham10k_dataset import HAM10KDataset

    with pytest.raises(DataError, match="found 'train'; expected one of"):
        HAM10KDataset(many, "train")


@pytest.mark.real_data
def test_real_ham10000_has_the_published_counts(ham10000_root):
    table = ham10k_cases(ham10000_root)
    assert len(table) == 10_015
    assert table.frame["group"].nunique() == 7_470
    assert table.frame["label"].value_counts().to_dict() == {
        "nv": 6705,
        "mel": 1113,
        "bkl": 1099,
        "bcc": 514,
        "akiec": 327,
        "vasc": 142,
        "df": 115,
    }
    assert set(DIAGNOSES) == set(table.classes)
    assert table.frame["age"].isna().sum() == 57
    assert table.frame["dx_type"].value_counts().to_dict() == {
        "histo": 5340,
        "follow_up": 3704,
        "consensus": 902,
        "confocal": 69,
    }
