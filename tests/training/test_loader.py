import threading

import pytest
import torch

from medshadow.errors import DataError
from medshadow.training import training_loader
from medshadow.transforms import dermatology_transforms


def loader_of(cases, transform, **settings):
    return training_loader(
        cases, transform, images_per_class=4, batches_per_epoch=3, progress=False, **settings
    )


def test_batches_are_the_same_for_any_number_of_workers(colour_cases):
    transform = dermatology_transforms(32, train=True)
    ahead = list(loader_of(colour_cases, transform))
    workers = list(loader_of(colour_cases, transform, num_workers=1))
    assert len(ahead) == len(workers) == 3
    for one, other in zip(ahead, workers, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert one["case_id"] == other["case_id"]


def test_the_next_batch_is_made_while_the_last_one_is_used(colour_cases):
    made = threading.Semaphore(0)

    def transform(item):
        made.release()
        return {"label": item["label"]}

    batches = iter(loader_of(colour_cases, transform))
    first = next(batches)
    for _ in range(2 * len(first["label"])):
        assert made.acquire(timeout=30)
    batches.close()


def test_a_failing_transform_ends_the_epoch_with_its_error(colour_cases):
    calls = []

    def transform(item):
        calls.append(item["case_id"])
        if len(calls) > 14:
            raise ValueError("this image is too blue")
        return {"label": item["label"]}

    batches = iter(loader_of(colour_cases, transform))
    assert len(next(batches)["label"]) == 12
    with pytest.raises(DataError, match=r"case .*: this image is too blue"):
        next(batches)
