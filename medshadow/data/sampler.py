"""P classes x K images in every batch: what a metric loss needs in order to find its triplets."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from medshadow.data.draws import Draw
from medshadow.errors import DataError

logger = logging.getLogger(__name__)


class PKSampler(Sampler[list[Draw]]):
    """Batch sampler: P classes with K images each, in mixed order.

    Classes: a batch holds P different ones, those served least so far in the epoch, ties at random,
    so at any moment no class has been served more than once oftener than another.

    Label sets: an image is filed under the rarest of its labels, by count of images, ties by name.
    A label under which fewer than two images are filed is a class too: of all images that carry it,
    filed elsewhere or not, so that every label is served; such an image may come twice in a batch,
    once for each. A label of a single image makes no pair: where that image has other labels, the
    label is left out, and a warning names it.

    Images of a class: different groups (lesions) first, then further images of groups already in
    the batch, and an image twice only when the class has fewer than K images; then every one of its
    images is in the batch, as evenly as K allows (logged when K is set). Over an epoch the groups
    that were served least come first and the images of a group take turns, so a class with at least
    K groups serves each group, and each image within its group, equally often up to one.

    Balance: by default every class of a batch has K images. Below 1, the P*K images of a batch are
    shared among its classes in proportion to n^(1 - ``balance``), n being a class's number of
    images, and at least 2 to each: by the square root of their numbers at 0.5, as they occur at 0
    (Kang et al., "Decoupling representation and classifier", ICLR 2020, call 0.5 square-root
    sampling). A common class then shows more of its variety, at the price of the rare ones.

    An epoch is so many batches that P*K*len(sampler) covers the number of images once,
    ``ceil(len(labels) / (P*K))``, unless ``batches_per_epoch`` says otherwise.

    Everything is a function of (``seed``, epoch) and P and K; iterating twice gives the same
    batches until :meth:`set_epoch` or :meth:`set_batch` is called. Each
    :class:`~medshadow.data.draws.Draw` carries the epoch and its place among all draws of it.

    Several ranks: all draw the same joint batch and share it out, class by class, one image to each
    rank in turn. Each rank gets P*K / ``world_size`` images, and of every class K / ``world_size``
    of them, rounded up or down; the shares together are the joint batch, which does not depend on
    ``world_size``. With ``balance`` below 1 a rare class may have fewer images than there are
    ranks.

    Args:
        labels: class of each image, or its label set (a frozenset of names).
        groups: what the image shows: its lesion, patient or eye. Images of one class and one group
            count as one lesion; a group with images in two classes counts once in each.
        classes_per_batch: P, from 2 to the number of classes, or None for all classes.
        images_per_class: K, at least 2.
        batches_per_epoch: batches in an epoch, at least 1.
        seed: seed of the run, >= 0.
        balance: how evenly the classes of a batch share it, in [0, 1]; 1: K images each.
        rank: which share of each batch to yield, in [0, world_size).
        world_size: number of ranks; it must divide P*K and be at most K, so that every rank sees
            every class of the batch.

    Raises:
        ValueError: a number is out of its range, or ``labels`` and ``groups`` differ in length.
        DataError: a class has a single image and so no positive pair, or a label set is empty; the
            message names the class or the image.

    Example:
        >>> labels = ["mel"] * 4 + ["nv"] * 6
        >>> lesions = [1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        >>> sampler = PKSampler(labels, lesions, classes_per_batch=2, images_per_class=3)
        >>> len(sampler)
        2
        >>> sorted(labels[draw] for draw in next(iter(sampler)))
        ['mel', 'mel', 'mel', 'nv', 'nv', 'nv']
        >>> eyes = [frozenset(letters) for letters in ("D", "D", "D", "DH", "DH", "N", "N")]
        >>> sampler = PKSampler(eyes, range(7), None, images_per_class=2)
        >>> batch = next(iter(sampler))
        >>> len(batch), sum("H" in eyes[draw] for draw in batch)
        (6, 2)
    """

    def __init__(
        self,
        labels: Sequence[Hashable],
        groups: Sequence[Hashable],
        classes_per_batch: int | None,
        images_per_class: int,
        *,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        balance: float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        labels, groups = list(labels), list(groups)
        if len(labels) != len(groups):
            raise ValueError(f"found {len(labels)} labels and {len(groups)} groups; want as many")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance must be from 0 to 1; found {balance}")
        self.seed = seed
        self.balance = balance
        self.epoch = 0
        self.rank = rank
        self.world_size = world_size
        self._warned_of = 0
        self._classes = {
            label: _ClassImages(rows, groups) for label, rows in _rows_by_class(labels).items()
        }
        single = sorted(str(label) for label, c in self._classes.items() if c.count == 1)
        if single:
            raise DataError(
                f"classes with a single image have no positive pair: {single}; leave them out or "
                "give each a second image"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0; found {self.seed}")
        self.set_batch(classes_per_batch, images_per_class)
        default = math.ceil(len(labels) / (self.classes_per_batch * images_per_class))
        self.batches_per_epoch = default if batches_per_epoch is None else batches_per_epoch
        if self.batches_per_epoch < 1:
            raise ValueError(f"batches_per_epoch must be at least 1; found {batches_per_epoch}")

    def set_batch(self, classes_per_batch: int | None, images_per_class: int) -> None:
        """Choose P and K of the batches that later iterations draw; an epoch has as many as before.

        Args:
            classes_per_batch: P, or None for all classes.
            images_per_class: K.

        Raises:
            ValueError: a number is out of its range; the batches stay as they were.
        """
        P = len(self._classes) if classes_per_batch is None else classes_per_batch
        self._check(P, images_per_class)
        self.classes_per_batch, self.images_per_class = P, images_per_class
        self._warn_of_repeats()

    def _warn_of_repeats(self) -> None:
        K = self.images_per_class
        if self._warned_of >= K:
            return
        wanted = self._places(np.arange(len(self._classes)))
        for (label, images), places in zip(self._classes.items(), wanted, strict=True):
            if images.count < places:
                logger.warning(
                    "class %r has %d images of %d groups, fewer than its %d in a batch: it takes "
                    "all of them and repeats some",
                    *(label, images.count, images.group_count, places),
                )
        self._warned_of = K

    def _check(self, P: int, K: int) -> None:
        W = self.world_size
        if not 2 <= P <= len(self._classes):
            raise ValueError(
                f"classes_per_batch must be from 2 to the number of classes; found {P} for "
                f"{len(self._classes)} classes: {sorted(map(str, self._classes))}"
            )
        if K < 2:
            raise ValueError(f"images_per_class must be at least 2 for a positive pair; found {K}")
        if not 1 <= W <= K or (P * K) % W:
            raise ValueError(
                f"world_size must divide P*K = {P}*{K} and be from 1 to K, so that each rank gets "
                f"equally many images and all classes; found {W}"
            )
        if not 0 <= self.rank < W:
            raise ValueError(f"rank must be from 0 to world_size - 1 = {W - 1}; found {self.rank}")

    def __len__(self) -> int:
        return self.batches_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be >= 0; found {epoch}")
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch
        first = 0
        for rows, class_of in self._joint_batches(epoch):
            yield [Draw(int(rows[i]), epoch, first + int(i)) for i in self._share(class_of)]
            first += len(rows)

    def _joint_batches(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows of each joint batch of one epoch, and the class of each, both of length P*K."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        P, K = self.classes_per_batch, self.images_per_class
        served = np.zeros(len(self._classes), dtype=np.int64)
        turns = [_Turns(images, rng) for images in self._classes.values()]
        for _ in range(self.batches_per_epoch):
            chosen = _least(served, P, rng)
            served[chosen] += 1
            places = self._places(chosen)
            rows = np.concatenate(
                [turns[c].draw(int(n)) for c, n in zip(chosen, places, strict=True)]
            )
            class_of = np.repeat(chosen, places)
            order = rng.permutation(P * K)
            yield rows[order], class_of[order]

    def _places(self, chosen: np.ndarray) -> np.ndarray:
        """How many images each of these classes has in a batch of them, K on average."""
        counts = np.asarray([images.count for images in self._classes.values()])[chosen]
        weights = counts ** (1 - self.balance)
        spare = len(chosen) * (self.images_per_class - 2)
        return 2 + _apportioned(weights, spare)

    def _share(self, class_of: np.ndarray) -> np.ndarray:
        """Places in the joint batch that belong to this rank, in the order of the batch."""
        dealt = np.argsort(class_of, kind="stable")
        return np.sort(dealt[self.rank :: self.world_size])


class _ClassImages:
    """The images of one class, by group: ``rows`` holds each group's images in one run."""

    def __init__(self, rows: list[int], groups: Sequence[Hashable]) -> None:
        runs = list(_rows_by_value([groups[row] for row in rows]).values())
        self.rows = np.asarray(rows)[np.concatenate(runs)]
        self.sizes = np.asarray([len(run) for run in runs])
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.count = len(rows)
        self.group_count = len(runs)


class _Turns:
    """Whose turn it is within one class, during one epoch."""

    def __init__(self, images: _ClassImages, rng: np.random.Generator) -> None:
        self._images = images
        self._rng = rng
        shuffled = rng.permutation(images.count)
        group_of = np.repeat(np.arange(images.group_count), images.sizes)
        self._rows = images.rows[shuffled[np.argsort(group_of[shuffled], kind="stable")]]
        self._served = np.zeros(images.group_count, dtype=np.int64)

    def draw(self, count: int) -> np.ndarray:
        """The next ``count`` images: group by group, then again, until every image is used."""
        sizes, starts = self._images.sizes, self._images.starts
        drawn: list[np.ndarray] = []
        missing, left = count, sizes.copy()
        while missing:
            if not left.any():
                left = sizes.copy()
            candidates = np.flatnonzero(left)
            few = min(missing, len(candidates))
            chosen = candidates[_least(self._served[candidates], few, self._rng)]
            drawn.append(self._rows[starts[chosen] + self._served[chosen] % sizes[chosen]])
            self._served[chosen] += 1
            left[chosen] -= 1
            missing -= few
        return np.concatenate(drawn)


def _apportioned(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to the weights, summing to the total, by largest remainder."""
    exact = weights / weights.sum() * total
    whole = np.floor(exact + 1e-9).astype(np.int64)
    remainder = np.argsort(whole - exact, kind="stable")
    whole[remainder[: total - whole.sum()]] += 1
    return whole


def _least(served: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of the ``count`` smallest numbers of ``served``, ties at random."""
    return np.argsort(served + rng.random(len(served)))[:count]


def _rows_by_class(labels: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """The images of each class; a label set is filed under its rarest label."""
    sets = [label if isinstance(label, frozenset) else frozenset({label}) for label in labels]
    if not all(sets):
        raise DataError(f"image {sets.index(frozenset())} has an empty label set")
    carriers: dict[Hashable, list[int]] = {}
    for row, names in enumerate(sets):
        for name in names:
            carriers.setdefault(name, []).append(row)
    ranked = sorted(carriers, key=lambda name: (len(carriers[name]), str(name)))
    rank = {name: place for place, name in enumerate(ranked)}
    lone = {n for n in ranked if len(carriers[n]) == 1 and len(sets[carriers[n][0]]) > 1}
    if lone:
        logger.warning(
            "labels of a single image make no pair and are left out: %s", sorted(lone, key=str)
        )
    rows = _rows_by_value([min(names - lone or names, key=rank.__getitem__) for names in sets])
    for name in ranked:
        if name not in lone and len(rows.get(name, ())) < 2:
            rows[name] = carriers[name]
    return rows


def _rows_by_value(values: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    rows: dict[Hashable, list[int]] = {}
    for row, value in enumerate(values):
        rows.setdefault(value, []).append(row)
    return rows
