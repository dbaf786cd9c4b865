"""Running the service: an HTTP server that says as little as it can."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec

from medshadow.errors import OptionalDependencyError
from medshadow.service.settings import ServiceSettings

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "jinja2")

_log = logging.getLogger(__name__)


def run_server(settings: ServiceSettings, started: Callable[[str], object] = print) -> None:
    """Serve until the process is told to stop.

    Args:
        settings: what to serve, and to whom.
        started: told in words where the service is.

    Raises:
        OptionalDependencyError: the extra ``service`` is not installed.
        SystemExit: the address cannot be listened at; the log says why.
        FileNotFoundError, StoreError, ModelFolderError: as
            :func:`medshadow.service.create_app`.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise OptionalDependencyError(
            f"the service needs {', '.join(missing)}: pip install 'medshadow[service]'"
        )
    import cv2
    import uvicorn
    from threadpoolctl import threadpool_limits

    from medshadow.service.app import create_app
    from medshadow.service.connections import BoundedConnection

    app = create_app(settings)
    # The workers use every core already: threads inside of them would only wait for each other.
    cv2.setNumThreads(1)
    threadpool_limits(1)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedConnection,
        ws="none",
        # The guard's own lines name the route; paths and query strings may hold anything.
        access_log=False,
        log_config=None,
        server_header=False,
        # Headers of proxies are the access control's business.
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.limits.seconds),
    )
    # Bound first, so that an address in use shows before anything is announced.
    listening = config.bind_socket()
    if not settings.loopback and settings.identity_header is None:
        _log.warning(
            "tokens pass the network as they are: put a proxy with TLS before %s", settings.host
        )
    held = app.state.engine.archive()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    started(
        f"{held['cases']} cases of {held['name']} at http://{host}:{settings.port} "
        "(research use only; stop with Ctrl+C)"
    )
    uvicorn.Server(config).run([listening])
