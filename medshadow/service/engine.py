"""The lookup behind the service: one model, one store and a few workers.

The event loop never waits for a model, a database or a decoder: all of that happens in the
workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from medshadow.data.in_memory import read_image_bytes
from medshadow.errors import ImageReadError, ImageTooLargeError, StoreError, StoreUnavailableError
from medshadow.networks import Embedder
from medshadow.retrieval import CaseLookup, CaseStore, LookupAnswer, MilvusSearch, Search
from medshadow.retrieval.encoders import best_encoder
from medshadow.retrieval.listing import may_be_shown
from medshadow.service.archive import Archive
from medshadow.service.problems import Problem, busy
from medshadow.service.queries import Queries, Query
from medshadow.service.settings import Limits, ServiceSettings
from medshadow.service.workers import Workers

if TYPE_CHECKING:
    from medshadow.retrieval.explain import Explanation

T = TypeVar("T")
Laterality = Literal["left", "right"]
_log = logging.getLogger(__name__)


class LookupEngine:
    """Looks images up in worker threads.

    Args:
        lookup: the model and the store.
        limits: how many workers, how long a queue, how long to wait.

    Attributes:
        store: the case store.
        limits: as given.
    """

    def __init__(self, lookup: CaseLookup, limits: Limits | None = None) -> None:
        self._lookup = lookup
        self.store = lookup.store
        self.limits = limits or Limits()
        self._workers = Workers(self.limits)
        self._queries = Queries(self.limits)
        self._archive = Archive(self.store)

    @classmethod
    def open(cls, settings: ServiceSettings) -> LookupEngine:
        """Open the store and the model that settings name.

        Raises:
            FileNotFoundError: there is no store.
            StoreError: it is no case store, or holds another model's vectors; Milvus does not
                answer.
            OptionalDependencyError: the extra ``milvus`` is needed.
            ModelFolderError: the model cannot be loaded.
        """
        with ExitStack() as opened:
            store = opened.enter_context(CaseStore(settings.cases))
            embedder = Embedder.load(settings.model)
            search: Search | None = None
            if settings.milvus is not None:
                search = MilvusSearch(store, settings.milvus, settings.milvus_token)
                opened.callback(search.close)
            lookup = CaseLookup(store, embedder, best_encoder(embedder, threads=1), search)
            opened.pop_all()
        return cls(lookup, settings.limits)

    def close(self) -> None:
        """Finish what the workers are at, drop what waits, and close the store."""
        self._workers.close()
        self._lookup.search.close()
        self.store.close()

    def check(self) -> None:
        """Make sure that lookups find what they should; what was withdrawn is erased from here on.

        Raises:
            StoreError: they would not; the archive or Milvus does not answer.
        """
        self._lookup.search.check()

    async def lookup(
        self,
        image: bytes | np.ndarray,
        k: int = 16,
        where: str | None = None,
        laterality: Laterality | None = None,
        prevalence: float | None = None,
        exclude_groups: Iterable[str] = (),
        by: str = "",
    ) -> tuple[str, LookupAnswer]:
        """Find the known cases most like an image.

        Args:
            image: a file's content, or uint8 H x W x 3.
            k: distinct cases wanted, at least 1.
            where: a filter; see :func:`medshadow.retrieval.parse_where`.
            laterality: which eye it shows.
            prevalence: share of malignant cases among such images, in (0, 1).
            exclude_groups: groups to leave out.
            by: who asks, for the trail.

        Returns:
            A token by which the image can be asked about for a while, and the answer.

        Raises:
            Problem: 413 or 422 for an image or a filter that cannot be read, 503 when there is no
                room in the queue or the answer took too long.
        """
        excluded = tuple(exclude_groups)
        return await self.run(
            lambda: self._look_up(image, k, where, laterality, prevalence, excluded, by)
        )

    async def refine(
        self,
        token: str,
        relevant: Iterable[str],
        not_relevant: Iterable[str] = (),
        k: int = 16,
        where: str | None = None,
        by: str = "",
    ) -> LookupAnswer:
        """Search again for the image of a token and what a person marked among the cases shown.

        Args:
            token: from :meth:`lookup`; it goes on naming the image.
            relevant: case ids shown for it that are like it.
            not_relevant: case ids shown for it that are not.
            k: as for :meth:`lookup`.
            where: as for :meth:`lookup`.
            by: who asks, for the trail.

        Raises:
            Problem: as :meth:`lookup`; 404 for an image that is no longer kept, 422 for a case that
                was not shown for it or is marked as both, 410 for one that may no longer be shown.
        """
        liked, disliked = tuple(relevant), tuple(not_relevant)
        query = self._queries.get(token)
        _refuse_unseen(query, [*liked, *disliked])
        if (not liked and not disliked) or set(liked) & set(disliked):
            raise Problem(422, "Mark one case at least, each as relevant or as not relevant.")
        return await self.run(lambda: self._refine(token, query, liked, disliked, k, where, by))

    async def explain(self, token: str, case_id: str) -> Explanation:
        """Which regions of the image of a token and of a case made the two alike.

        Raises:
            Problem: 404 for an image that is no longer kept, 422 for a case that was not shown for
                it, 410 for one that may no longer be shown, 503 as :meth:`run`.
        """
        query = self._queries.get(token)
        _refuse_unseen(query, [case_id])
        return await self.run(lambda: self._explain(query, case_id))

    async def run(self, work: Callable[[], T]) -> T:
        """Do something in a worker thread.

        Raises:
            Problem: 503 when there is no room in the queue, it took too long, or the database
                cannot be read or written now.
        """
        try:
            return await self._workers.run(work)
        except StoreUnavailableError as error:
            _log.error("%s", error)
            raise busy("The archive cannot be read or written now; the log tells why.") from None

    def pixels(self, token: str) -> np.ndarray:
        """The image of a token: uint8 H x W x 3.

        Raises:
            Problem: 404 if it is not, or no longer, kept.
        """
        return self._queries.get(token).pixels

    def thumbnail(self, case_id: str) -> bytes | None:
        """The JPEG of a case that may be shown; None where there is none or it may not."""
        return may_be_shown(self.store, [case_id]).get(case_id)

    def thumbnails(self, case_ids: Iterable[str]) -> dict[str, bytes | None]:
        """The JPEGs of those of some cases that may be shown, in one query."""
        return may_be_shown(self.store, case_ids)

    def archive(self) -> dict[str, Any]:
        """What is searched, see :meth:`medshadow.service.archive.Archive.described`."""
        return self._archive.described()

    def forget_old(self) -> None:
        """Let go of images that were kept for long enough."""
        self._queries.forget_old()

    def _look_up(
        self,
        image: bytes | np.ndarray,
        k: int,
        where: str | None,
        laterality: Laterality | None,
        prevalence: float | None,
        exclude_groups: tuple[str, ...],
        by: str,
    ) -> tuple[str, LookupAnswer]:
        pixels = image if isinstance(image, np.ndarray) else self._decoded(image)
        with _filters_are_theirs():
            answer = self._lookup.lookup(
                pixels,
                k=k,
                where=where,
                exclude_groups=exclude_groups,
                laterality=laterality,
                prevalence=prevalence,
            )
        query = Query(pixels, laterality, exclude_groups, self._recorded(pixels, answer, by))
        return self._queries.keep(query), answer

    def _refine(
        self,
        token: str,
        query: Query,
        relevant: tuple[str, ...],
        not_relevant: tuple[str, ...],
        k: int,
        where: str | None,
        by: str,
    ) -> LookupAnswer:
        with _still_shown(), _filters_are_theirs():
            answer = self._lookup.refine(
                query.pixels,
                relevant=relevant,
                not_relevant=not_relevant,
                k=k,
                where=where,
                exclude_groups=query.exclude_groups,
                laterality=query.laterality,
            )
        shown = query.shown | self._recorded(query.pixels, answer, by)
        self._queries.replace(token, replace(query, shown=shown))
        return answer

    def _explain(self, query: Query, case_id: str) -> Explanation:
        with _still_shown():
            return self._lookup.explain(query.pixels, case_id, laterality=query.laterality)

    def _recorded(self, pixels: np.ndarray, answer: LookupAnswer, by: str) -> frozenset[str]:
        """Write into the trail who is about to see which cases: no answer leaves without."""
        shown = [hit.case_id for hit in answer.shown()]
        digest = self.store.query_digest(pixels)
        self.store.record_lookup(by=by, query_digest=digest, shown=shown)
        return frozenset(shown)

    def _decoded(self, content: bytes) -> np.ndarray:
        try:
            return read_image_bytes(content, max_pixels=self.limits.max_pixels)
        except ImageTooLargeError as error:
            raise Problem(413, str(error)) from None
        except ImageReadError as error:
            raise Problem(422, str(error)) from None


def _refuse_unseen(query: Query, case_ids: list[str]) -> None:
    """A token gives access to the cases shown for its image, and to no others."""
    if not query.shown.issuperset(case_ids):
        raise Problem(422, "At least one of these cases was not shown for this image.")


@contextmanager
def _still_shown() -> Iterator[None]:
    """Tell who asks that a case is gone; its name stays out of what may be logged."""
    try:
        yield
    except StoreError:
        raise Problem(
            410, "A case was withdrawn or suspended meanwhile, or no picture of it was kept."
        ) from None


@contextmanager
def _filters_are_theirs() -> Iterator[None]:
    """Tell who asks about a filter that cannot be read; all else the store says is not for them."""
    try:
        yield
    except StoreError as error:
        if not str(error).startswith("filter"):
            raise
        raise Problem(422, str(error)) from None
