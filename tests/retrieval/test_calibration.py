"""A store calibrated on held-out cases: what its lookups warn of, and how sure they are."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_sample_images

from medshadow.data import CaseTable
from medshadow.errors import StoreError
from medshadow.retrieval import ArchiveCalibration, CaseLookup, CaseStore, calibrate, encode_cases
from medshadow.retrieval.calibration import VOTERS
from medshadow.retrieval.encoders import TorchEncoder

INK = {"mel": (60, 30, 40), "nv": (150, 100, 70)}


def draw(rng, label):
    """A blot on skin; malignant ones are darker, with some overlap."""
    skin = rng.normal([215, 170, 150], 8)
    picture = Image.new("RGB", (60, 45), tuple(int(v) for v in skin))
    x, y = rng.uniform(8, 28, 2) * [1, 0.5]
    ink = np.clip(rng.normal(INK[label], 25), 0, 255)
    box = [x, y, x + rng.uniform(12, 24), y + rng.uniform(10, 20)]
    ImageDraw.Draw(picture).ellipse(box, fill=tuple(int(v) for v in ink))
    grain = rng.normal(0, 5, (45, 60, 1))
    return Image.fromarray(np.clip(np.array(picture) + grain, 0, 255).astype(np.uint8))


def table(folder, first, count, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + count):
        label = ("nv", "mel", "nv")[number % 3]
        path = folder / f"{number}.png"
        draw(rng, label).save(path)
        rows.append({"case_id": f"c{number}", "image": str(path), "group": f"g{number}",
                     "label": label, "sex": ("female", "male")[number % 2]})  # fmt: skip
    return CaseTable(pd.DataFrame(rows), name="drawn", malignant=frozenset({"mel"}))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    return {
        "archive": table(folder, 0, 60, seed=1),
        "validation": table(folder, 1000, 90, seed=2),
        "test": table(folder, 2000, 60, seed=3),
    }


def make_store(path, embedder, archive):
    store = CaseStore.create(
        path,
        name=archive.name,
        source="drawn for this test",
        model_digest=embedder.digest,
        embedding_dim=embedder.embedding_dim,
        preprocess=embedder.preprocess,
        malignant=archive.malignant,
    )
    vectors = encode_cases(embedder, archive, progress=False)
    store.add(archive, vectors, model_digest=embedder.digest)
    return store


@pytest.fixture(scope="module")
def place(tmp_path_factory, embedder, cases):
    """A calibrated store, closed again: whatever it knows it kept."""
    path = tmp_path_factory.mktemp("store") / "cases.db"
    with make_store(path, embedder, cases["archive"]) as store:
        calibrate(store, embedder, cases["archive"], cases["validation"], progress=False)
    return path


@pytest.fixture
def lookup(place, embedder):
    with CaseStore(place) as store:
        yield CaseLookup(store, embedder)


def codes(answer):
    return {warning.code for warning in answer.warnings}


ABOUT_THE_IMAGE = {"wrong_kind", "unlike_archive", "poor_quality"}


def test_images_of_its_own_kind_seldom_alarm(lookup, cases):
    answers = [lookup.lookup(path) for path in cases["test"].frame["image"]]
    alarmed = [bool(codes(answer) & ABOUT_THE_IMAGE) for answer in answers]
    assert sum(alarmed) <= 6
    assert {answer.not_checked for answer in answers} == {None}


@pytest.mark.parametrize("which", ["photograph", "noise", "stripes", "blue"])
def test_another_kind_of_image_is_warned_of_first(lookup, which):
    rng = np.random.default_rng(0)
    image = {
        "photograph": load_sample_images().images[0],
        "noise": rng.integers(0, 256, (60, 80, 3), dtype=np.uint8),
        "stripes": np.tile(np.uint8([0, 255]), (60, 40))[:, :, None].repeat(3, axis=2),
        "blue": np.full((60, 80, 3), (10, 20, 200), dtype=np.uint8),
    }[which]
    answer = lookup.lookup(image)
    assert answer.warnings[0].code == "wrong_kind"
    assert answer.to_dict()["warnings"][0]["code"] == "wrong_kind"
    assert len(answer.hits) == 16


def test_a_spoilt_image_is_said_to_be_poor(lookup, cases):
    with Image.open(cases["test"].frame["image"][0]) as image:
        spoilt = np.array(image.filter(ImageFilter.GaussianBlur(3)))
    poor = [w for w in lookup.lookup(spoilt).warnings if w.code == "poor_quality"]
    assert "blurred" in poor[0].text


def test_the_probability_comes_with_a_prevalence_alone(lookup, cases):
    image = cases["test"].frame["image"][1]
    without = lookup.lookup(image)
    assert without.probability is None
    assert "prevalence" in without.why_no_probability
    given = lookup.lookup(image, prevalence=0.1)
    assert given.why_no_probability is None
    found = given.to_dict()["probability"]
    assert 0 < found["low"] <= found["value"] <= found["high"] < 1
    assert (found["prevalence"], found["cases"]) == (0.1, 90)
    assert lookup.lookup(image, prevalence=0.5).probability.value > given.probability.value
    assert "if 10.0% of such images are" in given.probability_in_words
    with pytest.raises(ValueError, match="between 0 and 1"):
        lookup.lookup(image, prevalence=1.0)


def test_the_probability_is_of_the_whole_archive_whatever_is_asked(lookup, cases):
    image = cases["test"].frame["image"][2]
    plain = lookup.lookup(image, prevalence=0.2).probability
    assert lookup.lookup(image, k=3, prevalence=0.2).probability == plain
    assert lookup.lookup(image, where="label=nv", prevalence=0.2).probability == plain
    excluded = [hit.group for hit in lookup.lookup(image).hits if hit.label == "mel"]
    if excluded:
        fewer = lookup.lookup(image, prevalence=0.2, exclude_groups=excluded).probability
        assert fewer.value < plain.value


def test_the_probability_tells_malignant_from_benign(lookup, cases):
    frame = cases["test"].frame
    values = [lookup.lookup(path, prevalence=1 / 3).probability.value for path in frame["image"]]
    malignant = (frame["label"] == "mel").to_numpy()
    assert np.mean(np.array(values)[malignant]) > np.mean(np.array(values)[~malignant]) + 0.2
    assert abs(np.mean(values) - 1 / 3) < 0.12


def test_scores_are_of_the_voters_less_the_case_s_own_group(place, embedder, cases):
    with CaseStore(place) as store:
        kept = ArchiveCalibration.of(store)
        again = calibrate(store, embedder, cases["archive"], cases["archive"], progress=False)
    # Asked about the archive itself, its own cases would vote for themselves without exception.
    assert again.probability.cases == 60
    assert VOTERS == 16
    slope = again.probability.coefficients[0, 1]
    assert 0 < slope < 4 * kept.probability.coefficients[0, 1]


def test_nothing_kept_names_a_case_or_a_file(place, cases):
    with CaseStore(place) as store:
        text = json.dumps(store.calibration)
    for frame in (cases["archive"].frame, cases["validation"].frame):
        assert not any(f'"{name}"' in text for name in (*frame["case_id"], *frame["group"]))
        assert not any(path in text for path in frame["image"])


def test_too_few_validation_cases_give_no_figure_and_say_so(tmp_path, embedder, cases, caplog):
    few = CaseTable(cases["validation"].frame.head(10), malignant=frozenset({"mel"}))
    with make_store(tmp_path / "few.db", embedder, cases["archive"]) as store:
        uncalibrated = CaseLookup(store, embedder).lookup(few.frame["image"][0], prevalence=0.1)
        with caplog.at_level(logging.WARNING, logger="medshadow"):
            known = calibrate(store, embedder, cases["archive"], few, progress=False)
        answer = CaseLookup(store, embedder).lookup(few.frame["image"][0], prevalence=0.1)
    assert known.familiarity is None
    assert known.probability is None
    assert sum("too few validation cases" in record.message for record in caplog.records) == 2
    for one in (uncalibrated, answer):
        assert one.probability is None
        assert "not calibrated" in one.why_no_probability
        assert one.to_dict()["not_checked"].startswith("Not checked")
    assert answer.archive.source == answer.to_dict()["archive"]["source"] == "drawn for this test"


def test_refuses_another_model_s_calibration_or_a_damaged_one(
    tmp_path, embedder, fundus_embedder, cases
):
    with make_store(tmp_path / "cases.db", embedder, cases["archive"]) as store:
        with pytest.raises(StoreError, match="cannot be calibrated"):
            calibrate(store, fundus_embedder, cases["archive"], cases["validation"])
        store.set_calibration({"format": "medshadow-calibration/1", "model_digest": "other"})
        with pytest.raises(StoreError, match="calibrate again"):
            CaseLookup(store, embedder)
        damaged = {"format": "medshadow-calibration/1", "model_digest": embedder.digest}
        store.set_calibration(damaged)
        with pytest.raises(StoreError, match="damaged"):
            CaseLookup(store, embedder)
        store.set_calibration(None)
        assert CaseLookup(store, embedder).calibration is None


def test_queries_go_through_the_encoder_that_is_given(place, embedder, cases):
    asked = []

    class Watched(TorchEncoder):
        def __call__(self, pixels, laterality=""):
            asked.append((pixels.shape, laterality))
            return super().__call__(pixels, laterality)

    with CaseStore(place) as store:
        lookup = CaseLookup(store, embedder, Watched(embedder))
        found = lookup.lookup(cases["test"].frame["image"][0], laterality="left")
        plain = CaseLookup(store, embedder).lookup(cases["test"].frame["image"][0])
    assert asked == [((45, 60, 3), "left")]
    assert [hit.case_id for hit in found.hits] == [hit.case_id for hit in plain.hits]
