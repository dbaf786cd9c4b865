"""The audit trail: who did what and saw which cases, by internal numbers that name nobody."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sqlalchemy import select
from sqlalchemy.engine import Connection

from medshadow.errors import StoreError
from medshadow.retrieval.changes import numbers_of, parts
from medshadow.retrieval.database import Turn
from medshadow.retrieval.rows import can_be_kept
from medshadow.retrieval.schema import cases, tombstones, trail

WITHDRAWN = "withdrawn"


def keyed_digest(salt: bytes, kind: str, content: bytes) -> bytes:
    """HMAC-SHA256 of something that a store must recognise and not keep.

    Without the store's salt it says nothing. Who holds the store holds the salt, and can then test
    whether a case id that they guess is the one.

    Args:
        salt: the store's secret.
        kind: what the content is, so that digests of different kinds never agree.
        content: any bytes.
    """
    return hmac.new(salt, kind.encode() + b"\x00" + content, hashlib.sha256).digest()


def pixels_digest(salt: bytes, pixels: np.ndarray) -> str:
    """The digest of an image that was looked up: 64 hexadecimal digits.

    Args:
        salt: the store's secret.
        pixels: the image, of any shape and type.
    """
    shape = f"{pixels.shape} {pixels.dtype.str} ".encode()
    return keyed_digest(salt, "query", shape + np.ascontiguousarray(pixels).tobytes()).hex()


def record_lookup(turn: Turn, query_digest: str, shown: Sequence[str]) -> None:
    """Note that somebody was shown cases, nearest first.

    Raises:
        StoreError: the digest is none, or a case was never in the store.
    """
    if len(query_digest) != 64 or set(query_digest) - set("0123456789abcdef"):
        raise StoreError(
            f"query digest {query_digest[:70]!r} is none; expected what query_digest(pixels) gives"
        )
    numbers = numbers_of(turn.connection, list(shown))
    missing = [case_id for case_id in shown if case_id not in numbers]
    # A case may be withdrawn between being shown and being noted.
    numbers.update(withdrawn_numbers(turn.connection, turn.salt, missing))
    unknown = sum(case_id not in numbers for case_id in shown)
    if unknown:
        raise StoreError(f"{unknown} of the {len(shown)} cases shown were never in this store")
    turn.record("lookup", [numbers[case_id] for case_id in shown], query_digest)


def withdrawn_numbers(connection: Connection, salt: bytes, case_ids: list[str]) -> dict[str, int]:
    """Which of some case ids were withdrawn once, and the number that each had."""
    id_of = {
        keyed_digest(salt, "case", case_id.encode()): case_id
        for case_id in case_ids
        if can_be_kept(case_id)
    }
    found: dict[str, int] = {}
    for part in parts(list(id_of)):
        query = select(tombstones.c.digest, tombstones.c.case)
        for row in connection.execute(query.where(tombstones.c.digest.in_(part))):
            found[id_of[bytes(row.digest)]] = row.case
    return found


def read_trail(connection: Connection, newest: int | None = None) -> pd.DataFrame:
    """The trail, or the newest entries of it, oldest first; see ``CaseStore.trail``."""
    backwards = select(trail).order_by(trail.c.id.desc()).limit(newest)
    entries = connection.execute(backwards).all()[::-1]
    mentioned = sorted({number for entry in entries for number in entry.cases})
    id_of: dict[int, str] = {}
    for part in parts(mentioned):
        query = select(cases.c.id, cases.c.case_id).where(cases.c.id.in_(part))
        id_of.update((row.id, row.case_id) for row in connection.execute(query))
    return pd.DataFrame(
        {
            "when": pd.to_datetime(pd.Series([e.when for e in entries]), utc=True),
            "by": pd.Series([e.by for e in entries], dtype=str),
            "action": pd.Series([e.action for e in entries], dtype=str),
            "query_digest": pd.Series([e.query_digest for e in entries], dtype=str),
            "cases": pd.Series(
                [tuple(id_of.get(n, WITHDRAWN) for n in e.cases) for e in entries], dtype=object
            ),
        }
    )
