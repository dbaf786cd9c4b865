"""Fixtures for every room: the real data, drawn data, one small run of the whole way, servers."""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(autouse=True)
def _same_torch_randomness():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    for item in items:
        if "integration" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.integration)


def _need(found: bool, missing: str) -> None:
    if found:
        return
    if os.environ.get("MEDSHADOW_REQUIRE_INTEGRATIONS") == "1":
        pytest.fail(f"required here: {missing}")
    pytest.skip(missing)


def _real_data(name: str) -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("MEDSHADOW_DATA", default)) / name
    _need(
        root.is_dir(),
        f"real data set {name} not found; set MEDSHADOW_DATA to the folder that holds it",
    )
    return root


@pytest.fixture(scope="session")
def ham10000_root() -> Path:
    """The folder of the real HAM10000."""
    return _real_data("ham10000")


@pytest.fixture(scope="session")
def odir5k_root() -> Path:
    """The folder of the real ODIR-5K."""
    return _real_data("odir5k")


@pytest.fixture(scope="session")
def integration() -> Callable[[bool, str], None]:
    """Skip a test whose server or program is missing; fail it where integrations are required."""
    return _need


SMALL = {
    "train_size": 64,
    "embedder#preprocess#size": 64,
    "max_epochs": 2,
    "batches_per_epoch": 3,
    "images_per_class": 3,
    "fractions": {"training": 0.6, "validation": 0.1, "test": 0.3},
    "bootstrap": 50,
    "progress": False,
}


@pytest.fixture
def small():
    """Settings of the shared run."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A small HAM10000 of drawn lesions."""
    from medshadow.data import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("phantoms"), lesions=80, progress=False)


@pytest.fixture(scope="session")
def finished_run(phantoms, tmp_path_factory):
    """(output folder, summary) of a small run of the whole way."""
    from medshadow.workflows import run_config

    out = tmp_path_factory.mktemp("run") / "out"
    return out, run_config("dermatology", data_dir=str(phantoms), output_dir=str(out), **SMALL)


@pytest.fixture(scope="session")
def postgres_server(integration, tmp_path_factory):
    """The URL of a PostgreSQL server on loopback, started for this session alone."""
    from sqlalchemy import make_url

    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    which = shutil.which("initdb") or (str(found[-1]) if found else None)
    integration(
        which is not None and importlib.util.find_spec("psycopg") is not None,
        "no PostgreSQL server or no psycopg; apt-get install postgresql, "
        "pip install 'medshadow[postgres]'",
    )
    programs = Path(which).parent
    # initdb refuses root, and the server's own user must reach the folder.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="medshadow-postgres-"))
    password = folder / "password"
    password.write_text(secrets.token_hex(16))
    if user:
        shutil.chown(folder, "postgres")
        shutil.chown(password, "postgres")

    def run(program, *options):
        subprocess.run([*user, str(programs / program), *options], check=True, cwd="/",
                       stdout=subprocess.DEVNULL)  # fmt: skip

    data = ["-D", str(folder / "data")]
    try:
        run("initdb", *data, "-A", "scram-sha-256", "--pwfile", str(password),
            "-U", "medshadow", "-E", "UTF8", "--locale=C", "-N")  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        run("pg_ctl", *data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield make_url(
                f"postgresql+psycopg://medshadow:{password.read_text()}@127.0.0.1:{port}/postgres"
            )
        finally:
            run("pg_ctl", *data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty database on that server."""
    import psycopg

    name = f"t{secrets.token_hex(6)}"
    server = postgres_server.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield postgres_server.set(database=name).render_as_string(hide_password=False)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
