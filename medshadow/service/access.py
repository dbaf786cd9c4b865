"""Who is asking: tokens, identity proxies and browser sessions, and what each may do."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal

from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from medshadow.service.problems import Problem
from medshadow.service.rates import Rate
from medshadow.service.settings import ServiceSettings

Role = Literal["reader", "curator"]

_SESSION_SECONDS = 8 * 3600
_MOST_SESSIONS = 10_000
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_NAME = re.compile(r"[\w.@+\\/ -]{1,128}")


@dataclass(frozen=True)
class Person:
    """Who sent a request.

    Args:
        name: for the trail and the log: what the identity proxy says, else the role.
        role: a reader looks up; a curator also withdraws cases and reads the trail.
        secret: what ties forms to this person's browser.
    """

    name: str
    role: Role
    secret: str = field(default="", repr=False)


class Sessions:
    """Browser sessions: random names for people who have logged in, in memory, for eight hours."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._roles: OrderedDict[str, tuple[Role, float]] = OrderedDict()

    def begin(self, role: Role) -> str:
        """A new session's name: 256 random bits."""
        name = secrets.token_urlsafe(32)
        self._roles[_digest(name)] = (role, self._clock() + _SESSION_SECONDS)
        if len(self._roles) > _MOST_SESSIONS:
            self._roles.popitem(last=False)
        return name

    def role(self, name: str) -> Role | None:
        """The role of a session; None where there is none of this name, or no longer."""
        # Looked up by digest, so that timing tells nothing about the names of others.
        role, end = self._roles.get(_digest(name), (None, 0.0))
        return role if self._clock() < end else None

    def end(self, name: str) -> None:
        """Forget a session."""
        self._roles.pop(_digest(name), None)


class Access:
    """Tells who sends a request.

    Args:
        settings: tokens, identity header and trusted proxies.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._tokens: tuple[tuple[Role, bytes], ...] = tuple(
            (role, sha256(token.encode()).digest())
            for role, token in _tokens_of(settings)
            if token is not None
        )
        self._proxies = [ip_network(network) for network in settings.trusted_proxies]
        self._failures = Rate(settings.limits.failed_logins_per_minute)
        self.sessions = Sessions()
        # The prefix has browsers refuse a cookie that is not Secure or that another host set.
        self.cookie = "__Host-medshadow" if settings.secure_cookies else "medshadow"

    def person(self, connection: HTTPConnection) -> Person | None:
        """Who sends a request: by bearer token, session, identity proxy, or from this machine.

        Raises:
            Problem: 401 for a token that is not known, 429 after too many of them, 421 where an
                open local service is called by another name than this machine's.
        """
        named = self._named_by_proxy(connection)
        token = bearer_token(connection)
        if token is not None:
            role = self.role_of_token(token, self.address(connection))
            return Person(named or role, role)
        session = connection.cookies.get(self.cookie, "")
        session_role = self.sessions.role(session) if session else None
        if session_role is not None:
            return Person(named or session_role, session_role, session)
        if named is not None:
            return Person(named, "reader", named)
        return self._local(connection)

    def role_of_token(self, token: str, address: str) -> Role:
        """The role of a token, compared in constant time.

        Raises:
            Problem: 401 for a token that is not known, 429 after too many from this address.
        """
        wait = self._failures.wait(address)
        if wait:
            raise Problem(
                429, "Too many unknown tokens from this address.", {"Retry-After": str(wait)}
            )
        given = sha256(token.encode(errors="surrogateescape")).digest()
        roles = [role for role, digest in self._tokens if hmac.compare_digest(given, digest)]
        if not roles:
            self._failures.take(address)
            raise unauthorized("The token is not known.")
        return roles[0]

    def address(self, connection: HTTPConnection) -> str:
        """The client's address: behind trusted proxies, the nearest that is none of them."""
        # Some proxies append to the client's own header, others add one of theirs below it.
        passed = ",".join(connection.headers.getlist("x-forwarded-for"))
        hops = [part.strip() for part in passed.split(",")]
        address = connection.client.host if connection.client else ""
        while hops and self._is_proxy(address) and (hop := hops.pop()):
            address = hop
        return address

    def log_in(self, connection: HTTPConnection, token: str, response: Response) -> Role:
        """Begin a browser session for who knows a token, and set its cookie.

        Raises:
            Problem: as :meth:`role_of_token`.
        """
        role = self.role_of_token(token, self.address(connection))
        response.set_cookie(
            self.cookie,
            self.sessions.begin(role),
            max_age=_SESSION_SECONDS,
            path="/",
            secure=self._settings.secure_cookies,
            httponly=True,
            samesite="strict",
        )
        return role

    def log_out(self, connection: HTTPConnection, response: Response) -> None:
        """End the browser session of a request, if it has one."""
        self.sessions.end(connection.cookies.get(self.cookie, ""))
        response.delete_cookie(
            self.cookie,
            path="/",
            secure=self._settings.secure_cookies,
            httponly=True,
            samesite="strict",
        )

    def _named_by_proxy(self, connection: HTTPConnection) -> str | None:
        header = self._settings.identity_header
        peer = connection.client.host if connection.client else ""
        if header is None or not self._is_proxy(peer):
            return None
        names = connection.headers.getlist(header)
        if not names:
            return None
        # Two names: the proxy has let the client's own header through.
        if len(names) > 1 or not _NAME.fullmatch(names[0].strip()):
            raise unauthorized("The identity header does not hold one name.")
        return names[0].strip()

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

    def _local(self, connection: HTTPConnection) -> Person | None:
        if not self._settings.insecure_local:
            return None
        # A page on the web may point its own name at this machine: then the name is not ours.
        host = re.sub(r":\d*$", "", connection.headers.get("host", ""))
        if host.lower() not in _LOCAL_HOSTS:
            raise Problem(
                421, f"Without tokens the service answers to {', '.join(_LOCAL_HOSTS)} only."
            )
        return Person("local", "reader", "local")


def unauthorized(detail: str) -> Problem:
    """401, with the way to authenticate."""
    return Problem(401, detail, {"WWW-Authenticate": 'Bearer realm="medshadow"'})


def person_of(request: Request) -> Person | None:
    """Who sent a request, as found out before its body was read; None for a stranger."""
    person: Person | None = request.scope.get("medshadow.person")
    return person


_bearer_scheme = HTTPBearer(auto_error=False, description="A reader's or a curator's token.")


def require_reader(request: Request, _: Annotated[object, Depends(_bearer_scheme)]) -> Person:
    """Dependency: the person, at least a reader.

    Raises:
        Problem: 401 for a stranger.
    """
    person = person_of(request)
    if person is None:
        raise unauthorized("Expected a bearer token or a session.")
    return person


def require_curator(person: Annotated[Person, Depends(require_reader)]) -> Person:
    """Dependency: the person, a curator.

    Raises:
        Problem: 401 for a stranger, 403 for a reader.
    """
    if person.role != "curator":
        raise Problem(403, "Only a curator may do this.")
    return person


def bearer_token(connection: HTTPConnection) -> str | None:
    """The token of the Authorization header; None where it holds none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _tokens_of(settings: ServiceSettings) -> tuple[tuple[Role, str | None], ...]:
    return ("curator", settings.curator_token), ("reader", settings.reader_token)


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()
