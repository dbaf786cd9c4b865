"""The case store: the record of known cases, their vectors and thumbnails, in one database."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine, func, insert, inspect, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError

from medshadow.errors import StoreError
from medshadow.retrieval import schema
from medshadow.retrieval.changes import (
    changing,
    delete_cases,
    insert_cases,
    known_ids,
    write_consent,
)
from medshadow.retrieval.rows import (
    checked_embeddings,
    checked_frame,
    checked_thumbnail,
    plain_rows,
)
from medshadow.retrieval.snapshot import Snapshot, read_snapshot
from medshadow.retrieval.thumbnails import decode_thumbnail
from medshadow.retrieval.verify import problems

if TYPE_CHECKING:
    from medshadow.data.cases import CaseTable

_log = logging.getLogger(__name__)
_END = object()


class CaseStore:
    """A database of known cases: what they were, their vectors by one model, small pictures.

    The store is the record; search structures are rebuilt from it. It keeps no path and no file
    name. On SQLite it writes through a write-ahead log, so that several processes may read while
    one writes, and erased content is overwritten.

    Args:
        url_or_path: a SQLite file, or an SQLAlchemy URL.

    Attributes:
        name: name of the data set.
        model_digest: the only model whose vectors the store takes (``Embedder.digest``).
        preprocess: that model's transform preset and size.
        embedding_dim: D.
        malignant: labels that triage must not miss.
        malignant_word: what such a case is called.
        diagnosis_names: label to its name in words.

    Raises:
        FileNotFoundError: no such SQLite file.
        StoreError: the database is no case store, or one of another schema version.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = CaseStore.create(
        ...     Path(folder.name) / "cases.db", name="example", model_digest="d1",
        ...     embedding_dim=2, preprocess={"preset": "dermatology", "size": 160},
        ...     malignant={"mel"}, diagnosis_names={"mel": "melanoma"})
        >>> store.add(pd.DataFrame({"case_id": ["a"], "group": ["1"], "label": ["mel"],
        ...                         "age": [50]}), np.array([[0.6, 0.8]]), model_digest="d1")
        >>> len(store), store.frame()["age"].tolist()
        (1, [50])
        >>> store.withdraw("a"); len(store)
        0
        >>> store.close(); folder.cleanup()
    """

    def __init__(self, url_or_path: str | Path) -> None:
        url = schema.store_url(url_or_path)
        self._where = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            raise FileNotFoundError(f"no case store at {url.database}; build one first")
        self._engine = schema.store_engine(url)
        try:
            row = self._read_archive()
        except BaseException:
            self.close()
            raise
        self.name: str = row.name
        self.model_digest: str = row.model_digest
        self.preprocess: dict[str, Any] = row.preprocess
        self.embedding_dim: int = row.embedding_dim
        self.malignant: frozenset[str] = frozenset(row.malignant)
        self.malignant_word: str = row.malignant_word
        self.diagnosis_names: dict[str, str] = row.diagnosis_names

    @classmethod
    def create(
        cls,
        url_or_path: str | Path,
        *,
        name: str,
        model_digest: str,
        embedding_dim: int,
        preprocess: Mapping[str, Any],
        malignant: Iterable[str] = (),
        malignant_word: str = "malignant",
        diagnosis_names: Mapping[str, str] | None = None,
    ) -> CaseStore:
        """Make an empty store for the vectors of one model, and open it.

        Raises:
            StoreError: the database already holds a store or other tables.
        """
        url = schema.store_url(url_or_path)
        if url.get_backend_name() == "sqlite":
            Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
        engine = schema.store_engine(url)
        try:
            _make_tables(
                engine,
                name=name,
                model_digest=model_digest,
                preprocess=dict(preprocess),
                embedding_dim=embedding_dim,
                malignant=sorted(malignant),
                malignant_word=malignant_word,
                diagnosis_names=dict(diagnosis_names or {}),
            )
        finally:
            engine.dispose()
        return cls(url_or_path)

    def __len__(self) -> int:
        with self._engine.begin() as connection:
            return int(connection.scalar(select(func.count()).select_from(schema.cases)) or 0)

    def __enter__(self) -> CaseStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection to the database."""
        self._engine.dispose()

    @property
    def version(self) -> int:
        """A counter that every change of the store moves on: tells a reader to read again."""
        with self._engine.begin() as connection:
            return int(connection.scalar(select(schema.archive.c.version)) or 0)

    def add(
        self,
        cases: CaseTable | pd.DataFrame,
        embeddings: np.ndarray,
        *,
        model_digest: str,
        thumbnails: Iterable[bytes | None] | None = None,
        replace: bool = False,
        batch_size: int = 512,
    ) -> None:
        """Add cases, batch after batch; each batch is kept whole or not at all.

        Everything but the thumbnails is checked before the first row is written.

        Args:
            cases: columns ``case_id``, ``group``, ``label``, optionally ``labels`` (each a set that
                holds the case's label), then metadata. ``image``, ``section`` and ``findings`` are
                not kept.
            embeddings: N x D unit vectors in the same order.
            model_digest: digest of the model that made them.
            thumbnails: N JPEGs (see :func:`medshadow.retrieval.thumbnails_of`) or None for a case
                without; taken as they are needed, so a generator will do.
            replace: True lets a case that is already there be replaced; it then counts as the
                newest.
            batch_size: cases in one transaction.

        Raises:
            StoreError: vectors of another model, of another dimension, not finite or not of unit
                length; a case id used twice; a label set without the case's label; metadata that
                cannot be kept; thumbnails too few, too many or no JPEGs.
        """
        if model_digest != self.model_digest:
            raise StoreError(
                f"{self._where}: vectors of model {model_digest[:12]} refused; "
                f"this store holds vectors of model {self.model_digest[:12]}"
            )
        frame = checked_frame(cases if isinstance(cases, pd.DataFrame) else cases.frame)
        ids = frame["case_id"].tolist()
        vectors = checked_embeddings(embeddings, ids, self.embedding_dim)
        rows = list(plain_rows(frame))
        if not replace:
            with self._engine.begin() as connection:
                self._refuse_known(connection, ids)
        pictures = iter(repeat(None, len(rows)) if thumbnails is None else thumbnails)
        for first in range(0, len(rows), batch_size):
            part = slice(first, first + batch_size)
            jpegs = [_next_thumbnail(pictures, case_id) for case_id in ids[part]]
            with changing(self._engine) as connection:
                if replace:
                    delete_cases(connection, ids[part])
                else:
                    # Another process may have added the same case since the first look.
                    self._refuse_known(connection, ids[part])
                insert_cases(connection, rows[part], vectors[part], jpegs, model_digest)
        if next(pictures, _END) is not _END:
            raise StoreError(f"{self._where}: more thumbnails than the {len(rows)} cases")

    def withdraw(self, case_ids: str | Iterable[str]) -> None:
        """Erase cases at once: row, vector and thumbnail.

        On SQLite the file is rewritten without them and the write-ahead log is emptied; if another
        process is reading at that moment, the log is emptied at the next withdrawal or when the
        last connection closes, and a warning is logged.

        Raises:
            StoreError: a case id is not in the store; then nothing is withdrawn.
        """
        ids = [case_ids] if isinstance(case_ids, str) else list(dict.fromkeys(case_ids))
        with changing(self._engine) as connection:
            self._refuse_unknown(connection, ids)
            delete_cases(connection, ids)
        if not schema.erase_leftovers(self._engine):
            _log.warning(
                "%d cases are withdrawn, but their bytes stay in the write-ahead log until the "
                "processes that are reading it have finished",
                len(ids),
            )

    def set_consent(self, case_ids: str | Iterable[str], consent: str) -> None:
        """Say whether cases may be shown: "given", or "suspended" (kept, but never found).

        Raises:
            StoreError: a case id is not in the store, or the state is none of the two.
        """
        if consent not in schema.CONSENT:
            raise StoreError(f"consent {consent!r} is not known; expected one of {schema.CONSENT}")
        ids = [case_ids] if isinstance(case_ids, str) else list(case_ids)
        with changing(self._engine) as connection:
            self._refuse_unknown(connection, ids)
            write_consent(connection, ids, consent)

    def frame(self) -> pd.DataFrame:
        """Every case in the order added, without vectors and thumbnails.

        Returns:
            Columns ``case_id, group, label, labels`` (frozenset), the metadata columns,
            ``consent`` ("given" or "suspended") and ``added`` (UTC).
        """
        with self._engine.begin() as connection:
            return read_snapshot(connection, self.embedding_dim, with_embeddings=False).frame

    def embeddings(self) -> np.ndarray:
        """The vectors: float32 N x D of unit length, in the order of :meth:`frame`."""
        return self.snapshot().embeddings

    def snapshot(self) -> Snapshot:
        """Frame, vectors and version as of one moment, whatever other processes write."""
        with self._engine.begin() as connection:
            return read_snapshot(connection, self.embedding_dim)

    def thumbnail(self, case_id: str) -> bytes | None:
        """The JPEG of a case, or None where it has none.

        Raises:
            StoreError: the case is not in the store.
        """
        c = schema.cases.join(schema.thumbnails, isouter=True)
        query = select(schema.thumbnails.c.jpeg).select_from(c)
        with self._engine.begin() as connection:
            row = connection.execute(query.where(schema.cases.c.case_id == case_id)).one_or_none()
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

    def verify(self) -> list[str]:
        """Check the whole store: database structure, models, dimensions, unit lengths, labels.

        Returns:
            One sentence for each thing wrong; empty when all is well.
        """
        with self._engine.begin() as connection:
            return problems(connection, self.model_digest, self.embedding_dim)

    def _read_archive(self) -> Any:
        try:
            with self._engine.begin() as connection:
                if not inspect(connection).has_table("archive"):
                    raise StoreError(f"{self._where}: not a case store: it has no table 'archive'")
                version = connection.scalar(select(schema.archive.c.schema_version))
                if version != schema.SCHEMA_VERSION:
                    raise StoreError(
                        f"{self._where}: schema version {version}; this MedShadow reads "
                        f"{schema.SCHEMA_VERSION}"
                    )
                return connection.execute(select(schema.archive)).one()
        except DatabaseError as error:
            raise StoreError(f"{self._where}: not a case store: {error.orig}") from error

    def _refuse_known(self, connection: Connection, ids: list[str]) -> None:
        known = known_ids(connection, ids)
        if known:
            raise StoreError(
                f"{self._where}: cases already in the store: {known[:5]}; pass replace=True to "
                "replace them"
            )

    def _refuse_unknown(self, connection: Connection, ids: list[str]) -> None:
        unknown = sorted(set(ids) - set(known_ids(connection, ids)))
        if unknown:
            raise StoreError(f"{self._where}: no cases {unknown[:5]}")


def _make_tables(engine: Engine, **archive: Any) -> None:
    with engine.execution_options(medshadow_writes=True).begin() as connection:
        found = inspect(connection).get_table_names()
        if found:
            what = "a case store" if "archive" in found else f"other tables: {found[:5]}"
            raise StoreError(
                f"{engine.url.render_as_string(hide_password=True)}: holds {what}; open it with "
                "CaseStore(...) or name a new database"
            )
        schema.tables.create_all(connection)
        first = {"id": 1, "schema_version": schema.SCHEMA_VERSION, "version": 0}
        connection.execute(insert(schema.archive).values(**first, **archive))


def _next_thumbnail(pictures: Iterator[bytes | None], case_id: str) -> bytes | None:
    jpeg = next(pictures, _END)
    if jpeg is _END:
        raise StoreError(f"thumbnails end before case {case_id!r}; one a case is expected")
    return checked_thumbnail(jpeg, case_id)  # type: ignore[arg-type]
