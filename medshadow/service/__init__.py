"""The lookup as a service: REST, access control and limits, on FastAPI (extra ``service``)."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "Limits": "settings",
    "LookupEngine": "engine",
    "Person": "access",
    "Problem": "problems",
    "ServiceSettings": "settings",
    "create_app": "app",
    "read_token": "settings",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
