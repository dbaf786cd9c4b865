"""Whether a case found is the query image itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from medshadow.retrieval.ranking import Hit
from medshadow.retrieval.thumbnails import decode_thumbnail, jpeg_thumbnail

if TYPE_CHECKING:
    from medshadow.retrieval.store import CaseStore

# Where a picture was kept, pixels decide whether a case this close is the query itself: a well
# trained model brings different lesions as close. Without a picture the vector must be the same.
_CLOSE = 0.9
_SAME_VECTOR = 1 - 1e-6
# Mean difference in grey levels between two encodings of the same pixels stays below this.
_SAME_PICTURE = 3.0


def shows_query(store: CaseStore, hits: Iterable[Hit], pixels: np.ndarray) -> Iterator[Hit]:
    """Those of some hits that show the query's own pixels, in another encoding or not.

    Args:
        store: where the pictures of the hits are kept.
        hits: what was found.
        pixels: the query, uint8 H x W x 3.
    """
    query = None
    for hit in hits:
        if hit.similarity < _CLOSE:
            continue
        kept = store.image_of(hit.case_id)
        if kept is None:
            if hit.similarity >= _SAME_VECTOR:
                yield hit
            continue
        query = decode_thumbnail(jpeg_thumbnail(pixels)) if query is None else query
        if kept.shape == query.shape and _difference(kept, query) <= _SAME_PICTURE:
            yield hit


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())
