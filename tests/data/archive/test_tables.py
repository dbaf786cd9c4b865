"""An archive of one's own as a table of images."""

import logging
import pickle
import re

import numpy as np
import pandas as pd
import pytest

from medshadow.data import archive_cases
from medshadow.data.site_key import SiteKey, read_site_key
from medshadow.errors import DataError


def changed(table, **cells):
    """The table with cells replaced: ``column=(row, value)``."""
    frame = table.copy()
    for column, (row, value) in cells.items():
        frame.loc[row, column] = value
    return frame


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
def test_tables(tmp_path, archive, name, how):
    table = archive_cases(archive.write_table(tmp_path, name=name, **how), **archive.named)
    archive.assert_is_in(table)
    assert table.source == name
    assert table.metadata_columns == ()


def test_parquet_keeps_whole_numbers_whole(tmp_path, archive):
    frame = archive.table.assign(patient=[4711.0, 4711.0, 4712.0, 815.0], number=[7, 8, 9, 10])
    path = archive.write_table(tmp_path, frame, "cases.parquet")
    table = archive_cases(path, **{**archive.named, "case_id": "number"})
    assert table.frame["group"].tolist()[0] == archive.key.hashed("group", "4711")
    assert table.frame["case_id"].tolist()[3] == archive.key.hashed("case", "10")


def test_columns_that_are_named_are_kept_and_no_others(tmp_path, archive):
    path = archive.write_table(tmp_path)
    named = {**archive.named, "case_id": "number", "metadata": ["age", "site"]}
    table = archive_cases(path, malignant=["mel"], healthy={"nv"}, name="skin", **named)
    assert table.metadata_columns == ("age", "site")
    np.testing.assert_array_equal(table.frame["age"], [64, 64, np.nan, 31.5])
    assert table.frame["site"].tolist() == ["back", "arm", "", "leg"]
    assert table.frame["case_id"].tolist()[0] == archive.key.hashed("case", "case 0")
    assert (table.malignant, table.healthy, table.name) == ({"mel"}, {"nv"}, "skin")


def test_images_may_lie_elsewhere(tmp_path, archive):
    path = archive.write_table(tmp_path, draw_images=False)
    for i in range(1, 5):
        archive.draw(tmp_path / "far" / "images" / f"{i}.png", i)
    archive.assert_is_in(archive_cases(path, root=tmp_path / "far", **archive.named))


def test_several_labels_in_a_cell(tmp_path, archive):
    frame = archive.table.assign(diagnosis=["a|b", "b", " b | c ", "healthy|"])
    path = archive.write_table(tmp_path, frame)
    table = archive_cases(
        path, image="file", label="diagnosis", group="patient", separator="|", healthy={"healthy"}
    )
    assert table.multi_label
    assert table.frame["labels"].tolist() == [{"a", "b"}, {"b"}, {"b", "c"}, {"healthy"}]
    assert table.frame["label"].tolist() == ["a", "b", "c", "healthy"]


def test_without_a_group_each_image_is_one(tmp_path, archive, caplog):
    path = archive.write_table(tmp_path)
    with caplog.at_level(logging.WARNING):
        table = archive_cases(path, **{**archive.named, "group": None})
    assert table.frame["group"].nunique() == 4
    assert "4 images have no group" in caplog.text


def test_eyes_are_left_or_right(tmp_path, archive):
    frame = archive.table.assign(eye=["OD", "left", "", "L"])
    table = archive_cases(archive.write_table(tmp_path, frame), **archive.named, metadata=["eye"])
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
def test_wrong_rows_are_named(tmp_path, archive, cells, message):
    path = archive.write_table(tmp_path, changed(archive.table, **cells))
    with pytest.raises(DataError) as caught:
        archive_cases(path, **archive.named, metadata=["age"])
    assert re.search(message, str(caught.value), re.MULTILINE)


def test_wrong_eyes_are_named(tmp_path, archive):
    path = archive.write_table(tmp_path, archive.table.assign(eye=["OD", "both", "", "L"]))
    with pytest.raises(DataError, match=r"row 3: eye: expected left, right"):
        archive_cases(path, **archive.named, metadata=["eye"])


def test_all_wrong_rows_come_in_one_message(tmp_path, archive):
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(40)], "label": "", "group": "g"})
    path = archive.write_table(tmp_path, frame, draw_images=False)
    with pytest.raises(DataError) as caught:
        archive_cases(path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("cases.csv: 40 of 40 rows are wrong:")
    assert lines[1] == "  row 2: label: empty; image: no such file"
    assert lines[40] == "  row 41: label: empty; image: no such file"


def test_an_image_of_an_impossible_name_is_named_by_row(tmp_path, archive):
    frame = pd.DataFrame({"image": ["i" * 5000, "absent.png"], "label": "a", "group": "g"})
    path = archive.write_table(tmp_path, frame, draw_images=False)
    with pytest.raises(DataError, match=r"2 of 2 rows are wrong:\n  row 2: image: no such file"):
        archive_cases(path)


def test_rows_with_too_many_values_are_named(tmp_path, archive):
    path = archive.write_table(tmp_path)
    path.write_text(path.read_text() + "images/1.png,naevus,1,2,x,y,z\n\nimages/2.png,naevus\n")
    with pytest.raises(DataError) as caught:
        archive_cases(path, **{**archive.named, "case_id": "number"})
    assert "row 6: 7 values; expected 6" in str(caught.value)
    assert "row 8: patient: empty; number: empty" in str(caught.value)


def test_wrong_rows_are_left_out_on_request(tmp_path, archive, caplog):
    path = archive.write_table(
        tmp_path, changed(archive.table, file=(1, "Ann Example.png"), patient=(3, ""))
    )
    with caplog.at_level(logging.WARNING):
        table = archive_cases(path, **archive.named, on_error="skip")
    assert len(table) == 2
    assert [(g.case_id, g.reason) for g in table.left_out] == [
        (archive.key.hashed("case", "Ann Example.png"), "file: no such file"),
        (archive.key.hashed("case", "images/4.png"), "patient: empty"),
    ]
    assert "2 images left out" in caplog.text
    assert "Ann" not in caplog.text
    assert str(tmp_path) not in caplog.text
    path = archive.write_table(tmp_path, archive.table.assign(patient=""))
    with pytest.raises(DataError, match="no row can be used"):
        archive_cases(path, **archive.named, on_error="skip")


def test_tables_that_are_none(tmp_path, archive):
    path = archive.write_table(tmp_path)
    with pytest.raises(DataError, match=r"columns \['image', 'label', 'group'\] missing; found"):
        archive_cases(path)
    with pytest.raises(DataError, match=r"metadata: \['label'\] are columns of every case table"):
        archive_cases(path, **archive.named, metadata=["label"])
    with pytest.raises(DataError, match=r"malignant: \['scc'\] are none of the labels"):
        archive_cases(path, **archive.named, malignant={"scc"})
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


def test_without_a_key_nothing_is_read(tmp_path, archive, monkeypatch):
    path = archive.write_table(tmp_path)
    monkeypatch.delenv("MEDSHADOW_SITE_KEY")
    with pytest.raises(DataError, match=r"no key: .*MEDSHADOW_SITE_KEY.*secrets\.token_hex\(32\)"):
        archive_cases(path, **archive.named)
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "short")
    with pytest.raises(DataError, match="found 5 characters; expected 32 or more") as caught:
        archive_cases(path, **archive.named)
    assert "short" not in str(caught.value).split(";")[0]
    with pytest.raises(DataError, match=r"gone\.key cannot be read \(No such file"):
        archive_cases(path, **archive.named, site_key=tmp_path / "gone.key")
    (tmp_path / "site.key").write_text(f" {archive.secret}\n")
    archive.assert_is_in(archive_cases(path, **archive.named, site_key=tmp_path / "site.key"))


def test_the_key_decides_the_names_and_stays_hidden(archive):
    other = SiteKey(b"o" * 32)
    names = {k.hashed(kind, "4711") for k in (archive.key, other) for kind in ("case", "group")}
    assert len(names) == 4
    assert read_site_key().hashed("case", "4711") == archive.key.hashed("case", "4711")
    assert all(re.fullmatch("[0-9a-f]{24}", name) for name in names)
    assert archive.secret not in f"{archive.key} {archive.key!r}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(archive.key)
