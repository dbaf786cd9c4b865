"""Drawn fundi: ODIR-5K's layout, its rules, its traps, and eyes that look like what they are."""

import hashlib
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook

from medshadow.data.odir5k_keywords import LETTER_OF, QUALITY
from medshadow.data.phantom_anatomy import draw_person
from medshadow.data.phantom_cohort import FIRST_ID, draw_cohort
from medshadow.data.phantom_fundus_findings import FINDINGS, draw_eye
from medshadow.data.phantom_fundus_scenes import CAMERAS, HEIGHT, photograph_eye
from medshadow.data.phantoms import write_phantoms
from medshadow.errors import DataError

PATIENTS = 26
BOOK = "ODIR-5K_Training_Annotations(Updated)_V2.xlsx"
COMMA = "\N{FULLWIDTH COMMA}"


def draw(root: Path, **options) -> Path:
    return write_phantoms(root, "fundi", patients=PATIENTS, progress=False, **options)


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("fundi"))


@pytest.fixture(scope="module")
def rows(root):
    return pd.read_excel(root / BOOK)


@pytest.fixture(scope="module")
def cohort():
    return draw_cohort(np.random.default_rng(3), 480)


def test_the_same_seed_gives_the_same_bytes_without_any_global_randomness(root, tmp_path):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    again = draw(tmp_path)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert digests(again) == digests(root)


def test_layout_is_the_organisers(root, rows):
    assert sorted(path.name for path in root.iterdir()) == [BOOK, "Training Images"]
    assert load_workbook(root / BOOK).sheetnames == ["Sheet1"]
    assert list(rows.columns) == [
        "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
        "Left-Diagnostic Keywords", "Right-Diagnostic Keywords",
        "N", "D", "G", "C", "A", "H", "M", "O",
    ]  # fmt: skip
    named = {*rows["Left-Fundus"], *rows["Right-Fundus"]}
    assert {path.name for path in (root / "Training Images").iterdir()} == named
    assert len(rows) == PATIENTS
    assert (rows["Left-Fundus"] == rows["ID"].astype(str) + "_left.jpg").all()
    for name in named:
        height, width, _ = cv2.imread(str(root / "Training Images" / name)).shape
        assert height == HEIGHT
        assert width in {camera.width for camera in CAMERAS}


def test_no_id_can_be_taken_for_a_real_one(rows):
    assert rows["ID"].is_unique
    assert rows["ID"].min() >= FIRST_ID > 5000


def test_values_are_plausible(cohort):
    assert {p.sex for p in cohort} == {"Male", "Female"}
    assert all(18 <= p.age <= 93 for p in cohort)
    ages = pd.Series({p.id: p.age for p in cohort if p.letters()["A"]})
    assert ages.mean() > np.mean([p.age for p in cohort])


def test_patients_letters_follow_the_organisers_rule_from_real_keywords(cohort):
    for patient in cohort:
        words = {
            word.removeprefix("suspected ")
            for eye in (patient.left, patient.right)
            for word in eye.keywords().split(COMMA)
        }
        assert words <= {*LETTER_OF, *QUALITY}
        letters = {LETTER_OF[word] for word in words if word in LETTER_OF}
        expected = letters - {"N"} or {"N"}
        assert {letter for letter, is_so in patient.letters().items() if is_so} == expected


def test_dust_is_never_alone_and_poor_pictures_say_nothing_else(cohort):
    words = [e.keywords().split(COMMA) for p in cohort for e in (p.left, p.right)]
    dusty = [w for w in words if "lens dust" in w]
    assert 0.04 < len(dusty) / len(words) < 0.2
    assert all(len(w) > 1 for w in dusty)
    poor = [w for w in words if "low image quality" in w]
    assert poor
    assert all(w == ["low image quality"] for w in poor)


def test_every_disease_is_there_and_eyes_may_have_several(cohort):
    letters = pd.DataFrame([p.letters() for p in cohort])
    assert (letters.sum() >= 20).all()
    assert letters.drop(columns="N").any(axis=1).mean() > 0.6
    findings = [set(e.findings) for p in cohort for e in (p.left, p.right)]
    assert 0.05 < np.mean([len(f) > 1 for f in findings]) < 0.35
    assert set().union(*findings) == set(FINDINGS)
    some = [p for p in cohort if bool(p.left.findings) != bool(p.right.findings)]
    assert len(some) > 40  # one eye ill, the other not


def test_ids_are_ordered_by_disease_as_in_the_real_set(cohort):
    healthy = [p.letters()["N"] for p in cohort if not p.copy]
    assert healthy == sorted(healthy, reverse=True)


@pytest.mark.parametrize("patients", [24, 25, 200, 480])
def test_there_are_as_many_patients_as_asked_for_and_copies_among_them(patients):
    cohort = draw_cohort(np.random.default_rng(0), patients)
    assert [p.id for p in cohort] == list(range(FIRST_ID, FIRST_ID + patients))
    again = [p for p in cohort if p.copy]
    assert len(again) == 2 * max(1, patients // 160)
    for copy in again:
        first = cohort[copy.number]
        assert first.id != copy.id
        assert (first.left, first.right, first.sex) == (copy.left, copy.right, copy.sex)


def test_one_patient_is_there_twice_byte_for_byte_and_one_photographed_again(root, rows):
    folder = root / "Training Images"
    same = pd.Series(digests(folder)).rename("digest").reset_index()
    twice = same[same.duplicated("digest", keep=False)]
    assert len(twice) == 4
    ids = sorted({int(name.split("_")[0]) for name in twice["index"]})
    assert ids[1] == rows["ID"].iloc[-2]
    cohort = draw_cohort(np.random.default_rng([0, 2]), PATIENTS)
    again = cohort[-1]
    assert again.copy == "photograph"
    first = cohort[again.number]
    pictures = [cv2.imread(str(folder / f"{n}_left.jpg"), 0) for n in (first.id, again.id)]
    assert matches(*pictures) > 3 * max(1, matches(pictures[0], stranger(folder, cohort, first)))


def stranger(folder, cohort, patient):
    other = next(p for p in cohort if p.number != patient.number and not p.copy)
    return cv2.imread(str(folder / f"{other.id}_left.jpg"), 0)


def matches(one, other) -> int:
    """Keypoints of two pictures that agree on one turn, scale and shift."""
    finder = cv2.SIFT_create(400)
    (points, about), (others, about_others) = (
        finder.detectAndCompute(cv2.createCLAHE(3, (8, 8)).apply(p), None) for p in (one, other)
    )
    pairs = cv2.BFMatcher().knnMatch(about, about_others, 2)
    good = [a for a, b in pairs if a.distance < 0.8 * b.distance]
    if len(good) < 4:
        return 0
    here = np.float32([points[m.queryIdx].pt for m in good])
    there = np.float32([others[m.trainIdx].pt for m in good])
    _, fits = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=4)
    return int(fits.sum())


def test_writing_again_replaces_phantoms_and_refuses_real_cases(root, tmp_path):
    folder = shutil.copytree(root, tmp_path / "set") / "Training Images"
    write_phantoms(folder.parent, "fundi", patients=24, seed=1, progress=False)
    assert len(list(folder.iterdir())) == 48
    assert not set(digests(folder).values()) & set(digests(root).values())
    (folder / "12_left.jpg").write_bytes(b"real")
    with pytest.raises(DataError, match=r"no phantoms.*12_left"):
        draw(folder.parent)
    (folder / "12_left.jpg").unlink()
    book = folder.parent / BOOK
    pd.read_excel(book).assign(ID=4691).to_excel(book, index=False)
    with pytest.raises(DataError, match=r"no phantoms.*4691"):
        draw(folder.parent)
    assert len(list(folder.iterdir())) == 48


def test_too_few_patients_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="at least 24; found 5"):
        write_phantoms(tmp_path / "new", "fundi", patients=5)
    assert not (tmp_path / "new").exists()


def test_the_disc_lies_nasally_right_in_a_right_eye_and_left_in_a_left_one():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        person = draw_person(rng, 30)
        retina = draw_eye(rng, person, {})
        assert retina.anatomy.disc[0] > retina.anatomy.fovea[0]
        for left in (False, True):
            state = np.random.default_rng(seed)
            picture = photograph_eye(state, retina, person, CAMERAS[0], left).astype(float)
            green = cv2.GaussianBlur(picture[..., 1], (0, 0), 4)
            middle = green[80:192]
            brightest = np.unravel_index(middle.argmax(), middle.shape)[1]
            assert (brightest < 136) == left


def test_fields_of_view_are_round_cut_off_or_framed_with_black_around():
    rng = np.random.default_rng(0)
    person = draw_person(rng, 60)
    retina = draw_eye(rng, person, {})
    shapes = []
    for camera in CAMERAS:
        picture = photograph_eye(np.random.default_rng(1), retina, person, camera, left=False)
        assert picture.shape == (HEIGHT, camera.width, 3)
        assert picture[:8, :8].max() <= camera.black + 6
        seen = picture.max(2) > 30
        down, across = seen.any(1).sum(), seen.any(0).sum()
        shapes.append(down / across)
    assert min(shapes) < 0.95
    assert max(shapes) > 0.98


def layers(finding: dict, seed: int):
    rng = np.random.default_rng(seed)
    return draw_eye(rng, draw_person(rng, 60), finding)


@pytest.mark.parametrize("keyword", FINDINGS)
def test_every_finding_changes_the_eye_and_stays_within_bounds(keyword):
    eye, healthy = layers({keyword: 0.8}, 1), layers({}, 1)
    picture = eye.picture((0.8, 0.4, 0.2))
    assert np.isfinite(picture).all()
    assert -0.01 <= picture.min() <= picture.max() < 2.5
    assert np.abs(picture - healthy.picture((0.8, 0.4, 0.2))).max() > 0.05 or eye.blur > 1


def test_diseases_change_what_they_should():
    seeds = range(6)

    def mean(keyword, value):
        drawn = [layers({keyword: 0.9} if keyword else {}, seed) for seed in seeds]
        return np.mean([value(eye) for eye in drawn])

    def cup(eye):
        return eye.anatomy.cup

    def bleeding(eye):
        return np.clip(eye.blood - 2 * eye.vessels.veins - 2 * eye.vessels.arteries, 0, 1).sum()

    def narrowing(eye):
        return eye.vessels.arteries.sum() / eye.vessels.veins.sum()

    assert mean("glaucoma", cup) > mean("", cup) + 0.25
    assert mean("severe nonproliferative retinopathy", bleeding) > 5 * mean("", bleeding) + 200
    assert mean("hypertensive retinopathy", narrowing) < 0.8 * mean("", narrowing)
    assert mean("cataract", lambda eye: eye.veil.mean()) > 0.5
    drusen = mean("dry age-related macular degeneration", lambda e: e.pale[e.macula < 2.5].sum())
    assert drusen > 100 + mean("", lambda e: e.pale[e.macula < 2.5].sum())
    assert mean("pathological myopia", lambda e: e.bare.sum()) > 2 * mean(
        "", lambda e: e.bare.sum()
    )


def test_no_colour_or_brightness_gives_a_disease_away():
    """The nearest eye in mean colour, contrast and border hardly ever has the same disease."""
    keywords = [
        "", "moderate non proliferative retinopathy", "glaucoma",
        "dry age-related macular degeneration", "hypertensive retinopathy", "drusen",
    ]  # fmt: skip
    table, labels = [], []
    for number in range(60):
        keyword = keywords[number % 6]
        rng = np.random.default_rng([7, number])
        person = draw_person(rng, int(rng.integers(40, 80)))
        retina = draw_eye(rng, person, {keyword: rng.uniform(0.2, 1)} if keyword else {})
        camera = CAMERAS[int(rng.integers(len(CAMERAS)))]
        picture = photograph_eye(rng, retina, person, camera, left=bool(rng.integers(2)))
        seen = picture[picture.max(2) > 25].astype(float)
        table.append([*seen.mean(0), *seen.std(0), *np.median(seen, 0)])
        labels.append(keyword)
    values = np.array(table)
    values = (values - values.mean(0)) / values.std(0)
    distance = ((values[:, None] - values[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    agrees = np.mean(np.array(labels)[distance.argmin(1)] == np.array(labels))
    assert agrees < 0.4
