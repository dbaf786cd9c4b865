import hashlib
import random
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from medshadow.data.phantom_lesions import RECIPES, draw_lesion
from medshadow.data.phantom_scenes import HEIGHT, WIDTH, photograph_lesion
from medshadow.data.phantoms import write_phantoms
from medshadow.errors import DataError

LESIONS = 30
CODES = {"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"}


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), lesions=LESIONS, progress=False)


@pytest.fixture(scope="module")
def rows(root):
    return pd.read_csv(root / "HAM10000_metadata.csv")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(root, tmp_path):
    again = write_phantoms(tmp_path / "again", lesions=LESIONS, progress=False)
    other = write_phantoms(tmp_path / "other", lesions=LESIONS, seed=1, progress=False)
    assert digests(again) == digests(root)
    shared = set(digests(other).values()) & set(digests(root).values())
    assert not shared


def test_layout_is_kaggles_and_every_row_has_its_picture(root, rows):
    parts = [{p.stem for p in (root / f"HAM10000_images_part_{n}").glob("*.jpg")} for n in (1, 2)]
    assert not parts[0] & parts[1]
    assert abs(len(parts[0]) - len(parts[1])) <= 1
    assert parts[0] | parts[1] == set(rows["image_id"])
    assert max(parts[0]) < min(parts[1])
    assert rows["image_id"].is_unique
    for path in root.rglob("*.jpg"):
        assert cv2.imread(str(path)).shape == (HEIGHT, WIDTH, 3)


def test_metadata_has_ham10000s_columns_and_plausible_values(rows):
    assert list(rows.columns) == [
        "lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization",
    ]  # fmt: skip
    assert set(rows["dx"]) == CODES
    assert set(rows["dx_type"]) <= {"histo", "follow_up", "consensus", "confocal"}
    assert set(rows.loc[rows["dx"].isin(["mel", "bcc", "akiec"]), "dx_type"]) == {"histo"}
    assert set(rows["sex"]) <= {"male", "female", "unknown"}
    assert rows["age"].isna().any()
    ages = rows["age"].dropna()
    assert ages.between(5, 85).all()
    assert (ages % 5 == 0).all()
    assert rows["localization"].notna().all()


def test_no_id_can_be_taken_for_a_real_one(rows):
    assert rows["image_id"].str.fullmatch(r"ISIC_PHANTOM\d{5}").all()
    assert rows["lesion_id"].str.fullmatch(r"HAM_PHANTOM\d{5}").all()


def test_lesions_have_several_images_and_one_set_of_metadata(rows):
    lesions = rows.groupby("lesion_id")
    assert len(lesions) == LESIONS
    assert lesions["image_id"].size().max() >= 3
    for column in ("dx", "dx_type", "age", "sex", "localization"):
        assert (lesions[column].nunique(dropna=False) == 1).all(), column


def test_classes_are_skewed_and_none_has_fewer_than_three_lesions(rows):
    counts = rows.groupby("dx")["lesion_id"].nunique()
    assert counts.min() >= 3
    assert counts.idxmax() == "nv"
    assert counts["mel"] > counts["df"]


@pytest.mark.parametrize("lesions", [22, 23])
def test_small_sets_have_exactly_the_lesions_asked_for(tmp_path, lesions):
    root = write_phantoms(tmp_path, lesions=lesions, progress=False)
    rows = pd.read_csv(root / "HAM10000_metadata.csv")
    assert rows["lesion_id"].nunique() == lesions
    assert rows.groupby("dx")["lesion_id"].nunique().min() >= 3


def test_exactly_one_image_stands_there_twice_under_two_lesions(root, rows):
    same = Counter(digests(root).values())
    (twice,) = [digest for digest, count in same.items() if count > 1]
    assert same[twice] == 2
    ids = [Path(name).stem for name, digest in digests(root).items() if digest == twice]
    pair = rows[rows["image_id"].isin(ids)]
    assert pair["lesion_id"].nunique() == 2
    assert set(pair["dx"]) == {"nv"}


def test_no_global_random_state_is_read_or_changed(root, tmp_path):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    cv2.setRNGSeed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    again = write_phantoms(tmp_path, lesions=LESIONS, progress=False)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert digests(again) == digests(root)


def test_writing_again_replaces_phantoms_and_refuses_real_cases(tmp_path):
    write_phantoms(tmp_path, lesions=24, progress=False)
    write_phantoms(tmp_path, lesions=22, progress=False)
    rows = pd.read_csv(tmp_path / "HAM10000_metadata.csv")
    assert {p.stem for p in tmp_path.rglob("*.jpg")} == set(rows["image_id"])
    real = tmp_path / "HAM10000_images_part_2" / "ISIC_0024306.jpg"
    real.write_bytes(b"real")
    with pytest.raises(DataError, match=r"no phantoms.*ISIC_0024306"):
        write_phantoms(tmp_path, lesions=22, progress=False)
    real.unlink()
    rows.assign(image_id="ISIC_0024306").to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    with pytest.raises(DataError, match=r"no phantoms.*ISIC_0024306"):
        write_phantoms(tmp_path, lesions=22, progress=False)


def test_unknown_kinds_and_too_few_lesions_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"\['lesions', 'fundi'\].*'xray'"):
        write_phantoms(tmp_path, kind="xray")
    with pytest.raises(ValueError, match="at least 22; found 5"):
        write_phantoms(tmp_path, lesions=5)
    with pytest.raises(ValueError, match="at least 22; found 5"):
        write_phantoms(tmp_path, kind="ham10000", lesions=5)
    with pytest.raises(ValueError, match="at least 24; found 5"):
        write_phantoms(tmp_path, kind="odir5k", patients=5)


def test_views_of_one_lesion_differ_and_share_the_lesion():
    first, again = photograph_lesion(np.random.default_rng(3), "mel", views=2)
    assert first.shape == again.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(first.astype(int) - again).mean() > 3


def test_recipes_draw_bounded_density_and_leave_the_canvas_edge_bare():
    assert set(RECIPES) == CODES
    for dx in CODES:
        for seed in range(4):
            lesion = draw_lesion(np.random.default_rng(seed), dx)
            assert np.isfinite(lesion).all()
            assert lesion[..., :3].max() > 0.2, dx
            assert 0 <= lesion[..., 3].min() <= lesion[..., 3].max() <= 1
            edge = np.concatenate([lesion[0], lesion[-1], lesion[:, 0], lesion[:, -1]])
            assert np.abs(edge).max() < 0.05, (dx, seed)


def structure(lesion: np.ndarray) -> list[float]:
    """What a dermoscopist looks at, crudely: centre, asymmetry, and marks of three sizes."""
    values = []
    for plane in cv2.split(cv2.resize(lesion, (128, 128), interpolation=cv2.INTER_AREA)):
        values += [plane[44:84, 44:84].mean(), np.abs(plane - plane[::-1, ::-1]).mean()]
        for sigma in (0.8, 1.6, 3.2):
            coarse = cv2.GaussianBlur(plane, (0, 0), 2 * sigma)
            band = cv2.GaussianBlur(plane, (0, 0), sigma) - coarse
            values += [band.std(), (band**3).mean() / (band.std() + 1e-3) ** 3]
    return values


def nearest_agrees(features: list, labels: np.ndarray) -> float:
    """Share of lesions whose nearest other lesion has the same diagnosis."""
    table = np.array(features, float)
    table = (table - table.mean(0)) / (table.std(0) + 1e-9)
    distance = ((table[:, None] - table[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(1)] == labels).mean())


def test_structure_tells_the_classes_apart_and_colour_does_not():
    labels = np.repeat(sorted(CODES), 10)
    seen, coloured = [], []
    for number, dx in enumerate(labels):
        seen.append(structure(draw_lesion(np.random.default_rng([100, number]), dx)))
        (picture,) = photograph_lesion(np.random.default_rng([100, number]), dx)
        middle = picture[75:150, 100:200]
        coloured.append([*picture.mean((0, 1)), *middle.mean((0, 1))])
    assert nearest_agrees(seen, labels) > 0.6
    assert nearest_agrees(coloured, labels) < 0.35
