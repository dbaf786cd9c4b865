"""The REST interface to a hospital's image archive: images by reference, answers as reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import anyio
from fastapi import APIRouter, Depends, Request
from pydantic import Field

from medshadow.errors import DataError, ImageReadError, ImageTooLargeError
from medshadow.service.api import JSON, PROBLEMS, Engine, Reader
from medshadow.service.dicomweb import DicomWeb, Instance
from medshadow.service.dicomweb_line import DicomWebError, InstanceNotFoundError
from medshadow.service.models import Answer, Answered, Asked, K, Where, answer_of
from medshadow.service.problems import Problem
from medshadow.service.structured_report import lookup_report

T = TypeVar("T")

# Waiting for another server must not take the workers away from those who upload images.
_WAITING = anyio.CapacityLimiter(4)

router = APIRouter(responses=PROBLEMS)  # type: ignore[arg-type]


class ReportAsked(Asked):
    """Which image to look up, as for a lookup."""

    reference: str = Field(
        max_length=500,
        description="The instance below the DICOMweb server's address, or its whole URL there.",
        examples=["studies/1.2/series/1.2.3/instances/1.2.3.4"],
    )
    k: int = K
    where: str | None = Where
    laterality: Literal["left", "right", ""] = Field(
        "", description="Which eye it shows; the image's own header says unless given."
    )
    prevalence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of malignant cases among images like this one.",
        examples=[0.05],
    )
    exclude_groups: list[str] = Field(
        default=[],
        max_length=100,
        description="Lesions or patients to leave out.",
        examples=[["HAM_0000118"]],
    )


class Reported(Answered):
    """A lookup that was stored as a DICOM structured report, and where."""

    report: str = Field(
        description="The report's reference, below the DICOMweb server's address.",
        examples=["studies/1.2/series/1.2.5/instances/1.2.5.1"],
    )
    answer: Answer


def dicomweb_of(request: Request) -> DicomWeb:
    """Dependency: the DICOMweb server that the service may ask.

    Raises:
        Problem: 422 if there is none.
    """
    found: DicomWeb | None = getattr(request.app.state, "dicomweb", None)
    if found is None:
        raise Problem(422, "reference: this service is connected to no DICOMweb server.")
    return found


async def fetched(dicomweb: DicomWeb, reference: str) -> Instance:
    """Fetch an image by its reference.

    Raises:
        Problem: 422 for a reference to another server or an image that cannot be read, 413 for one
            too large, 404 where there is none, 502 where the server does not answer as it should.
    """
    return await _ask(lambda: dicomweb.instance(reference))


@router.post(
    "/api/report",
    tags=["DICOM"],
    summary="Look up an image of the DICOMweb server, and store the answer beside it",
    status_code=201,
    dependencies=JSON,
)
async def report(
    person: Reader,
    engine: Engine,
    dicomweb: Annotated[DicomWeb, Depends(dicomweb_of)],
    asked: ReportAsked,
) -> Reported:
    """The report is a DICOM Enhanced SR in the image's own study: unverified, for research only.

    The image's patient and study are copied into it, as DICOM demands; they are kept nowhere else.
    """
    image = await fetched(dicomweb, asked.reference)
    token, answer = await engine.lookup(
        image.pixels,
        k=asked.k,
        where=asked.where or None,
        laterality=asked.laterality or image.laterality or None,
        prevalence=asked.prevalence,
        exclude_groups=asked.exclude_groups,
        by=person.name,
    )
    found = answer.to_dict()
    stored = await _ask(lambda: dicomweb.store(lookup_report(found, image.header, image.frame)))
    return Reported(report=stored, answer=answer_of(token, found, {}))


async def _ask(question: Callable[[], T]) -> T:
    try:
        return await anyio.to_thread.run_sync(question, limiter=_WAITING)
    except ImageTooLargeError as error:
        problem = Problem(413, str(error))
    except (DataError, ImageReadError) as error:
        problem = Problem(422, str(error))
    except InstanceNotFoundError:
        problem = Problem(404, "The DICOMweb server holds no such instance.")
    except DicomWebError as error:
        problem = Problem(502, str(error))
    raise problem
