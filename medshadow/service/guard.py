"""What every request passes first: who it is from, how much it may send, what leaves with it.

All of this is settled from the headers, before a byte of the body is read.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser, parse_options_header
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medshadow.service.access import Access, Person, bearer_token, unauthorized
from medshadow.service.problems import Problem, busy, problem_response
from medshadow.service.rates import Rate
from medshadow.service.settings import ServiceSettings

MOST_BYTES = 2**20
"""Largest body that holds no file."""
_STRANGERS_BYTES = 2**14
# Beside its file a multipart body holds fields and boundaries.
_FORM_BYTES = 2**16
_MOST_REQUESTS = 256
# Few and quick, so that strangers cannot take the places of those who are known.
_STRANGERS_REQUESTS = 64
_STRANGERS_SECONDS = 10.0
_SAFE = ("GET", "HEAD", "OPTIONS")
_PROBES = ("/health", "/ready")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Sent with every response that does not say otherwise."""

_log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware around the whole service.

    It identifies the person, refuses strangers, strange sites and those in too much of a hurry,
    bounds the size and the time of bodies and how many uploads come in at one time, adds security
    headers, turns unforeseen errors into problems, and writes one line a request to the log. The
    log names the route, never the path: a path may hold anything.

    Args:
        app: the application.
        access: who may do what.
        settings: the service's settings.
    """

    def __init__(self, app: ASGIApp, access: Access, settings: ServiceSettings) -> None:
        self._app = app
        self._access = access
        self._limits = settings.limits
        self._rate = Rate(settings.limits.requests_per_minute)
        self._requests = 0
        self._strangers = 0
        self._uploads = 0
        self._headers = dict(HEADERS)
        if settings.secure_cookies:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status: list[int] = []

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        problem: Exception | None = None
        try:
            await self._admitted(scope, receive, send_guarded)
        except HTTPException as error:
            problem = error
        except Exception as error:
            _log_unforeseen(error)
            problem = Problem(500, "Something went wrong here; the log tells where.")
        if problem is not None and not status:
            response = problem_response(Request(scope), problem)
            await response(scope, receive, send_guarded)
        _log_request(scope, status, time.perf_counter() - started)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        if self._requests >= _MOST_REQUESTS:
            raise busy("Too many requests at one time; try again in a moment.")
        _refuse_other_sites(connection, scope["method"])
        person = self._access.person(connection)
        scope["medshadow.person"] = person
        if person is None and scope["path"].startswith("/api/"):
            raise unauthorized("Expected a bearer token or a session.")
        is_probe = scope["path"] in _PROBES
        if not is_probe:
            self._take_turn(person, connection)
        is_stranger = person is None and not is_probe
        is_form = _is_multipart(connection)
        most = self._most_bytes(person, is_form)
        # What names an image in place of sending it holds no memory while it waits for it.
        is_upload = is_form and person is not None and not _is_short(connection)
        _refuse_length(connection, most)
        self._requests += 1
        self._strangers += is_stranger
        self._uploads += is_upload
        try:
            if self._strangers > _STRANGERS_REQUESTS and is_stranger:
                raise busy("Too many requests of strangers at one time; try again in a moment.")
            if self._uploads > self._limits.workers + self._limits.queue:
                raise busy("Too many uploads at one time; try again in a moment.")
            seconds = self._limits.seconds
            seconds = seconds if person is not None else min(seconds, _STRANGERS_SECONDS)
            await self._app(scope, _bounded(receive, most, seconds), send)
        finally:
            self._requests -= 1
            self._strangers -= is_stranger
            self._uploads -= is_upload

    def _take_turn(self, person: Person | None, connection: HTTPConnection) -> None:
        name = "" if person is None else person.name
        wait = self._rate.take(f"{name} {self._access.address(connection)}")
        if wait:
            raise Problem(429, "Too many requests.", {"Retry-After": str(wait)})

    def _most_bytes(self, person: Person | None, is_form: bool) -> int:
        if person is None:
            return _STRANGERS_BYTES
        return self._limits.max_bytes + _FORM_BYTES if is_form else MOST_BYTES


def keep_uploads_in_memory() -> None:
    """Have multipart bodies parsed in memory; the guard bounds their size.

    Starlette would write what is larger than 1 MB to a temporary file.
    """
    MultiPartParser.spool_max_size = sys.maxsize


def _refuse_other_sites(connection: HTTPConnection, method: str) -> None:
    """Cookies and proxies speak for a person whatever page sends the request: ours alone may.

    Browsers tell where a request comes from, by fetch metadata and by origin; programs tell
    neither, and have no cookies that a page could use. A token is sent by programs alone; other
    schemes of the Authorization header browsers fill in by themselves, whatever page asks.
    """
    if method in _SAFE or bearer_token(connection) is not None:
        return
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin")
    ours = connection.headers.get("host", "").lower()
    foreign = origin is not None and urlsplit(origin).netloc.lower() != ours
    if site not in (None, "same-origin", "none") or (site is None and foreign):
        raise Problem(403, "The request comes from another site.")


def _is_multipart(connection: HTTPConnection) -> bool:
    """Whether the body is multipart, as the parser of forms will see it.

    Raises:
        Problem: 415 where it names a character set: the parser would use whatever codec that is
            the name of, some of which take minutes for a megabyte.
    """
    kind, options = parse_options_header(connection.headers.get("content-type"))
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise Problem(415, "Expected UTF-8.")
    return kind.startswith(b"multipart/")


def _is_short(connection: HTTPConnection) -> bool:
    length = connection.headers.get("content-length", "")
    return length.isdecimal() and len(length) < 15 and int(length) <= _FORM_BYTES


def _refuse_length(connection: HTTPConnection, most: int) -> None:
    length = connection.headers.get("content-length", "0")
    if not length.isdecimal():
        raise Problem(400, "Content-Length is no number.")
    if len(length) > 15 or int(length) > most:
        raise _too_large(most)


def _bounded(receive: Receive, most: int, seconds: float) -> Receive:
    """Receive a body of so many bytes at most, within so many seconds."""
    left = most
    end = time.monotonic() + seconds
    complete = False

    async def bounded() -> Message:
        nonlocal left, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), end - time.monotonic())
        except TimeoutError:
            raise Problem(408, f"The request took longer than {seconds:g} s to arrive.") from None
        left -= len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if left < 0:
            raise _too_large(most)
        return message

    return bounded


def _too_large(most: int) -> Problem:
    return Problem(413, f"The request is too large; expected at most {most} bytes.")


def _log_request(scope: Scope, status: list[int], seconds: float) -> None:
    person: Person | None = scope.get("medshadow.person")
    route = scope.get("route")
    _log.info(
        "%s %s %s %.0f ms %s",
        scope["method"] if scope["method"].isalpha() else "?",
        getattr(route, "path", "(no route)"),
        status[0] if status else "unanswered",
        1000 * seconds,
        "-" if person is None else person.name,
    )


def _log_unforeseen(error: Exception) -> None:
    """Log what kind of error came from where; its message may name a case or quote a request."""
    lines = (
        f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(error.__traceback__)
    )
    _log.error("%s at\n  %s", type(error).__name__, "\n  ".join(lines))
