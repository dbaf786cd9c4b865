"""Speaking to one DICOMweb server: its session, the limits on its answers, errors that name nobody.

Addresses and records of the libraries below are full of identifiers; none of them gets out of here.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from medshadow.errors import MedShadowError, OptionalDependencyError

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from requests import Response, Session

CREDENTIALS = "MEDSHADOW_DICOMWEB_CREDENTIALS"
"""Environment variable: "user:password", or a bearer token."""
MAX_BYTES = 2**28
"""Largest answer that is taken from the server, in bytes: 256 MiB."""

_ANSWER_SECONDS = 20.0
_TRANSFER_SECONDS = 120.0
# Their records quote identifiers, at levels from debug to warning.
_TALKATIVE = ("dicomweb_client", "urllib3")

_T = TypeVar("_T")


def quieten(*libraries: str) -> None:
    """Let what some libraries log and warn of go nowhere: they quote names and identifiers."""
    for name in libraries:
        # Above every level: a logger that only does not propagate can still be listened to.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")


class DicomWebError(MedShadowError, ConnectionError):
    """The DICOMweb server does not answer, refuses, or answers with something else."""


class InstanceNotFoundError(DicomWebError):
    """The DICOMweb server holds no such study or instance."""


class Line:
    """The way to one server; a session of its own for each question, so safe in several threads.

    Args:
        url: the server's address.
        credentials: "user:password", a bearer token, or nothing.

    Raises:
        OptionalDependencyError: dicomweb-client is not installed.
    """

    def __init__(self, url: str, credentials: str) -> None:
        if find_spec("dicomweb_client") is None:
            raise OptionalDependencyError(
                "DICOMweb needs dicomweb-client: pip install 'medshadow[dicomweb]'"
            )
        self.url = url
        self._credentials = credentials

    def ask(self, what: str, question: Callable[[DICOMwebClient], _T]) -> _T:
        """Put a question to the server.

        Args:
            what: what is asked for, to name it in errors.
            question: what to do with a client of dicomweb-client.

        Raises:
            DicomWebError: whatever went wrong, but for errors of MedShadow, which pass.
        """
        import requests

        from medshadow.data.dicom import silence_pydicom

        silence_pydicom()
        quieten(*_TALKATIVE)
        try:
            with self._session() as session:
                return question(self._client(session))
        except MedShadowError:
            raise
        except requests.HTTPError as error:
            answered = error.response
            problem = self._refusal(what, 0 if answered is None else answered.status_code)
        except requests.RequestException as error:
            problem = DicomWebError(f"{self.url}: does not answer ({type(error).__name__})")
        except Exception as error:
            kind = type(error).__name__
            problem = DicomWebError(f"{self.url}: its answer to {what} is not DICOMweb's ({kind})")
        # Outside the handlers, so that the address asked for, with the identifiers in it, does not
        # travel along as the context of this error.
        raise problem

    def _client(self, session: Session) -> DICOMwebClient:
        from dicomweb_client import DICOMwebClient

        client = DICOMwebClient(
            self.url, session=session, timeout=_ANSWER_SECONDS, permissive_uid=True
        )
        client.set_http_retry_params(max_attempts=3, wait_exponential_multiplier=200)
        return client

    def _session(self) -> Session:
        import requests

        session = requests.Session()
        session.trust_env = False
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        session.max_redirects = 0
        session.headers["Accept"] = "application/dicom+json"
        session.hooks["response"].append(self._limited)
        if ":" in self._credentials:
            user, _, password = self._credentials.partition(":")
            session.auth = requests.auth.HTTPBasicAuth(user.encode(), password.encode())
        elif self._credentials:
            session.headers["Authorization"] = f"Bearer {self._credentials}"
        return session

    def _limited(self, response: Response, *_: Any, **__: Any) -> None:
        response.raw = _LimitedBody(response.raw, self.url)

    def _refusal(self, what: str, status: int) -> DicomWebError:
        if status in (404, 410):
            return InstanceNotFoundError(f"{self.url}: holds no such study or instance")
        if status in (401, 403):
            return DicomWebError(
                f"{self.url}: refuses {what} with these credentials ({status}); see {CREDENTIALS}"
            )
        return DicomWebError(f"{self.url}: answered {what} with status {status}")


class _LimitedBody:
    """The body of an answer, given up when it grows too large or comes too slowly."""

    def __init__(self, body: Any, url: str) -> None:
        self._body = body
        self._url = url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def stream(self, amount: int, decode_content: bool | None = None) -> Iterator[bytes]:
        size, until = 0, time.monotonic() + _TRANSFER_SECONDS
        for part in self._body.stream(amount, decode_content=decode_content):
            size += len(part)
            if size > MAX_BYTES:
                raise DicomWebError(f"{self._url}: sent more than {MAX_BYTES} bytes")
            if time.monotonic() > until:
                raise DicomWebError(f"{self._url}: sent for more than {_TRANSFER_SECONDS:.0f} s")
            yield part
