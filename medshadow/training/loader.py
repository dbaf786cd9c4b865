"""The training loader: P x K batches of augmented cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader

from medshadow.data.cases import CaseTable
from medshadow.data.dataset import CaseDataset
from medshadow.data.sampler import PKSampler
from medshadow.training.distributed import rank_and_world_size


def training_loader(
    table: CaseTable,
    transform: Callable[[Any], Any],
    *,
    classes_per_batch: int | None = None,
    images_per_class: int = 16,
    balance: float = 1.0,
    batches_per_epoch: int | None = None,
    seed: int = 0,
    num_workers: int = 0,
    cache_rate: float = 1.0,
    progress: bool = True,
) -> DataLoader[Any]:
    """Batches of P classes x K images from the training section, every draw fixed by the seed.

    A table of label sets is sampled by its ``labels``, each image under its rarest one (see
    :class:`~medshadow.data.PKSampler`); what a loss is given are the ``findings``.

    Where a process group of ``torch.distributed`` exists, a rank's loader gives its share of each
    joint batch: P*K / ranks images, of every class; the joint batch is the same for any number of
    ranks.

    Args:
        table: a table with sections; its training section is used.
        transform: MONAI transform of the items: ``dermatology_transforms(128, train=True)``.
        classes_per_batch: P, or None for all classes of the training section.
        images_per_class: K.
        balance: how evenly classes share a batch; see :class:`~medshadow.data.PKSampler`.
        batches_per_epoch: see :class:`~medshadow.data.PKSampler`.
        seed: seed of sampling and augmentation.
        num_workers: worker processes; the batches are the same for any number. 0 makes the next
            batch in a thread while the network computes.
        cache_rate: share of the decoded images kept in memory.
        progress: whether to show a bar while images are decoded.

    Returns:
        A loader of dictionaries ``image`` (P*K x 3 x S x S), ``label`` (P*K integers, or P*K x L
        zeros and ones over the table's ``finding_names`` where it is ``multi_label``), ``case_id``
        (list); P*K / ranks of them where there are several ranks.

    Raises:
        ValueError: the number of ranks does not divide P*K or is above K.
    """
    cases = table.section("training")
    rank, world_size = rank_and_world_size()
    sampler = PKSampler(
        cases.frame["labels" if cases.multi_label else "label"].tolist(),
        cases.frame["group"].tolist(),
        classes_per_batch,
        images_per_class,
        batches_per_epoch=batches_per_epoch,
        seed=seed,
        balance=balance,
        rank=rank,
        world_size=world_size,
    )
    shown = progress and rank == 0
    dataset = CaseDataset(cases, transform, seed=seed, cache_rate=cache_rate, progress=shown)
    loader = DataLoader if num_workers else _LoaderAhead
    return loader(dataset, batch_sampler=sampler, num_workers=num_workers)


class _LoaderAhead(DataLoader[Any]):
    """A loader without workers that makes the next batch while the last one is used.

    MONAI's ThreadDataLoader would do, if an error in its thread did not end the epoch silently.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        with ThreadPoolExecutor(1, "next-batch") as thread:
            coming = thread.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = thread.submit(next, batches, None)
                yield batch
