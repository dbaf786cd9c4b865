import csv
import io
import logging
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook
from PIL import Image

from medshadow.data import odir5k_keywords
from medshadow.data.odir5k import DIAGNOSES, SIGHT_THREATENING, labels_from_keywords, odir5k_cases
from medshadow.data.odir5k_rows import read_patients
from medshadow.data.phantom_cohort import FIRST_ID
from medshadow.errors import DataError

# MONAI says so each time it is asked to load, wherever pydicom is installed without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

WORKBOOK = "ODIR-5K_Training_Annotations(Updated)_V2.xlsx"
COMMA = "\N{FULLWIDTH COMMA}"
LETTERS = "NDGCAHMO"
HEADER = [
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
    "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", *LETTERS,
]  # fmt: skip


def patient(number, left, right, letters, age=60, sex="Female"):
    marks = [int(letter in letters) for letter in LETTERS]
    files = [f"{number}_left.jpg", f"{number}_right.jpg"]
    return [number, age, sex, *files, left, right, *marks]


PATIENTS = [
    patient(0, "cataract", "normal fundus", "C", 69),
    patient(1, "normal fundus", "normal fundus", "N", 57, "Male"),
    patient(
        2, f"laser spot{COMMA}diabetic retinopathy", "severe nonproliferative retinopathy", "DO"
    ),
    patient(3, "suspected glaucoma,drusen", f"lens dust{COMMA}normal fundus", "GO", ""),
    patient(4, "low image quality", f"drusen{COMMA}suspected  Retinitis pigmentosa ", "O", 1, ""),
]
# case id: label, labels, findings
EYES = {
    "0_left": ("C", {"C"}, {"C"}),
    "0_right": ("N", {"N"}, {"N"}),
    "1_left": ("N", {"N"}, {"N"}),
    "1_right": ("N", {"N"}, {"N"}),
    "2_left": ("O", {"D", "O"}, {"D", "O: laser spot"}),
    "2_right": ("D", {"D"}, {"D"}),
    "3_left": ("G", {"G", "O"}, {"G", "O: drusen"}),
    "3_right": ("N", {"N"}, {"N"}),
    "4_right": ("O", {"O"}, {"O: drusen", "O: retinitis pigmentosa"}),
}


def write_workbook(path, patients=PATIENTS, header=HEADER):
    book = Workbook()
    for row in [header, *patients]:
        book.active.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def write_csv(path, patients=PATIENTS, drop=("3_right",)):
    """Kaggle's: one row an eye, some eyes dropped, with one disease an eye and a path of theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*HEADER, "filepath", "labels", "target", "filename"])
        for side in ("right", "left"):
            for row in patients:
                if f"{row[0]}_{side}" not in drop:
                    name = f"{row[0]}_{side}.jpg"
                    more = [f"../input/odir/{name}", "['D']", "[0, 1, 0, 0, 0, 0, 0, 0]", name]
                    writer.writerow([*row, *more])


def draw(folder, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or [f"{i}_{side}" for i in range(5) for side in ("left", "right")]:
        seed = zlib.crc32(name.encode())
        shade = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(shade).save(folder / f"{name}.jpg")


def write_odir(root, patients=PATIENTS):
    write_workbook(root / WORKBOOK, patients)
    draw(root / "Training Images")
    return root


def assert_is_the_small_set(table):
    frame = table.frame.set_index("case_id").sort_index()
    assert table.name == "odir5k"
    assert frame.index.tolist() == sorted(EYES)
    for case_id, (label, labels, findings) in EYES.items():
        row = frame.loc[case_id]
        assert (row["label"], row["labels"], row["findings"]) == (label, labels, findings)
        assert case_id == f"{row['group']}_{row['eye']}"
        assert row["image"].endswith(f"{case_id}.jpg")
    assert [(g.case_id, g.reason) for g in table.left_out] == [
        ("4_left", "no label: low image quality")
    ]


def test_an_eye_has_the_labels_of_its_own_keywords(tmp_path):
    table = odir5k_cases(write_odir(tmp_path))
    assert_is_the_small_set(table)
    assert table.multi_label
    assert table.classes == tuple(LETTERS) == tuple(DIAGNOSES)
    assert table.finding_names[:8] == (*LETTERS[:7], "O: abnormal color of optic disc")
    assert table.healthy == {"N"}
    assert table.malignant == SIGHT_THREATENING < set(LETTERS)
    assert table.source.endswith(f"annotations from {WORKBOOK}")


def test_metadata_are_kept_apart(tmp_path):
    frame = odir5k_cases(write_odir(tmp_path)).frame.set_index("case_id")
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


def test_items_carry_label_sets_and_the_eye(tmp_path):
    table = odir5k_cases(write_odir(tmp_path))
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
def test_layouts_with_a_workbook(tmp_path, annotations, images, above):
    write_workbook(tmp_path / above / annotations)
    draw(tmp_path / above / images)
    assert_is_the_small_set(odir5k_cases(tmp_path))


@pytest.mark.parametrize("images", ["preprocessed_images", "ODIR-5K/ODIR-5K/Training Images", "."])
def test_the_csv_gives_the_same_eyes(tmp_path, images, caplog):
    write_csv(tmp_path / "full_df.csv")
    draw(tmp_path / images)
    with caplog.at_level(logging.INFO):
        table = odir5k_cases(str(tmp_path))
    assert_is_the_small_set(table)
    assert table.source.endswith("annotations from full_df.csv")
    assert "5 patients annotated in full_df.csv" in caplog.text


def test_the_workbook_comes_before_the_csv(tmp_path, caplog):
    write_csv(
        tmp_path / "full_df.csv", [patient(i, "maculopathy", "maculopathy", "O") for i in range(5)]
    )
    write_odir(tmp_path / "below" / "it")
    with caplog.at_level(logging.INFO):
        table = odir5k_cases(tmp_path)
    assert_is_the_small_set(table)
    assert f"patients annotated in {WORKBOOK}" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_originals_come_before_reduced_images(tmp_path):
    write_odir(tmp_path)
    draw(tmp_path / "preprocessed_images")
    draw(tmp_path / "Testing Images")
    (tmp_path / "Training Images" / "1_left.jpg").unlink()
    table = odir5k_cases(tmp_path)
    assert table.frame["image"].str.contains("Training Images").all()
    assert table.left_out[-1].case_id == "1_left"


def test_images_without_annotation_are_not_looked_at(tmp_path):
    write_workbook(tmp_path / WORKBOOK)
    draw(tmp_path / "images")
    draw(tmp_path / "Testing Images")
    assert_is_the_small_set(odir5k_cases(tmp_path))


def test_an_image_twice_is_ambiguous(tmp_path):
    write_workbook(tmp_path / WORKBOOK)
    draw(tmp_path / "a")
    draw(tmp_path / "b", ["2_left"])
    with pytest.raises(DataError, match=r"two files for image 2_left: .*a.2_left\.jpg and .*b"):
        odir5k_cases(tmp_path)


def test_eyes_without_an_image_are_counted_and_listed(tmp_path, caplog):
    write_odir(tmp_path)
    for name in ("2_left", "1_right"):
        (tmp_path / "Training Images" / f"{name}.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        table = odir5k_cases(tmp_path)
    assert "2 images left out: 1_right (no image file); 2_left (no image file)" in caplog.text
    assert len(table) == 7
    assert [g.case_id for g in table.left_out] == ["4_left", "1_right", "2_left"]


def test_a_folder_without_the_data_set(tmp_path):
    with pytest.raises(DataError, match=r"ODIR-5K not found; looked for ODIR-5K_Training_Anno"):
        odir5k_cases(tmp_path)
    with pytest.raises(DataError, match="gone: not a folder"):
        odir5k_cases(tmp_path / "gone")
    with pytest.raises(DataError, match="found 'ignore'; expected 'raise' or 'skip'"):
        odir5k_cases(tmp_path, on_error="ignore")
    (tmp_path / "Training Images.zip").write_bytes(b"PK")
    write_workbook(tmp_path / WORKBOOK)
    with pytest.raises(
        DataError, match=r"none of the 10 images .*0_left\.jpg.*Images\.zip: unpack first"
    ):
        odir5k_cases(tmp_path)


def test_two_copies_are_ambiguous(tmp_path):
    write_odir(tmp_path / "one")
    write_odir(tmp_path / "two")
    with pytest.raises(DataError, match=r"several copies of ODIR-5K: .*one.*two"):
        odir5k_cases(tmp_path)
    assert_is_the_small_set(odir5k_cases(tmp_path / "two"))


def test_no_image_of_a_labelled_eye(tmp_path):
    write_workbook(tmp_path / WORKBOOK)
    draw(tmp_path / "Training Images", ["4_left"])
    with pytest.raises(DataError, match="no image of an eye with a label"):
        odir5k_cases(tmp_path)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("normal fundus", "N"),
        (f"lens dust{COMMA}normal fundus", "N"),
        (f"lens dust{COMMA}drusen{COMMA}normal fundus", "O"),
        ("lens dust", ""),
        ("", ""),
        (f" {COMMA}, ", ""),
        ("no fundus image", ""),
        ("suspected glaucoma", "G"),
        ("suspicious diabetic retinopathy", "D"),
        ("suspected abnormal color of  optic disc", "O"),
        ("Dry  Age-related macular degeneration ", "A"),
        ("hypertensive retinopathy,diabetic retinopathy", "HD"),
        (f"cataract{COMMA}suspected cataract", "C"),
        (f"myopic maculopathy{COMMA}maculopathy", "MO"),
        (f"glaucoma{COMMA}post laser photocoagulation, cataract", "GOC"),
    ],
)
def test_labels_from_keywords(text, labels):
    assert labels_from_keywords(text) == set(labels)


def test_unknown_keywords_are_named():
    with pytest.raises(DataError, match=r"unknown keywords \['glaukoma', 'suspectedcataract'\]"):
        labels_from_keywords("glaukoma, cataract, suspectedcataract")


@given(st.lists(st.sampled_from(sorted(odir5k_keywords.LETTER_OF)), min_size=1, max_size=5))
def test_findings_are_the_letters_with_other_by_keyword(words):
    letters, findings = set(), set()
    for word in words:
        letter = odir5k_keywords.LETTER_OF[word]
        letters.add(letter)
        findings.add(f"O: {word}" if letter == "O" else letter)
    if len(letters) > 1:
        letters.discard("N")
        findings.discard("N")
    assert labels_from_keywords(COMMA.join(words)) == letters
    assert odir5k_keywords.findings_of(words) == findings
    assert findings <= set(odir5k_keywords.FINDINGS)
    first = odir5k_keywords.primary_letter(frozenset(letters))
    assert first == min(letters, key="HMACGODN".index)


def test_unknown_keywords_are_refused_by_row_or_left_out(tmp_path):
    patients = [*PATIENTS]
    patients[1] = patient(1, "glaukoma, drusen", "normal fundus", "N")
    write_odir(tmp_path, patients)
    with pytest.raises(
        DataError, match=r"V2\.xlsx: 1 problems:\n  row 3: Left-Diagnostic .*: unknown .*'glaukoma'"
    ):
        odir5k_cases(tmp_path)
    table = odir5k_cases(tmp_path, on_error="skip")
    assert sorted(table.frame["case_id"]) == sorted(set(EYES) - {"1_left"})
    assert ("1_left", "unknown keyword 'glaukoma'") in [
        (g.case_id, g.reason) for g in table.left_out
    ]


@pytest.mark.parametrize("sign", ["?", "\N{REPLACEMENT CHARACTER}"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_lossy_copy_is_refused_with_the_reason(tmp_path, sign, on_error):
    lossy = [[x.replace(COMMA, sign) if isinstance(x, str) else x for x in p] for p in PATIENTS]
    write_csv(tmp_path / "full_df.csv", lossy)
    draw(tmp_path / "preprocessed_images")
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
def test_wrong_rows_are_named(tmp_path, place, value, message):
    patients = [list(p) for p in PATIENTS]
    patients[2][place] = value
    with pytest.raises(DataError, match=message):
        odir5k_cases(write_odir(tmp_path, patients))


def test_all_wrong_rows_are_reported_together(tmp_path):
    patients = [patient(i, "x", "normal fundus", "N", -i) for i in range(1, 20)]
    write_workbook(tmp_path / WORKBOOK, patients)
    with pytest.raises(DataError) as caught:
        read_patients(tmp_path / WORKBOOK)
    assert "38 problems" in str(caught.value)
    assert "row 2: Patient Age: found '-1'" in str(caught.value)
    assert "row 2: Left-Diagnostic Keywords: unknown keyword 'x'" in str(caught.value)
    assert str(caught.value).endswith("and 28 more")


def test_a_file_without_a_side_is_its_columns_eye(tmp_path):
    patients = [list(p) for p in PATIENTS]
    patients[0][3:5] = ["a.jpg", "b.png"]
    write_odir(tmp_path, patients)
    for side, name in (("left", "a"), ("right", "b")):
        (tmp_path / "Training Images" / f"0_{side}.jpg").rename(
            tmp_path / "Training Images" / f"{name}.jpg"
        )
    frame = odir5k_cases(tmp_path).frame.set_index("case_id")
    assert frame.loc["0_left", "image"].endswith("a.jpg")
    assert frame.loc["0_right", "eye"] == "right"


def test_drawn_patients_are_phantoms(tmp_path):
    write_workbook(tmp_path / WORKBOOK, [patient(FIRST_ID, "glaucoma", "glaucoma", "G")])
    draw(tmp_path / "Training Images", [f"{FIRST_ID}_left"])
    assert odir5k_cases(tmp_path).name == "phantoms"


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
def whole(tmp_path_factory):
    """The bytes of the small workbook and of the small CSV."""
    folder = tmp_path_factory.mktemp("whole")
    write_workbook(folder / WORKBOOK)
    write_csv(folder / "full_df.csv")
    return (folder / WORKBOOK).read_bytes(), (folder / "full_df.csv").read_bytes()


def test_tables_that_are_none(tmp_path, whole):
    file = tmp_path / WORKBOOK
    for content in (b"", b"PK\3\4", whole[0][:500], whole[1], packed({"a": b""})):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"V2\.xlsx: cannot be read as a table"):
            read_patients(file)
    write_workbook(file, [])
    with pytest.raises(DataError, match="no rows below the header"):
        read_patients(file)
    write_workbook(file, [], HEADER[1:])
    with pytest.raises(DataError, match=r"columns \['ID'\] missing; found \['Patient Age'"):
        read_patients(file)
    comma_in_gbk = whole[1].decode().encode("gbk")
    (tmp_path / "full_df.csv").write_bytes(comma_in_gbk)
    with pytest.raises(DataError, match=r"full_df\.csv: cannot be read as a table \(Unicode"):
        read_patients(tmp_path / "full_df.csv")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, whole):
    parts = unpacked(whole[0])
    parts["xl/worksheets/sheet1.xml"] += b" " * 2**27
    (tmp_path / WORKBOOK).write_bytes(packed(parts))
    with pytest.raises(DataError, match="bytes when unpacked, more than"):
        read_patients(tmp_path / WORKBOOK)


def test_a_workbook_without_styles_is_read(tmp_path, whole):
    parts = unpacked(whole[0])
    plain = re.sub(rb"<cellStyles.*</cellStyles>", b"", parts["xl/styles.xml"])
    assert plain != parts["xl/styles.xml"]
    (tmp_path / WORKBOOK).write_bytes(packed({**parts, "xl/styles.xml": plain}))
    assert len(read_patients(tmp_path / WORKBOOK)) == 5


def test_a_workbook_that_claims_a_billion_rows_does_not_hang(tmp_path, whole):
    parts = unpacked(whole[0])
    sheet = parts["xl/worksheets/sheet1.xml"]
    parts["xl/worksheets/sheet1.xml"] = sheet.replace(b'<row r="6"', b'<row r="999999999"')
    assert parts["xl/worksheets/sheet1.xml"] != sheet
    (tmp_path / WORKBOOK).write_bytes(packed(parts))
    begin = time.process_time()
    with pytest.raises(DataError, match="more than 100000 rows"):
        read_patients(tmp_path / WORKBOOK)
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
def test_random_bytes_are_refused(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    read_or_refuse(folder / "random.xlsx", content)
    read_or_refuse(folder / "random.csv", content)
    read_or_refuse(folder / "random.csv", ",".join(HEADER).encode() + b"\n" + content)


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


def test_finding_cases_does_not_import_monai():
    code = "import sys; from medshadow.data import odir5k_cases; print('monai' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.fixture
def many(tmp_path):
    """Thirty patients; the left eye of 0 and that of 2 are one file."""
    words = ["normal fundus", "glaucoma", "cataract, drusen"]
    letters = ["N", "G", "CO"]
    patients = [patient(i, words[i % 3], words[i % 3], letters[i % 3]) for i in range(30)]
    write_workbook(tmp_path / WORKBOOK, patients)
    folder = tmp_path / "Training Images"
    draw(folder, [f"{i}_{side}" for i in range(30) for side in ("left", "right")])
    shutil.copy(folder / "0_left.jpg", folder / "2_left.jpg")
    return tmp_path


def test_dataset_sections_share_no_patient(many):
    from medshadow.data import ODIR5KDataset

    parts = {
        name: ODIR5KDataset(many, name, progress=False, seed=3)
        for name in ("training", "validation", "test")
    }
    groups = [set(part.table.frame["group"]) for part in parts.values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 29
    assert sum(len(part) for part in parts.values()) == 60
    names = parts["training"].table.finding_names
    for part in parts.values():
        assert part.get_num_classes() == len(names) == len(part[0]["label"])
        row = part.table.frame.iloc[0]
        assert {n for n, one in zip(names, part[0]["label"], strict=True) if one} == row["findings"]
        assert part[0]["laterality"] == row["eye"]
        assert tuple(part[0]["image"].shape) == (3, 3, 4)


@pytest.mark.real_data
def test_real_patient_letters_follow_from_the_keywords(odir5k_root):
    patients = read_patients(odir5k_root / WORKBOOK)
    assert len(patients) == 3500
    apart = []
    for one in patients:
        letters = frozenset().union(*(labels_from_keywords(",".join(e.keywords)) for e in one.eyes))
        if odir5k_keywords.without_normal(letters) != set(one.letters):
            apart.append(one.id)
    assert apart == ["4149"]


@pytest.mark.real_data
def test_real_keywords_are_all_in_the_table(odir5k_root):
    patients = read_patients(odir5k_root / WORKBOOK)
    eyes = [eye for one in patients for eye in one.eyes]
    words = Counter(word for eye in eyes for word in eye.keywords)
    assert len(words) == 102
    meant = set(map(odir5k_keywords.meant, words))
    assert meant == {*odir5k_keywords.LETTER_OF, *odir5k_keywords.QUALITY}
    assert {word: words[word] for word in odir5k_keywords.QUALITY} == {
        "lens dust": 405,
        "low image quality": 21,
        "optic disk photographically invisible": 5,
        "anterior segment image": 2,
        "image offset": 1,
        "no fundus image": 1,
    }
    letters = Counter(x for eye in eyes for x in labels_from_keywords(",".join(eye.keywords)))
    assert [x for x, _ in sorted(letters.items(), key=lambda c: c[1])] == list(
        odir5k_keywords.PRIORITY
    )


@pytest.mark.real_data
def test_real_eyes(odir5k_root):
    begin = time.process_time()
    table = odir5k_cases(odir5k_root)
    seconds = time.process_time() - begin
    assert table.source.endswith(f"annotations from {WORKBOOK}")
    assert len(table) + len(table.left_out) == 7000
    reasons = Counter(gone.reason.split(":")[0] for gone in table.left_out)
    assert reasons["no label"] == 30
    assert reasons["no image file"] > 1000
    assert seconds < 3


@pytest.mark.real_data
def test_real_csv_and_workbook_agree(odir5k_root):
    known = {one.id: one for one in read_patients(odir5k_root / WORKBOOK)}
    from_csv = read_patients(odir5k_root / "full_df.csv")
    assert len(from_csv) == 3358
    assert all(known[one.id] == one for one in from_csv)
