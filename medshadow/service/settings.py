"""What a service is told at its start: where to listen, whom to let in, how much to take on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

LEAST_TOKEN = 16
"""Fewest characters of a token: one that is long and random cannot be guessed."""


@dataclass(frozen=True)
class Limits:
    """How much a service takes on.

    Args:
        max_bytes: largest image file that is taken, in bytes.
        max_pixels: largest image that is decoded, in pixels; its size is read before its pixels.
        seconds: longest that reading a request may take, and again working on it.
        workers: images worked on at one time, one thread each; by default one a CPU core.
        queue: requests that wait for a worker; more are refused (503) until one is free.
        requests_per_minute: of one person at one address.
        failed_logins_per_minute: wrong tokens from one address before it has to wait.
        kept_queries: images of queries kept in memory for refining and explaining.
        kept_bytes: memory for them, in bytes; the oldest go first.
        kept_seconds: how long one is kept.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 2**25
    seconds: float = 30.0
    workers: int = field(default_factory=lambda: max(1, len(os.sched_getaffinity(0))))
    queue: int = 16
    requests_per_minute: int = 1200
    failed_logins_per_minute: int = 10
    kept_queries: int = 128
    kept_bytes: int = 2**28
    kept_seconds: float = 15 * 60.0


@dataclass(frozen=True)
class ServiceSettings:
    """How a service is run.

    Args:
        cases: the case store: a SQLite file, or an SQLAlchemy URL.
        model: folder of the model that made its vectors.
        host: address to listen at.
        port: port to listen at.
        reader_token: who sends it may look up; at least 16 characters.
        curator_token: who sends it may also withdraw cases and read the trail.
        identity_header: header in which a proxy names the person it has let in, who then is a
            reader.
        trusted_proxies: addresses or networks of proxies whose headers are believed.
        insecure_local: let everyone on this machine look up without a token.
        dicomweb: root URL of the only DICOMweb server that images are fetched from.
        milvus: URI of the Milvus server that holds the vectors; without one they lie in memory.
        milvus_token: what that server lets in, where it asks for it.
        limits: how much to take on.

    Raises:
        ValueError: nobody could be told apart from anybody, a token is too short or serves two
            roles, or an address cannot be read.

    Example:
        >>> settings = ServiceSettings("cases.db", "model", reader_token="a-long-random-token")
        >>> settings.loopback, "a-long" in repr(settings)
        (True, False)
    """

    cases: str | Path
    model: str | Path
    host: str = "127.0.0.1"
    port: int = 8000
    reader_token: str | None = field(default=None, repr=False)
    curator_token: str | None = field(default=None, repr=False)
    identity_header: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    insecure_local: bool = False
    dicomweb: str | None = None
    milvus: str | None = field(default=None, repr=False)
    milvus_token: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("reader_token", "curator_token"):
            token = getattr(self, name)
            if token is not None and len(token) < LEAST_TOKEN:
                raise ValueError(
                    f"{name} has {len(token)} characters; expected at least {LEAST_TOKEN}, chosen "
                    "at random"
                )
        if self.reader_token is not None and self.reader_token == self.curator_token:
            raise ValueError("reader_token and curator_token are the same; expected two tokens")
        for network in self.trusted_proxies:
            ip_network(network)
        if (self.identity_header is None) != (not self.trusted_proxies):
            raise ValueError(
                "identity_header and trusted_proxies go together: without the addresses of the "
                "proxies anybody could send the header"
            )
        if self.insecure_local and not self.loopback:
            raise ValueError(
                f"insecure_local lets everyone in and so goes with a loopback address; found host "
                f"{self.host!r}"
            )
        if not (self._has_token or self.identity_header or self.insecure_local):
            raise ValueError(
                "nobody may look anything up: expected a token (--token-file or MEDSHADOW_TOKEN), "
                "an identity proxy (--identity-header and --trusted-proxy) or, on a loopback "
                "address, --insecure-local"
            )

    @property
    def _has_token(self) -> bool:
        return self.reader_token is not None or self.curator_token is not None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def secure_cookies(self) -> bool:
        """Whether browsers are told to send the session over TLS alone."""
        return not self.loopback or self.identity_header is not None


def read_token(path: str | os.PathLike[str] | None, variable: str) -> str | None:
    """A token from a file, or from an environment variable where no file is named.

    Args:
        path: a file that holds the token alone; white space around it is taken off.
        variable: the environment variable, such as MEDSHADOW_TOKEN.

    Returns:
        The token; None where neither says one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file or the variable is empty, or holds more than one word.
    """
    if path is not None:
        token, source = Path(path).read_text(encoding="utf-8").strip(), str(path)
    elif variable in os.environ:
        token, source = os.environ[variable].strip(), variable
    else:
        return None
    if len(token.split()) != 1:
        raise ValueError(f"{source} holds {len(token.split())} words; expected one token")
    return token
