"""A store's vectors in Milvus: a collection that is filled from the store and never the record.

A collection is named after its store, the model and the set of withdrawn cases, so that a
withdrawal makes every collection there was one of the past: another is filled, and the old ones are
dropped whole, since a deleted row would stay on the server's disk for an unknown time. An alias
says which collection is complete. Who fills one takes vectors of cases that may be shown; what is
not to be shown any longer is masked by who searches, and left where it is until there is much of
it.
"""

from __future__ import annotations

import logging
import secrets
from threading import RLock, Thread

import numpy as np

from medshadow.errors import StoreError
from medshadow.retrieval.milvus_server import CollectionGoneError, MilvusServer
from medshadow.retrieval.snapshot import Snapshot
from medshadow.retrieval.store import CaseStore
from medshadow.retrieval.vectors import case_marks

_log = logging.getLogger(__name__)
_ROWS_AT_ONCE = 1 << 13
# The share of keys that are no longer shown beyond which a collection is filled anew, and the
# least number of them.
_STALE_SHARE = 0.05
_STALE_KEYS = 2048
_ATTEMPTS = 5


class Mirror:
    """A collection that holds at least what may be shown of a store.

    Args:
        store: the cases.
        server: where the collection is.

    Attributes:
        name: the collection, which is another one after a withdrawal.
        doubtful: whether the server failed to answer meanwhile, and may have lost what it had not
            written to its disk: to be followed before it is asked again.

    Raises:
        StoreError: the server does not answer, or refuses.
    """

    def __init__(self, store: CaseStore, server: MilvusServer) -> None:
        self.server = server
        self._store = store
        model = f"{store.model_digest} {store.embedding_dim}"
        self._prefix = f"medshadow_{store.keyed_name('mirror', model)}_"
        self._hash_key = store.keyed_name("mark", "")
        # Who holds it changes what the collection is, or what is in it.
        self._lock = RLock()
        self._eraser: Thread | None = None
        self.name, self._stamp, self._version = "", "", -1
        self._keys = 0
        self.doubtful = False
        self.renew()

    def nearest(
        self, query: np.ndarray, limit: int, where: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`MilvusServer.nearest`, of the collection there is.

        Raises:
            StoreError: as the class says.
        """
        name = self.name
        try:
            return self.server.nearest(name, query, limit, where)
        except CollectionGoneError:
            self.renew(name)
            return self.server.nearest(self.name, query, limit, where)
        except StoreError:
            self.doubtful = True
            raise

    def renew(self, failed: str = "") -> None:
        """Take the collection that is complete, or fill one.

        Args:
            failed: the collection that could not be used; nothing is done where another one has
                taken its place.

        Raises:
            StoreError: as the class says.
        """
        with self._lock:
            if failed == self.name:
                self._take_or_fill()

    def follow(self) -> None:
        """Bring the collection up to the store's present version; erase what was withdrawn.

        Erasing takes place in a thread of its own: searches go on with the collection that is
        there.

        Raises:
            StoreError: as the class says.
        """
        with self._lock:
            changes = self._store.changes_since(self._version)
            if changes is None or self.doubtful:
                self._take_or_fill()
                self.doubtful = False
                return
            try:
                self._put_missing(self.name, changes.added)
                self._version = changes.version
            except CollectionGoneError:
                self._take_or_fill()
            under_way = self._eraser is not None and self._eraser.is_alive()
            if not under_way and self._stamp != self._present_stamp():
                self._eraser = Thread(target=self._erase, name="medshadow-milvus")
                self._eraser.start()

    def check(self) -> None:
        """Make sure that the collection is whole, and go on erasing where that had failed.

        Raises:
            StoreError: as the class says.
        """
        name = self.name
        try:
            self.doubtful |= self.server.count(name) < self._keys
        except CollectionGoneError:
            self.renew(name)
        self.follow()

    def close(self) -> None:
        """Wait until withdrawn cases are erased, and close the connection."""
        if self._eraser is not None:
            self._eraser.join()
        self.server.close()

    def _erase(self) -> None:
        try:
            while self._stamp != self._present_stamp():
                self._take_or_fill()
        except StoreError as error:
            # They are found no longer all the same; the next look at the store tries again.
            _log.warning("withdrawn vectors are still in Milvus: %s", error)

    def _take_or_fill(self) -> None:
        for _ in range(_ATTEMPTS):
            # Before the cases are read: one withdrawn in between is then not among them.
            stamp = self._present_stamp()
            try:
                name = self.server.behind(self._prefix + stamp)
                if name is None or not self._take(name, stamp):
                    self._fill(stamp, instead_of=name)
                self._drop_others()
            except CollectionGoneError:
                # Another process has filled one meanwhile, and dropped this.
                continue
            return
        raise StoreError(
            f"Milvus at {self.server.address}: the collection of this store was dropped "
            f"{_ATTEMPTS} times while it was filled"
        )

    def _take(self, name: str, stamp: str) -> bool:
        """Use a collection that others filled; False where it does not fit this store."""
        if not self.server.fits(name, self._store.embedding_dim):
            return False
        self.server.load(name)
        with self._lock:
            version = self._completed(name)
            if version is not None:
                self.name, self._stamp, self._version = name, stamp, version
        return version is not None

    def _fill(self, stamp: str, instead_of: str | None) -> None:
        name = f"{self._prefix}{stamp}_{secrets.token_hex(4)}"
        self.server.create(name, self._store.embedding_dim)
        snapshot = self._store.snapshot(with_embeddings=False)
        self._put(name, *self._shown(snapshot))
        with self._lock:
            # Adds what came meanwhile. A case withdrawn meanwhile must not stay in it.
            version = self._completed(name)
            if version is None:
                self.server.drop(name)
                raise StoreError(
                    f"Milvus at {self.server.address}: a collection does not hold what was put "
                    "into it"
                )
            alias = self._prefix + stamp
            if stamp != self._present_stamp() or not self.server.publish(alias, name, instead_of):
                self.server.drop(name)
                raise CollectionGoneError(f"{name}: another one is complete")
            self.name, self._stamp, self._version = name, stamp, version

    def _completed(self, name: str) -> int | None:
        """Add what a collection lacks: the store's version that it is up to then.

        Returns:
            None where it holds another case under some key, or much that is shown no longer.
        """
        snapshot = self._store.snapshot(with_embeddings=False)
        keys, marks = self._shown(snapshot)
        there, found = self.server.marks(name, 0, int(keys.max(initial=0)))
        of_case = np.isin(there, keys)
        stale = np.count_nonzero(~of_case) + self.server.beyond(name, int(keys.max(initial=0)))
        if stale > max(_STALE_KEYS, _STALE_SHARE * len(keys)):
            return None
        if (found[of_case] != marks[np.searchsorted(keys, there[of_case])]).any():
            return None
        missing = ~np.isin(keys, there)
        self._put(name, keys[missing], marks[missing])
        self.server.settle(name, self._store.embedding_dim)
        self._keys = len(keys)
        return snapshot.version

    def _put_missing(self, name: str, added: Snapshot) -> None:
        if not len(added.keys):
            return
        keys, marks = self._shown(added)
        there, found = self.server.marks(name, int(keys[0]), int(keys[-1]))
        missing = ~np.isin(keys, there[np.isin(found, marks)])
        self._put(name, keys[missing], marks[missing])
        self.server.settle(name, self._store.embedding_dim)
        self._keys += len(keys)

    def _put(self, name: str, keys: np.ndarray, marks: np.ndarray) -> None:
        for first in range(0, len(keys), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            vectors = self._store.vectors_of(keys[part])
            there = vectors.any(axis=1)
            self.server.put(name, keys[part][there], marks[part][there], vectors[there])

    def _drop_others(self) -> None:
        if self._stamp != self._present_stamp():
            return
        for name in self.server.collections(self._prefix):
            if name != self.name:
                self.server.drop(name)

    def _present_stamp(self) -> str:
        """What stands for the set of cases that are withdrawn by now."""
        graves = self._store.withdrawn()
        named = zip(graves["case"], graves["withdrawn"], strict=True)
        return self._store.keyed_name("withdrawn", " ".join(f"{n} {when}" for n, when in named))

    def _shown(self, snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
        """The keys that may be shown, and what tells their cases from others: int64 N each.

        After a backup was put back, a key may be given out a second time.
        """
        given = (snapshot.frame["consent"] == "given").to_numpy()
        marks = case_marks(snapshot.frame[given], self._hash_key)
        return snapshot.keys[given], marks.view(np.int64)
