"""Services of drawn archives, a real browser that watches what a page asks for, and axe-core."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from medshadow.data import ham10k_cases, odir5k_cases, write_phantoms
from medshadow.data.ham10k import DIAGNOSES
from medshadow.data.odir5k import DIAGNOSES as EYE_DIAGNOSES
from medshadow.networks import Embedder, backbone

AXE = "axe-core@4.14.1"
READER = "reader-token-of-the-tests"
_START_SECONDS = 240
_PATIENCE_MS = 60_000


@dataclass(frozen=True)
class Service:
    """A running service and images that it may be asked about."""

    url: str
    queries: tuple[Path, ...]
    cases: frozenset[str]


def _archive(folder: Path, kind: str) -> tuple[Path, ...]:
    """Make a store and a model folder of drawn cases; return the images that were kept out."""
    from medshadow.workflows import build_store

    eyes = kind == "fundi"
    size = {"patients": 40} if eyes else {"lesions": 44}
    root = write_phantoms(folder / "drawn", kind=kind, progress=False, **size)
    table = odir5k_cases(root) if eyes else ham10k_cases(root)
    torch.manual_seed(4)
    embedder = Embedder(
        backbone("efficientnet-lite0"),
        embedding_dim=32,
        preprocess={"preset": "fundus" if eyes else "dermatology", "size": 64},
    ).eval()
    embedder.save(folder / "model")
    kept_out = sorted(table.frame["group"].unique())[::9]
    asked = table.frame["group"].isin(kept_out)
    known = replace(
        table,
        frame=table.frame[~asked].reset_index(drop=True),
        source="drawn by MedShadow, no patient's image",
    )
    names = EYE_DIAGNOSES if eyes else DIAGNOSES
    build_store(embedder, known, folder / "cases.db", diagnosis_names=names, progress=False).close()
    return tuple(Path(image) for image in table.frame[asked]["image"])


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Drawn cases, made once a kind: kind -> (folder, images that were kept out)."""

    @cache
    def made(kind: str) -> tuple[Path, tuple[Path, ...]]:
        folder = tmp_path_factory.mktemp(kind)
        return folder, _archive(folder, kind)

    return made


@pytest.fixture(scope="session")
def serve(integration):
    """Serve a folder with a store and a model from a thread: (folder, images), ... -> Service."""
    integration(find_spec("fastapi") is not None, "the service's packages: medshadow[service]")
    import uvicorn

    from medshadow.retrieval import CaseStore
    from medshadow.retrieval.encoders import TorchEncoder
    from medshadow.service import ServiceSettings, create_app, engine

    running = []

    def start(archive, *, onnx=False, **settings) -> Service:
        folder, queries = archive
        with CaseStore(folder / "cases.db") as store:
            cases = frozenset(store.frame()["case_id"])
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        told = ServiceSettings(folder / "cases.db", folder / "model", port=port, **settings)
        with pytest.MonkeyPatch.context() as patch:
            if not onnx:
                # To export a network takes longer than all the lookups of most of these tests.
                patch.setattr(
                    engine, "best_encoder", lambda embedder, threads: TorchEncoder(embedder)
                )
            app = create_app(told)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        running.append((server, thread))
        end = time.monotonic() + _START_SECONDS
        while not server.started and time.monotonic() < end:
            time.sleep(0.05)
        assert server.started
        return Service(f"http://127.0.0.1:{port}/", queries, cases)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def lesions(serve, archive) -> Service:
    """Drawn lesions, open to this machine."""
    return serve(archive("lesions"), insecure_local=True)


@pytest.fixture(scope="session")
def eyes(serve, archive) -> Service:
    """Drawn eyes, which may have several diseases, for who knows the token."""
    return serve(archive("fundi"), reader_token=READER)


# Closed after each file: while it runs, its event loop keeps others from running in this thread.
@pytest.fixture(scope="module")
def _browser(integration):
    integration(find_spec("playwright") is not None, "playwright: pip install playwright")
    chromium = os.environ.get("MEDSHADOW_CHROMIUM") or shutil.which("chromium")
    integration(chromium is not None, "Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visits:
    """Pages opened in a browser, and what they did that a page must not do.

    Attributes:
        faults: console errors and warnings, exceptions, and requests to other hosts.
    """

    def __init__(self, browser) -> None:
        self._browser = browser
        self._contexts = []
        self.faults: list[str] = []

    def __call__(
        self,
        service: Service,
        *,
        width: int = 1280,
        height: int = 800,
        scheme: str = "light",
        script: bool = True,
        expected: tuple[str, ...] = (),
    ):
        """Open a service's page; what holds one of ``expected`` the console may say."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=script,
        )
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(_PATIENCE_MS)

        def said(message) -> None:
            if message.type in ("error", "warning") and not any(
                word in message.text for word in expected
            ):
                self.faults.append(f"console: {message.text}")

        def asked(request) -> None:
            if not request.url.startswith((service.url, "data:")):
                self.faults.append(f"request: {request.url}")

        page.on("console", said)
        page.on("request", asked)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.goto(service.url)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def visit(_browser):
    """Open pages; the test fails if one complains or asks another host for anything."""
    visits = Visits(_browser)
    yield visits
    visits.close()
    assert visits.faults == []


@pytest.fixture
def look_up() -> Callable:
    """Look an image up on an open page and wait for the answer."""

    def look(page, image: Path) -> None:
        page.set_input_files("#image", image)
        page.click("#look > button")
        page.wait_for_selector("#answer")

    return look


@pytest.fixture(scope="session")
def _axe_source(integration, tmp_path_factory) -> str:
    """axe-core, from the node_modules that MEDSHADOW_NODE_MODULES names, else fetched by npm."""
    modules = os.environ.get("MEDSHADOW_NODE_MODULES")
    if modules is None:
        integration(shutil.which("npm") is not None, "npm, or MEDSHADOW_NODE_MODULES with axe-core")
        folder = tmp_path_factory.mktemp("npm")
        fetched = subprocess.run(
            ["npm", "install", "--prefix", str(folder), "--no-save", "--ignore-scripts", AXE],
            capture_output=True,
            text=True,
            timeout=300,
        )
        integration(fetched.returncode == 0, f"{AXE} from npm: {fetched.stderr[-300:]}")
        modules = folder / "node_modules"
    return (Path(modules) / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def violations(_axe_source) -> Callable:
    """What axe-core finds wrong with a page, serious or critical: rule and elements."""

    def check(page) -> list[tuple[str, list[str]]]:
        page.evaluate(_axe_source)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            (one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    return check


@pytest.fixture
def screenshot(tmp_path) -> Callable:
    """Keep a picture of a page under MEDSHADOW_SCREENSHOTS: of drawn cases alone."""
    folder = Path(os.environ.get("MEDSHADOW_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def take(page, name: str, **options) -> Path:
        path = folder / f"{name}.png"
        # Hiding the caret would put a style into the page, which its policy refuses.
        page.screenshot(path=path, caret="initial", **options)
        return path

    return take
