import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, MapTransform, RandomizableTransform
from PIL import Image

from medshadow.data.cases import CaseTable
from medshadow.data.dataset import CaseDataset
from medshadow.data.draws import Draw
from medshadow.data.sampler import PKSampler
from medshadow.errors import DataError, ImageReadError
from medshadow.transforms import dermatology_transforms

SIZE = 16


class Counted(MapTransform):
    """Deterministic step that counts how often it runs."""

    def __init__(self):
        super().__init__("image")
        self.calls = []

    def __call__(self, data):
        self.calls.append(data["case_id"])
        return {**data, "image": torch.zeros(3)}


class Noised(RandomizableTransform, MapTransform):
    def __init__(self):
        MapTransform.__init__(self, "image")
        RandomizableTransform.__init__(self)

    def __call__(self, data):
        return {**data, "image": data["image"] + torch.tensor(self.R.random_sample(3))}


def table_of(images):
    count = len(images)
    return CaseTable(
        pd.DataFrame(
            {
                "case_id": [f"case{i}" for i in range(count)],
                "image": [str(image) for image in images],
                "group": [f"lesion{i // 2}" for i in range(count)],
                "label": [("mel", "nv")[i // 2 % 2] for i in range(count)],
            }
        )
    )


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return table_of(paths)


def batches(table, *, workers=0, epoch=0, seed=0, times=1, cache_rate=1.0):
    """The batches of one epoch from everything made anew, as after a resume."""
    dataset = CaseDataset(
        table,
        dermatology_transforms(SIZE, train=True),
        seed=seed,
        cache_rate=cache_rate,
        progress=False,
    )
    sampler = PKSampler(
        table.frame["label"], table.frame["group"], 2, 3, batches_per_epoch=3, seed=seed
    )
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, num_workers=workers, batch_sampler=sampler)
    for _ in range(times):
        found = [(batch["image"].clone(), batch["case_id"]) for batch in loader]
    return found


def same(first, second):
    return all(
        ids == other_ids and torch.equal(images, other)
        for (images, ids), (other, other_ids) in zip(first, second, strict=True)
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")
def test_augmented_batches_do_not_depend_on_workers_or_on_what_ran_before(table):
    alone = batches(table)
    assert alone[0][0].shape == (6, 3, SIZE, SIZE)
    for workers in (1, 4):
        assert same(alone, batches(table, workers=workers))
    assert same(alone, batches(table, times=2))
    assert same(alone, batches(table, cache_rate=0.0))
    assert same(alone, batches(table, cache_rate=0.5))


def test_a_resumed_epoch_is_the_epoch_that_would_have_come(table):
    third = batches(table, epoch=3)
    assert same(third, batches(table, epoch=3, workers=1))
    assert not same(third, batches(table, epoch=2))
    assert not same(third, batches(table, epoch=3, seed=1))


def test_one_image_drawn_twice_in_one_epoch_is_augmented_differently(table):
    dataset = CaseDataset(table, dermatology_transforms(SIZE, train=True), progress=False)
    first, again = dataset[Draw(3, 1, 10)]["image"], dataset[Draw(3, 1, 11)]["image"]
    assert not torch.equal(first, again)
    assert not torch.equal(first, dataset[Draw(3, 2, 10)]["image"])
    assert torch.equal(first, dataset[Draw(3, 1, 10)]["image"])


def test_no_two_images_of_an_epoch_share_their_random_numbers():
    dataset = CaseDataset(table_of("abcdefgh"), Compose([Counted(), Noised()]), progress=False)
    sampler = PKSampler([0, 0, 1, 1, 0, 0, 1, 1], list("aabbccdd"), 2, 4, batches_per_epoch=5)
    noises = [
        tuple(image.tolist())
        for batch in DataLoader(dataset, num_workers=2, batch_sampler=sampler)
        for image in batch["image"]
    ]
    assert len(set(noises)) == len(noises) == 40


def test_items_hold_image_label_and_case_id(table):
    item = CaseDataset(table, dermatology_transforms(SIZE, train=False), progress=False)[2]
    assert set(item) == {"image", "label", "case_id"}
    assert (item["label"], item["case_id"]) == (1, "case2")
    assert type(item["image"]) is torch.Tensor
    assert item["image"].dtype == torch.float32
    assert item["image"].shape == (3, SIZE, SIZE)


def test_deterministic_steps_run_once_a_case():
    counted = Counted()
    dataset = CaseDataset(table_of("abcd"), Compose([counted, Noised()]), progress=False)
    assert sorted(counted.calls) == ["case0", "case1", "case2", "case3"]
    for epoch in range(3):
        assert dataset[Draw(1, epoch, 0)]["case_id"] == "case1"
    assert len(counted.calls) == 4


def test_augmenting_leaves_the_cache_as_it_was(table):
    dataset = CaseDataset(table, dermatology_transforms(SIZE, train=True), progress=False)
    cached = dataset._cache[0]["image"].clone()
    for epoch in range(5):
        dataset[Draw(0, epoch, 0)]
    assert torch.equal(dataset._cache[0]["image"], cached)
    assert cached.dtype == torch.uint8


def test_a_plain_index_counts_as_epoch_0_at_its_own_position():
    dataset = CaseDataset(
        table_of("abcd"), Compose([Counted(), Noised()]), cache_rate=0.5, progress=False
    )
    expected = dataset[Draw(3, epoch=0, position=3)]
    for index in (3, -1, np.int64(3), torch.tensor(3)):
        item = dataset[index]
        assert item["case_id"] == "case3"
        assert torch.equal(item["image"], expected["image"])
    assert [item["case_id"] for item in dataset[1:3]] == ["case1", "case2"]
    assert torch.equal(dataset[[0, 3]][1]["image"], expected["image"])


@pytest.mark.parametrize("index", [4, -5, Draw(4)])
def test_index_outside_the_table(index):
    dataset = CaseDataset(table_of("abcd"), lambda item: item, progress=False)
    with pytest.raises(IndexError, match="outside a data set of 4 cases"):
        dataset[index]


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be >= 0; found -1"):
        CaseDataset(table_of("ab"), lambda item: item, seed=-1)


def damaged(table, path):
    path.write_bytes(b"\x89PNG and no more")
    return table_of([*table.frame["image"][:3], path])


def test_an_unreadable_image_is_named_while_caching(table, tmp_path):
    with pytest.raises(ImageReadError, match=r"case case3, file .*broken\.png: "):
        CaseDataset(
            damaged(table, tmp_path / "broken.png"),
            dermatology_transforms(SIZE, train=True),
            progress=False,
        )


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_when_it_is_read_later(table, tmp_path, workers):
    dataset = CaseDataset(
        damaged(table, tmp_path / "broken.png"),
        dermatology_transforms(SIZE, train=True),
        cache_rate=0.0,
        progress=False,
    )
    with pytest.raises(ImageReadError, match=r"case case3, file .*broken\.png: "):
        list(DataLoader(dataset, batch_size=2, num_workers=workers))


def test_a_failing_transform_names_the_case():
    def fail(item):
        raise ZeroDivisionError("no lesion found")

    dataset = CaseDataset(table_of("ab"), fail, progress=False)
    with pytest.raises(DataError, match="case case1, file b: no lesion found"):
        dataset[1]


def test_goes_to_another_process_as_it_is(table):
    dataset = CaseDataset(table, dermatology_transforms(SIZE, train=True), progress=False)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[Draw(3, 1, 10)]["image"], dataset[Draw(3, 1, 10)]["image"])


def test_large_seeds_are_told_apart():
    dataset = [
        CaseDataset(table_of("ab"), Compose([Counted(), Noised()]), seed=seed, progress=False)
        for seed in (1, 1 + 2**32)
    ]
    assert not torch.equal(dataset[0][0]["image"], dataset[1][0]["image"])
