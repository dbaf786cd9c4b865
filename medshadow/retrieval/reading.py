"""Opening a case store and reading it: everything of ``CaseStore`` that changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from sqlalchemy import Engine, func, inspect, select
from sqlalchemy.exc import DatabaseError, OperationalError

from medshadow.errors import StoreError
from medshadow.retrieval import schema
from medshadow.retrieval.backup import backup_store
from medshadow.retrieval.database import reading, store_engine, store_url, told_plainly
from medshadow.retrieval.erasure import finish_erasure, read_withdrawn
from medshadow.retrieval.rows import can_be_kept
from medshadow.retrieval.snapshot import (
    Changes,
    Snapshot,
    read_changes,
    read_snapshot,
    read_vectors,
)
from medshadow.retrieval.thumbnails import decode_thumbnail
from medshadow.retrieval.trail import (
    keyed_digest,
    pixels_digest,
    read_trail,
    withdrawn_numbers,
)
from medshadow.retrieval.verify import problems

_log = logging.getLogger(__name__)
# Opening a store waits no longer for readers that keep the bytes of withdrawn cases.
_PATIENCE_SECONDS = 1.0


class StoreReader:
    """What can be asked of a case store; see ``CaseStore``, which can change it too."""

    def __init__(self, url_or_path: str | Path) -> None:
        url = store_url(url_or_path)
        self._where = url.render_as_string(hide_password=True)
        self.vectors_path: Path | None = None
        if url.get_backend_name() == "sqlite":
            path = Path(url.database or "")
            if not path.is_file():
                raise FileNotFoundError(f"no case store at {path}; build one first")
            self.vectors_path = path.with_name(f"{path.name}.vectors")
        self._engine = store_engine(url)
        try:
            row = _read_archive(self._engine, self._where)
            _finish_erasure(self._engine, self.vectors_path)
        except BaseException:
            self.close()
            raise
        self.name: str = row.name
        self.source: str = row.source
        self.model_digest: str = row.model_digest
        self.preprocess: dict[str, Any] = row.preprocess
        self.embedding_dim: int = row.embedding_dim
        self.malignant: frozenset[str] = frozenset(row.malignant)
        self.malignant_word: str = row.malignant_word
        self.diagnosis_names: dict[str, str] = row.diagnosis_names
        self._salt: bytes = row.salt

    def __len__(self) -> int:
        with reading(self._engine) as connection:
            return int(connection.scalar(select(func.count()).select_from(schema.cases)) or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection to the database."""
        self._engine.dispose()

    @property
    def version(self) -> int:
        """A counter that every change of the store moves on: tells a reader to read again."""
        with told_plainly(), self._engine.begin() as connection:
            return int(connection.scalar(select(schema.archive.c.version)) or 0)

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What was learned from validation cases, as it stands in the store now; or None."""
        with reading(self._engine) as connection:
            value = connection.scalar(select(schema.calibration.c.value))
        return None if value is None else dict(value)

    def frame(self) -> pd.DataFrame:
        """Every case in the order added or last changed, without vectors and thumbnails.

        Returns:
            Columns ``case_id, group, label, labels`` (frozenset), the metadata columns,
            ``consent`` ("given" or "suspended") and ``added`` (UTC).
        """
        with reading(self._engine) as connection:
            return read_snapshot(connection, self.embedding_dim, with_embeddings=False).frame

    def embeddings(self) -> np.ndarray:
        """The vectors: float32 N x D of unit length, in the order of :meth:`frame`."""
        return self.snapshot().embeddings

    def snapshot(self, *, with_embeddings: bool = True) -> Snapshot:
        """Frame, vectors, keys and version as of one moment, whatever other processes write.

        Args:
            with_embeddings: False leaves the vectors out (0 x D), which a vector file may hold.
        """
        with reading(self._engine) as connection:
            return read_snapshot(connection, self.embedding_dim, with_embeddings=with_embeddings)

    def vectors_of(self, keys: np.ndarray) -> np.ndarray:
        """The vectors of cases that may be shown now: float32 N x D.

        Args:
            keys: int64 N, from a :meth:`snapshot`.

        Returns:
            Zeros in the place of a case that was withdrawn, suspended or changed since.
        """
        with reading(self._engine) as connection:
            return read_vectors(connection, self.embedding_dim, keys)

    def changes_since(self, version: int) -> Changes | None:
        """What a reader who knows an earlier version must do to catch up, as of one moment.

        Cheap when little changed: what did not change is not read.

        Returns:
            None where the store cannot tell, because the version is of before it kept account or
            is not its own (a backup was put back): then take a whole :meth:`snapshot`.
        """
        with reading(self._engine) as connection:
            return read_changes(connection, self.embedding_dim, version)

    def keyed_name(self, kind: str, content: str) -> str:
        """A name for something of this store that tells nobody else anything: 16 digits and a-f.

        Args:
            kind: what it names, so that names of different kinds never agree.
            content: what tells it from others of its kind.
        """
        return keyed_digest(self._salt, kind, content.encode()).hex()[:16]

    def thumbnail(self, case_id: str) -> bytes | None:
        """The JPEG of a case, or None where it has none.

        Raises:
            StoreError: the case is not in the store.
        """
        c = schema.cases.join(schema.thumbnails, isouter=True)
        query = select(schema.thumbnails.c.jpeg).select_from(c)
        row = None
        if can_be_kept(case_id):
            with reading(self._engine) as connection:
                here = query.where(schema.cases.c.case_id == case_id)
                row = connection.execute(here).one_or_none()
        if row is None:
            raise StoreError(f"{self._where}: no case {case_id!r}")
        jpeg: bytes | None = row.jpeg
        return jpeg

    def image_of(self, case_id: str) -> np.ndarray | None:
        """The thumbnail of a case as pixels, uint8 H x W x 3; None where it has none.

        Raises:
            StoreError: the case is not in the store.
        """
        jpeg = self.thumbnail(case_id)
        return None if jpeg is None else decode_thumbnail(jpeg)

    def withdrawn(self) -> pd.DataFrame:
        """The tombstones of withdrawn cases, oldest first.

        Returns:
            Columns ``case`` (its internal number), ``withdrawn`` (UTC), ``by`` and ``reason``. Of
            the case id there is only a hash under the store's own salt, by which the store knows it
            should it come again.
        """
        return read_withdrawn(self._engine)

    def withdrawn_among(self, case_ids: Iterable[str]) -> frozenset[str]:
        """Those of some case ids that were withdrawn from this store, and that it would refuse."""
        with reading(self._engine) as connection:
            return frozenset(withdrawn_numbers(connection, self._salt, list(case_ids)))

    def trail(self, newest: int | None = None) -> pd.DataFrame:
        """The audit trail, oldest entry first: lookups and every change of a case.

        Args:
            newest: how many of the newest entries; None for all.

        Returns:
            Columns ``when`` (UTC), ``by``, ``action`` (one of ``schema.ACTIONS``), ``query_digest``
            (empty but for lookups) and ``cases``: a tuple of case ids, "withdrawn" in the place
            of each that was withdrawn.
        """
        with reading(self._engine) as connection:
            return read_trail(connection, newest)

    def query_digest(self, pixels: np.ndarray) -> str:
        """What the trail calls an image that was looked up: 64 hexadecimal digits.

        HMAC-SHA256 under the store's salt: the same image has the same digest in this store and
        another in any other store.

        Args:
            pixels: the image as it was read.
        """
        return pixels_digest(self._salt, pixels)

    def backup(self, path: str | Path) -> None:
        """Write a consistent copy of the store while others read and write it.

        The copy holds what it was made of: a case that is withdrawn later is still in it. Keep
        backups no longer than is needed, and withdraw again after putting one back.

        Args:
            path: a file that does not exist yet; only its owner may read it.

        Raises:
            StoreError: the file exists, or the store is in PostgreSQL, which ``pg_dump`` copies.
            StoreUnavailableError: the disk is full, or the like; no file is left then.
        """
        backup_store(self._engine, self._where, Path(path))

    def verify(self) -> list[str]:
        """Check the whole store: structure, models, vectors, labels, keys, trail and tombstones.

        The file of vectors beside a SQLite store is compared with it, where there is one.

        Returns:
            One sentence for each thing wrong; empty when all is well.
        """
        with reading(self._engine) as connection:
            return problems(connection, self.model_digest, self.embedding_dim, self.vectors_path)


def _finish_erasure(engine: Engine, vectors_path: Path | None) -> None:
    try:
        finish_erasure(engine, vectors_path, _PATIENCE_SECONDS)
    except StoreError as error:
        # What can be looked up is right all the same: the cases themselves are gone.
        _log.warning("%s", error)


def _read_archive(engine: Engine, where: str) -> Any:
    try:
        with engine.begin() as connection:
            if not inspect(connection).has_table("archive"):
                raise StoreError(f"{where}: not a case store: it has no table 'archive'")
            version = connection.scalar(select(schema.archive.c.schema_version))
            if version is None:
                raise StoreError(f"{where}: not a case store: its table 'archive' is empty")
            if version > schema.SCHEMA_VERSION:
                raise StoreError(
                    f"{where}: schema version {version} is of a newer MedShadow; this one reads "
                    f"{schema.SCHEMA_VERSION}"
                )
            if version < schema.SCHEMA_VERSION:
                raise StoreError(
                    f"{where}: schema version {version} is of an older MedShadow; bring the store "
                    f"to version {schema.SCHEMA_VERSION} with: medshadow index upgrade"
                )
            return connection.execute(select(schema.archive)).one()
    except OperationalError as error:
        raise StoreError(f"{where}: cannot be opened: {error.orig}") from error
    except DatabaseError as error:
        raise StoreError(f"{where}: not a case store: {error.orig}") from error
