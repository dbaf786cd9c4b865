"""Metadata of HAM10000 that are wrong or damaged."""

import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.data.ham10k import ham10k_cases
from medshadow.errors import DataError

FIRST = "ISIC_0024306"


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("dx", 2, "melanoma", r"found \['melanoma'\] in lines \[4\]; expected one of"),
        ("age", 1, "old", r"found \['old'\] in lines \[3\]; expected years"),
        ("age", 7, "-3", r"found \['-3'\] in lines \[9\]"),
        ("age", 0, "inf", r"found \['inf'\] in lines \[2\]"),
        ("image_id", 1, FIRST, rf"found \['{FIRST}'\] in lines \[3\]; .*once"),
        ("lesion_id", 3, " ", r"found \[''\] in lines \[5\]; expected a value for lesion_id"),
    ],
)
def test_wrong_rows_are_named_by_line(tmp_path, ham, column, row, value, message):
    ham.write_kaggle(tmp_path)
    values = ham.metadata[column].tolist()
    values[row] = value
    changed = ham.metadata.assign(**{column: values})
    changed.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    with pytest.raises(DataError, match=rf"HAM10000_metadata\.csv: {message}"):
        ham10k_cases(tmp_path)


def test_wrong_tables_are_named(tmp_path, ham):
    ham.write_kaggle(tmp_path)
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
def test_one_hot_rows_hold_a_single_one(tmp_path, ham, code, value):
    ham.write_isic(tmp_path)
    file = tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv"
    truth = pd.read_csv(file).astype({code: object})
    truth.loc[1, code] = value
    truth.to_csv(file, index=False)
    with pytest.raises(DataError, match=r"GroundTruth\.csv: .* in lines \[3\]; expected a single"):
        ham10k_cases(tmp_path)


def test_every_one_hot_image_needs_its_lesion(tmp_path, ham):
    ham.write_isic(tmp_path)
    file = tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv"
    rows = pd.read_csv(file)
    rows[rows["image"] != ham.ids[2]].to_csv(file, index=False)
    with pytest.raises(
        DataError, match=rf"found \['{ham.ids[2]}'\] in lines \[4\]; expected images"
    ):
        ham10k_cases(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=200),
    kind=st.sampled_from(["metadata", "truth", "groupings"]),
    header=st.booleans(),
)
def test_random_annotations_are_refused(tmp_path_factory, ham, content, kind, header):
    """Nothing but a DataError, whatever stands in the files."""
    root = tmp_path_factory.mktemp("random")
    ham.write_isic(root)
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
def test_damaged_metadata_are_read_or_refused(tmp_path_factory, ham, place, new):
    root = tmp_path_factory.getbasetemp() / "damaged"
    if not root.exists():
        ham.write_kaggle(root)
    content = ham.metadata.to_csv(index=False).encode()
    place %= len(content)
    damaged = content[:place] + new + content[place + len(new) // 2 :]
    (root / "HAM10000_metadata.csv").write_bytes(damaged)
    try:
        cases = len(ham10k_cases(root, on_error="skip"))
    except DataError:
        cases = 8
    assert 0 < cases <= 9
