"""Forms that our own pages alone can send: each carries a token that is tied to one browser."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.datastructures import FormData
from starlette.requests import HTTPConnection

from medshadow.service.access import Person, person_of
from medshadow.service.problems import Problem
from medshadow.service.settings import ServiceSettings

# A page of 64 cases has a mark for each of them, and for as many that were marked before.
_MOST_FIELDS = 400
_VISIT = re.compile(r"[A-Za-z0-9_-]{43}")


class Forms:
    """Makes the tokens of forms.

    The token of a person who is known is tied to their session. Who signs in has none yet: theirs
    is tied to a random cookie of their browser (signed double submit), so that no other page can
    sign somebody in as somebody else.

    Args:
        settings: whether cookies are for TLS alone.

    Attributes:
        cookie: name of the cookie of browsers that have not signed in.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._key = secrets.token_bytes(32)
        self._secure = settings.secure_cookies
        self.cookie = "__Host-medshadow-visit" if self._secure else "medshadow-visit"

    def token(self, person: Person | None, visit: str = "") -> str:
        """What a form must bring along to be this person's own.

        Args:
            person: who sends it; None for a stranger.
            visit: a stranger's cookie.
        """
        owner = f"visit {visit}" if person is None else f"{person.role} {person.secret}"
        return hmac.new(self._key, owner.encode(errors="surrogatepass"), sha256).hexdigest()

    def visit(self, connection: HTTPConnection) -> str:
        """The cookie of a browser; empty where it has none of ours."""
        found = connection.cookies.get(self.cookie, "")
        return found if _VISIT.fullmatch(found) else ""

    def begin_visit(self, connection: HTTPConnection) -> str:
        """The cookie of a browser, or a new one, of 256 random bits, for :meth:`keep_visit`."""
        return self.visit(connection) or secrets.token_urlsafe(32)

    def keep_visit(self, response: Response, visit: str) -> None:
        """Have the browser keep its cookie until it is closed."""
        response.set_cookie(
            self.cookie, visit, path="/", secure=self._secure, httponly=True, samesite="strict"
        )

    def end_visit(self, response: Response) -> None:
        """Have the browser forget its cookie."""
        response.delete_cookie(
            self.cookie, path="/", secure=self._secure, httponly=True, samesite="strict"
        )


def forms_of(request: Request) -> Forms:
    """The tokens of a service's forms."""
    forms: Forms = request.app.state.forms
    return forms


def csrf_token(request: Request) -> str:
    """What a form on a page for this person sends along as ``csrf_token``."""
    return forms_of(request).token(person_of(request))


async def check_csrf(request: Request) -> None:
    """Dependency: the form comes from our own page.

    Raises:
        Problem: 403 for a missing or another token.
    """
    given = request.headers.get("x-csrf-token")
    if given is None:
        given = str((await request.form()).get("csrf_token", ""))
    person, visit = person_of(request), forms_of(request).visit(request)
    expected = forms_of(request).token(person, visit)
    same = hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())
    # Without a cookie all strangers would share one token.
    if not same or (person is None and not visit):
        raise Problem(403, "The form is too old or not from this page; load the page again.")


async def own_form(request: Request) -> AsyncIterator[FormData]:
    """Dependency: what our own page sent, closed when it has been answered.

    Raises:
        Problem: 400 for more fields than a page has, 403 for a form that is not from our page.
    """
    async with request.form(max_files=1, max_fields=_MOST_FIELDS) as data:
        await check_csrf(request)
        yield data


OwnForm = Annotated[FormData, Depends(own_form)]
"""For a route: the form of our own page that was sent."""
