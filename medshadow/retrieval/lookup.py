"""From an image to the nearest known cases, the nearest malignant one, and warnings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from medshadow.data.readers import read_image
from medshadow.errors import StoreError
from medshadow.retrieval import cautions
from medshadow.retrieval.answer import Archive, LookupAnswer
from medshadow.retrieval.encode import encode_images, tells_eyes_apart
from medshadow.retrieval.ranking import Hit
from medshadow.retrieval.search import ExactSearch
from medshadow.retrieval.store import CaseStore
from medshadow.retrieval.thumbnails import decode_thumbnail, jpeg_thumbnail
from medshadow.retrieval.where import Where, parse_where

if TYPE_CHECKING:
    from medshadow.networks import Embedder

# Where a picture was kept, pixels decide whether a case this close is the query itself: a well
# trained model brings different lesions as close. Without a picture the vector must be the same.
_CLOSE = 0.9
_SAME_VECTOR = 1 - 1e-6
# Mean difference in grey levels between two encodings of the same pixels stays below this.
_SAME_PICTURE = 3.0


class CaseLookup:
    """Nearest known cases of a store for an image that is new to it.

    Args:
        store: the known cases.
        embedder: the model that made the store's vectors.

    Raises:
        StoreError: the embedder is another model.

    Example:
        >>> lookup = CaseLookup(store, embedder)  # doctest: +SKIP
        >>> answer = lookup.lookup("lesion.jpg", k=16, where="sex=female")  # doctest: +SKIP
        >>> answer.vote, answer.nearest_malignant.rank  # doctest: +SKIP
        ('nv', 7)
    """

    def __init__(self, store: CaseStore, embedder: Embedder) -> None:
        digest = embedder.digest
        if digest != store.model_digest:
            raise StoreError(
                f"the store {store.name!r} holds vectors of model {store.model_digest[:12]}; "
                f"this embedder is model {digest[:12]}, whose vectors do not compare"
            )
        self.store = store
        self.embedder = embedder
        self.search = ExactSearch(store)
        self._tells_eyes_apart = tells_eyes_apart(embedder)

    def lookup(
        self,
        image: str | Path | np.ndarray,
        k: int = 16,
        where: Where = None,
        exclude_groups: Iterable[str] = (),
        laterality: Literal["left", "right"] | None = None,
    ) -> LookupAnswer:
        """Find the k distinct cases most like an image, and the nearest malignant one.

        Args:
            image: an image file, or uint8 H x W x 3 RGB.
            k: lesions or patients wanted, at least 1.
            where: a filter; see :func:`medshadow.retrieval.parse_where`.
            exclude_groups: groups to leave out, such as the query's own lesion.
            laterality: which eye a fundus photograph shows, None where it is not known: a model of
                fundi compares left eyes mirrored.

        Returns:
            The answer. Its hits number min(k, groups that meet the filter).

        Raises:
            ImageReadError: the file cannot be read.
            StoreError: the filter cannot be read or names an unknown key.
            ValueError: k is below 1, the array is no image, or the laterality is another word.
        """
        if laterality not in ("left", "right", None):
            raise ValueError(f'laterality must be "left", "right" or None; found {laterality!r}')
        conditions = parse_where(where)
        excluded = tuple(str(group) for group in exclude_groups)
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        views = self.embedder.query_views
        side = laterality or ""
        vector = encode_images(self.embedder, [pixels], views=views, laterality=side)[0]
        ranking = self.search.rank(vector, conditions, excluded)
        hits = tuple(ranking.nearest(k))
        malignant = ranking.nearest_with(self.store.malignant)
        outside = malignant is None and bool(conditions)
        if outside:
            malignant = self.search.rank(vector, (), excluded).nearest_with(self.store.malignant)
        words = " and ".join(str(condition) for condition in conditions)
        warnings = [
            *(cautions.same_image(hit) for hit in hits if self._is_same(hit, pixels)),
            *([cautions.which_eye()] if self._tells_eyes_apart and not side else []),
            *cautions.few_cases(ranking, k, words),
            *cautions.about_malignant(malignant, outside, self.store.malignant_word),
        ]
        return LookupAnswer(
            archive=Archive(
                name=self.store.name,
                cases=ranking.archive_cases,
                groups=ranking.archive_groups,
                model_digest=self.store.model_digest,
                malignant=self.store.malignant,
                malignant_word=self.store.malignant_word,
                diagnosis_names=self.store.diagnosis_names,
            ),
            hits=hits,
            nearest_malignant=malignant,
            malignant_outside_filter=outside and malignant is not None,
            k=k,
            where=words,
            matching_groups=ranking.groups,
            excluded_groups=excluded,
            laterality=side,
            warnings=cautions.most_serious_first(warnings),
        )

    def _is_same(self, hit: Hit, pixels: np.ndarray) -> bool:
        if hit.similarity < _CLOSE:
            return False
        kept = self.store.image_of(hit.case_id)
        if kept is None:
            return hit.similarity >= _SAME_VECTOR
        query = decode_thumbnail(jpeg_thumbnail(pixels))
        if kept.shape != query.shape:
            return False
        return float(np.abs(kept.astype(float) - query.astype(float)).mean()) <= _SAME_PICTURE
