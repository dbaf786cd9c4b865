"""What the service takes and gives, as typed JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.config import JsonDict

_HIT: JsonDict = {
    "rank": 1,
    "similarity": 0.91,
    "case_id": "ISIC_0024306",
    "group": "HAM_0000118",
    "label": "nv",
    "labels": ["nv"],
    "diagnosis": "melanocytic nevus",
    "malignant": False,
    "established": "follow-up",
    "age": 45.0,
    "sex": "male",
    "site": "back",
    "laterality": None,
    "keywords": None,
    "metadata": {"dx_type": "follow_up", "age": 45.0, "sex": "male", "localization": "back"},
    "thumbnail": None,
}


class Answered(BaseModel):
    """Base of what is answered: made from our own objects, so that unknown members are left out."""

    model_config = ConfigDict(extra="ignore")


class Warned(Answered):
    """Something to be careful about, to be shown before anything else."""

    code: str = Field(examples=["few_cases"])
    text: str


class SearchedArchive(Answered):
    """What was searched."""

    name: str
    source: str = ""
    cases: int = Field(description="Images that may be shown.")
    groups: int = Field(description="Distinct lesions or patients among them.")
    model_digest: str
    malignant_word: str = "malignant"


class Column(Answered):
    """A column that a filter may name."""

    kind: str = Field(description='"number", "choice" or "text".')
    least: float | None = None
    most: float | None = None
    values: list[str] | None = Field(None, description="Most frequent first.")


class ArchiveDescription(SearchedArchive):
    """What there is to search."""

    malignant: list[str]
    diagnosis_names: dict[str, str]
    columns: dict[str, Column]


class AskedFor(Answered):
    """What the answer answers."""

    k: int
    where: str
    matching_groups: int = Field(description="Distinct lesions or patients that meet the filter.")
    excluded_groups: list[str]
    laterality: str


class Vote(Answered):
    """The label that most of the cases found carry."""

    label: str
    diagnosis: str


class CalibratedProbability(Answered):
    """That the image is malignant, at the prevalence that was stated, with its 95 % interval."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    prevalence: float
    cases: int = Field(description="Validation images that it was calibrated on.")


class FoundCase(Answered):
    """A known case like the image; its rank counts distinct lesions or patients."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": _HIT})

    rank: int = Field(ge=1)
    similarity: float = Field(description="Cosine.", ge=-1, le=1)
    case_id: str
    group: str
    label: str
    labels: list[str]
    diagnosis: str
    malignant: bool
    established: str | None = Field(None, description="How the diagnosis is known.")
    age: float | None = None
    sex: str | None = None
    site: str | None = None
    laterality: str | None = None
    keywords: str | None = None
    metadata: dict[str, JsonValue]
    thumbnail: str | None = Field(None, description="A JPEG as base64, where it was asked for.")


class NearestMalignant(FoundCase):
    """The nearest malignant case, however far."""

    outside_filter: bool = Field(description="It does not meet the filter; no malignant case does.")


class Answer(Answered):
    """The known cases most like an image."""

    token: str = Field(description="Names the image for refining and explaining, for a while.")
    notice: str
    warnings: list[Warned]
    archive: SearchedArchive
    query: AskedFor
    refined: bool = False
    vote: Vote | None
    share_in_this_archive: dict[str, float] = Field(description="Not a probability.")
    why_no_vote: str | None = None
    probability: CalibratedProbability | None = None
    why_no_probability: str | None = None
    hits: list[FoundCase]
    nearest_malignant: NearestMalignant | None


class Asked(BaseModel):
    """Base of what is asked: an unknown member is a mistake."""

    model_config = ConfigDict(extra="forbid")


CaseId = Annotated[str, Field(min_length=1, max_length=200)]
Token = Annotated[str, Field(min_length=1, max_length=100, description="From a lookup's answer.")]
K = Field(16, ge=1, le=100, description="Distinct cases wanted.")
Where = Field(None, max_length=500, description="A filter.", examples=["sex=female and age>=50"])


class Refinement(Asked):
    """Which of the cases shown are like the image and which are not; one at least."""

    token: Token
    relevant: list[CaseId] = Field(max_length=100, examples=[["ISIC_0024306"]])
    not_relevant: list[CaseId] = Field(default=[], max_length=100)
    k: int = K
    where: str | None = Where
    thumbnails: bool = Field(False, description="Send small pictures of the cases.")


class ExplanationAsked(Asked):
    """Which case's likeness is to be explained."""

    token: Token
    case_id: CaseId


class ExplanationGiven(Answered):
    """What made an image and a case alike: both pictures with the regions marked."""

    similarity: float = Field(description="Cosine.", ge=-1, le=1)
    query_overlay: str = Field(description="A PNG as base64, 1024 pixels at most on a side.")
    case_overlay: str = Field(description="A PNG as base64, 1024 pixels at most on a side.")


class CaseList(Answered):
    """Some cases, in the order added."""

    cases: list[ListedCase]
    next: str | None = Field(description="The cursor of the next page; null at the end.")


class ListedCase(Answered):
    """A case of the archive."""

    case_id: str
    group: str
    label: str
    labels: list[str]
    diagnosis: str
    malignant: bool
    consent: str
    added: str = Field(description="UTC, ISO 8601.")
    metadata: dict[str, JsonValue]


class Health(Answered):
    """The service runs."""

    status: str = Field(examples=["ok"])


def answer_of(token: str, answer: dict[str, Any], thumbnails: dict[str, str | None]) -> Answer:
    """The answer to send: a lookup's own, with its token and thumbnails."""

    def with_picture(row: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if row is None else {**row, "thumbnail": thumbnails.get(row["case_id"])}

    hits = [with_picture(row) for row in answer["hits"]]
    nearest = with_picture(answer["nearest_malignant"])
    return Answer.model_validate(
        {**answer, "token": token, "hits": hits, "nearest_malignant": nearest}
    )


CaseList.model_rebuild()
