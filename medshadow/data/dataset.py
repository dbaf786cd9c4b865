"""Cases as MONAI items: decoded once, augmented by a random state that belongs to each draw."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from monai.data import CacheDataset

from medshadow.data.cases import CaseTable
from medshadow.data.draws import Draw
from medshadow.errors import DataError, ImageReadError


class CaseDataset(CacheDataset):
    """A case table as a MONAI data set whose augmentations depend on the draw alone.

    Transforms up to the first random one run once for each case and stay in memory (MONAI's cache).
    The random ones are reseeded before every item from (``seed``, epoch, position) of its
    :class:`~medshadow.data.draws.Draw`, so an item is the same for any number of workers, on any
    rank and after resuming, and an image drawn twice in one epoch is augmented twice differently.
    A plain index counts as a draw of epoch 0 at the position of that index.

    One process must not fetch items from several threads at once: they share the transforms.

    Args:
        table: the cases.
        transform: MONAI transform (or a sequence of them) from ``{"image": path, "label": int,
            "case_id": str}`` to an item; the label is a float32 vector where the table is
            ``multi_label``, and ``laterality`` comes with it where the table has an ``eye``.
        seed: seed of the augmentations, >= 0.
        cache_rate: share of the cases kept in memory, in [0, 1].
        num_workers: threads that fill the cache.
        progress: whether to show a bar while the cache is filled.

    Raises:
        ValueError: ``seed`` is negative.
        ImageReadError: an image cannot be read; the message names the case and its file.
        DataError: a transform fails on an image; the message names the case and its file.

    Example:
        >>> import pandas as pd
        >>> table = CaseTable(pd.DataFrame({
        ...     "case_id": ["a", "b"], "image": ["a.jpg", "b.jpg"],
        ...     "group": ["lesion1", "lesion2"], "label": ["mel", "nv"]}))
        >>> CaseDataset(table, transform=lambda item: item, progress=False)[Draw(1)]
        {'image': 'b.jpg', 'label': 1, 'case_id': 'b'}
    """

    def __init__(
        self,
        table: CaseTable,
        transform: Callable[[Any], Any] | Sequence[Callable[[Any], Any]],
        seed: int = 0,
        cache_rate: float = 1.0,
        num_workers: int = 2,
        progress: bool = True,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must be >= 0; found {seed}")
        self.seed = seed
        self._state = np.random.RandomState(0)
        super().__init__(
            data=table.datalist(),
            transform=transform,
            cache_rate=cache_rate,
            num_workers=num_workers,
            progress=progress,
            # A channel-first view of a channel-last image stays one: cv2 wants channels last.
            as_contiguous=False,
        )

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice | Sequence):
            return super().__getitem__(index)
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"index {row} is outside a data set of {len(self)} cases")
        row %= len(self)
        draw = index if isinstance(index, Draw) else Draw(row, epoch=0, position=row)
        # Seeding this state anew costs 2 microseconds, making one for every item over 100.
        self._state.seed(draw.seed(self.seed))
        self.transform.set_random_state(state=self._state)
        return self._named(row, super()._transform)

    def _load_cache_item(self, idx: int) -> Any:
        return self._named(idx, super()._load_cache_item)

    def _named(self, row: int, load: Callable[[int], Any]) -> Any:
        """Run ``load(row)``; an error names the case, which MONAI's own message does not."""
        try:
            return load(row)
        except (ImageReadError, DataError):
            raise
        except Exception as error:
            case = self.data[row]
            cause = _first_cause(error)
            kind = ImageReadError if isinstance(cause, OSError) else DataError
            raise kind(f"case {case['case_id']}, file {case['image']}: {cause}") from error


def _first_cause(error: BaseException) -> BaseException:
    """The error that MONAI's "applying transform ..." errors were raised from."""
    while error.__cause__ is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error
