import json
import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medshadow.data.audit import AuditReport, audit, clean
from medshadow.data.audit_page import audit_page
from medshadow.data.cases import CaseTable, LeftOut
from medshadow.errors import DataError


def noise(seed):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    )


@pytest.fixture
def table(tmp_path):
    """Lesions 1 to 9: sound, duplicated, blank, damaged and absent images."""
    noise(0).save(tmp_path / "sound.png")
    noise(1).save(tmp_path / "first.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "first.png").read_bytes())
    noise(1).save(tmp_path / "resaved.bmp")
    Image.new("RGB", (30, 20), (3, 2, 1)).save(tmp_path / "black1.png")
    Image.new("RGB", (30, 20), (3, 2, 1)).save(tmp_path / "black2.png")
    Image.new("RGB", (30, 20), (200, 150, 150)).save(tmp_path / "flat.png")
    (tmp_path / "empty.png").write_bytes(b"")
    names = ["sound.png", "first.png", "copy.png", "resaved.bmp", "black1.png", "black2.png"]
    names += ["flat.png", "empty.png", "absent.png"]
    return CaseTable(
        pd.DataFrame(
            {
                "case_id": [name.split(".")[0] for name in names],
                "image": [str(tmp_path / name) for name in names],
                "group": [f"lesion{i}" for i in range(1, 10)],
                "label": ["nv", "nv", "nv", "mel", "nv", "mel", "nv", "nv", "nv"],
                "age": [30, 0, 60, 120, 55, 40, 41, 42, np.nan],
            }
        )
    )


@pytest.fixture
def report(table):
    return audit(table, progress=False)


def test_unreadable_and_missing_images_are_told_apart(report, tmp_path):
    assert [gone.case_id for gone in report.unreadable] == ["absent", "empty"]
    assert report.missing == ("absent",)
    reasons = {gone.case_id: gone.reason for gone in report.unreadable}
    assert reasons["empty"].startswith("empty file (0 bytes)")
    assert str(tmp_path) not in json.dumps(report.to_dict())


def test_blank_images_are_found(report):
    assert report.near_black == ("black1", "black2")
    assert report.flat == ("black1", "black2", "flat")


def test_duplicates_by_file_and_by_pixels(report):
    assert report.same_file == (("black1", "black2"), ("copy", "first"))
    assert report.same_pixels == (("copy", "first", "resaved"),)


def test_duplicates_merge_groups_and_blank_images_do_not(report):
    assert report.same_groups == (("lesion2", "lesion3", "lesion4"),)


def test_duplicates_of_different_diagnosis_conflict(report):
    assert report.label_conflicts == (("copy", "first", "resaved"),)


def test_the_same_bytes_in_another_shape_are_not_a_duplicate(tmp_path):
    pixels = np.asarray(noise(0))
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.reshape(30, 20, 3)).save(tmp_path / "tall.png")
    frame = pd.DataFrame(
        {
            "case_id": ["wide", "tall"],
            "image": [str(tmp_path / "wide.png"), str(tmp_path / "tall.png")],
            "group": ["1", "2"],
            "label": "nv",
        }
    )
    found = audit(CaseTable(frame), progress=False)
    assert found.same_pixels == ()
    assert found.same_groups == ()


@pytest.mark.parametrize(
    ("changed", "unlike"),
    [
        ({"age": [50, 55, np.nan]}, False),
        ({"age": [50, 56, 50]}, True),
        ({"sex": ["female", "unknown", None]}, False),
        ({"sex": ["female", "unknown", "male"]}, True),
        ({}, False),
    ],
)
def test_merged_groups_that_differ_in_age_or_sex_are_named(table, changed, unlike):
    first = table.frame["case_id"].isin(["first", "copy", "resaved"])
    frame = table.frame[first].drop(columns="age").assign(**changed)
    found = audit(CaseTable(frame), progress=False)
    merged = (("lesion2", "lesion3", "lesion4"),)
    assert found.same_groups == merged
    assert found.unlike_people == (merged if unlike else ())


def test_groups_of_several_labels_sections_and_odd_ages(table):
    frame = table.frame.assign(
        group=["1", "1", "1", "1", "2", "3", "4", "5", "6"],
        section=["training", "test", *["test"] * 7],
    )
    found = audit(CaseTable(frame), progress=False)
    assert found.mixed_groups == ("1",)
    assert found.leaking == ("1",)
    assert found.odd_ages == ("first", "resaved")
    counts = found.counts.set_index(["of", "name"])
    assert counts.loc[("label", "nv")].tolist() == [7, 5]
    assert counts.loc[("label", "mel")].tolist() == [2, 2]
    assert counts.loc[("section", "test")].tolist() == [8, 6]
    assert counts.loc[("section", "training")].tolist() == [1, 1]


def test_an_image_of_two_labels_counts_for_both(table):
    labels = [frozenset({"mel", "nv"}), *table.frame["labels"][1:]]
    counts = audit(CaseTable(table.frame.assign(labels=labels)), progress=False).counts
    assert counts["images"].sum() == 10


def test_the_report_is_the_same_for_any_threads_and_row_order(table, report):
    other = audit(CaseTable(table.frame.iloc[::-1]), threads=1, progress=False)
    assert other.to_dict() == report.to_dict()


def test_the_report_is_json_and_comes_with_a_summary(report):
    data = json.loads(json.dumps(report.to_dict()))
    assert data["same_groups"] == [["lesion2", "lesion3", "lesion4"]]
    assert data["unreadable"][1]["case_id"] == "empty"
    assert {"of": "label", "name": "mel", "images": 2, "groups": 2} in data["counts"]
    summary = report.summary().set_index("finding")
    assert summary.loc["images that cannot be read", "count"] == 2
    assert summary.loc["sets of groups to merge", "first"] == "lesion2 = lesion3 = lesion4"


def test_clean_refuses_unreadable_images_by_name(table, report):
    with pytest.raises(DataError, match=r"2 images cannot be used: absent \(.*; empty \(empty"):
        clean(table, report)


def test_clean_leaves_out_on_request_and_says_so(table, report, caplog):
    with caplog.at_level(logging.WARNING):
        cleaned = clean(table, report, on_error="skip")
    assert "2 images left out: absent" in caplog.text
    assert [gone.case_id for gone in cleaned.left_out] == ["absent", "empty"]
    group_of = dict(zip(cleaned.frame["case_id"], cleaned.frame["group"], strict=True))
    assert set(group_of) == set(table.frame["case_id"]) - {"absent", "empty"}
    assert group_of["first"] == group_of["copy"] == group_of["resaved"] == "lesion2"
    assert group_of["sound"] == "lesion1"


def test_clean_passes_a_sound_table_silently(table, caplog):
    sound = table.without([LeftOut("absent", "x"), LeftOut("empty", "x")])
    with caplog.at_level(logging.WARNING):
        clean(sound, audit(sound, progress=False))
    assert caplog.text == ""


def test_clean_wants_the_report_of_this_table(table, report):
    other = table.without([LeftOut("sound", "not wanted")])
    with pytest.raises(DataError, match="another table's"):
        clean(other, report, on_error="skip")


def test_an_unknown_policy_is_refused(table, report):
    with pytest.raises(DataError, match="found 'ignore'; expected 'raise' or 'skip'"):
        clean(table, report, on_error="ignore")


@pytest.mark.real_data
def test_the_two_identical_pairs_of_ham10000_are_found(ham10000_root):
    from medshadow.data.ham10k import ham10k_cases

    table = ham10k_cases(ham10000_root)
    pairs = {"ISIC_0024366", "ISIC_0029861", "ISIC_0024777", "ISIC_0029938"}
    lesions = table.frame.loc[table.frame["case_id"].isin(pairs), "group"]
    some = table.frame["group"].isin(set(lesions)) | (table.frame.index % 20 == 0)
    few = CaseTable(table.frame[some])
    # Each pair lies in one lesion already; as images of their own they must be brought together.
    apart = few.frame.assign(group=few.frame["case_id"])
    report = audit(CaseTable(apart), progress=False)
    assert report.same_file == (
        ("ISIC_0024366", "ISIC_0029861"),
        ("ISIC_0024777", "ISIC_0029938"),
    )
    assert report.same_groups == report.same_file
    assert report.unreadable == report.near_black == report.flat == ()
    assert audit(few, progress=False).same_groups == ()


def texture(seed, cut=0):
    """A scene with enough to see, as photographed or a little to the side."""
    coarse = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    return (
        Image.fromarray(coarse)
        .resize((200, 200), Image.Resampling.BICUBIC)
        .crop((cut, cut, 180 + cut, 180 + cut))
    )


@pytest.fixture
def photographed_again(tmp_path):
    """Patients 1 and 2 are one, 3 and 4 are not; 2 and 3 share an identical file."""
    texture(0).save(tmp_path / "a.png")
    texture(0, cut=15).save(tmp_path / "b.png")
    texture(1).save(tmp_path / "c.png")
    texture(1).save(tmp_path / "d.png")
    texture(2).save(tmp_path / "e.png")
    frame = pd.DataFrame(
        {
            "case_id": list("abcde"),
            "image": [str(tmp_path / f"{name}.png") for name in "abcde"],
            "group": list("12234"),
            "label": ["G", "N", "N", "N", "N"],
            "section": ["test", "training", "training", "test", "test"],
        }
    )
    return CaseTable(frame, name="eyes <b>")


def test_near_duplicates_are_searched_for_on_request(photographed_again):
    without = audit(photographed_again, progress=False)
    assert without.near_duplicates is None
    assert without.same_groups == (("2", "3"),)
    summary = without.summary().set_index("finding")
    assert summary.loc["pairs that show the same lesion or eye", "first"] == "not searched"
    found = audit(photographed_again, near=True, progress=False)
    assert [(p.first, p.second) for p in found.near_duplicates] == [("a", "b"), ("c", "d")]
    assert found.same_groups == (("1", "2", "3"),)
    assert found.label_conflicts == (("a", "b"),)
    assert clean(photographed_again, found).frame["group"].tolist() == list("11114")


def test_leakage_is_told_over_the_merged_groups(photographed_again):
    found = audit(photographed_again, near=True, progress=False)
    assert found.leaking == ("1",)
    (leak,) = found.leaks
    assert (leak.section, leak.seen_in) == ("test", "training")
    assert (leak.leaking_images, leak.images) == (2, 3)
    assert found.to_dict()["leaks"][0]["share"] == 0.6667


def test_a_report_can_be_read_back(photographed_again, report):
    for told in (report, audit(photographed_again, near=True, progress=False)):
        data = json.loads(json.dumps(told.to_dict()))
        again = AuditReport.from_dict({**data, "note": "x"})
        assert again.to_dict() == told.to_dict()
        assert again.same_groups == told.same_groups


def test_a_report_from_before_a_kind_of_finding_has_none_of_it(report):
    data = report.to_dict()
    del data["unlike_people"]
    assert AuditReport.from_dict(data).unlike_people == ()


def test_findings_are_rows(photographed_again, tmp_path):
    rows = audit(photographed_again, near=True, progress=False).findings()
    near = rows[rows["finding"] == "near_duplicates"]
    assert near["what"].tolist() == ["a b", "c d"]
    assert near["detail"].str.contains("keypoints agree, correlation").all()
    assert "2 of 3 test images (66.7%)" in rows[rows["finding"] == "leaks"]["detail"].item()
    assert str(tmp_path) not in rows.to_csv()


def test_left_out_cases_are_told(table):
    few = table.without([LeftOut("absent", "no image"), LeftOut("empty", "no image")])
    report = audit(few, progress=False)
    assert [gone.case_id for gone in report.left_out] == ["absent", "empty"]
    assert report.to_dict()["left_out"][0] == {"case_id": "absent", "reason": "no image"}


def test_the_page_shows_the_images_and_asks_for_nothing(photographed_again, tmp_path):
    page = audit_page(audit(photographed_again, near=True, progress=False), photographed_again)
    assert page.count("<img") == page.count('src="data:image/jpeg;base64,') == 8
    assert "eyes &lt;b&gt;" in page
    assert "<b>a</b>" in page
    assert "labels differ" in page
    assert "default-src 'none'; img-src data:" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    assert str(tmp_path) not in page


def test_the_page_escapes_what_the_table_says(photographed_again):
    frame = photographed_again.frame.assign(keywords='<img src="x" onerror=alert(1)>')
    told = CaseTable(frame)
    page = audit_page(audit(told, progress=False), told)
    assert "onerror=alert(1)&gt;" in page
    assert '<img src="x"' not in page


def test_the_page_goes_on_without_an_image_that_has_gone(photographed_again, tmp_path):
    report = audit(photographed_again, progress=False)
    (tmp_path / "c.png").unlink()
    assert audit_page(report, photographed_again).count("<img") == 2
