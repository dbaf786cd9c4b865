import os
import random
from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandomizableTransform

from medshadow.transforms import Albumentationsd
from medshadow.transforms.augment import albumentations

A = albumentations()


def image(seed=0, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def jitter():
    return A.Compose([A.RandomResizedCrop((8, 8)), A.D4(p=1.0), A.ColorJitter(p=1.0)])


def seeded(transform, seed=0):
    return Albumentationsd("image", transform).set_random_state(seed=seed)


def test_no_look_at_the_network_when_imported(monkeypatch):
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
    albumentations()
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_flips_the_width_of_a_channel_first_image():
    item = {"image": image(), "case_id": "a"}
    result = seeded(A.HorizontalFlip(p=1.0))(item)
    np.testing.assert_array_equal(result["image"], item["image"][:, :, ::-1])
    assert result["case_id"] == "a"


def test_same_state_same_result_and_the_next_call_differs():
    transform, item = seeded(jitter(), 3), {"image": image()}
    first, second = transform(item)["image"], transform(item)["image"]
    assert not np.array_equal(first, second)
    transform.set_random_state(seed=3)
    np.testing.assert_array_equal(transform(item)["image"], first)
    np.testing.assert_array_equal(transform(item)["image"], second)
    np.testing.assert_array_equal(seeded(jitter(), 3)(item)["image"], first)
    assert not np.array_equal(seeded(jitter(), 4)(item)["image"], first)


def test_two_instances_do_not_share_a_state():
    item = {"image": image()}
    first, other = seeded(jitter(), 3), seeded(jitter(), 3)
    other(item)
    assert np.array_equal(first(item)["image"], seeded(jitter(), 3)(item)["image"])


def test_a_state_that_was_lent_is_left_alone_when_seeded():
    lent = np.random.RandomState(5)
    transform = seeded(jitter())
    transform.set_random_state(state=lent)
    assert transform.R is lent
    before = lent.get_state()[1].tolist()
    transform.set_random_state(seed=1)
    transform({"image": image()})
    assert lent.get_state()[1].tolist() == before


def test_seeded_by_compose_as_every_random_transform_is():
    compose = Compose([Albumentationsd("image", jitter())]).set_random_state(seed=9)
    first = compose({"image": image()})["image"]
    compose.set_random_state(seed=9)
    np.testing.assert_array_equal(compose({"image": image()})["image"], first)
    assert isinstance(compose.transforms[0], RandomizableTransform)


def test_members_of_a_compose_draw_independently():
    flips = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    transform, source = Albumentationsd("image", flips), image()
    seen = Counter()
    for seed in range(200):
        transform.set_random_state(seed=seed)
        result = transform({"image": source})["image"]
        seen[
            bool(np.array_equal(result, source)),
            bool(np.array_equal(result, source[:, :, ::-1])),
            bool(np.array_equal(result, source[:, ::-1])),
        ] += 1
    assert len(seen) == 4
    assert min(seen.values()) > 25


def test_no_global_random_state_is_read_or_changed():
    transform = A.Compose(
        [jitter(), A.OneOf([A.GaussianBlur(), A.GaussNoise()], p=1.0), A.CoarseDropout(p=1.0)]
    )

    def states():
        numpy_state = np.random.get_state()  # noqa: NPY002
        return random.getstate(), numpy_state[1].tolist(), numpy_state[2], torch.get_rng_state()

    results = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = states()
        results.append(seeded(transform, 7)({"image": image()})["image"])
        after = states()
        assert before[:3] == after[:3]
        assert torch.equal(before[3], after[3])
    np.testing.assert_array_equal(*results)


def test_all_keys_get_the_same_draws():
    transform = Albumentationsd(("left", "right"), jitter())
    result = transform({"left": image(), "right": image()})
    np.testing.assert_array_equal(result["left"], result["right"])


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, MetaTensor])
def test_kind_and_range_are_kept(kind):
    whole = seeded(jitter())({"image": kind(image())})["image"]
    part = seeded(jitter())({"image": kind(image().astype(np.float64) / 255)})["image"]
    expected = np.ndarray if kind is np.asarray else torch.Tensor
    assert type(whole) is expected
    assert type(part) is expected
    whole, part = np.asarray(whole), np.asarray(part)
    assert (whole.dtype, part.dtype) == (np.uint8, np.float32)
    assert whole.shape == part.shape == (3, 8, 8)
    assert 0 <= part.min() <= part.max() <= 1
    assert np.abs(whole / 255 - part).mean() < 0.02


def test_grey_images_keep_their_channel():
    grey = image()[:1]
    result = seeded(A.HorizontalFlip(p=1.0))({"image": grey})["image"]
    np.testing.assert_array_equal(result, grey[:, :, ::-1])


def test_the_input_is_not_written_to():
    source = torch.tensor(image()).contiguous(memory_format=torch.contiguous_format)
    last = source.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for stored in (source, last):
        before = stored.clone()
        for transform in (jitter(), A.Compose([A.ColorJitter(p=1.0), A.CoarseDropout(p=1.0)])):
            seeded(transform)({"image": stored})
        assert torch.equal(stored, before)


def test_what_is_no_albumentations_transform_is_refused():
    with pytest.raises(TypeError, match="want an albumentations transform; found function"):
        Albumentationsd("image", lambda image: image)


def test_what_is_no_image_is_refused_by_key():
    with pytest.raises(ValueError, match=r"photo: want an image .* found shape \(4, 4, 4\)"):
        Albumentationsd("photo", jitter())({"photo": np.zeros((4, 4, 4), np.uint8)})


def test_an_absent_key():
    with pytest.raises(KeyError):
        Albumentationsd("image", jitter())({})
    assert Albumentationsd("image", jitter(), allow_missing_keys=True)({"a": 1}) == {"a": 1}
