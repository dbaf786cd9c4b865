"""What the service takes and gives, as typed JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.config import JsonDict

from medshadow.retrieval.answer import NOTICE

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
_FARTHER: JsonDict = {
    **_HIT,
    "rank": 5,
    "similarity": 0.74,
    "case_id": "ISIC_0025964",
    "group": "HAM_0000891",
    "label": "mel",
    "labels": ["mel"],
    "diagnosis": "melanoma",
    "malignant": True,
    "established": "histology",
    "metadata": {"dx_type": "histo", "age": 45.0, "sex": "male", "localization": "back"},
    "outside_filter": False,
}
_COLUMNS: JsonDict = {
    "age": {"kind": "number", "least": 0.0, "most": 85.0},
    "sex": {"kind": "choice", "values": ["male", "female"]},
}
_TOKEN = "kV3n8Qw1dYc"


class Answered(BaseModel):
    """Base of what is answered: made from our own objects, so that unknown members are left out."""

    model_config = ConfigDict(extra="ignore")


class Warned(Answered):
    """Something to be careful about, to be shown before anything else."""

    code: str = Field(examples=["few_cases"])
    text: str = Field(
        examples=["Only 3 distinct cases meet the filter sex=female; 16 were asked for."]
    )


class SearchedArchive(Answered):
    """What was searched."""

    name: str = Field(examples=["HAM10000"])
    source: str = Field(
        "", examples=["HAM10000 (Tschandl, Rosendahl and Kittler 2018; CC BY-NC 4.0)"]
    )
    cases: int = Field(description="Images that may be shown.", examples=[10015])
    groups: int = Field(description="Distinct lesions or patients among them.", examples=[7470])
    model_digest: str = Field(description="SHA-256.", examples=["8f1c2a7e" * 8])
    malignant_word: str = "malignant"


class Column(Answered):
    """A column that a filter may name."""

    kind: str = Field(description='"number", "choice" or "text".', examples=["number"])
    least: float | None = Field(None, examples=[0.0])
    most: float | None = Field(None, examples=[85.0])
    values: list[str] | None = Field(
        None, description="Most frequent first.", examples=[["male", "female"]]
    )


class ArchiveDescription(SearchedArchive):
    """What there is to search."""

    malignant: list[str] = Field(examples=[["akiec", "bcc", "mel"]])
    diagnosis_names: dict[str, str] = Field(
        examples=[{"mel": "melanoma", "nv": "melanocytic nevus"}]
    )
    columns: dict[str, Column] = Field(examples=[_COLUMNS])


class AskedFor(Answered):
    """What the answer answers."""

    k: int = Field(examples=[16])
    where: str = Field(examples=["sex=female and age>=50"])
    matching_groups: int = Field(
        description="Distinct lesions or patients that meet the filter.", examples=[1042]
    )
    excluded_groups: list[str] = Field(examples=[["HAM_0000118"]])
    laterality: str = Field(examples=["", "left"])


class Vote(Answered):
    """The label that most of the cases found carry."""

    label: str = Field(examples=["nv"])
    diagnosis: str = Field(examples=["melanocytic nevus"])


class CalibratedProbability(Answered):
    """That the image is malignant, at the prevalence that was stated, with its 95 % interval."""

    value: float = Field(ge=0, le=1, examples=[0.03])
    low: float = Field(ge=0, le=1, examples=[0.01])
    high: float = Field(ge=0, le=1, examples=[0.08])
    prevalence: float = Field(description="As it was stated.", examples=[0.05])
    cases: int = Field(description="Validation images that it was calibrated on.", examples=[1200])


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

    model_config = ConfigDict(json_schema_extra={"example": _FARTHER})

    outside_filter: bool = Field(description="It does not meet the filter; no malignant case does.")


class Answer(Answered):
    """The known cases most like an image."""

    token: str = Field(
        description="Names the image for refining and explaining, for a while.",
        examples=[_TOKEN],
    )
    notice: str = Field(examples=[NOTICE])
    warnings: list[Warned]
    not_checked: str | None = Field(
        None,
        description="What could not be warned of, and why.",
        examples=["Not checked: whether this is the kind of image that the archive holds."],
    )
    archive: SearchedArchive
    query: AskedFor
    refined: bool = False
    vote: Vote | None
    share_in_this_archive: dict[str, float] = Field(
        description="Not a probability.", examples=[{"nv": 0.75, "mel": 0.25}]
    )
    why_no_vote: str | None = Field(None, examples=["No vote and no share: no case was found."])
    probability: CalibratedProbability | None = None
    why_no_probability: str | None = Field(
        None, examples=["No probability: it is calibrated on searches that nobody has refined."]
    )
    hits: list[FoundCase]
    nearest_malignant: NearestMalignant | None


class Asked(BaseModel):
    """Base of what is asked: an unknown member is a mistake."""

    model_config = ConfigDict(extra="forbid")


CaseId = Annotated[str, Field(min_length=1, max_length=200, examples=["ISIC_0024306"])]
Token = Annotated[
    str,
    Field(min_length=1, max_length=100, description="From a lookup's answer.", examples=[_TOKEN]),
]
K = Field(16, ge=1, le=100, description="Distinct cases wanted.")
Where = Field(None, max_length=500, description="A filter.", examples=["sex=female and age>=50"])


class Refinement(Asked):
    """Which of the cases shown are like the image and which are not; one at least."""

    token: Token
    relevant: list[CaseId] = Field(max_length=100, examples=[["ISIC_0024306"]])
    not_relevant: list[CaseId] = Field(default=[], max_length=100, examples=[["ISIC_0025964"]])
    k: int = K
    where: str | None = Where
    thumbnails: bool = Field(False, description="Send small pictures of the cases.")


class ExplanationAsked(Asked):
    """Which case's likeness is to be explained."""

    token: Token
    case_id: CaseId


Overlay = Field(
    description="A PNG as base64, 1024 pixels at most on a side.", examples=["iVBORw0KGgo="]
)


class ExplanationGiven(Answered):
    """What made an image and a case alike: both pictures with the regions marked."""

    similarity: float = Field(description="Cosine.", ge=-1, le=1, examples=[0.91])
    query_overlay: str = Overlay
    case_overlay: str = Overlay


class CaseList(Answered):
    """Some cases, in the order added."""

    cases: list[ListedCase]
    next: str | None = Field(
        description="The cursor of the next page; null at the end.", examples=["YWZ0ZXIgMTAw"]
    )


class ListedCase(Answered):
    """A case of the archive."""

    case_id: str = Field(examples=["ISIC_0024306"])
    group: str = Field(examples=["HAM_0000118"])
    label: str = Field(examples=["nv"])
    labels: list[str] = Field(examples=[["nv"]])
    diagnosis: str = Field(examples=["melanocytic nevus"])
    malignant: bool = Field(examples=[False])
    consent: str = Field(examples=["given", "suspended"])
    added: str = Field(description="UTC, ISO 8601.", examples=["2026-03-02T09:15:00+00:00"])
    metadata: dict[str, JsonValue] = Field(examples=[_HIT["metadata"]])


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
