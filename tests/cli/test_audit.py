import csv
import json

import pytest
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.data import write_phantoms

run = CliRunner().invoke


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A very small HAM10000 of drawn lesions, one of them under two lesion ids."""
    return write_phantoms(tmp_path_factory.mktemp("drawn"), lesions=22, progress=False)


@pytest.fixture(scope="module")
def by_image(drawn, tmp_path_factory):
    """A split dealt image by image: every other one to the test section."""
    path = tmp_path_factory.mktemp("split") / "by_image.csv"
    names = sorted(p.stem for p in drawn.glob("*/*.jpg"))
    rows = [f"{name},{'test' if i % 2 else 'train'}" for i, name in enumerate(names)]
    path.write_text("\n".join(["image_id,split", *rows]) + "\n")
    return path


def test_audit_writes_a_table_json_and_a_page(drawn, by_image, tmp_path):
    shown = run(app, ["audit", str(drawn), "--out", str(tmp_path), "--split", str(by_image)])
    assert shown.exit_code == 0, shown.output
    assert "sets of groups to merge" in shown.output
    found = json.loads((tmp_path / "audit.json").read_text())
    assert len(found["same_file"]) == 1
    rows = list(csv.DictReader((tmp_path / "audit.csv").read_text().splitlines()))
    assert {row["finding"] for row in rows} >= {"same_file", "same_groups", "leaking", "leaks"}
    assert [r["what"] for r in rows if r["finding"] == "same_file"] == [
        " ".join(found["same_file"][0])
    ]
    page = (tmp_path / "audit.html").read_text()
    assert all(f'alt="{case}"' in page for case in found["same_file"][0])
    for path in tmp_path.iterdir():
        assert str(drawn) not in path.read_text()


def test_json_is_all_that_is_printed_and_the_search_can_be_left_out(drawn):
    found = json.loads(run(app, ["audit", str(drawn), "--json", "--no-near"]).stdout)
    assert found["near_duplicates"] is None
    assert len(found["same_groups"]) == 1
    assert found["leaking"] == []


def test_only_the_duplicate_is_found_among_drawn_lesions(drawn):
    found = json.loads(run(app, ["audit", str(drawn), "--json"]).stdout)
    assert len(found["near_duplicates"]) >= 1
    assert len(found["same_groups"]) == 1


def test_a_split_by_image_leaks(drawn, by_image):
    words = ["audit", str(drawn), "--json", "--no-near", "--split", str(by_image)]
    (leak,) = json.loads(run(app, words).stdout)["leaks"]
    assert leak["section"] == "test"
    assert 0 < leak["leaking_images"] <= leak["images"]
    assert leak["share"] == pytest.approx(leak["leaking_images"] / leak["images"], abs=1e-4)


def test_a_folder_that_holds_no_data_set_is_refused(tmp_path):
    done = run(app, ["audit", str(tmp_path)])
    assert done.exit_code == 1
    assert "no data set that is known" in str(done.exception)


def test_an_own_archive_is_audited_by_its_columns(drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "0" * 32)
    images = sorted(drawn.glob("*/*.jpg"))[:2]
    rows = [f"{image},mel,patient{i}" for i, image in enumerate(images)]
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(["file,diagnosis,patient", *rows]) + "\n")
    words = ["audit", str(table), "--json", "--set", "image=file", "--set", "label=diagnosis"]
    shown = run(app, [*words, "--set", "group=patient"])
    assert shown.exit_code == 0, shown.output
    counts = json.loads(shown.stdout)["counts"]
    assert counts == [{"of": "label", "name": "mel", "images": 2, "groups": 2}]
    assert "patient0" not in shown.stdout
