"""Indices that know when they were drawn, so that random transforms need no state of their own."""

from __future__ import annotations

import numpy as np


class Draw(int):
    """An index into a data set, with the epoch and the place in it where it was drawn.

    It is an ``int`` wherever one is wanted, so samplers may yield it in place of plain indices, and
    it survives the trip to a ``DataLoader`` worker. Two draws of one index compare equal, as their
    integers do; only :meth:`seed` tells them apart.

    Args:
        index: row of the data set, >= 0.
        epoch: number of the epoch, >= 0.
        position: place of this draw among all draws of the epoch, over all ranks, >= 0.

    Raises:
        ValueError: one of them is negative.

    Example:
        >>> draw = Draw(7, epoch=2, position=40)
        >>> ["a", "b", "c", "d", "e", "f", "g", "h"][draw], draw.epoch, draw.position
        ('h', 2, 40)
        >>> draw.seed(0) == Draw(5, epoch=2, position=40).seed(0) != Draw(7, 2, 41).seed(0)
        True
    """

    epoch: int
    position: int

    def __new__(cls, index: int, epoch: int = 0, position: int = 0) -> Draw:
        """Make a draw of row ``index``; the class says what the arguments are."""
        if index < 0 or epoch < 0 or position < 0:
            raise ValueError(
                "a draw's index, epoch and position must be >= 0; "
                f"found {index}, {epoch}, {position}"
            )
        draw = super().__new__(cls, index)
        draw.epoch = int(epoch)
        draw.position = int(position)
        return draw

    def __reduce__(self) -> tuple[type[Draw], tuple[int, int, int]]:
        return Draw, (int(self), self.epoch, self.position)

    def __repr__(self) -> str:
        return f"Draw({int(self)}, epoch={self.epoch}, position={self.position})"

    def seed(self, base: int) -> int:
        """The seed of every random choice made for this draw.

        Args:
            base: seed of the run, >= 0.

        Returns:
            An integer in [0, 2**32), a hash of (base, epoch, position): neighbouring epochs and
            positions give unrelated seeds (numpy's ``SeedSequence``).

        Raises:
            ValueError: ``base`` is negative.
        """
        if base < 0:
            raise ValueError(f"seed must be >= 0; found {base}")
        sequence = np.random.SeedSequence([base, self.epoch, self.position])
        return int(sequence.generate_state(1, np.uint32)[0])
