"""A Milvus server as far as it is needed: collections of numbered vectors, exact and consistent.

Collections hold an internal key, a mark (see ``Mirror``) and a vector, never what is said of a
case. Their index is FLAT: every vector is compared, so nothing is lost, with a filter or without.

What a collection holds is asked with Strong consistency, which waits for everything that anybody
wrote before, 200 ms as a rule. Searches then ask to see at least what was there at that time:
Session consistency, after a write of this process that says nothing. It costs no waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from medshadow.errors import OptionalDependencyError, StoreError

MOST_HITS = 16_384
"""Most that Milvus gives in one answer."""

_KEY, _MARK, _VECTOR = "key", "mark", "vector"
_SECONDS = 8.0
# A server that answers is waited for while its nodes read a collection, or what was put into it.
_SECONDS_READING = 600.0
_BYTES_AT_ONCE = 1 << 23
# Not found, not loaded, not yet loaded on every node.
_COLLECTION_GONE = (100, 101, 103)
_STRONG = {"consistency_level": "Strong"}

T = TypeVar("T")


class CollectionGoneError(StoreError):
    """Somebody dropped or released a collection."""


class MilvusServer:
    """A connection to a Milvus server.

    Args:
        uri: ``http://host:19530``, or ``https://...`` for TLS; with a database's name as its path
            where that is not the default one.
        token: ``user:password`` or an API key, where the server asks for one.

    Attributes:
        address: the server without credentials, as messages name it.

    Raises:
        OptionalDependencyError: pymilvus is not installed.
        StoreError: the URI is none of these, or the server does not answer or refuses the token.
    """

    def __init__(self, uri: str, token: str | None = None) -> None:
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StoreError(
                "the address of a Milvus server must look like http://host:19530 or https://host; "
                f"found one that begins with {parts.scheme or uri[:8]!r}"
            )
        self.address = f"{parts.scheme}://{parts.hostname}:{parts.port or 19530}{parts.path}"
        try:
            import grpc
            import pymilvus
        except ModuleNotFoundError as error:
            raise OptionalDependencyError(
                f"a search in Milvus needs {error.name}; pip install 'medshadow[milvus]'"
            ) from error
        # It writes every failed call to standard error, with what was asked.
        for name in ("pymilvus", "pymilvus.milvus_client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._pymilvus = pymilvus
        self._failures = (pymilvus.MilvusException, grpc.RpcError)
        with self._errors():
            self._client = pymilvus.MilvusClient(uri, token=token or "", timeout=_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def collections(self, prefix: str) -> list[str]:
        """The collections whose names begin so."""
        names = self._ask(self._client.list_collections)
        return sorted(name for name in names if name.startswith(prefix))

    def behind(self, alias: str) -> str | None:
        """The collection that an alias stands for; None where there is none."""
        try:
            found = self._ask(self._client.describe_collection, alias)
        except CollectionGoneError:
            return None
        return str(found["collection_name"])

    def create(self, name: str, dim: int) -> None:
        """Make a collection for vectors of a dimension, ready to be filled and searched."""
        types = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_KEY, types.INT64, is_primary=True)
        schema.add_field(_MARK, types.INT64)
        schema.add_field(_VECTOR, types.FLOAT_VECTOR, dim=dim)
        index = self._client.prepare_index_params()
        index.add_index(_VECTOR, index_type="FLAT", metric_type="IP")
        self._ask(self._client.create_collection, name, schema=schema, **_STRONG)
        self._ask(self._client.create_index, name, index)
        self.load(name)

    def load(self, name: str) -> None:
        """Let a collection be searched, which it is already as a rule."""
        self._ask_patiently(self._client.load_collection, name)

    def fits(self, name: str, dim: int) -> bool:
        """Whether a collection is one as :meth:`create` makes it, for vectors of a dimension."""
        described = self._ask(self._client.describe_collection, name)
        fields = {field["name"]: field for field in described["fields"]}
        indexes = self._ask(self._client.list_indexes, name)
        if list(fields) != [_KEY, _MARK, _VECTOR] or indexes != [_VECTOR]:
            return False
        index = self._ask(self._client.describe_index, name, _VECTOR)
        exact = (index["index_type"], index["metric_type"]) == ("FLAT", "IP")
        return exact and int(fields[_VECTOR]["params"]["dim"]) == dim

    def put(self, name: str, keys: np.ndarray, marks: np.ndarray, vectors: np.ndarray) -> None:
        """Put vectors into a collection, in the place of those that have the same keys.

        Args:
            name: the collection.
            keys: int64 N.
            marks: int64 N.
            vectors: float32 N x D.
        """
        at_once = max(1, _BYTES_AT_ONCE // (4 * vectors.shape[1]))
        for first in range(0, len(keys), at_once):
            part = slice(first, first + at_once)
            rows = [
                {_KEY: key, _MARK: mark, _VECTOR: vector}
                for key, mark, vector in zip(
                    keys[part].tolist(), marks[part].tolist(), vectors[part], strict=True
                )
            ]
            self._ask(self._client.upsert, name, rows)

    def marks(self, name: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys in a collection between two, both included, and their marks: int64 N each."""
        keys, marks = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for low in range(first, last + 1, MOST_HITS):
            high = min(low + MOST_HITS - 1, last)
            rows = self._ask_patiently(
                self._client.query,
                name,
                f"{_KEY} >= {low} and {_KEY} <= {high}",
                output_fields=[_KEY, _MARK],
                **_STRONG,
            )
            keys.append(np.array([row[_KEY] for row in rows], dtype=np.int64))
            marks.append(np.array([row[_MARK] for row in rows], dtype=np.int64))
        found, at = np.unique(np.concatenate(keys), return_index=True)
        return found, np.concatenate(marks)[at]

    def settle(self, name: str, dim: int) -> None:
        """Let later searches of this process see everything that was in a collection before."""
        # No case has this key. The server's time of this write is what searches then wait for; that
        # of a deletion is none to Milvus 2.3.
        no_case = np.zeros(1, np.int64)
        self.put(name, no_case, no_case, np.eye(1, dim, dtype=np.float32))
        self.count(name)

    def count(self, name: str) -> int:
        """How many keys a collection holds."""
        what = {"output_fields": ["count(*)"], **_STRONG}
        (row,) = self._ask_patiently(self._client.query, name, **what)
        return int(row["count(*)"])

    def beyond(self, name: str, key: int) -> int:
        """How many keys in a collection lie above one, counted up to ``MOST_HITS``."""
        where = f"{_KEY} > {key}"
        rows = self._ask(
            self._client.query, name, where, output_fields=[_KEY], limit=MOST_HITS, **_STRONG
        )
        return len(rows)

    def nearest(
        self, name: str, query: np.ndarray, limit: int, where: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """The keys of the vectors most like a query, nearest first, and their inner products.

        Args:
            name: the collection.
            query: float32 D.
            limit: how many, at most ``MOST_HITS``.
            where: see :func:`one_of` and :func:`between`.
        """
        (hits,) = self._ask(
            self._client.search,
            name,
            data=[query],
            filter=where,
            limit=limit,
            search_params={"metric_type": "IP"},
            anns_field=_VECTOR,
            consistency_level="Session",
        )
        return np.array(hits.ids, dtype=np.int64), np.array(hits.distances, dtype=np.float32)

    def publish(self, alias: str, name: str, instead_of: str | None) -> bool:
        """Let an alias stand for a collection, and no longer for another one.

        Returns:
            False where somebody else gave it to a third collection meanwhile.
        """
        there = self.behind(alias)
        if there not in (None, instead_of):
            return False
        change = self._client.create_alias if there is None else self._client.alter_alias
        try:
            self._ask(change, name, alias)
        except StoreError:
            if self.behind(alias) == there:
                raise
        return self.behind(alias) == name

    def drop(self, name: str) -> None:
        """Drop a collection, and the alias that stands for it where there is one."""
        alias = name.rpartition("_")[0]
        if self.behind(alias) == name:
            self._ask(self._client.drop_alias, alias)
        try:
            self._ask(self._client.drop_collection, name)
        except CollectionGoneError:
            return

    def _ask(self, call: Callable[..., T], *what: Any, **how: Any) -> T:
        with self._errors():
            return call(*what, **{"timeout": _SECONDS, **how})

    def _ask_patiently(self, call: Callable[..., T], *what: Any, **how: Any) -> T:
        self._ask(self._client.get_server_version)
        return self._ask(call, *what, **how, timeout=_SECONDS_READING)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            what = getattr(error, "message", None) or error.code().name
            if getattr(error, "code", None) in _COLLECTION_GONE:
                raise CollectionGoneError(f"Milvus at {self.address}: {what}") from None
            # Without its cause, which may hold what was sent to log in.
            raise StoreError(
                f"Milvus at {self.address} does not answer as it should: {what}"
            ) from None


def one_of(keys: np.ndarray) -> str:
    """The filter that some keys alone meet: int64 N."""
    return f"{_KEY} in {keys.tolist()}"


def between(first: int, last: int) -> str:
    """The filter that keys from one to another meet, both included."""
    return f"{_KEY} >= {first} and {_KEY} <= {last}"
