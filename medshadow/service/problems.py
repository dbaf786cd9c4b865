"""Errors as problem details (RFC 9457): every error of the service leaves as one of these."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
SCHEMA = {
    "title": "Problem",
    "description": "Problem details, RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
    "example": {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "All workers are busy; try again in a moment.",
    },
}


class Problem(HTTPException):
    """An error that the client is told about.

    Args:
        status: HTTP status code.
        detail: what was found and what was expected, for people.
        headers: sent with it.
        errors: which fields are wrong: ``{"field": ..., "message": ...}`` each.

    Example:
        >>> Problem(404, "No such case.").content()["title"]
        'Not Found'
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: dict[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.errors = errors

    def content(self) -> dict[str, Any]:
        """The members of the problem details object."""
        title = HTTPStatus(self.status_code).phrase
        content = {"type": "about:blank", "title": title, "status": self.status_code}
        extra = {} if self.errors is None else {"errors": self.errors}
        return {**content, "detail": self.detail, **extra}

    def response(self) -> Response:
        """The problem as a response."""
        return JSONResponse(
            self.content(), self.status_code, dict(self.headers or {}), media_type=MEDIA_TYPE
        )


def busy(detail: str) -> Problem:
    """503, to be tried again in a second."""
    return Problem(503, detail, {"Retry-After": "1"})


def install_problems(app: FastAPI) -> None:
    """Answer every error of an application with problem details, as :func:`problem_response`."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_response(request, error)

    app.add_exception_handler(HTTPException, answer)
    app.add_exception_handler(RequestValidationError, answer)


def problem_response(request: Request, error: Exception) -> Response:
    """What is answered to a request that failed: problem details, or a page that tells of them.

    A page may set ``app.state.problem_page``, a callable ``(request, problem) -> Response`` that
    is asked where a browser wants HTML of a path outside of ``/api``.
    """
    problem = _as_problem(error)
    page = getattr(request.app.state, "problem_page", None)
    if page is not None and not request.url.path.startswith("/api/") and _wants_html(request):
        shown: Response = page(request, problem)
        return shown
    return problem.response()


def _wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _as_problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), dict(error.headers or {}))
    assert isinstance(error, RequestValidationError)
    # What was sent may say who a patient is: fields are named, values are not repeated.
    errors = [
        {
            "field": ".".join(str(part) for part in found["loc"] if part != "body"),
            "message": str(found["msg"]),
        }
        for found in error.errors()
    ]
    return Problem(422, "The request is not what it must be; see errors.", errors=errors)
