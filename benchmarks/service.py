"""How long users of the service wait, and whether it stays as it is for as long as they ask.

The service is the command itself (`medshadow serve`), over a store of drawn cases whose vectors are
random and a network of the usual size, calibrated on drawn lesions so that every image's kind and
quality are judged; the users are locust's, on the same machine and without a pause between two
questions. First one user looks images up, then several also refine and have explained what they
found. Answers must be whole: 16 hits with their pictures. Meanwhile the memory of the service is
looked at every two seconds.

    python benchmarks/service.py --cases 10000 --users 8 --seconds 300
"""

from __future__ import annotations

import argparse
import csv
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pandas as pd
import psutil
from measuring import installed
from PIL import Image

from medshadow.data import CaseTable, write_phantoms
from medshadow.networks import Embedder, backbone
from medshadow.retrieval import CaseStore, calibrate, jpeg_thumbnail
from medshadow.retrieval.encoders import best_encoder

SINGLE_P95_MS = 350
_HERE = Path(__file__).parent
_COMMAND = "from medshadow.cli import main; main()"
_SIZE = (600, 450)
_QUERIES = 40
_EVERY_SECONDS = 2


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="in the archive")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=300, help="of the users together")
    parser.add_argument("--single-seconds", type=int, default=60, help="of one user alone")
    parser.add_argument("--views", type=int, default=4, help="views of a query averaged over")
    parser.add_argument("--size", type=int, default=160, help="pixels of the network's input")
    options = parser.parse_args()
    print(
        f"{options.cases} cases, {_SIZE[0]} x {_SIZE[1]} JPEG, {options.views} views of "
        f"{options.size} pixels, {os.cpu_count()} cores; "
        + ", ".join(f"{name} {installed(name)}" for name in ("torch", "onnxruntime", "locust"))
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Serve an archive from a folder, and have users ask it."""
    make_images(folder)
    make_archive(folder, options)
    port = _free_port()
    environment = {
        **os.environ,
        "MEDSHADOW_TOKEN": secrets.token_urlsafe(32),
        "BENCHMARK_IMAGES": str(folder / "images"),
    }
    serve = ["serve", "--cases", str(folder / "cases.db"), "--model", str(folder / "model")]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *serve, "--port", str(port)],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _wait_until_ready(port, server, folder / "log.txt")
            print("| users | request | number | failed | p50 ms | p95 ms | p99 ms | a second |")
            print("| --- | --- | --- | --- | --- | --- | --- | --- |")
            ask(folder, port, environment, 1, 5, mixed=False, quiet=True)
            rows = ask(folder, port, environment, 1, options.single_seconds, mixed=False)
            p95 = float(rows["/api/lookup"]["95%"])
            process = psutil.Process(server.pid)
            ask(folder, port, environment, options.users, 20, mixed=True, quiet=True)
            with memory_of(process) as megabytes:
                ask(folder, port, environment, options.users, options.seconds, mixed=True)
        finally:
            server.terminate()
            server.wait(60)
    print(f"one user: p95 {p95:.0f} ms; {SINGLE_P95_MS} ms expected at most")
    minutes = np.arange(len(megabytes)) * _EVERY_SECONDS / 60
    slope = np.polyfit(minutes, megabytes, 1)[0]
    print(
        f"memory of the service in {options.seconds} s of {options.users} users, after a warm-up: "
        f"{megabytes[0]:.0f} MB at first, {max(megabytes):.0f} MB at most, {megabytes[-1]:.0f} MB "
        f"at the end, {slope:+.2f} MB a minute (least squares of {len(megabytes)} samples)"
    )


@contextmanager
def memory_of(process: psutil.Process) -> Iterator[list[float]]:
    """The resident memory of a process in MB, looked at every two seconds from now on."""
    megabytes = [process.memory_info().rss / 1e6]
    over = Event()

    def look() -> None:
        while not over.wait(_EVERY_SECONDS):
            megabytes.append(process.memory_info().rss / 1e6)

    looking = Thread(target=look)
    looking.start()
    try:
        yield megabytes
    finally:
        over.set()
        looking.join()


def make_images(folder: Path) -> None:
    """Drawn lesions of the size that HAM10000's have: queries in ``images``, others beside it."""
    drawn = write_phantoms(folder / "phantoms", lesions=100, progress=False)
    for name in ("images", "known", "held_out"):
        (folder / name).mkdir()
    for number, path in enumerate(sorted(Path(drawn).rglob("*.jpg"))):
        name = "images" if number < _QUERIES else ("known", "held_out")[number % 2]
        with Image.open(path) as image:
            resized = image.convert("RGB").resize(_SIZE)
        resized.save(folder / name / f"{number:03}.jpg", quality=90)


def drawn_cases(folder: Path) -> CaseTable:
    """The images of a folder as cases, every other one malignant."""
    frame = pd.DataFrame({"image": sorted(map(str, folder.glob("*.jpg")))})
    frame["case_id"] = frame["group"] = [f"drawn{number}" for number in range(len(frame))]
    frame["label"] = ["mel" if number % 2 else "nv" for number in range(len(frame))]
    return CaseTable(frame, "drawn")


def make_archive(folder: Path, options: argparse.Namespace) -> None:
    """A model, and a store of that many cases with random vectors and drawn pictures."""
    embedder = Embedder(
        backbone("efficientnet-lite0", pretrained=True),
        embedding_dim=256,
        preprocess={
            "preset": "dermatology", "size": options.size, "query_views": options.views,
        },
    )  # fmt: skip
    embedder.save(folder / "model")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(options.cases, 256))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pictures = [
        jpeg_thumbnail(np.array(Image.open(path))) for path in (folder / "images").glob("*.jpg")
    ]
    numbers = np.arange(options.cases)
    frame = pd.DataFrame(
        {
            "case_id": [f"case{number:07}" for number in numbers],
            "group": [f"lesion{number // 2:07}" for number in numbers],
            "label": rng.choice(["nv", "mel", "bkl", "bcc"], options.cases),
            "age": rng.integers(20, 90, options.cases),
            "sex": rng.choice(["female", "male"], options.cases),
        }
    ).assign(label=lambda made: made.groupby("group")["label"].transform("first"))
    with CaseStore.create(
        folder / "cases.db", name="drawn", model_digest=embedder.digest, embedding_dim=256,
        preprocess=embedder.preprocess, malignant={"mel", "bcc"},
    ) as store:  # fmt: skip
        thumbnails = (pictures[number % len(pictures)] for number in numbers)
        store.add(frame, vectors, model_digest=embedder.digest, thumbnails=thumbnails)
        calibrate(
            store, embedder, drawn_cases(folder / "known"), drawn_cases(folder / "held_out"),
            encoder=best_encoder(embedder, threads=1), progress=False,
        )  # fmt: skip


def ask(
    folder: Path,
    port: int,
    environment: dict[str, str],
    users: int,
    seconds: int,
    *,
    mixed: bool,
    quiet: bool = False,
) -> dict[str, dict[str, str]]:
    """Have users ask for a while; print and return what locust counted, by request."""
    locust = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--locustfile"]
    locust += [str(_HERE / "service_users.py"), "--host", f"http://127.0.0.1:{port}"]
    locust += ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"]
    done = subprocess.run(
        [*locust, "--csv", str(folder / "counted"), "--exit-code-on-error", "0"],
        env={**environment, "BENCHMARK_MIXED": str(int(mixed))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    with (folder / "counted_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file) if row["Name"] != "Aggregated"}
    for name, row in () if quiet else rows.items():
        print(
            f"| {users} | {name} | {row['Request Count']} | {row['Failure Count']} | {row['50%']} "
            f"| {row['95%']} | {row['99%']} | {float(row['Requests/s']):.1f} |",
            flush=True,
        )
    return rows


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_ready(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if server.poll() is not None:
            sys.exit(log.read_text())
        try:
            with urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                return
        except (URLError, TimeoutError):
            time.sleep(0.5)
    sys.exit(f"the service is not ready: {log.read_text()}")


if __name__ == "__main__":
    main()
