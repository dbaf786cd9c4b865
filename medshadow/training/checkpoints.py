"""Checkpoint files that are whole or not there, whenever a run is stopped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.handlers import DiskSaver

_EPOCH = re.compile(r"_epoch=(\d+)\.pt$")


class WholeFiles(DiskSaver):
    """Writes each checkpoint beside its place, moves it there, and only then deletes those before.

    ignite deletes the checkpoint before and then writes the next: stopped between, a run has none.

    Args:
        folder: where to write, made if need be.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), atomic=True, create_dir=True, require_empty=False)
        self._folder = folder

    def __call__(
        self,
        checkpoint: Mapping[str, Any],
        filename: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint; one of an epoch takes the place of those of epochs before it."""
        super().__call__(checkpoint, filename, metadata)
        if idist.get_rank() != self.save_on_rank:
            return
        for path in epoch_files(self._folder):
            if epoch_of(path) < epoch_of(self._folder / filename):
                path.unlink()

    def remove(self, filename: str) -> None:
        """Nothing: what takes the file's place is written first."""


def epoch_files(folder: Path) -> list[Path]:
    """The checkpoints of whole epochs (0: before the first), oldest first."""
    return sorted((p for p in folder.glob("*.pt") if epoch_of(p) >= 0), key=epoch_of)


def epoch_of(path: Path) -> int:
    """The epoch that a checkpoint's name tells; -1 where it tells none."""
    found = _EPOCH.search(path.name)
    return int(found.group(1)) if found else -1
