"""What curators may do over REST: withdraw cases, suspend consent, read the trail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from medshadow.errors import StoreError
from medshadow.service.access import Person, require_curator
from medshadow.service.api import JSON, PROBLEMS, Engine
from medshadow.service.models import Answered, Asked, CaseId
from medshadow.service.problems import Problem

_log = logging.getLogger(__name__)

router = APIRouter(prefix="/api", tags=["curation"], responses=PROBLEMS)  # type: ignore[arg-type]

Curator = Annotated[Person, Depends(require_curator)]
CaseIds = Annotated[
    list[CaseId], Field(min_length=1, max_length=1000, examples=[["ISIC_0024306", "ISIC_0025964"]])
]


class Withdrawal(Asked):
    """Cases to erase."""

    case_ids: CaseIds
    reason: Literal["consent", "error", "duplicate", "other"] = "consent"


class ConsentChange(Asked):
    """Cases that may be shown from now on, or no longer."""

    case_ids: CaseIds
    consent: Literal["given", "suspended"]


class Changed(Answered):
    """What was done."""

    cases: int = Field(description="How many cases were changed.", examples=[1])


class TrailEntry(Answered):
    """Somebody did something."""

    when: str = Field(description="UTC, ISO 8601.", examples=["2026-03-02T09:15:00+00:00"])
    by: str = Field(examples=["reader"])
    action: str = Field(examples=["lookup", "withdraw"])
    query_digest: str = Field(
        description="Of the image looked up; empty for other actions.", examples=["5e0c91b4" * 8]
    )
    cases: list[str] = Field(
        description='Case ids; "withdrawn" for one that is no longer there.',
        examples=[["ISIC_0024306", "withdrawn"]],
    )


class Trail(Answered):
    """The newest entries of the audit trail, newest first."""

    entries: list[TrailEntry]


@router.post("/cases/withdraw", summary="Erase cases for good", dependencies=JSON)
def withdraw(asked: Withdrawal, person: Curator, engine: Engine) -> Changed:
    """Erases row, vector and picture at once. All of the cases are erased, or none."""
    with _known_cases_only():
        engine.store.withdraw(asked.case_ids, by=person.name, reason=asked.reason)
    try:
        engine.check()
    except StoreError as error:
        # They are found no longer all the same. What it says can hold an address.
        _log.warning("withdrawn, but perhaps not erased everywhere (%s)", type(error).__name__)
    return Changed(cases=len(set(asked.case_ids)))


@router.post("/cases/consent", summary="Suspend cases, or show them again", dependencies=JSON)
def consent(asked: ConsentChange, person: Curator, engine: Engine) -> Changed:
    """A suspended case is kept, but never found."""
    with _known_cases_only():
        engine.store.set_consent(asked.case_ids, asked.consent, by=person.name)
    return Changed(cases=len(set(asked.case_ids)))


@router.get("/trail", summary="Who did what")
def trail(_: Curator, engine: Engine, limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> Trail:
    """Lookups and every change of a case; nothing of it can be changed."""
    newest = engine.store.trail(limit).iloc[::-1]
    return Trail(
        entries=[
            TrailEntry(
                when=row.when.isoformat(),
                by=row.by,
                action=row.action,
                query_digest=row.query_digest,
                cases=list(row.cases),
            )
            for row in newest.itertuples()
        ]
    )


@contextmanager
def _known_cases_only() -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise Problem(
            404, "At least one of these cases is not in the archive; nothing was changed."
        ) from None
