"""Build the image without an engine, and try its service: with mmdebstrap and buildah alone.

As root, on Debian, with the packages buildah and mmdebstrap:
    python docker/build.py                  builds localhost/medshadow
    python docker/build.py --try runs/demo  serves that run from it, looks an image up, and stops
What this machine's pip is configured to use goes into the build as a secret and as folders that are
mounted read-only, and stays out of the image but for those folders' names.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
BASE, IMAGE = "localhost/medshadow-base", "localhost/medshadow"
SUITE, PACKAGES = "bookworm", ("ca-certificates", "python3", "python3-venv")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PORT = 8000


def main(words: Sequence[str] | None = None) -> None:
    """Build the image; or try the service of the one that was built."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "image", help="its folder")
    parser.add_argument("--try", type=Path, dest="run", metavar="RUN", help="folder of a run")
    given = parser.parse_args(words)
    given.work.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(given.work.resolve())
    if given.run is None:
        buildah.make_base()
        buildah.make_image()
    else:
        try_service(buildah, given.run.resolve())


class Buildah:
    """buildah with its storage in one folder, without an engine and without a registry."""

    def __init__(self, work: Path) -> None:
        self.work = work
        store = ("--root", str(work / "storage"), "--runroot", str(work / "run"))
        self._command = ("buildah", *store, "--storage-driver", "vfs")

    def __call__(self, *words: str) -> str:
        """Run a command of buildah; its standard output."""
        done = subprocess.run(
            [*self._command, *words], check=True, text=True, stdout=subprocess.PIPE
        )
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether an image is in the storage."""
        return image in self("images", "--format", "{{.Name}}").split()

    def make_base(self) -> None:
        """Debian with Python, if it is not there yet."""
        if self.has(BASE):
            return
        tar = self.work / "base.tar"
        if not tar.is_file():
            unfinished = tar.with_suffix(".part.tar")
            subprocess.run(base_command(unfinished), check=True)
            unfinished.rename(tar)
        container = self("from", "scratch")
        self("add", container, str(tar), "/")
        # As every public base has it; the image's own is built on it.
        self("config", "--env", f"PATH={PATH}", container)
        self("commit", "--rm", container, BASE)

    def make_image(self) -> None:
        """The image, as the Dockerfile says, from the base."""
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "pip.conf"
            pip = pip_settings()
            config.write_text(pip_conf(pip))
            self(*build_words(config, mounts_of(pip)))


def base_command(tar: Path) -> list[str]:
    """How mmdebstrap makes the base."""
    wanted = f"--include={','.join(PACKAGES)}"
    # Many times faster; a base that a power cut damages is not renamed and made again.
    quick = "--dpkgopt=force-unsafe-io"
    return ["mmdebstrap", "--variant=minbase", quick, wanted, SUITE, str(tar)]


def pip_settings() -> dict[str, str]:
    """What pip is configured to use on this machine, by its own names: find-links, cert, ..."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, text=True, capture_output=True
    )
    settings = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        # The environment's names begin with a dot of their own.
        settings[name.rsplit(".", 1)[-1]] = value.strip("'\"").replace("\\n", " ")
    return settings


def pip_conf(settings: Mapping[str, str]) -> str:
    """The settings as a pip.conf."""
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items()), ""])


def mounts_of(settings: Mapping[str, str]) -> list[Path]:
    """The files and folders of this machine that the settings name."""
    words = [word for value in settings.values() for word in value.split()]
    named = [Path(word) for word in words if word.startswith("/")]
    # An index's pages may name files that lie beside it.
    named += [Path(urlsplit(word).path).parent for word in words if word.startswith("file:")]
    return [path for path in dict.fromkeys(named) if path.exists()]


def build_words(pip_config: Path, mounts: Iterable[Path]) -> list[str]:
    """How buildah builds the image."""
    return [
        *("build", "--isolation", "chroot", "--pull-never", "--format", "docker"),
        *("--build-arg", f"BASE={BASE}", "--build-arg", "TORCH_INDEX="),
        *("--secret", f"id=pip,src={pip_config}"),
        *(word for path in mounts for word in ("--volume", f"{path}:{path}:ro")),
        *("--ignorefile", str(ROOT / "docker" / "Dockerfile.dockerignore")),
        *("--file", str(ROOT / "docker" / "Dockerfile"), "--tag", IMAGE, str(ROOT)),
    ]


def try_service(buildah: Buildah, run: Path) -> None:
    """Serve a copy of a run's index as the image says, on a read-only file system, and look up.

    Raises:
        OSError: the service does not answer as it should, or its port is in use.
    """
    # Else the answers could be another service's.
    socket.create_server(("127.0.0.1", PORT)).close()
    container = buildah("from", "--pull-never", IMAGE)
    token = secrets.token_urlsafe(32)
    image = next((run / "phantoms").rglob("*.jpg"))
    try:
        config = json.loads(buildah("inspect", container))["Docker"]["config"]
        root = Path(buildah("mount", container))
        with copied(run, config["User"]) as data, served(root, config, data, token):
            print("health:", wait_for("/health"))
            answer = json.loads(post_image("/api/lookup", image, token))
            nearest = answer["hits"][0]
            print(f"lookup: {nearest['diagnosis']}, similarity {nearest['similarity']}")
    finally:
        buildah("rm", container)


@contextmanager
def copied(run: Path, owner: str) -> Iterator[Path]:
    """A run's case store and model in a folder that the image's user may write to."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(run / "model", f"{folder}/model")
        shutil.copy(run / "cases.db", folder)
        subprocess.run(["chown", "--recursive", owner, folder], check=True)
        yield Path(folder)


@contextmanager
def served(root: Path, config: Mapping[str, Any], data: Path, token: str) -> Iterator[None]:
    """Run the image's own command as its own user, in a root that nobody can write to."""
    script = """
    root=$1 data=$2 user=$3; shift 3
    mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" &&
    mount -t tmpfs tmpfs "$root/tmp" && mount --bind "$data" "$root/data" &&
    mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" || exit 1
    exec chroot --userspec="$user" "$root" /bin/sh -c 'cd /data && exec "$@"' sh "$@"
    """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(root), str(data), config["User"]]
    command += [*config["Entrypoint"], *config["Cmd"]]
    environment = dict(word.split("=", 1) for word in config["Env"])
    with subprocess.Popen(command, env={**environment, "MEDSHADOW_TOKEN": token}) as process:
        try:
            yield
        finally:
            # All of it is one process by now, which stops as the service does.
            process.terminate()
            print("stopped:", process.wait(timeout=60))


def wait_for(path: str, seconds: float = 120) -> int:
    """The status of the service's first answer.

    Raises:
        OSError: it has not answered well in that time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5) as answer:
                status: int = answer.status
                return status
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def post_image(path: str, image: Path, token: str) -> bytes:
    """The service's answer to an image file in the form field ``image``."""
    border = secrets.token_hex(16)
    head = f'--{border}\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"\r\n'
    body = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + image.read_bytes()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        data=body + f"\r\n--{border}--\r\n".encode(),
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": f"multipart/form-data; boundary={border}",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: bytes = answer.read()
        return found


if __name__ == "__main__":
    main()
