"""A Milvus server for these tests alone, and stores whose vectors it holds."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from medshadow.retrieval import MilvusSearch

TOKEN = "root:Milvus"  # that of every new server
SETTINGS = {
    # What an administrator sets so that a dropped collection leaves the disk, here at once.
    "DATACOORD_GC_INTERVAL": "1",
    "DATACOORD_GC_DROPTOLERANCE": "1",
    "DATACOORD_GC_MISSINGTOLERANCE": "1",
    "ROCKSMQ_RETENTIONTIMEINMINUTES": "0",
    "ROCKSMQ_ROCKSMQPAGESIZE": "4096",
    "ROCKSMQ_TIMTICKERINTERVAL": "2",
    "ROCKSMQ_COMPACTIONINTERVAL": "2",
    # So that a test need not wait for the next look of one part at another.
    "PROXY_TIMETICKINTERVAL": "50",
    "QUERYCOORD_CHECKINTERVAL": "100",
    "QUERYCOORD_DISTPULLINTERVAL": "100",
    "LOG_LEVEL": "error",
}


# Ports of its own for the part that holds its settings, which otherwise meets another server's.
ETCD = """name: default
listen-client-urls: http://127.0.0.1:{own}
advertise-client-urls: http://127.0.0.1:{own}
listen-peer-urls: http://127.0.0.1:{peers}
initial-advertise-peer-urls: http://127.0.0.1:{peers}
initial-cluster: default=http://127.0.0.1:{peers}
"""


@pytest.fixture(scope="session")
def milvus_server(integration, tmp_path_factory):
    """A server that asks for a token: ``uri``, ``token`` and ``folder``, where its data are."""
    found = Path(sys.executable).with_name("milvus-server")
    command = os.environ.get("MEDSHADOW_MILVUS_SERVER") or (str(found) if found.exists() else None)
    integration(
        command is not None and find_spec("pymilvus") is not None,
        "no Milvus server or no pymilvus; pip install milvus==2.3.5 'medshadow[milvus]'",
    )
    folder = tmp_path_factory.mktemp("milvus")
    own, peers = _free_port(), _free_port()
    (folder / "etcd.yaml").write_text(ETCD.format(own=own, peers=peers))
    environment = {"ETCD_CONFIG_PATH": str(folder / "etcd.yaml"), "PYTHONUNBUFFERED": "1"}
    options = ["--data", str(folder), "--etcd-port", str(own), "--authorization-enabled", "true"]
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [command, *options],
            env={**os.environ, **SETTINGS, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield SimpleNamespace(uri=_address(process, folder), token=TOKEN, folder=folder / "data")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder)


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _address(process, folder):
    """Where the server answers, once it does."""
    give_up = time.monotonic() + 240
    while "Ctrl+C to exit" not in (folder / "output.log").read_text():
        assert process.poll() is None, (folder / "output.log").read_text()
        assert time.monotonic() < give_up, "Milvus has not started within four minutes"
        time.sleep(0.2)
    settings = (folder / "configs" / "milvus.yaml").read_text()
    port = re.search(r"^proxy:.*?^  port: (\d+)", settings, re.MULTILINE | re.DOTALL)[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def milvus(milvus_server):
    """Opens searches of stores in Milvus; they and their collections are gone after the test."""
    opened = []

    def open_search(store, **options):
        opened.append(MilvusSearch(store, milvus_server.uri, milvus_server.token, **options))
        return opened[-1]

    yield open_search
    for search in opened:
        search.close()
