"""What is searched, in words and numbers: shown beside every answer."""

from __future__ import annotations

from typing import Any

from medshadow.retrieval import CaseStore
from medshadow.retrieval.listing import filterable_columns


class Archive:
    """Describes a store, and again only after it was changed.

    Args:
        store: the case store.
    """

    def __init__(self, store: CaseStore) -> None:
        self._store = store
        self._last: tuple[int, dict[str, Any]] | None = None

    def described(self) -> dict[str, Any]:
        """Name, size, model, names of diagnoses, what can be filtered by.

        Returns:
            ``name, source, cases, groups, model_digest, malignant, malignant_word,
            diagnosis_names`` and ``columns``, see
            :func:`medshadow.retrieval.listing.filterable_columns`. Cases whose consent is
            suspended do not count.
        """
        version = self._store.version
        if self._last is None or self._last[0] != version:
            self._last = (version, _described(self._store))
        return self._last[1]


def _described(store: CaseStore) -> dict[str, Any]:
    frame = store.frame()
    frame = frame[frame["consent"] == "given"]
    return {
        "name": store.name,
        "source": store.source,
        "cases": len(frame),
        "groups": int(frame["group"].nunique()),
        "model_digest": store.model_digest,
        "malignant": sorted(store.malignant),
        "malignant_word": store.malignant_word,
        "diagnosis_names": store.diagnosis_names,
        "columns": filterable_columns(frame),
    }
