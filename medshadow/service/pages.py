"""The web page: an image in, the known cases like it out; the same page with and without scripts.

Nothing that names a case or a person is ever in a URL, and nothing is asked of another host.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from starlette.datastructures import FormData, UploadFile

from medshadow.retrieval import LookupAnswer
from medshadow.service.access import Person, person_of, require_reader
from medshadow.service.csrf import OwnForm, csrf_token, forms_of
from medshadow.service.dicom_api import fetched, stored
from medshadow.service.engine import LookupEngine
from medshadow.service.page_form import Form, read_form
from medshadow.service.page_view import answer_view
from medshadow.service.problems import Problem

# A query is shown no larger than this: more than a screen gives half of its width to.
_LONGER_SIDE = 1280
_HERE = Path(__file__).parent

router = APIRouter(include_in_schema=False)
_templates = Environment(
    loader=PackageLoader("medshadow.service"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
Reader = Annotated[Person, Depends(require_reader)]


def add_pages(app: FastAPI) -> None:
    """Give an application its web page, its files, and a page for what goes wrong."""
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    app.state.problem_page = problem_page


@router.get("/")
async def start(request: Request) -> Response:
    """The page as it begins; who is not known is asked to sign in."""
    if person_of(request) is None:
        return RedirectResponse(f"{_base(request)}login", 303)
    archive = await _archive(request)
    return _page(request, archive, _form(request, archive))


@router.get("/login")
async def sign_in(request: Request) -> Response:
    """Where a token is asked for."""
    return _login(request, "")


@router.post("/lookup")
async def look_up(request: Request, person: Reader, data: OwnForm) -> Response:
    """Look an image up: the one that was sent, or again the one that the token names."""
    archive, engine = await _archive(request), _engine(request)
    form = _form(request, archive, data)
    try:
        image = await _new_image(request, form, data)
    except Problem as problem:
        if not problem.errors or "hx-request" in request.headers:
            raise
        form = replace(form, reference_error=str(problem.detail))
        return _page(request, archive, form, status=problem.status_code)
    if image is not None:
        # What was left out belonged to the image before.
        form = replace(
            form,
            excluded=(),
            laterality=form.laterality or image.laterality,
            reference="",
            source=form.reference,
        )
    token, answer = await engine.lookup(
        engine.pixels(_token(data)) if image is None else image.content,
        by=person.name,
        **_wanted(form),
    )
    return await _answered(request, archive, form, token, answer)


@router.post("/refine")
async def refine(request: Request, person: Reader, data: OwnForm) -> Response:
    """Search again from the image and the cases that were marked."""
    archive, engine = await _archive(request), _engine(request)
    form, token = _form(request, archive, data), _token(data)
    if not form.relevant:
        raise Problem(422, "Mark at least one case as relevant to search again.")
    answer = await engine.refine(
        token,
        relevant=form.relevant,
        not_relevant=form.not_relevant,
        k=form.k,
        where=form.where,
        by=person.name,
    )
    return await _answered(request, archive, form, token, answer)


@router.post("/explain")
async def explain(request: Request, person: Reader, data: OwnForm) -> Response:
    """Two pictures that mark what made the image and a case alike."""
    engine = _engine(request)
    case_id = str(data.get("case_id", ""))
    found = await engine.explain(_token(data), case_id)
    pictures = await engine.run(
        lambda: {"query": _shown(found.query_overlay), "case": _shown(found.case_overlay)}
    )
    page = _templates.get_template("explain.html").render(case_id=case_id, **pictures)
    return HTMLResponse(page)


@router.post("/report")
async def report(request: Request, person: Reader, data: OwnForm) -> Response:
    """Look the image up again where it came from, and store the answer beside it."""
    form = _form(request, await _archive(request), data)
    image = await fetched(request, form.source)
    _, answer = await _engine(request).lookup(image.pixels, by=person.name, **_wanted(form))
    await stored(request, image, answer)
    return HTMLResponse(_templates.get_template("stored.html").render())


def problem_page(request: Request, problem: Problem) -> Response:
    """What a browser is shown in place of problem details; a stranger is asked to sign in."""
    if request.url.path.endswith("/login"):
        return _login(request, problem.detail, problem.status_code)
    if problem.status_code == 401:
        return RedirectResponse(f"{_base(request)}login", 303)
    title = str(problem.content()["title"])
    page = _templates.get_template("problem.html").render(
        base=_base(request), title=title, detail=problem.detail
    )
    return HTMLResponse(page, problem.status_code, dict(problem.headers or {}))


def _login(request: Request, error: str, status: int = 200) -> Response:
    forms = forms_of(request)
    visit = forms.begin_visit(request)
    page = _templates.get_template("login.html").render(
        base=_base(request), error=error, csrf=forms.token(person_of(request), visit)
    )
    response = HTMLResponse(page, status)
    forms.keep_visit(response, visit)
    return response


async def _answered(
    request: Request, archive: dict[str, Any], form: Form, token: str, answer: LookupAnswer
) -> Response:
    engine = _engine(request)
    pixels = engine.pixels(token)

    def pictures() -> tuple[str, dict[str, str]]:
        kept = engine.thumbnails(hit.case_id for hit in answer.shown())
        return _shown(pixels), {case: _jpeg(jpeg) for case, jpeg in kept.items() if jpeg}

    picture, thumbnails = await engine.run(pictures)
    judged = dict.fromkeys(form.relevant, "relevant") | dict.fromkeys(form.not_relevant, "not")
    result = {
        "token": token,
        "picture": picture,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **answer_view(answer, _labels(archive), thumbnails, judged, form.filtered),
    }
    return _page(request, archive, form, result)


def _page(
    request: Request,
    archive: Mapping[str, Any],
    form: Form,
    result: Mapping[str, Any] | None = None,
    status: int = 200,
) -> Response:
    person = person_of(request)
    page = _templates.get_template("page.html").render(
        base=_base(request),
        csrf=csrf_token(request),
        person=None if person is None else person.name,
        signed_in=request.app.state.access.cookie in request.cookies,
        archive={
            "name": archive["name"],
            "size": f"{archive['cases']:,} images of {archive['groups']:,} distinct cases",
            "source": archive["source"] or "not recorded",
            "malignant_word": archive["malignant_word"],
            "digest": archive["model_digest"][:12],
        },
        form=form,
        result=result,
        kept_minutes=round(_engine(request).limits.kept_seconds / 60),
    )
    return HTMLResponse(page, status)


def _engine(request: Request) -> LookupEngine:
    engine: LookupEngine = request.app.state.engine
    return engine


async def _archive(request: Request) -> dict[str, Any]:
    engine = _engine(request)
    return await engine.run(
        lambda: {**engine.archive(), "calibrated": bool(engine.store.calibration)}
    )


def _form(request: Request, archive: Mapping[str, Any], data: FormData | None = None) -> Form:
    return read_form(
        archive["columns"],
        archive["diagnosis_names"],
        calibrated=archive["calibrated"],
        asks_reference=request.app.state.dicomweb is not None,
        data=data,
    )


def _labels(archive: Mapping[str, Any]) -> list[str]:
    return [str(value) for value in archive["columns"]["label"].get("values", ())]


def _wanted(form: Form) -> dict[str, Any]:
    """What a lookup is told of the form."""
    return {
        "k": form.k,
        "where": form.where,
        "laterality": form.laterality or None,
        "prevalence": form.share,
        "exclude_groups": form.excluded,
    }


class _Image(NamedTuple):
    content: bytes | np.ndarray
    laterality: str = ""


async def _new_image(request: Request, form: Form, data: FormData) -> _Image | None:
    """The file that was sent or the instance that was named; None where there is neither.

    Raises:
        Problem: the instance cannot be had; its field is named.
    """
    file = data.get("image")
    content = await file.read() if isinstance(file, UploadFile) else b""
    if not form.reference:
        return _Image(content) if content else None
    try:
        if content:
            raise Problem(422, "Choose a file or name an instance, not both.")
        instance = await fetched(request, form.reference)
    except Problem as problem:
        problem.errors = [{"field": "reference", "message": str(problem.detail)}]
        raise
    return _Image(instance.pixels, instance.laterality)


def _token(data: FormData) -> str:
    token = data.get("token")
    if not isinstance(token, str) or not token:
        raise Problem(422, "Choose an image first.")
    return token


def _shown(pixels: np.ndarray) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LONGER_SIDE, _LONGER_SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return _jpeg(buffer.getvalue())


def _jpeg(content: bytes) -> str:
    return f"data:image/jpeg;base64,{b64encode(content).decode('ascii')}"


def _base(request: Request) -> str:
    return f"{request.scope.get('root_path', '')}/"
