"""The REST interface to a hospital's image archive: images by reference, answers as reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from fastapi import APIRouter, Request
from pydantic import Field

from medshadow.errors import DataError, ImageReadError, ImageTooLargeError
from medshadow.retrieval import LookupAnswer
from medshadow.service.api import JSON, PROBLEMS, Engine, Reader
from medshadow.service.dicomweb import DicomWeb, Instance
from medshadow.service.dicomweb_line import DicomWebError, InstanceNotFoundError
from medshadow.service.models import Answer, Answered, Asked, K, Where, answer_of
from medshadow.service.problems import Problem
from medshadow.service.structured_report import lookup_report
from medshadow.service.workers import Workers

T = TypeVar("T")

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


async def fetched(request: Request, reference: str) -> Instance:
    """Fetch an image from the DICOMweb server by its reference.

    Raises:
        Problem: 422 for a reference to another server or an image that cannot be read, and where
            there is no server, 413 for an image too large, 404 where there is none, 502 where the
            server does not answer as it should, 503 where it takes too long or too many wait.
    """
    dicomweb = dicomweb_of(request)
    return await _ask(request, lambda: dicomweb.instance(reference))


async def stored(request: Request, image: Instance, answer: LookupAnswer) -> str:
    """Store an answer as a structured report beside the image that was looked up.

    Returns:
        The report's reference.

    Raises:
        Problem: as :func:`fetched`; 422 where no case was found.
    """
    dicomweb, found = dicomweb_of(request), answer.to_dict()
    return await _ask(
        request, lambda: dicomweb.store(lookup_report(found, image.header, image.frame))
    )


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
    request: Request,
    asked: ReportAsked,
) -> Reported:
    """The report is a DICOM Enhanced SR in the image's own study: unverified, for research only.

    The image's patient and study are copied into it, as DICOM demands; they are kept nowhere else.
    """
    image = await fetched(request, asked.reference)
    token, answer = await engine.lookup(
        image.pixels,
        k=asked.k,
        where=asked.where or None,
        laterality=asked.laterality or image.laterality or None,
        prevalence=asked.prevalence,
        exclude_groups=asked.exclude_groups,
        by=person.name,
    )
    place = await stored(request, image, answer)
    return Reported(report=place, answer=answer_of(token, answer.to_dict(), {}))


async def _ask(request: Request, question: Callable[[], T]) -> T:
    # Waiting for another server must not take the workers away from those who upload images.
    waiting: Workers = request.app.state.waiting
    try:
        return await waiting.run(question)
    except ImageTooLargeError as error:
        problem = Problem(413, str(error))
    except (DataError, ImageReadError) as error:
        problem = Problem(422, str(error))
    except InstanceNotFoundError:
        problem = Problem(404, "The DICOMweb server holds no such instance.")
    except DicomWebError as error:
        problem = Problem(502, str(error))
    raise problem
