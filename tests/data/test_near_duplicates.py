import json

import cv2
import numpy as np
import pandas as pd
import pytest

from medshadow.data.near_duplicates import NearPair, candidates, near_duplicates
from medshadow.data.registration import Registration, register
from medshadow.data.sketch import KEYPOINTS, OUTSIDE, mirrored, sketch


def vessels(seed, size=320):
    """A drawn ground with branching dark lines: enough texture to tell one from another."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), (180, 110, 60), np.uint8)
    for _ in range(30):
        steps = rng.normal(0, 18, (12, 2)) + rng.normal(0, 12, 2)
        line = (rng.uniform(0, size, 2) + np.cumsum(steps, axis=0)).astype(np.int32)
        width = int(rng.integers(2, 6))
        cv2.polylines(image, [line], isClosed=False, color=(120, 40, 30), thickness=width)
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def fundus(seed, shift=(0, 0), turn=0.0, light=1.0, size=256):
    """A round photograph of the ground, shifted by pixels, turned by degrees, lit otherwise."""
    ground = vessels(seed)
    middle = (ground.shape[1] / 2, ground.shape[0] / 2)
    move = cv2.getRotationMatrix2D(middle, turn, 1.0)
    move[:, 2] += np.array(shift) - (ground.shape[0] - size) / 2
    image = cv2.warpAffine(ground, move, (size, size), borderMode=cv2.BORDER_REFLECT)
    y, x = np.mgrid[:size, :size]
    shade = light * (1 - 0.3 * x / size)
    inside = np.hypot(x - size / 2, y - size / 2) < size * 0.48
    return (image * shade[..., None] * inside[..., None]).clip(0, 255).astype(np.uint8)


def dusty(seed, dust_seed=99):
    """A hazy photograph, nothing but a faint ground of its own and the camera's dust."""
    rng = np.random.default_rng(dust_seed)
    haze = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 60, (256, 256)), (0, 0), 20)
    image = np.full((256, 256, 3), 120.0) + haze[..., None]
    for x, y in rng.uniform(60, 196, (6, 2)):
        cv2.circle(image, (int(x), int(y)), 3, (60, 60, 60), -1)
    y, x = np.mgrid[:256, :256]
    inside = np.hypot(x - 128, y - 128) < 122
    noise = np.random.default_rng(seed + 1).normal(0, 2, image.shape)
    return ((image + noise) * inside[..., None]).clip(0, 255).astype(np.uint8)


def pairs_of(images, groups=None, **options):
    sketches = {name: sketch(image) for name, image in images.items()}
    groups = groups or {name: name for name in images}
    return near_duplicates(sketches, groups, progress=False, **options)


@pytest.mark.parametrize(
    "again",
    [
        fundus(1, shift=(30, -20), turn=4, light=0.7),
        np.rot90(fundus(1)).copy(),
        fundus(1)[:, ::-1].copy(),
        cv2.resize(fundus(1), (180, 180), interpolation=cv2.INTER_AREA),
        np.pad(fundus(1), ((100, 40), (70, 90), (0, 0))),
    ],
    ids=["another day", "turned", "mirrored", "smaller", "wider black border"],
)
def test_the_same_eye_is_found_among_others(again):
    images = {f"eye{seed}": fundus(seed) for seed in range(6)} | {"eye9": again}
    found = pairs_of(images)
    assert [(p.first, p.second) for p in found] == [("eye1", "eye9")]
    assert found[0].evidence.same


def test_the_evidence_tells_how_the_two_lie():
    seen = register(sketch(fundus(1)), sketch(fundus(1, turn=12)))
    assert abs(abs(seen.rotation) - 12) < 1
    assert seen.scale == pytest.approx(1, abs=0.02)
    assert seen.overlap > 0.9
    assert not seen.mirrored
    turned_over = register(sketch(fundus(1)), sketch(fundus(1)[:, ::-1].copy()), mirror=True)
    assert turned_over.correlation > 0.95
    assert turned_over.mirrored
    assert "mirrored" in turned_over.words


@pytest.mark.parametrize(
    "weak", [{"inliers": 13}, {"correlation": 0.39}, {"agreement": 0.49}, {"overlap": 0.29}]
)
def test_every_piece_of_evidence_is_needed(weak):
    enough = {"inliers": 14, "correlation": 0.4, "agreement": 0.5, "overlap": 0.3}
    assert Registration(**enough, scale=1.0, rotation=0.0).same
    assert not Registration(**{**enough, **weak}, scale=1.0, rotation=0.0).same


def test_the_fit_is_refined_beyond_shift_turn_and_scale():
    stretched = cv2.resize(fundus(1), None, fx=1.08, fy=0.97, interpolation=cv2.INTER_CUBIC)
    assert register(sketch(fundus(1)), sketch(stretched)).correlation > 0.9


def test_other_eyes_do_not_pass():
    drawn = [sketch(fundus(seed)) for seed in range(8)]
    seen = [register(a, b) for a in drawn for b in drawn if a is not b]
    assert not any(s is not None and s.same for s in seen)


def test_the_dust_and_the_border_of_one_camera_make_no_pair():
    assert pairs_of({f"hazy{seed}": dusty(seed) for seed in range(0, 12, 2)}) == ()


def test_images_of_one_group_are_not_compared():
    images = {"a": fundus(1), "b": fundus(1, turn=3), "c": fundus(2)}
    assert len(pairs_of(images)) == 1
    assert pairs_of(images, {"a": "patient", "b": "patient", "c": "other"}) == ()


def test_pairs_are_the_same_for_any_order_and_threads():
    images = {f"eye{seed}": fundus(seed) for seed in range(4)}
    images |= {f"eye{seed}b": fundus(seed, turn=3, light=0.8) for seed in range(4)}
    found = pairs_of(images, threads=1)
    assert [(p.first, p.second) for p in found] == [(f"eye{i}", f"eye{i}b") for i in range(4)]
    assert pairs_of(dict(reversed(images.items())), threads=3) == found


def test_every_candidate_is_of_two_groups_and_in_order():
    drawn = [sketch(fundus(seed)) for seed in (1, 1, 2, 2, 3)]
    found = candidates(drawn, [0, 1, 2, 2, 3], progress=False)
    assert (0, 1, False) in found
    assert (2, 3, False) not in found
    assert found == sorted(found)
    assert all(a < b for a, b, _ in found)


def test_the_candidates_can_be_repeated():
    drawn = [sketch(fundus(seed)) for seed in range(10)]
    once, again = (candidates(drawn, list(range(10)), progress=False) for _ in range(2))
    assert once == again


def test_images_without_texture_are_no_candidates():
    plain = sketch(np.full((64, 64, 3), 120, np.uint8))
    assert len(plain.points) == 0
    assert candidates([plain, plain], [0, 1], progress=False) == []
    assert register(plain, plain) is None
    assert near_duplicates({"only": plain}, {"only": "1"}, progress=False) == ()


def test_mirrored_descriptors_are_those_of_the_mirrored_image():
    ground = fundus(3)
    one, other = sketch(ground), sketch(ground[:, ::-1].copy())
    turned = mirrored(one.descriptors).astype(float)
    distance = np.linalg.norm(turned[:, None] - other.descriptors.astype(float), axis=2)
    assert np.median(distance.min(axis=1)) < 0.1 * np.median(distance)
    assert (mirrored(mirrored(one.descriptors)) == one.descriptors).all()


def test_a_sketch_leaves_out_the_border_and_the_light():
    bright, dark = sketch(fundus(4)), sketch(fundus(4, light=0.6))
    both = bright.field & dark.field
    agree = np.corrcoef(bright.detail[both], dark.detail[both])[0, 1]
    assert agree > 0.95
    assert len(bright.points) <= KEYPOINTS
    x, y = bright.points.round().astype(int).T
    assert (bright.detail[y, x] != OUTSIDE).all()
    assert bright.detail[0].max() == OUTSIDE


def test_a_sketch_keeps_the_shape_of_the_image():
    assert sketch(vessels(0)[:150, :300]).detail.shape == (91, 181)
    assert sketch(vessels(0)[:40, :60]).detail.shape == (40, 60)
    bordered = np.pad(fundus(1), ((300, 10), (150, 400), (0, 0)))
    assert sketch(bordered).detail.shape == pytest.approx(sketch(fundus(1)).detail.shape, abs=2)


def test_a_pair_goes_to_json_and_back():
    pair = NearPair("a", "b", Registration(12, 0.51249, 0.75, 0.9, 1.01, -3.2, mirrored=True))
    text = json.dumps(pair.to_dict())
    assert json.loads(text)["correlation"] == 0.512
    assert NearPair.from_dict(json.loads(text)).to_dict() == pair.to_dict()


KNOWN = [(28, 32, 765), (31, 105), (398, 668), (719, 821), (1309, 3078), (4330, 4552)]
# The same two photographs; in copies that were made smaller, the bytes differ.
IDENTICAL = (2487, 3185)


@pytest.mark.real_data
def test_the_known_patients_of_odir_are_found_among_others(odir5k_root):
    from medshadow.data.audit import audit
    from medshadow.data.cases import CaseTable
    from medshadow.data.odir5k import odir5k_cases

    table = odir5k_cases(odir5k_root, on_error="skip")
    known = {str(patient) for group in (*KNOWN, IDENTICAL) for patient in group}
    few = table.frame["group"].isin(known) | (table.frame.index % 40 == 0)
    report = audit(CaseTable(pd.DataFrame(table.frame[few])), near=True, progress=False)
    merged = [set(map(int, groups)) for groups in report.same_groups]
    assert sum(any(set(group) <= found for found in merged) for group in KNOWN) >= 5
    assert any(set(IDENTICAL) <= found for found in merged)
    strangers = [found for found in merged if not found & set(map(int, known))]
    assert strangers == []
