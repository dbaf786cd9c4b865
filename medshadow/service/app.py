"""The service as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from fastapi import FastAPI

from medshadow import __version__
from medshadow.retrieval.answer import NOTICE
from medshadow.service import api, curation, dicom_api
from medshadow.service.access import Access
from medshadow.service.csrf import Forms
from medshadow.service.dicomweb import DicomWeb
from medshadow.service.engine import LookupEngine
from medshadow.service.guard import Guard, keep_uploads_in_memory
from medshadow.service.pages import add_pages
from medshadow.service.problems import SCHEMA, install_problems
from medshadow.service.settings import ServiceSettings
from medshadow.service.workers import Workers

_FORGET_EVERY_SECONDS = 30
# Threads that wait for the DICOMweb server.
_WAITING = 4


def create_app(settings: ServiceSettings) -> FastAPI:
    """Make the service: the model and the archive are loaded, once, before it returns.

    ``app.state`` holds ``engine`` (:class:`LookupEngine`), ``access`` (:class:`Access`) and
    ``settings``, and ``dicomweb`` (:class:`DicomWeb`, or None where no server is named). The
    application closes the engine, and what waits for that server, when it shuts down.

    Args:
        settings: what to serve, and to whom.

    Raises:
        DataError: the address of the DICOMweb server is none.
        FileNotFoundError: there is no case store.
        StoreError: it is no case store, or holds another model's vectors.
        ModelFolderError: the model cannot be loaded.

    Example:
        >>> app = create_app(ServiceSettings("cases.db", "model"))  # doctest: +SKIP
    """
    keep_uploads_in_memory()
    dicomweb = None if settings.dicomweb is None else DicomWeb(settings.dicomweb)
    access = Access(settings)
    engine = LookupEngine.open(settings)
    app = FastAPI(
        title="MedShadow",
        summary="Known cases that look like a new image.",
        description=NOTICE,
        version=__version__,
        lifespan=_lifespan,
        # Their pages would fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.engine = engine
    app.state.access = access
    app.state.forms = Forms(settings)
    app.state.settings = settings
    app.state.dicomweb = dicomweb
    app.state.waiting = Workers(replace(settings.limits, workers=_WAITING))
    install_problems(app)
    app.add_middleware(Guard, access=access, settings=settings)
    app.include_router(api.router)
    app.include_router(curation.router)
    app.include_router(dicom_api.router)
    add_pages(app)
    _name_problems(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    forgetting = asyncio.create_task(_forget_old(app.state.engine))
    try:
        yield
    finally:
        forgetting.cancel()
        with suppress(asyncio.CancelledError):
            await forgetting
        app.state.waiting.close()
        app.state.engine.close()


async def _forget_old(engine: LookupEngine) -> None:
    while True:
        await asyncio.sleep(_FORGET_EVERY_SECONDS)
        engine.forget_old()


def _name_problems(app: FastAPI) -> None:
    """Put the schema of problem details, which no route returns, into the OpenAPI document."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        document["components"]["schemas"]["Problem"] = SCHEMA
        return document

    app.openapi = openapi  # type: ignore[method-assign]
