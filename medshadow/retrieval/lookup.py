"""From an image to the nearest known cases, the nearest malignant one, and warnings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from medshadow.data.readers import read_image
from medshadow.errors import StoreError
from medshadow.evaluation.calibration import Probability
from medshadow.retrieval import cautions
from medshadow.retrieval.answer import Archive, LookupAnswer
from medshadow.retrieval.calibration import ArchiveCalibration
from medshadow.retrieval.encode import tells_eyes_apart
from medshadow.retrieval.encoders import Encoded, Encoder, TorchEncoder
from medshadow.retrieval.facts import facts_of
from medshadow.retrieval.ranking import Hit, Ranking
from medshadow.retrieval.refinement import refined_query
from medshadow.retrieval.same_image import shows_query
from medshadow.retrieval.search import ExactSearch, Search
from medshadow.retrieval.store import CaseStore
from medshadow.retrieval.where import Condition, Where, parse_where

if TYPE_CHECKING:
    from medshadow.networks import Embedder
    from medshadow.retrieval.explain import Explanation

Laterality = Literal["left", "right"]


class CaseLookup:
    """Nearest known cases of a store for an image that is new to it.

    Args:
        store: the known cases.
        embedder: the model that made the store's vectors.
        encoder: how a query becomes a vector; by default
            :class:`~medshadow.retrieval.encoders.TorchEncoder`.
        search: what finds the cases in that store; by default an
            :class:`~medshadow.retrieval.search.ExactSearch`.

    Raises:
        StoreError: the embedder is another model, or the store's calibration is.

    Example:
        >>> lookup = CaseLookup(store, embedder)  # doctest: +SKIP
        >>> answer = lookup.lookup("lesion.jpg", k=16, where="sex=female")  # doctest: +SKIP
        >>> answer.vote, answer.nearest_malignant.rank  # doctest: +SKIP
        ('nv', 7)
    """

    def __init__(
        self,
        store: CaseStore,
        embedder: Embedder,
        encoder: Encoder | None = None,
        search: Search | None = None,
    ) -> None:
        digest = embedder.digest
        if digest != store.model_digest:
            raise StoreError(
                f"the store {store.name!r} holds vectors of model {store.model_digest[:12]}; "
                f"this embedder is model {digest[:12]}, whose vectors do not compare"
            )
        self.store = store
        self.embedder = embedder
        self.encoder = TorchEncoder(embedder) if encoder is None else encoder
        self.search = ExactSearch(store) if search is None else search
        self.calibration = ArchiveCalibration.of(store)
        self._tells_eyes_apart = tells_eyes_apart(embedder)

    def lookup(
        self,
        image: str | Path | np.ndarray,
        k: int = 16,
        where: Where = None,
        exclude_groups: Iterable[str] = (),
        laterality: Laterality | None = None,
        prevalence: float | None = None,
    ) -> LookupAnswer:
        """Find the k distinct cases most like an image, and the nearest malignant one.

        Args:
            image: an image file, or uint8 H x W x 3 RGB.
            k: lesions or patients wanted, at least 1.
            where: a filter; see :func:`medshadow.retrieval.parse_where`.
            exclude_groups: groups to leave out, such as the query's own lesion.
            laterality: which eye a fundus photograph shows, None where it is not known: a model of
                fundi compares left eyes mirrored.
            prevalence: share of malignant ones among images like this one, between 0 and 1, where
                the answer is to give a probability. That is of the 16 nearest cases of the whole
                archive: it depends neither on k nor on the filter.

        Returns:
            The answer. Its hits number min(k, groups that meet the filter).

        Raises:
            ImageReadError: the file cannot be read.
            StoreError: the filter cannot be read or names an unknown key.
            ValueError: k is below 1, the array is no image, the laterality is another word, or the
                prevalence is out of range.
        """
        if prevalence is not None and not 0 < prevalence < 1:
            raise ValueError(
                f"prevalence must lie between 0 and 1, both excluded; found {prevalence!r}"
            )
        asked = self._asked(image, k, where, exclude_groups, laterality)
        vector = asked.encoded.vector
        ranking = self.search.rank(vector, asked.conditions, asked.excluded)
        probability = None
        if prevalence is not None and self.calibration is not None:
            whole = self.search.rank(vector, (), asked.excluded) if asked.conditions else ranking
            malignant = self.store.malignant
            probability = self.calibration.probability_of(whole, malignant, prevalence)
        return self._answer(asked, vector, ranking, ranking.nearest(k), probability=probability)

    def refine(
        self,
        image: str | Path | np.ndarray,
        *,
        relevant: Iterable[str],
        not_relevant: Iterable[str] = (),
        k: int = 16,
        where: Where = None,
        exclude_groups: Iterable[str] = (),
        laterality: Laterality | None = None,
    ) -> LookupAnswer:
        """Search again for an image and what a person marked among the cases found.

        Refinement by example, as in SMILY (Cai et al., CHI 2019), by Rocchio's formula: see
        :func:`~medshadow.retrieval.refinement.refined_query`. Similarities are to the refined
        query. Cases marked as not relevant, and their groups, are not among the hits; the nearest
        malignant case may be one of them all the same.

        Args:
            image: the query, as for :meth:`lookup`.
            relevant: case ids marked as relevant.
            not_relevant: case ids marked as not relevant.
            k: as for :meth:`lookup`.
            where: as for :meth:`lookup`.
            exclude_groups: as for :meth:`lookup`.
            laterality: as for :meth:`lookup`.

        Returns:
            The answer, ``refined``: without vote, share and probability, which hold no longer.

        Raises:
            ImageReadError, StoreError, ValueError: as :meth:`lookup`; and StoreError for a case
                that is not there or not to be shown, ValueError where no case is marked, or one as
                both.
        """
        asked = self._asked(image, k, where, exclude_groups, laterality)
        liked, disliked = tuple(dict.fromkeys(relevant)), tuple(dict.fromkeys(not_relevant))
        both = sorted({*liked} & {*disliked})
        if both or not (liked or disliked):
            found = f"{both[:5]} as both" if both else "none"
            raise ValueError(f"mark cases as relevant or as not relevant; found {found}")
        vector = refined_query(
            asked.encoded.vector,
            [self.search.vector_of(case_id) for case_id in liked],
            [self.search.vector_of(case_id) for case_id in disliked],
        )
        unwanted = [self._case(case_id).group for case_id in disliked]
        wanted = self.search.rank(vector, asked.conditions, [*asked.excluded, *unwanted])
        ranking = self.search.rank(vector, asked.conditions, asked.excluded)
        return self._answer(asked, vector, ranking, wanted.nearest(k), refined=True)

    def explain(
        self,
        image: str | Path | np.ndarray,
        case_id: str,
        laterality: Laterality | None = None,
    ) -> Explanation:
        """Which regions of an image and of a case made the two alike.

        Of the case the picture that the store keeps is used.

        Args:
            image: the query, as for :meth:`lookup`.
            case_id: the case.
            laterality: which eye the query shows, as for :meth:`lookup`.

        Raises:
            ImageReadError: the query's file cannot be read.
            StoreError: there is no such case that may be shown, or no picture of it was kept.
        """
        from medshadow.retrieval.explain import explain

        case = self._case(case_id)
        picture = self.store.image_of(case_id)
        if picture is None:
            raise StoreError(f"no picture of case {case_id!r} was kept: nothing can be explained")
        side = str(facts_of(case.metadata)["laterality"] or "")
        return explain(
            self.embedder,
            _pixels_of(image),
            picture,
            laterality=laterality or "",
            case_laterality=side if side in ("left", "right") else "",
        )

    def _asked(
        self,
        image: str | Path | np.ndarray,
        k: int,
        where: Where,
        exclude_groups: Iterable[str],
        laterality: str | None,
    ) -> _Asked:
        if laterality not in ("left", "right", None):
            raise ValueError(f'laterality must be "left", "right" or None; found {laterality!r}')
        conditions = tuple(parse_where(where))
        excluded = tuple(str(group) for group in exclude_groups)
        pixels = _pixels_of(image)
        side = laterality or ""
        return _Asked(pixels, self.encoder(pixels, side), k, conditions, excluded, side)

    def _answer(
        self,
        asked: _Asked,
        vector: np.ndarray,
        ranking: Ranking,
        nearest: list[Hit],
        *,
        probability: Probability | None = None,
        refined: bool = False,
    ) -> LookupAnswer:
        hits = tuple(nearest)
        malignant = ranking.nearest_with(self.store.malignant)
        outside = malignant is None and bool(asked.conditions)
        if outside:
            whole = self.search.rank(vector, (), asked.excluded)
            malignant = whole.nearest_with(self.store.malignant)
        answer = LookupAnswer(
            archive=self._archive(ranking),
            hits=hits,
            nearest_malignant=malignant,
            malignant_outside_filter=outside and malignant is not None,
            k=asked.k,
            where=asked.words,
            matching_groups=ranking.groups,
            excluded_groups=asked.excluded,
            laterality=asked.laterality,
            refined=refined,
            probability=probability,
        )
        warnings = [
            *cautions.about_image(self.calibration, asked.pixels, asked.encoded.pooled),
            *cautions.disagreeing(answer),
            *(cautions.same_image(hit) for hit in shows_query(self.store, hits, asked.pixels)),
            *([cautions.which_eye()] if self._tells_eyes_apart and not asked.laterality else []),
            *cautions.few_cases(len(hits), asked.k, asked.words),
            *cautions.about_malignant(malignant, outside, self.store.malignant_word),
        ]
        return replace(answer, warnings=cautions.most_serious_first(warnings))

    def _archive(self, ranking: Ranking) -> Archive:
        known = self.calibration
        return Archive(
            name=self.store.name,
            cases=ranking.archive_cases,
            groups=ranking.archive_groups,
            model_digest=self.store.model_digest,
            malignant=self.store.malignant,
            malignant_word=self.store.malignant_word,
            diagnosis_names=self.store.diagnosis_names,
            source=self.store.source,
            knows_its_kind=known is not None and known.familiarity is not None,
            calibrated=known is not None and known.probability is not None,
        )

    def _case(self, case_id: str) -> Hit:
        """A case that may be shown, as a search for its own vector finds it.

        Raises:
            StoreError: there is no such case.
        """
        vector = self.search.vector_of(case_id)
        return self.search.search(vector, 1, where=[Condition("case_id", "=", case_id)])[0]


def _pixels_of(image: str | Path | np.ndarray) -> np.ndarray:
    pixels = image if isinstance(image, np.ndarray) else read_image(image)
    # PyTorch takes no array that cannot be written to, such as one on a file or on bytes.
    return pixels if pixels.flags.writeable else pixels.copy()


@dataclass(frozen=True, eq=False)
class _Asked:
    """What somebody wants to know, checked, and the query as the network sees it."""

    pixels: np.ndarray
    encoded: Encoded
    k: int
    conditions: tuple[Condition, ...]
    excluded: tuple[str, ...]
    laterality: str

    @property
    def words(self) -> str:
        return " and ".join(str(condition) for condition in self.conditions)
