"""Annotations of ODIR-5K that are wrong, damaged or made to do harm."""

import io
import re
import time
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.data.odir5k import odir5k_cases
from medshadow.data.odir5k_rows import read_patients
from medshadow.errors import DataError

COMMA = "\N{FULLWIDTH COMMA}"


def test_unknown_keywords_are_refused_by_row_or_left_out(tmp_path, odir):
    patients = [*odir.patients]
    patients[1] = odir.patient(1, "glaukoma, drusen", "normal fundus", "N")
    odir.write(tmp_path, patients)
    with pytest.raises(
        DataError, match=r"V2\.xlsx: 1 problems:\n  row 3: Left-Diagnostic .*: unknown .*'glaukoma'"
    ):
        odir5k_cases(tmp_path)
    table = odir5k_cases(tmp_path, on_error="skip")
    assert sorted(table.frame["case_id"]) == sorted(set(odir.eyes) - {"1_left"})
    assert ("1_left", "unknown keyword 'glaukoma'") in [
        (g.case_id, g.reason) for g in table.left_out
    ]


@pytest.mark.parametrize("sign", ["?", "\N{REPLACEMENT CHARACTER}"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_lossy_copy_is_refused_with_the_reason(tmp_path, odir, sign, on_error):
    lossy = [
        [x.replace(COMMA, sign) if isinstance(x, str) else x for x in p] for p in odir.patients
    ]
    odir.write_csv(tmp_path / "full_df.csv", lossy)
    odir.draw(tmp_path / "preprocessed_images")
    with pytest.raises(
        DataError, match=r"full_df\.csv: a lossy copy .* row 4, .*U\+FF0C .*take the organisers'"
    ):
        odir5k_cases(tmp_path, on_error)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, "x1", r"row 4: ID: found 'x1'; expected a number"),
        (0, None, r"row 4: ID: found ''"),
        (1, 130, r"row 4: Patient Age: found '130'; expected years from 0 to 120"),
        (1, "old", r"row 4: Patient Age: found 'old'"),
        (2, "M", r"row 4: Patient Sex: found 'm'; expected Female, Male"),
        (3, "2_right.jpg", r"row 4: Left-Fundus: found '2_right.jpg'; expected .* a left eye"),
        (4, None, r"row 4: Right-Fundus: found ''; expected the file of a right eye"),
        (4, "3_right.jpg", r"2_right and 3_right have one image file, '3_right'"),
        (0, 1, r"row 4: ID 1 stands in row 3 with other values"),
        (9, 2, r"row 4: G: found '2'; expected 0 or 1"),
    ],
)
def test_wrong_rows_are_named(tmp_path, odir, place, value, message):
    patients = [list(p) for p in odir.patients]
    patients[2][place] = value
    with pytest.raises(DataError, match=message):
        odir5k_cases(odir.write(tmp_path, patients))


def test_all_wrong_rows_are_reported_together(tmp_path, odir):
    patients = [odir.patient(i, "x", "normal fundus", "N", -i) for i in range(1, 20)]
    odir.write_workbook(tmp_path / odir.workbook, patients)
    with pytest.raises(DataError) as caught:
        read_patients(tmp_path / odir.workbook)
    title, *lines = str(caught.value).splitlines()
    assert title.endswith("38 problems:")
    assert lines == [
        f"  row {row}: {problem}"
        for row in range(2, 21)
        for problem in (
            f"Patient Age: found '{1 - row}'; expected years from 0 to 120, or nothing",
            "Left-Diagnostic Keywords: unknown keyword 'x'",
        )
    ]


def packed(parts):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return content.getvalue()


def unpacked(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, odir):
    """The bytes of the small workbook and of the small CSV."""
    folder = tmp_path_factory.mktemp("whole")
    odir.write_workbook(folder / odir.workbook)
    odir.write_csv(folder / "full_df.csv")
    return (folder / odir.workbook).read_bytes(), (folder / "full_df.csv").read_bytes()


def test_tables_that_are_none(tmp_path, odir, whole):
    file = tmp_path / odir.workbook
    for content in (b"", b"PK\3\4", whole[0][:500], whole[1], packed({"a": b""})):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"V2\.xlsx: cannot be read as a table"):
            read_patients(file)
    odir.write_workbook(file, [])
    with pytest.raises(DataError, match="no rows below the header"):
        read_patients(file)
    odir.write_workbook(file, [], odir.header[1:])
    with pytest.raises(DataError, match=r"columns \['ID'\] missing; found \['Patient Age'"):
        read_patients(file)
    comma_in_gbk = whole[1].decode().encode("gbk")
    (tmp_path / "full_df.csv").write_bytes(comma_in_gbk)
    with pytest.raises(DataError, match=r"full_df\.csv: cannot be read as a table \(Unicode"):
        read_patients(tmp_path / "full_df.csv")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, odir, whole):
    parts = unpacked(whole[0])
    parts["xl/worksheets/sheet1.xml"] += b" " * 2**27
    (tmp_path / odir.workbook).write_bytes(packed(parts))
    with pytest.raises(DataError, match="bytes when unpacked, more than"):
        read_patients(tmp_path / odir.workbook)


def test_a_workbook_without_styles_is_read(tmp_path, odir, whole):
    parts = unpacked(whole[0])
    plain = re.sub(rb"<cellStyles.*</cellStyles>", b"", parts["xl/styles.xml"])
    assert plain != parts["xl/styles.xml"]
    (tmp_path / odir.workbook).write_bytes(packed({**parts, "xl/styles.xml": plain}))
    assert len(read_patients(tmp_path / odir.workbook)) == 5


def test_a_workbook_that_claims_a_billion_rows_does_not_hang(tmp_path, odir, whole):
    parts = unpacked(whole[0])
    sheet = parts["xl/worksheets/sheet1.xml"]
    parts["xl/worksheets/sheet1.xml"] = sheet.replace(b'<row r="6"', b'<row r="999999999"')
    assert parts["xl/worksheets/sheet1.xml"] != sheet
    (tmp_path / odir.workbook).write_bytes(packed(parts))
    begin = time.process_time()
    with pytest.raises(DataError, match="more than 100000 rows"):
        read_patients(tmp_path / odir.workbook)
    assert time.process_time() - begin < 5


CHANGES = st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=4)), min_size=1, max_size=8)


def mutated(content, changes):
    for place, new in changes:
        place %= len(content)
        content = content[:place] + new + content[place + len(new) // 2 + 1 :]
    return content


def read_or_refuse(path, content):
    path.write_bytes(content)
    try:
        patients = read_patients(path)
    except DataError as error:
        named = str(error)
    else:
        named = f"{path} of {patients[0].id}"
    assert named.startswith(str(path))


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path_factory, odir, content):
    folder = tmp_path_factory.getbasetemp()
    read_or_refuse(folder / "random.xlsx", content)
    read_or_refuse(folder / "random.csv", content)
    read_or_refuse(folder / "random.csv", ",".join(odir.header).encode() + b"\n" + content)


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES)
def test_damaged_tables_are_read_or_refused(tmp_path_factory, whole, changes):
    folder = tmp_path_factory.getbasetemp()
    read_or_refuse(folder / "damaged.xlsx", mutated(whole[0], changes))
    read_or_refuse(folder / "damaged.csv", mutated(whole[1], changes))


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, part=st.integers(0, 20))
def test_workbooks_with_damaged_parts_are_read_or_refused(tmp_path_factory, whole, changes, part):
    parts = unpacked(whole[0])
    name = sorted(parts)[part % len(parts)]
    parts[name] = mutated(parts[name], changes)
    read_or_refuse(tmp_path_factory.getbasetemp() / "parts.xlsx", packed(parts))
