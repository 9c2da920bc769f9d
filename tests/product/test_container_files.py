"""Containerfile, compose.yaml and the systemd units: that they fit the program, and each other.

`python -m tests.container.prove` builds and runs them; here is what needs no root and no network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app1.app import DRAIN_SECONDS
from common.settings import PREFIXES, table
from common.supervisor import CHECKOUT, SERVERS
from tests.kit import ROOT
from tests.kit.servers import Server, free_ports, wait_until

CONTAINERFILE = (ROOT / "Containerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
UNITS = sorted((ROOT / "docs" / "systemd").iterdir())
NAMES = [server.name for server in SERVERS]
SETTINGS = {name for name, _, _ in table()}
SETTING = re.compile(rf"\b(?:{'|'.join(PREFIXES)})[A-Z0-9_]+")


def block(text: str, heading: str) -> str:
    """What is indented below a line of a YAML file."""
    match = re.search(rf"^( *){re.escape(heading)}.*\n((?:\1 +.*\n|\n)*)", text, re.MULTILINE)
    assert match, heading
    return match[2]


def keys(text: str, indent: int) -> list[str]:
    return re.findall(rf"^ {{{indent}}}(<<|\w+):", text, re.MULTILINE)


COMMON = block(COMPOSE, "x-server:")
SERVICES = {name: block(block(COMPOSE, "services:"), f"{name}:") for name in NAMES}


def image_sets() -> set[str]:
    """The settings that the image gives a value."""
    environment = re.search(r"^ENV ((?:.*\\\n)*.*)$", CONTAINERFILE, re.MULTILINE)
    assert environment
    return {*SETTING.findall(environment[1])}


@pytest.mark.parametrize(
    "path",
    [ROOT / "Containerfile", ROOT / "compose.yaml", ROOT / "docs" / "containers.md", *UNITS],
    ids=lambda path: path.name,
)
def test_every_setting_that_is_named_is_one(path: Path) -> None:
    assert {*SETTING.findall(path.read_text(encoding="utf-8"))} <= SETTINGS


# The image


def test_the_image_is_not_roots_and_what_runs_is_in_it() -> None:
    assert re.findall(r"^USER (.+)$", CONTAINERFILE, re.MULTILINE) == ["10001:10001"]
    copied = {
        word
        for line in re.findall(r"^COPY (.+)$", CONTAINERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert all((ROOT / word).exists() for word in copied)
    for server in SERVERS:
        assert server.script.relative_to(CHECKOUT).parts[0] in copied
    assert {"captioner", "common", "models"} <= copied
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_what_the_image_leaves_out_is_in_the_requirements() -> None:
    """That nothing which serves imports it is in test_imports.py."""
    left_out = re.search(r'^ARG LEAVE_OUT="(.+)"$', CONTAINERFILE, re.MULTILINE)
    assert left_out
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for name in left_out[1].split("|"):
        assert re.search(rf"^{name}==", requirements, re.MULTILINE), name


# compose.yaml


def test_all_services_are_the_same_image_with_the_same_walls() -> None:
    assert keys(block(COMPOSE, "services:"), 2) == NAMES
    assert "read_only: true\n" in COMMON
    assert re.search(r"cap_drop:\n +- ALL\n", COMMON)
    assert re.search(r"security_opt:\n +- no-new-privileges\n", COMMON)
    assert not {"user", "privileged", "cap_add"} & {*keys(COMMON, 2)}
    for service in SERVICES.values():
        assert "<<: *server\n" in service
        own = {"<<", "command", "ports", "healthcheck", "depends_on"}
        assert {*keys(service, 4)} <= own, "nothing of what all have in common is undone"


def test_compose_passes_on_every_setting_that_the_image_leaves_open() -> None:
    passed = keys(block(COMMON, "environment:"), 4)
    assert len(passed) == len({*passed})
    assert {*passed} == SETTINGS - image_sets()
    assert image_sets() == {
        "CAPTIONER_STATE", *(f"{server.prefix}_HOST" for server in SERVERS)
    }  # fmt: skip


def test_each_service_is_its_server() -> None:
    for server in SERVERS:
        service = SERVICES[server.name]
        script = server.script.relative_to(CHECKOUT).as_posix()
        assert f"command: [python, {script}]\n" in service
        assert f"common.health, {server.name}]\n" in service
        port = next(default for name, default, _ in table() if name == f"{server.prefix}_PORT")
        same = f"${{{server.prefix}_PORT:-{port}}}"
        assert f'- "${{PUBLISH_ON:-127.0.0.1}}:{same}:{same}"\n' in service


def test_both_wait_until_app1_has_finished() -> None:
    grace = re.search(r"stop_grace_period: (\d+)s", COMMON)
    assert grace
    assert int(grace[1]) > DRAIN_SECONDS
    unit = (ROOT / "docs" / "systemd" / "captioner-app1.service").read_text(encoding="utf-8")
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert timeout
    assert int(timeout[1]) > DRAIN_SECONDS


# systemd


def test_there_is_a_unit_for_each_server_and_they_differ_in_little() -> None:
    target, *services = sorted(UNITS, key=lambda path: path.suffix != ".target")
    assert {path.name for path in services} == {f"captioner-{name}.service" for name in NAMES}
    wanted = re.search(r"^Wants=(.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted
    assert {*wanted[1].split()} == {path.name for path in services}
    differing = ("Description", "After", "WorkingDirectory", "ExecStart", "TimeoutStopSec")
    same = {
        "\n".join(line for line in lines if not line.startswith(differing))
        for lines in (path.read_text(encoding="utf-8").splitlines() for path in services)
    }
    assert len(same) == 1
    for server in SERVERS:
        unit = (ROOT / "docs" / "systemd" / f"captioner-{server.name}.service").read_text()
        folder = server.script.parent.relative_to(CHECKOUT)
        assert f"WorkingDirectory=/opt/captioner/{folder}\n" in unit
        assert f"ExecStart=/opt/captioner/.venv/bin/python {server.script.name}\n" in unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze of systemd")
def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        text = text.replace("/opt/captioner/.venv/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


# A container's walls, without a container

# Becomes a server. Root first becomes a user who owns nothing, but may read what the checkout and
# the virtual environment need.
WALLED = """
import ctypes, os, sys
os.environ.pop("HOME", None)
if sys.platform == "linux":  # no memory that is both written and run; kernels before 6.3 refuse
    ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
command = [sys.executable, {script!r}]
if os.getuid() == 0:
    caps = [f"--{{kind}}-caps=-all,+dac_read_search" for kind in ("inh", "ambient")]
    user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    command = ["setpriv", *user, *caps, "--bounding-set=-all,+dac_read_search", *command]
os.execvp(command[0], command)
"""


@pytest.mark.skipif(
    not hasattr(os, "getuid") or (os.getuid() == 0 and not shutil.which("setpriv")),
    reason="needs users as POSIX has them, and setpriv to become another one",
)
def test_another_user_without_a_home_writes_only_the_state(
    start_server: Callable[..., Server],
    tmp_path: Path,
    tiny_model: Path,
    picture: Callable[..., bytes],
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(state, 65534, 65534)
    settings = {
        "CAPTIONER_MODEL": tiny_model,
        "PYTHONDONTWRITEBYTECODE": "1",
        **{f"{s.prefix}_PORT": p for s, p in zip(SERVERS, free_ports(3), strict=True)},
    }
    before = files_of_the_checkout()
    running: dict[str, Server] = {}
    for server in SERVERS:
        script = tmp_path / f"{server.name}.py"
        script.write_text(WALLED.format(script=str(server.script)), encoding="utf-8")
        running[server.name] = start_server(server.name, ready=False, script=script, **settings)
    for each in running.values():
        each.wait_ready(90)
    if os.getuid() == 0 and sys.platform == "linux":
        process = Path(f"/proc/{running['app1'].process.pid}/status").read_text()
        assert "\nUid:\t65534\t65534\t65534\t65534\n" in process
    kind = {"Content-Type": "image/jpeg"}
    status, _, body = running["app1"].send("POST", "/api/captions", picture("jpeg"), kind)
    assert status == 200, body
    identifier = json.loads(body)["id"]
    history = running["relay"].get
    wait_until(lambda: [c["id"] for c in history("/api/captions")[2]["captions"]] == [identifier])
    for name in ("app1", "app2"):
        assert running[name].get("/")[0] == 200
    assert [running[name].stop() for name in reversed(NAMES)] == [0, 0, 0]
    written = {path.name.partition(".db")[0] for path in state.iterdir()}
    assert written == {"history", "host-token", "outbox", "relay-token"}
    assert files_of_the_checkout() == before


def files_of_the_checkout() -> dict[str, int]:
    """What is in the image, and when it was written."""
    folders = ("captioner", "common", "models", *(s.script.parent.name for s in SERVERS))
    return {
        str(path): path.stat().st_mtime_ns
        for name in folders
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
