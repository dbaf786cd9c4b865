"""The REST interface: lookups, and the archive that they search."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from medshadow.retrieval import LookupAnswer
from medshadow.retrieval.listing import case_page
from medshadow.service.access import Access, Person, require_reader
from medshadow.service.csrf import check_csrf, forms_of
from medshadow.service.engine import LookupEngine
from medshadow.service.models import (
    Answer,
    ArchiveDescription,
    CaseList,
    ExplanationAsked,
    ExplanationGiven,
    Health,
    ListedCase,
    Refinement,
    answer_of,
)
from medshadow.service.problems import MEDIA_TYPE, Problem, busy

PROBLEMS = {
    "default": {
        "description": "What is wrong, as problem details (RFC 9457).",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""For ``responses`` of every route: how its errors look."""

_LONGER_SIDE = 1024

_log = logging.getLogger(__name__)

router = APIRouter(responses=PROBLEMS)  # type: ignore[arg-type]

Reader = Annotated[Person, Depends(require_reader)]


def engine_of(request: Request) -> LookupEngine:
    """Dependency: the engine behind the service."""
    engine: LookupEngine = request.app.state.engine
    return engine


Engine = Annotated[LookupEngine, Depends(engine_of)]


def expects(media_type: str) -> Callable[[Request], None]:
    """Dependency: the body is of this type.

    Raises:
        Problem: 415 if it is not.
    """

    def check(request: Request) -> None:
        found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if found != media_type:
            raise Problem(415, f"Expected {media_type}.", {"Accept": media_type})

    return check


JSON = [Depends(expects("application/json"))]
"""For ``dependencies`` of a route: its body is JSON."""


@router.post(
    "/api/lookup",
    tags=["lookup"],
    summary="Find the known cases most like an image",
    dependencies=[Depends(expects("multipart/form-data"))],
)
async def lookup(
    person: Reader,
    engine: Engine,
    request: Request,
    image: Annotated[
        UploadFile | None, File(description="JPEG, PNG, TIFF, BMP, WebP, DICOM or NIfTI.")
    ] = None,
    reference: Annotated[
        str,
        Form(
            max_length=500,
            description="In place of an image: an instance on the DICOMweb server.",
            examples=["studies/1.2/series/1.2.3/instances/1.2.3.4"],
        ),
    ] = "",
    k: Annotated[int, Form(ge=1, le=100, description="Distinct cases wanted.")] = 16,
    where: Annotated[
        str, Form(max_length=500, description="A filter.", examples=["sex=female and age>=50"])
    ] = "",
    laterality: Annotated[
        Literal["left", "right", ""], Form(description="Which eye a fundus photograph shows.")
    ] = "",
    prevalence: Annotated[
        float | None,
        Form(
            gt=0,
            lt=1,
            description="Share of malignant cases among images like this one.",
            examples=[0.05],
        ),
    ] = None,
    exclude_groups: Annotated[
        list[str] | None,
        Form(
            max_length=100,
            description="Lesions or patients to leave out.",
            examples=[["HAM_0000118"]],
        ),
    ] = None,
    thumbnails: Annotated[bool, Form(description="Send small pictures of the cases.")] = False,
) -> Answer:
    """Upload an image or name one; it is kept in memory for some minutes, never on a disk.

    The answer's warnings stand above everything else in it.
    """
    if (image is None) == (not reference):
        raise Problem(422, "Expected an image or a reference.")
    content: bytes | np.ndarray
    side: Literal["left", "right", ""] = ""
    if image is not None:
        content = await image.read()
    else:
        from medshadow.service.dicom_api import fetched

        instance = await fetched(request, reference)
        content, side = instance.pixels, instance.laterality
    token, answer = await engine.lookup(
        content,
        k=k,
        where=where or None,
        laterality=laterality or side or None,
        prevalence=prevalence,
        exclude_groups=exclude_groups or (),
        by=person.name,
    )
    return await _sent(engine, token, answer, thumbnails)


@router.post("/api/refine", tags=["lookup"], summary="Search again, by example", dependencies=JSON)
async def refine(person: Reader, engine: Engine, asked: Refinement) -> Answer:
    """Vote, shares and probability are left out: they hold for the image's own neighbours alone."""
    answer = await engine.refine(
        asked.token,
        asked.relevant,
        asked.not_relevant,
        k=asked.k,
        where=asked.where or None,
        by=person.name,
    )
    return await _sent(engine, asked.token, answer, asked.thumbnails)


@router.post("/api/explain", tags=["lookup"], summary="Why a case was found", dependencies=JSON)
async def explain(_: Reader, engine: Engine, asked: ExplanationAsked) -> ExplanationGiven:
    """Marks in both pictures the regions that made them alike."""
    found = await engine.explain(asked.token, asked.case_id)
    overlays = await engine.run(lambda: (_png(found.query_overlay), _png(found.case_overlay)))
    return ExplanationGiven(
        similarity=found.similarity, query_overlay=overlays[0], case_overlay=overlays[1]
    )


@router.get("/api/archive", tags=["archive"], summary="What is searched, and by what to filter")
def archive(_: Reader, engine: Engine) -> ArchiveDescription:
    """The archive's name, origin and size, and the columns that a filter may name."""
    return ArchiveDescription.model_validate(engine.archive())


@router.get("/api/cases", tags=["archive"], summary="List the cases, a page at a time")
def cases(
    person: Reader,
    engine: Engine,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[str, Query(max_length=40, description="From the page before.")] = "",
) -> CaseList:
    """Cases in the order added; a curator also sees those whose consent is suspended."""
    rows, following = case_page(
        engine.store, _place(cursor), limit, suspended=person.role == "curator"
    )
    names, malignant = engine.store.diagnosis_names, engine.store.malignant
    return CaseList(
        cases=[
            ListedCase(
                **{**row, "added": row["added"].isoformat()},
                diagnosis=" + ".join(names.get(label, label) for label in row["labels"]),
                malignant=not malignant.isdisjoint(row["labels"]),
            )
            for row in rows
        ],
        next=None if following is None else _cursor(following),
    )


@router.get("/health", tags=["state"], summary="The service runs")
async def health() -> Health:
    """Answers as long as the process does."""
    return Health(status="ok")


@router.get("/ready", tags=["state"], summary="The service can look images up")
async def ready(engine: Engine) -> Health:
    """Answers 503 while the archive, or the Milvus that holds its vectors, cannot be read."""
    try:
        await run_in_threadpool(engine.check)
    except Exception as error:
        # What it says can hold the archive's address; its kind is enough to look further.
        _log.warning("not ready: the archive cannot be read (%s)", type(error).__name__)
        raise busy("The archive cannot be read.") from None
    return Health(status="ready")


@router.post(
    "/login",
    tags=["session"],
    summary="Begin a browser session",
    status_code=303,
    dependencies=[Depends(check_csrf)],
)
def log_in(
    request: Request,
    token: Annotated[str, Form(min_length=1, max_length=1000, examples=["a-token-from-its-file"])],
) -> Response:
    """Sets a cookie that scripts cannot read and other sites cannot use.

    Taken from the page at `/login` alone, whose `csrf_token` has to come along.
    """
    response = Response(status_code=303, headers={"Location": "/"})
    access: Access = request.app.state.access
    access.log_in(request, token, response)
    forms_of(request).end_visit(response)
    return response


@router.post(
    "/logout",
    tags=["session"],
    summary="End a browser session",
    status_code=303,
    dependencies=[Depends(check_csrf)],
)
def log_out(request: Request) -> Response:
    """Forgets the session and its cookie."""
    response = Response(status_code=303, headers={"Location": "/"})
    access: Access = request.app.state.access
    access.log_out(request, response)
    return response


async def _sent(engine: LookupEngine, token: str, answer: LookupAnswer, thumbnails: bool) -> Answer:
    pictures: dict[str, str | None] = {}
    if thumbnails:
        ids = [hit.case_id for hit in answer.shown()]
        kept = await run_in_threadpool(engine.thumbnails, ids)
        pictures = {
            case_id: None if jpeg is None else base64.b64encode(jpeg).decode()
            for case_id, jpeg in kept.items()
        }
    return answer_of(token, answer.to_dict(), pictures)


def _png(pixels: np.ndarray) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LONGER_SIDE, _LONGER_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=3)
    return base64.b64encode(file.getvalue()).decode()


def _cursor(after: int) -> str:
    return base64.urlsafe_b64encode(f"after {after}".encode()).decode().rstrip("=")


def _place(cursor: str) -> int:
    if not cursor:
        return 0
    try:
        word, place = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split()
        known = word == "after" and place.isascii() and place.isdecimal()
        # Databases count no further.
        if known and int(place) < 2**63:
            return int(place)
    except ValueError:
        pass
    raise Problem(422, "The cursor is none that this service gave.")
