"""ODIR-5K as a data set in sections, and the real one."""

import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest

from medshadow.data import odir5k_keywords
from medshadow.data.odir5k import labels_from_keywords, odir5k_cases
from medshadow.data.odir5k_rows import read_patients


def test_finding_cases_does_not_import_monai():
    code = "import sys; from medshadow.data import odir5k_cases; print('monai' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.fixture
def many(tmp_path, odir):
    """Thirty patients; the left eye of 0 and that of 2 are one file."""
    words = ["normal fundus", "glaucoma", "cataract, drusen"]
    letters = ["N", "G", "CO"]
    patients = [odir.patient(i, words[i % 3], words[i % 3], letters[i % 3]) for i in range(30)]
    odir.write_workbook(tmp_path / odir.workbook, patients)
    folder = tmp_path / "Training Images"
    odir.draw(folder, [f"{i}_{side}" for i in range(30) for side in ("left", "right")])
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
def test_real_patient_letters_follow_from_the_keywords(odir, odir5k_root):
    patients = read_patients(odir5k_root / odir.workbook)
    assert len(patients) == 3500
    apart = []
    for one in patients:
        letters = frozenset().union(*(labels_from_keywords(",".join(e.keywords)) for e in one.eyes))
        if odir5k_keywords.without_normal(letters) != set(one.letters):
            apart.append(one.id)
    assert apart == ["4149"]


@pytest.mark.real_data
def test_real_keywords_are_all_in_the_table(odir, odir5k_root):
    patients = read_patients(odir5k_root / odir.workbook)
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
def test_real_eyes(odir, odir5k_root):
    begin = time.process_time()
    table = odir5k_cases(odir5k_root)
    seconds = time.process_time() - begin
    assert table.source.endswith(f"annotations from {odir.workbook}")
    assert len(table) + len(table.left_out) == 7000
    reasons = Counter(gone.reason.split(":")[0] for gone in table.left_out)
    assert reasons["no label"] == 30
    assert reasons["no image file"] > 1000
    assert seconds < 3


@pytest.mark.real_data
def test_real_csv_and_workbook_agree(odir, odir5k_root):
    known = {one.id: one for one in read_patients(odir5k_root / odir.workbook)}
    from_csv = read_patients(odir5k_root / "full_df.csv")
    assert len(from_csv) == 3358
    assert all(known[one.id] == one for one in from_csv)
