"""Find images of the same lesion or eye that stand under other group names, and confirm each pair.

Candidates come from keypoints that vote for the images which hold their nearest neighbours; each
candidate is then confirmed or refused by registration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from medshadow.data.registration import Registration, register
from medshadow.data.sketch import Sketch, mirrored, unit
from medshadow.data.threads import mapped

CANDIDATES = 8
"""Most candidates looked at for each image, and as many mirrored ones."""
MIN_VOTES = 1.0
"""Votes that make a candidate."""

_NEIGHBOURS = 12
_CHECKS = 32
_DIMENSIONS = 48
_VOTING = 120
# A mirrored image is a copy, not another day's photograph: fewer keypoints tell.
_VOTING_MIRRORED = 40
_BLOCK = 64


@dataclass(frozen=True)
class NearPair:
    """Two images that show the same place, and the evidence for it.

    Args:
        first: case id, the alphabetically first.
        second: the other case id.
        evidence: how well the second can be laid over the first.
    """

    first: str
    second: str
    evidence: Registration

    def to_dict(self) -> dict[str, Any]:
        """Flat, numbers rounded, ready for JSON or a table."""
        evidence = {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self.evidence).items()
        }
        return {"first": self.first, "second": self.second, **evidence}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NearPair:
        """The pair that ``to_dict`` gave the dictionary of."""
        evidence = {key: value for key, value in data.items() if key not in ("first", "second")}
        return cls(data["first"], data["second"], Registration(**evidence))


def near_duplicates(
    sketches: Mapping[str, Sketch],
    groups: Mapping[str, str],
    *,
    threads: int = 2,
    progress: bool = True,
) -> tuple[NearPair, ...]:
    """All pairs of images of different groups that show the same place, as far as votes find them.

    The search is repeatable: the same sketches give the same pairs, for any number of threads.

    Args:
        sketches: case id to sketch; leave out blank images.
        groups: case id to group; images of one group are not compared.
        threads: how many pairs are compared at a time, >= 1.
        progress: whether to show bars.

    Returns:
        Ordered by case ids.

    Example:
        >>> from medshadow.data.sketch import sketch
        >>> rng = np.random.default_rng(0)
        >>> noise = [rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(3)]
        >>> a, b, c = (cv2.resize(n, (192, 192), interpolation=cv2.INTER_CUBIC) for n in noise)
        >>> seen = {"a": sketch(a), "b": sketch(b), "a2": sketch(a[10:]), "c": sketch(c)}
        >>> pairs = near_duplicates(seen, {name: name for name in seen}, progress=False)
        >>> [(pair.first, pair.second) for pair in pairs]
        [('a', 'a2')]
    """
    names = sorted(sketches)
    if len(names) < 2:
        return ()
    drawn = [sketches[name] for name in names]
    group_of = np.unique([groups[name] for name in names], return_inverse=True)[1]
    wanted = candidates(drawn, group_of.tolist(), threads=threads, progress=progress)
    # Thousands of small matrix products: threads of their own would only stand in the way.
    with threadpool_limits(limits=1, user_api="blas"):
        looks = mapped(
            lambda c: register(drawn[c[0]], drawn[c[1]], mirror=c[2]), wanted,
            "near duplicates: confirm", "pair", threads=threads, progress=progress,
        )  # fmt: skip
    found: dict[tuple[int, int], Registration] = {}
    for (one, other, _), seen in zip(wanted, looks, strict=True):
        if seen is not None and seen.same:
            best = found.get((one, other))
            if best is None or seen.correlation > best.correlation:
                found[one, other] = seen
    return tuple(NearPair(names[a], names[b], found[a, b]) for a, b in sorted(found))


def candidates(
    sketches: Sequence[Sketch],
    groups: Sequence[int],
    *,
    threads: int = 2,
    progress: bool = True,
) -> list[tuple[int, int, bool]]:
    """Pairs worth a closer look: (smaller position, larger position, mirrored), in order.

    Each keypoint looks up its nearest neighbours among all images' keypoints, approximately (a
    forest of k-d trees: Muja and Lowe 2009), and votes for the images that hold them: by 1 less the
    squared distance over that of the farthest neighbour, so that a keypoint which looks like
    thousands of others (dust, a hair, the texture of skin) hardly counts. The images with most
    votes are the candidates; once more with all keypoints mirrored.
    """
    owner = np.repeat(np.arange(len(sketches)), [min(len(s.points), _VOTING) for s in sketches])
    if len(owner) <= _NEIGHBOURS:
        return []
    stacked = np.concatenate([s.descriptors[:_VOTING] for s in sketches])
    project = _Projection(stacked)
    # The trees are drawn at random.
    cv2.setRNGSeed(0)
    index = cv2.flann.Index(project(stacked), {"algorithm": 1, "trees": 4})  # k-d trees
    group_of = np.asarray(groups)
    starts = np.searchsorted(owner, np.arange(len(sketches) + 1))

    def vote(task: tuple[int, bool]) -> Iterator[tuple[int, int, bool]]:
        begin, mirror = task
        images = np.arange(begin, min(begin + _BLOCK, len(sketches)))
        mine = np.arange(starts[images[0]], starts[images[-1] + 1])
        if mirror:
            mine = mine[mine - starts[owner[mine]] < _VOTING_MIRRORED]
        if not len(mine):
            return iter(())
        asked = mirrored(stacked[mine]) if mirror else stacked[mine]
        nearest, squared = index.knnSearch(project(asked), _NEIGHBOURS, params={"checks": _CHECKS})
        weight = np.clip(1 - squared / np.maximum(squared[:, -1:], 1e-9), 0, 1)
        cell = (owner[mine] - begin)[:, None] * len(sketches) + owner[nearest]
        votes = np.bincount(cell.ravel(), weight.ravel(), len(images) * len(sketches))
        votes = votes.reshape(len(images), len(sketches))
        votes[group_of[images][:, None] == group_of] = 0
        return _most_voted(images, votes, mirror)

    tasks = [(b, m) for m in (False, True) for b in range(0, len(sketches), _BLOCK)]
    voted = mapped(
        vote, tasks, "near duplicates: search", "block", threads=threads, progress=progress
    )
    return sorted({candidate for some in voted for candidate in some})


def _most_voted(
    images: npt.NDArray[np.int64], votes: npt.NDArray[Any], mirror: bool
) -> Iterator[tuple[int, int, bool]]:
    for image, row in zip(images.tolist(), votes, strict=True):
        likely = np.flatnonzero(row >= MIN_VOTES)
        # A stable order, so that ties do not depend on the machine.
        for other in likely[np.argsort(-row[likely], kind="stable")[:CANDIDATES]].tolist():
            yield min(image, other), max(image, other), mirror


class _Projection:
    """Descriptors to their leading principal components: a third of the numbers to search by."""

    def __init__(self, descriptors: npt.NDArray[np.uint8]) -> None:
        some = unit(descriptors[:: max(1, len(descriptors) // 50_000)])
        self._mean = some.mean(axis=0)
        axes = np.linalg.svd(np.cov((some - self._mean).T))[0]
        self._axes = axes[:, :_DIMENSIONS].astype(np.float32)

    def __call__(self, descriptors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        reduced = np.empty((len(descriptors), self._axes.shape[1]), np.float32)
        # In parts: a million descriptors as float32 would take half a gigabyte.
        for begin in range(0, len(descriptors), 50_000):
            part = slice(begin, begin + 50_000)
            reduced[part] = (unit(descriptors[part]) - self._mean) @ self._axes
        return reduced
