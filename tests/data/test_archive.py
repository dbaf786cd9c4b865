import logging
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage, generate_uid
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.data import archive_cases
from medshadow.data.archive_dicom import GROUPS, LABELS
from medshadow.data.site_key import SiteKey, read_site_key
from medshadow.errors import DataError
from medshadow.workflows.configuration import configs_folder

# MONAI says so each time it is asked to load, wherever pydicom is installed without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

SECRET = "k" * 40
KEY = SiteKey(SECRET.encode())
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "archive.md"


@pytest.fixture(autouse=True)
def _site_key(monkeypatch):
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", SECRET)


def draw(path, seed=0, size=(4, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(shade).save(path)


TABLE = pd.DataFrame(
    {
        "file": ["images/1.png", "images/2.png", "images/3.png", "images/4.png"],
        "diagnosis": ["melanoma", "naevus", "naevus", "Naevus"],
        "patient": ["4711", "4711", "4712", "0815"],
        "age": ["64", "64", "", "31.5"],
        "site": ["back", "arm", "", "leg"],
        "number": [f"case {i}" for i in range(4)],
    }
)
NAMED = {
    "image": "file",
    "label": "diagnosis",
    "group": "patient",
    "classes": {"melanoma": "mel", "naevus": "nv"},
}


def write_table(root, frame=TABLE, name="cases.csv", draw_images=True, **how):
    for i in range(1, 5) if draw_images else ():
        draw(root / "images" / f"{i}.png", i)
    path = root / name
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, **how)
    return path


def changed(**cells):
    """The table with cells replaced: ``column=(row, value)``."""
    frame = TABLE.copy()
    for column, (row, value) in cells.items():
        frame.loc[row, column] = value
    return frame


def assert_is_the_small_archive(table):
    frame = table.frame
    assert frame["label"].tolist() == ["mel", "nv", "nv", "nv"]
    assert frame["case_id"].tolist() == [KEY.hashed("case", f"images/{i}.png") for i in range(1, 5)]
    expected = [KEY.hashed("group", g) for g in TABLE["patient"]]
    assert frame["group"].tolist() == expected
    for i, path in enumerate(frame["image"], start=1):
        assert Path(path).is_file()
        assert path.endswith(f"{i}.png")
    assert table.classes == ("mel", "nv")
    assert table.name == "archive"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("cases.csv", {}),
        ("cases.csv", {"sep": ";"}),
        ("cases.CSV", {"encoding": "utf-8-sig"}),
        ("cases.tsv", {"sep": "\t"}),
        ("cases.parquet", {}),
    ],
)
def test_tables(tmp_path, name, how):
    table = archive_cases(write_table(tmp_path, name=name, **how), **NAMED)
    assert_is_the_small_archive(table)
    assert table.source == name
    assert table.metadata_columns == ()


def test_parquet_keeps_whole_numbers_whole(tmp_path):
    frame = TABLE.assign(patient=[4711.0, 4711.0, 4712.0, 815.0], number=[7, 8, 9, 10])
    path = write_table(tmp_path, frame, "cases.parquet")
    table = archive_cases(path, **{**NAMED, "case_id": "number"})
    assert table.frame["group"].tolist()[0] == KEY.hashed("group", "4711")
    assert table.frame["case_id"].tolist()[3] == KEY.hashed("case", "10")


def test_columns_that_are_named_are_kept_and_no_others(tmp_path):
    path = write_table(tmp_path)
    named = {**NAMED, "case_id": "number", "metadata": ["age", "site"]}
    table = archive_cases(path, malignant=["mel"], healthy={"nv"}, name="skin", **named)
    assert table.metadata_columns == ("age", "site")
    np.testing.assert_array_equal(table.frame["age"], [64, 64, np.nan, 31.5])
    assert table.frame["site"].tolist() == ["back", "arm", "", "leg"]
    assert table.frame["case_id"].tolist()[0] == KEY.hashed("case", "case 0")
    assert (table.malignant, table.healthy, table.name) == ({"mel"}, {"nv"}, "skin")


def test_images_may_lie_elsewhere(tmp_path):
    path = write_table(tmp_path, draw_images=False)
    for i in range(1, 5):
        draw(tmp_path / "far" / "images" / f"{i}.png", i)
    assert_is_the_small_archive(archive_cases(path, root=tmp_path / "far", **NAMED))


def test_several_labels_in_a_cell(tmp_path):
    frame = TABLE.assign(diagnosis=["a|b", "b", " b | c ", "healthy|"])
    path = write_table(tmp_path, frame)
    table = archive_cases(
        path, image="file", label="diagnosis", group="patient", separator="|", healthy={"healthy"}
    )
    assert table.multi_label
    assert table.frame["labels"].tolist() == [{"a", "b"}, {"b"}, {"b", "c"}, {"healthy"}]
    assert table.frame["label"].tolist() == ["a", "b", "c", "healthy"]


def test_without_a_group_each_image_is_one(tmp_path, caplog):
    path = write_table(tmp_path)
    with caplog.at_level(logging.WARNING):
        table = archive_cases(path, **{**NAMED, "group": None})
    assert table.frame["group"].nunique() == 4
    assert "4 images have no group" in caplog.text


def test_eyes_are_left_or_right(tmp_path):
    frame = TABLE.assign(eye=["OD", "left", "", "L"])
    table = archive_cases(write_table(tmp_path, frame), **NAMED, metadata=["eye"])
    assert [i["laterality"] for i in table.datalist()] == ["right", "left", "", "left"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"file": (1, "")}, r"row 3: file: empty"),
        ({"file": (1, "images/9.png")}, r"row 3: file: no such file$"),
        ({"file": (1, "images/1.png")}, r"row 3: the case id of row 2 again"),
        ({"patient": (3, " ")}, r"row 5: patient: empty"),
        ({"diagnosis": (0, "")}, r"row 2: diagnosis: empty"),
        ({"diagnosis": (0, "nevus")}, r"row 2: label: found \['nevus'\] that is none of classes"),
        ({"age": (2, "130")}, r"row 4: age: expected years from 0 to 120"),
        ({"age": (2, "nan")}, r"row 4: age: expected years"),
        (
            {"site": (0, "x"), "file": (0, "gone")},
            r"1 of 4 rows are wrong:\n  row 2: file: no such",
        ),
    ],
)
def test_wrong_rows_are_named(tmp_path, cells, message):
    path = write_table(tmp_path, changed(**cells))
    with pytest.raises(DataError) as caught:
        archive_cases(path, **NAMED, metadata=["age"])
    assert re.search(message, str(caught.value), re.MULTILINE)


def test_wrong_eyes_are_named(tmp_path):
    path = write_table(tmp_path, TABLE.assign(eye=["OD", "both", "", "L"]))
    with pytest.raises(DataError, match=r"row 3: eye: expected left, right"):
        archive_cases(path, **NAMED, metadata=["eye"])


def test_all_wrong_rows_come_in_one_message(tmp_path):
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(40)], "label": "", "group": "g"})
    path = write_table(tmp_path, frame, draw_images=False)
    with pytest.raises(DataError) as caught:
        archive_cases(path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("cases.csv: 40 of 40 rows are wrong:")
    assert lines[1] == "  row 2: label: empty; image: no such file"
    assert lines[11] == "  and 30 more"


def test_rows_with_too_many_values_are_named(tmp_path):
    path = write_table(tmp_path)
    path.write_text(path.read_text() + "images/1.png,naevus,1,2,x,y,z\n\nimages/2.png,naevus\n")
    with pytest.raises(DataError) as caught:
        archive_cases(path, **{**NAMED, "case_id": "number"})
    assert "row 6: 7 values; expected 6" in str(caught.value)
    assert "row 8: patient: empty; number: empty" in str(caught.value)


def test_wrong_rows_are_left_out_on_request(tmp_path, caplog):
    path = write_table(tmp_path, changed(file=(1, "Ann Example.png"), patient=(3, "")))
    with caplog.at_level(logging.WARNING):
        table = archive_cases(path, **NAMED, on_error="skip")
    assert len(table) == 2
    assert [(g.case_id, g.reason) for g in table.left_out] == [
        (KEY.hashed("case", "Ann Example.png"), "file: no such file"),
        (KEY.hashed("case", "images/4.png"), "patient: empty"),
    ]
    assert "2 images left out" in caplog.text
    assert "Ann" not in caplog.text
    assert str(tmp_path) not in caplog.text
    path = write_table(tmp_path, TABLE.assign(patient=""))
    with pytest.raises(DataError, match="no row can be used"):
        archive_cases(path, **NAMED, on_error="skip")


def test_tables_that_are_none(tmp_path):
    path = write_table(tmp_path)
    with pytest.raises(DataError, match=r"columns \['image', 'label', 'group'\] missing; found"):
        archive_cases(path)
    with pytest.raises(DataError, match=r"metadata: \['label'\] are columns of every case table"):
        archive_cases(path, **NAMED, metadata=["label"])
    with pytest.raises(DataError, match=r"malignant: \['scc'\] are none of the labels"):
        archive_cases(path, **NAMED, malignant={"scc"})
    with pytest.raises(DataError, match="gone: no such file or folder"):
        archive_cases(tmp_path / "gone")
    (tmp_path / "cases.xlsx").touch()
    with pytest.raises(DataError, match="expected a folder, or a table that ends in"):
        archive_cases(tmp_path / "cases.xlsx")
    for name, content in (("a.csv", b"\xff\xfe\x00"), ("a.parquet", b"PAR1x"), ("b.parquet", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: cannot be read as"):
            archive_cases(tmp_path / name)
    (tmp_path / "a.csv").write_text("image,label,group,label\n1.png,a,b,c\n")
    with pytest.raises(DataError, match=r"columns \['label'\] stand more than once"):
        archive_cases(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("image,label,group\n")
    with pytest.raises(DataError, match="no rows below the header"):
        archive_cases(tmp_path / "a.csv")


def test_without_a_key_nothing_is_read(tmp_path, monkeypatch):
    path = write_table(tmp_path)
    monkeypatch.delenv("MEDSHADOW_SITE_KEY")
    with pytest.raises(DataError, match=r"no key: .*MEDSHADOW_SITE_KEY.*secrets\.token_hex\(32\)"):
        archive_cases(path, **NAMED)
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "short")
    with pytest.raises(DataError, match="found 5 characters; expected 32 or more") as caught:
        archive_cases(path, **NAMED)
    assert "short" not in str(caught.value).split(";")[0]
    with pytest.raises(DataError, match=r"gone\.key cannot be read \(No such file"):
        archive_cases(path, **NAMED, site_key=tmp_path / "gone.key")
    (tmp_path / "site.key").write_text(f" {SECRET}\n")
    assert_is_the_small_archive(archive_cases(path, **NAMED, site_key=tmp_path / "site.key"))


def test_the_key_decides_the_names_and_stays_hidden():
    other = SiteKey(b"o" * 32)
    names = {k.hashed(kind, "4711") for k in (KEY, other) for kind in ("case", "group")}
    assert len(names) == 4
    assert read_site_key().hashed("case", "4711") == KEY.hashed("case", "4711")
    assert all(re.fullmatch("[0-9a-f]{24}", name) for name in names)
    assert SECRET not in f"{KEY} {KEY!r}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(KEY)


def test_class_folders(tmp_path, caplog):
    for i, name in enumerate(
        ("melanoma/4711/1.png", "naevus/4711/2.png", "naevus/4712/a/1.JPG", "naevus/3.png")
    ):
        draw(tmp_path / name, i)
    (tmp_path / "naevus" / "notes.txt").touch()
    with caplog.at_level(logging.WARNING):
        table = archive_cases(tmp_path, malignant={"melanoma"})
    frame = table.frame.set_index("case_id")
    expected = {
        "melanoma/4711/1.png": ("melanoma", "4711"),
        "naevus/4711/2.png": ("naevus", "4711"),
        "naevus/4712/a/1.JPG": ("naevus", "4712/a"),
        "naevus/3.png": ("naevus", "naevus/3.png"),
    }
    assert len(frame) == 4
    for case, (label, group) in expected.items():
        row = frame.loc[KEY.hashed("case", case)]
        assert (row["label"], row["group"]) == (label, KEY.hashed("group", group))
        assert row["image"] == str(tmp_path / case)
    assert "1 images have no group" in caplog.text
    draw(tmp_path / "5.png")
    with pytest.raises(DataError, match=r"file '5\.png': lies in no class's folder"):
        archive_cases(tmp_path)


def test_folders_without_images(tmp_path):
    with pytest.raises(DataError, match="no image in the folders below; expected a folder for"):
        archive_cases(tmp_path)
    with pytest.raises(DataError, match=r"no DICOM file there"):
        archive_cases(tmp_path, label=LABELS[0], group=GROUPS[0], classes={"a": "b"})


DIAGNOSES = {"Melanoma": "mel", "Melanocytic naevus": "nv"}
DICOM = {
    "label": "AdmittingDiagnosesDescription",
    "group": "PatientID",
    "classes": DIAGNOSES,
}


def write_dicom(path, seed=0, size=(4, 3), **attributes):
    """A photograph of noise around a grey that depends on the diagnosis."""
    diagnosis = attributes.get("AdmittingDiagnosesDescription", "Melanoma")
    rng = np.random.default_rng(seed)
    grey = 60 if diagnosis == "Melanoma" else 180
    pixels = np.clip(rng.normal(grey, 20, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    data = Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    data.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    data.Modality, data.PatientID, data.PatientName = "XC", "4711", "Example^Ann"
    data.PatientBirthDate, data.PatientAge, data.PatientSex = "19570401", "064Y", "F"
    data.AdmittingDiagnosesDescription = "Melanoma"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(data, name, value) if value is not None else delattr(data, name)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return data


def test_dicom_files(tmp_path):
    first = write_dicom(tmp_path / "a" / "IM0001", 1, BodyPartExamined="SKIN")
    write_dicom(
        tmp_path / "a" / "IM0002.dcm", 2, AdmittingDiagnosesDescription="melanocytic Naevus "
    )
    write_dicom(tmp_path / "b" / "1", 3, PatientID="4712", PatientAge=None, PatientSex=None)
    (tmp_path / "README").write_text("no DICOM")
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "b" / "1").read_bytes())
    table = archive_cases(tmp_path, **DICOM, metadata=["BodyPartExamined"], malignant={"mel"})
    frame = table.frame
    assert table.metadata_columns == ("age", "sex", "BodyPartExamined")
    assert frame["label"].tolist() == ["mel", "nv", "mel"]
    assert frame["case_id"][0] == KEY.hashed("case", first.SOPInstanceUID)
    assert frame["group"].tolist() == [KEY.hashed("group", g) for g in ("4711", "4711", "4712")]
    np.testing.assert_array_equal(frame["age"], [64, 64, np.nan])
    assert frame["sex"].tolist() == ["female", "female", "unknown"]
    assert frame["BodyPartExamined"].tolist() == ["SKIN", "", ""]
    assert table.classes == ("mel", "nv")


def test_dicom_files_of_eyes_tell_the_side(tmp_path):
    for side in ("L", "R"):
        write_dicom(
            tmp_path / side, SOPClassUID=OphthalmicPhotography8BitImageStorage, Modality="OP",
            ImageLaterality=side, PatientAge="018M",
        )  # fmt: skip
    table = archive_cases(tmp_path, **DICOM)
    assert table.frame["eye"].tolist() == ["left", "right"]
    assert table.frame["age"].tolist() == [1.5, 1.5]


def test_dicom_attributes_of_several_values_and_of_codes(tmp_path):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "372244006", "SCT", "Melanoma"
    write_dicom(
        tmp_path / "1",
        AdmittingDiagnosesDescription=["Melanoma", "Melanocytic naevus"],
        AdmittingDiagnosesCodeSequence=[code],
    )
    assert archive_cases(tmp_path, **DICOM).frame["labels"][0] == {"mel", "nv"}
    coded = {**DICOM, "label": "AdmittingDiagnosesCodeSequence", "classes": {372244006: "mel"}}
    assert archive_cases(tmp_path, **coded).frame["labels"][0] == {"mel"}


def test_attributes_that_are_on_no_list_are_refused(tmp_path):
    write_dicom(tmp_path / "1")
    for what, value in (("label", "PatientName"), ("group", "PatientBirthDate")):
        with pytest.raises(DataError, match=rf"{what}: found \['{value}'\]; expected some of"):
            archive_cases(tmp_path, **{**DICOM, what: value})
    with pytest.raises(DataError, match=r"metadata: found \['PatientName'\]; expected some of"):
        archive_cases(tmp_path, **DICOM, metadata=["PatientName"])
    with pytest.raises(DataError, match="classes: expected for DICOM files"):
        archive_cases(tmp_path, **{**DICOM, "classes": None})


def test_wrong_dicom_files_are_named_and_their_values_are_not(tmp_path, caplog):
    write_dicom(tmp_path / "1")
    write_dicom(tmp_path / "2", AdmittingDiagnosesDescription="Ann Example")
    write_dicom(tmp_path / "3", PatientID=None, AdmittingDiagnosesDescription=None)
    write_dicom(tmp_path / "4", SOPInstanceUID=generate_uid(entropy_srcs=[str(tmp_path / "1")]))
    (tmp_path / "5").write_bytes((tmp_path / "1").read_bytes()[:380])
    with pytest.raises(DataError) as caught:
        archive_cases(tmp_path, **DICOM)
    text = str(caught.value)
    assert "4 of 5 rows are wrong" in text
    assert "file '2': label: found a value that is none of classes" in text
    assert "file '3': AdmittingDiagnosesDescription: missing or empty; PatientID: missing" in text
    assert "file '4': the case id of another file again" in text
    assert "file '5': " in text
    assert "Ann" not in text
    with caplog.at_level(logging.INFO):
        table = archive_cases(tmp_path, **DICOM, on_error="skip")
    assert len(table) == 1
    on_record = f"{caplog.text} {table.left_out}"
    for told in ("Ann", "4711", "file '", str(tmp_path)):
        assert told not in on_record


def marked(data):
    """Put a mark into text elements that could come near the table, and a birth date."""
    for keyword in (
        "PatientName", "PatientID", "OtherPatientNames", "PatientComments", "PatientAddress",
        "AccessionNumber", "InstitutionName", "ReferringPhysicianName", "StudyDescription",
        "SeriesDescription", "ImageComments", "StudyID", "BodyPartExamined", "StationName",
        "Laterality", "PatientMotherBirthName", "OperatorsName", "ProtocolName",
    ):  # fmt: skip
        setattr(data, keyword, "MARKED" if keyword != "PatientName" else "Marked^MARKED")
    data.PatientBirthDate = "19570401"
    return data


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_marked_values_stay_out_of_the_table(tmp_path, caplog):
    data = marked(write_dicom(tmp_path / "1"))
    data.save_as(tmp_path / "1", enforce_file_format=True)
    assert pydicom.dcmread(tmp_path / "1").PatientComments == "MARKED"
    with caplog.at_level(logging.DEBUG):
        table = archive_cases(
            tmp_path, **DICOM, metadata=["BodyPartExamined", "Laterality", "Modality"]
        )
    rows = table.frame.drop(columns="image").to_csv()
    assert "XC" in rows
    for told in ("MARKED", "Marked", "19570401"):
        assert told not in rows + caplog.text + repr(table.left_out)


def documented(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def write_documented_files(root, photographs):
    write_table(root, TABLE[["file", "diagnosis", "patient", "age", "site"]])
    (root / "broken.csv").write_text(
        "file,diagnosis,patient\nimages/1.png,naevus,1\nimages/2.png,naevus,\n"
        "images/9.png,naevus,2\nimages/1.png,,3\n"
    )
    for i, name in enumerate(("melanoma/4711/1.png", "naevus/4711/2.png", "naevus/4712/1.png")):
        draw(root / "sorted" / name, i)
    for i in range(photographs):
        write_dicom(
            root / "dicom" / f"IM{i:04d}", i, (48, 40), PatientID=f"MARKED{i // 2}",
            AdmittingDiagnosesDescription=list(DIAGNOSES)[i // 2 % 2], BodyPartExamined="SKIN",
        )  # fmt: skip


def test_the_document_runs(tmp_path, monkeypatch, capsys):
    write_documented_files(tmp_path, photographs=4)
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in documented("python"):
        exec(code, names)
    printed = capsys.readouterr().out
    assert printed.startswith("4 ('mel', 'nv') ('age', 'site')\n")
    (message,) = [text for text in documented("text") if text.startswith("broken.csv")]
    assert printed.replace(f"{tmp_path}/", "").count(message) == 1
    assert printed.endswith("3 2\n4 ('mel', 'nv') ('age', 'sex', 'BodyPartExamined')\n")


@pytest.mark.slow
def test_the_documented_command_goes_the_whole_way(tmp_path, monkeypatch, small):
    write_documented_files(tmp_path, photographs=24)
    monkeypatch.chdir(tmp_path)
    (command,) = [code for code in documented("bash") if code.startswith("medshadow train")]
    sets = [f"--set={key}={yaml.safe_dump(value).strip()}" for key, value in small.items()]
    arguments = [*shlex.split(command)[1:], *sets]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    out = tmp_path / "runs" / "archive"
    assert (out / "model" / "model.json").is_file()
    assert (out / "cases.db").is_file()
    told = [b"MARKED", b"Example^Ann", b"19570401", b"IM0001"]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 5
    for path in written:
        content = path.read_bytes()
        assert not [mark for mark in told if mark in content], path.name


def test_the_configuration_differs_from_dermatology_in_the_cases_alone():
    plain, own = (
        yaml.safe_load((configs_folder() / f"{name}.yaml").read_text())
        for name in ("dermatology", "archive")
    )
    arguments = set(own) - set(plain)
    assert arguments == set(own["table"]["cases"]) - {"_target_", "source", "on_error"}
    assert not set(plain) - set(own)
    del plain["pipeline"]["diagnosis_names"]
    for config in (plain, own):
        del config["table"]["cases"], config["data_dir"], config["output_dir"]
        del config["pipeline"]["experiment"], config["near_duplicates"]
    assert {key: value for key, value in own.items() if key not in arguments} == plain


def test_making_a_table_does_not_import_monai():
    code = "import sys; from medshadow.data import archive_cases; print('monai' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
