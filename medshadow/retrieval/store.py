"""The case store: the record of known cases, their vectors and thumbnails, in one database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sqlalchemy import delete, insert

from medshadow.errors import StoreError
from medshadow.retrieval import schema
from medshadow.retrieval.adding import Batch, Known, add_cases
from medshadow.retrieval.changes import required_numbers, update_case, write_consent
from medshadow.retrieval.creation import make_store
from medshadow.retrieval.database import changing, store_url, writing
from medshadow.retrieval.erasure import finish_erasure, withdraw_cases
from medshadow.retrieval.reading import StoreReader
from medshadow.retrieval.trail import record_lookup

if TYPE_CHECKING:
    from medshadow.data.cases import CaseTable


class CaseStore(StoreReader):
    """A database of known cases: what they were, their vectors by one model, small pictures.

    The store is the record; search structures are rebuilt from it. It keeps no path and no file
    name. Several processes may read while one writes; writers take turns. On SQLite it writes
    through a write-ahead log and overwrites what it erases; a withdrawal that was cut short is
    finished when the store is opened next.

    Args:
        url_or_path: a SQLite file, or an SQLAlchemy URL: ``postgresql+psycopg://user@host/name``.

    Attributes:
        name: name of the data set.
        source: what the archive is and where it comes from, in words.
        model_digest: the only model whose vectors the store takes (``Embedder.digest``).
        preprocess: that model's transform preset and size.
        embedding_dim: D.
        malignant: labels that triage must not miss.
        malignant_word: what such a case is called.
        diagnosis_names: label to its name in words.
        vectors_path: where a search keeps its file of vectors, which may not be there yet; None
            where the store is no SQLite file.

    Raises:
        FileNotFoundError: no such SQLite file.
        StoreError: the database is no case store, or one of another schema version.
        OptionalDependencyError: the driver for PostgreSQL is not installed.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = CaseStore.create(
        ...     Path(folder.name) / "cases.db", name="example", model_digest="d1",
        ...     embedding_dim=2, preprocess={"preset": "dermatology", "size": 160},
        ...     malignant={"mel"}, diagnosis_names={"mel": "melanoma"})
        >>> store.add(pd.DataFrame({"case_id": ["a"], "group": ["1"], "label": ["mel"],
        ...                         "age": [50]}), np.array([[0.6, 0.8]]), model_digest="d1")
        >>> store.update("a", metadata={"age": 51}, by="Dr Who")
        >>> len(store), store.frame()["age"].tolist()
        (1, [51])
        >>> store.withdraw("a", by="Dr Who"); len(store)
        0
        >>> store.trail()[["by", "action", "cases"]].values.tolist()[1:]
        [['Dr Who', 'update', ('withdrawn',)], ['Dr Who', 'withdraw', ('withdrawn',)]]
        >>> store.close(); folder.cleanup()
    """

    @classmethod
    def create(
        cls,
        url_or_path: str | Path,
        *,
        name: str,
        model_digest: str,
        embedding_dim: int,
        preprocess: Mapping[str, Any],
        source: str = "",
        malignant: Iterable[str] = (),
        malignant_word: str = "malignant",
        diagnosis_names: Mapping[str, str] | None = None,
    ) -> CaseStore:
        """Make an empty store for the vectors of one model, and open it.

        Raises:
            StoreError: the database already holds a store or other tables.
        """
        make_store(
            store_url(url_or_path),
            name=name,
            source=source,
            model_digest=model_digest,
            preprocess=dict(preprocess),
            embedding_dim=embedding_dim,
            malignant=sorted(malignant),
            malignant_word=malignant_word,
            diagnosis_names=dict(diagnosis_names or {}),
        )
        return cls(url_or_path)

    def add(
        self,
        cases: CaseTable | pd.DataFrame,
        embeddings: np.ndarray,
        *,
        model_digest: str,
        thumbnails: Iterable[bytes | None] | None = None,
        replace: bool = False,
        resume: bool = False,
        batch_size: int = 512,
        by: str = "",
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
            replace: True lets a case that is already there be replaced, which then counts as the
                newest and keeps its consent; and lets a case that was withdrawn come back.
            resume: True passes by cases that are there already with the same content (pictures
                are not compared): an import that was cut short goes on where it was.
            batch_size: cases in one transaction.
            by: who adds them, for the audit trail.

        Raises:
            StoreError: vectors of another model, of another dimension, not finite or not of unit
                length; a case id used twice, or withdrawn before; with ``resume`` a case whose
                content is another; a label set without the case's label; metadata that cannot be
                kept; thumbnails too few, too many or no JPEGs.
            ValueError: both ``replace`` and ``resume``.
        """
        if model_digest != self.model_digest:
            raise StoreError(
                f"{self._where}: vectors of model {model_digest[:12]} refused; "
                f"this store holds vectors of model {self.model_digest[:12]}"
            )
        if replace and resume:
            raise ValueError("replace and resume are both True; expected one of them at most")
        known: Known = "replace" if replace else "resume" if resume else "refuse"
        frame = cases if isinstance(cases, pd.DataFrame) else cases.frame
        batch = Batch.checked(frame, embeddings, self.embedding_dim)
        add_cases(self._engine, batch, thumbnails, known, batch_size, by)

    def update(
        self,
        case_id: str,
        *,
        label: str | None = None,
        labels: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        by: str = "",
    ) -> None:
        """Correct what is said of a case; its vector and picture stay.

        Args:
            case_id: the case.
            label: its diagnosis, if that changes.
            labels: its label set, if that changes; where a case carries its diagnosis alone, the
                set follows the diagnosis.
            metadata: values to set; the others stay as they are, None empties one.
            by: who corrects it, for the audit trail.

        Raises:
            StoreError: no such case; nothing to change; a label set without the label; a value
                that cannot be kept, or for a name that the store itself uses.
        """
        with changing(self._engine, by) as turn:
            update_case(turn, case_id, label, labels, metadata)

    def withdraw(
        self, case_ids: str | Iterable[str], *, by: str = "", reason: str = "consent"
    ) -> None:
        """Erase cases at once: row, vector, thumbnail and entry in the file of vectors.

        A tombstone stays (see :meth:`withdrawn`), by which the store refuses the case should it be
        added again. On SQLite the file is rewritten without the cases and the write-ahead log is
        emptied; if another process is reading at that moment for longer than half a minute, that is
        done at the next withdrawal or opening, and a warning is logged. On PostgreSQL the tables
        are rewritten; the server's own log and backups are its administrator's.

        Args:
            case_ids: the cases.
            by: who withdraws them, for the tombstone and the audit trail.
            reason: "consent", "error", "duplicate" or "other".

        Raises:
            StoreError: a case id is not in the store, or the reason is none of these; then nothing
                is withdrawn.
        """
        if reason not in schema.REASONS:
            raise StoreError(f"reason {reason!r} is not known; expected one of {schema.REASONS}")
        with changing(self._engine, by) as turn:
            withdraw_cases(turn, _distinct(case_ids), reason)
        finish_erasure(self._engine, self.vectors_path)

    def set_consent(self, case_ids: str | Iterable[str], consent: str, *, by: str = "") -> None:
        """Say whether cases may be shown: "given", or "suspended" (kept, but never found).

        Raises:
            StoreError: a case id is not in the store, or the state is none of the two.
        """
        if consent not in schema.CONSENT:
            raise StoreError(f"consent {consent!r} is not known; expected one of {schema.CONSENT}")
        with changing(self._engine, by) as turn:
            numbers = required_numbers(turn.connection, _distinct(case_ids))
            write_consent(turn, numbers, consent)

    def record_lookup(self, *, by: str, query_digest: str, shown: Sequence[str]) -> None:
        """Write into the audit trail that somebody was shown cases. The version stays as it is.

        Args:
            by: who looked.
            query_digest: of the image that was looked up, from :meth:`query_digest`.
            shown: the case ids in the order shown.

        Raises:
            StoreError: the digest is none, or a case was never in this store.
        """
        with writing(self._engine, by) as turn:
            record_lookup(turn, query_digest, shown)

    def set_calibration(self, calibration: Mapping[str, Any] | None) -> None:
        """Keep what was learned from validation cases, or forget it.

        Raises:
            StoreError: it cannot be written as JSON.
        """
        try:
            json.dumps(calibration and dict(calibration), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StoreError(f"calibration cannot be kept as JSON: {error}") from error
        with changing(self._engine, by="") as turn:
            turn.connection.execute(delete(schema.calibration))
            if calibration is not None:
                value = {"id": 1, "value": dict(calibration)}
                turn.connection.execute(insert(schema.calibration), value)


def _distinct(case_ids: str | Iterable[str]) -> list[str]:
    return [case_ids] if isinstance(case_ids, str) else list(dict.fromkeys(case_ids))
