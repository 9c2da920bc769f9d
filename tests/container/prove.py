"""Builds the image and runs it, without a registry of images. As root, on Debian or Ubuntu:

    apt-get install debootstrap podman podman-compose runc catatonit iptables \\
        golang-github-containernetworking-plugin-dnsname
    python -m tests.container.prove

debootstrap makes the base image, from the mirror of this machine's own apt; Podman builds the
Containerfile on it; podman-compose starts compose.yaml. /dev/shm has 1 MB there, and the servers
have no $HOME. Then a photo is uploaded and its caption read. Last, systemd starts the units of
docs/systemd in a container. The report on standard output has seconds and sizes.

It needs the package registries and some 4 GB of disk, and is not part of `make test`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import skimage.data

from tests.kit import ROOT
from tests.kit.servers import free_ports, wait_until

SERVERS = ("relay", "app1", "app2")
PHOTO = Path(skimage.data.__file__).with_name("astronaut.png")  # NASA, public domain
CONTAINERFILE = ROOT / "Containerfile"
HANDICAPS = "services:\n" + "".join(
    f'  {name}:\n    shm_size: "1m"\n    entrypoint: [env, -u, HOME]\n' for name in SERVERS
)
# Also for machines that have control groups of both versions, or may not raise limits.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""
WITH_SYSTEMD = """
FROM captioner
USER root
RUN apt-get update && apt-get install --yes --no-install-recommends systemd dbus \
    && userdel captioner && ln -s /app /opt/captioner && ln -s /opt/venv /app/.venv
COPY systemd /etc/systemd/system/
RUN systemctl enable captioner.target
HEALTHCHECK NONE
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
"""
MAY_SYSTEMD = "SYS_ADMIN,SYS_PTRACE,SETPCAP,DAC_READ_SEARCH,NET_ADMIN"


# As in docs/containers.md
TAR = ("run", "--rm", "--interactive", "--volume=proof_state:/state", "captioner", "tar", "-C")


class Machine:
    """Podman with a storage of its own in `folder`, and the ports that the servers get."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(SERVERS, free_ports(3), strict=True))
        (folder / "containers.conf").write_text(CONTAINERS_CONF)
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\n'
            f'graphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
        )
        (folder / "handicaps.yaml").write_text(HANDICAPS)
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            **{f"{name.upper()}_PORT": str(port) for name, port in self.ports.items()},
        }

    def run(
        self, *command: object, check: bool = True, **streams: Any
    ) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        done = subprocess.run(
            words, cwd=ROOT, env=self.environment, text=True, check=False, **streams
        )
        if check and done.returncode:
            said = f"{done.stdout or ''}\n{done.stderr}"
            sys.exit(f"{' '.join(words)}\n{said[-8000:]}")
        return done

    def podman(self, *words: object) -> str:
        return self.run("podman", *words).stdout.strip()

    def compose(self, *words: str) -> None:
        files = ("-f", "compose.yaml", "-f", self.folder / "handicaps.yaml")
        self.run("podman-compose", "-p", "proof", *files, *words)

    def is_healthy(self, container: str) -> bool:
        return self.run("podman", "healthcheck", "run", container, check=False).returncode == 0

    def inspect(self, container: str, what: str) -> str:
        return self.podman("inspect", "--format", f"{{{{{what}}}}}", container)

    def get(self, server: str, path: str, body: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self.ports[server]}{path}"
        kind = {"Content-Type": "image/png"} if body else {}
        with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if "/api/" in path else content

    def captions(self) -> list[str]:
        return [caption["caption"] for caption in self.get("relay", "/api/captions")["captions"]]


def own_mirror(release: str) -> str:
    """The mirror of a Debian release in this machine's own list of sources."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian",
         f"Codename: {release}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    if not listed:
        sys.exit(f"apt has no sources of Debian {release}; name a mirror with --mirror.")
    return listed[0]


def make_base(machine: Machine, release: str, mirror: str, certificates: str) -> None:
    """A minimal Debian as the image that the Containerfile begins with."""
    root = machine.folder / "base"
    machine.run("debootstrap", "--variant=minbase", release, root, mirror)
    if certificates:  # of the package index, as this machine's pip has them
        (root / "etc" / "ssl").mkdir(exist_ok=True)
        shutil.copy(certificates, root / "etc" / "ssl" / "index.pem")
        (root / "etc" / "pip.conf").write_text("[global]\ncert = /etc/ssl/index.pem\n")
    archive = machine.folder / "base.tar"
    machine.run("tar", "-C", root, "-cf", archive, ".")
    machine.podman("import", archive, f"debian:{release}-slim")
    shutil.rmtree(root)
    archive.unlink()


def check_isolation(machine: Machine, name: str) -> None:
    """What a server's process may do, as the kernel of the host has it."""
    container = f"proof_{name}_1"
    first = machine.inspect(container, ".State.Pid")
    (server,) = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    status = dict(re.findall(r"^(\w+):\t(.*)$", Path(f"/proc/{server}/status").read_text(), re.M))
    assert status["Uid"].split() == ["10001"] * 4, status["Uid"]
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    environment = Path(f"/proc/{server}/environ").read_text().split("\0")
    assert not [entry for entry in environment if entry.startswith("HOME=")]
    for place in ("/x", "/app/x", "/opt/venv/x", "/var/x"):
        tried = machine.run("podman", "exec", container, "touch", place, check=False)
        assert "Read-only file system" in tried.stderr, place
    space = machine.podman("exec", container, "df", "-k", "--output=size", "/dev/shm")  # noqa: S108
    assert space.split()[-1] == "1024", space


def prove_compose(machine: Machine, report: dict[str, Any]) -> None:
    began = time.monotonic()
    machine.compose("up", "--detach")
    for name in SERVERS:
        wait_until(lambda: machine.is_healthy(f"proof_{name}_1"), 120)  # noqa: B023
    report["seconds until all three are healthy"] = since(began)
    for name in SERVERS:
        check_isolation(machine, name)
    assert machine.run(
        "podman", "exec", "proof_relay_1", "python", "-m", "common.health", "app1", check=False
    ).returncode == 1, "app1 is not in the relay's container"  # fmt: skip
    for page in ("app1", "app2"):
        assert b"<!doctype html>" in machine.get(page, "/").lower()
    began = time.monotonic()
    caption = machine.get("app1", "/api/captions?name=astronaut.png", PHOTO.read_bytes())["caption"]
    wait_until(lambda: machine.captions() == [caption])
    report["caption"] = caption
    report["seconds from the first upload to the relay's history"] = since(began)

    began = time.monotonic()
    machine.podman("stop", *(f"proof_{name}_1" for name in reversed(SERVERS)))
    report["seconds to stop"] = since(began)
    report["exit statuses"] = {
        n: machine.inspect(f"proof_{n}_1", ".State.ExitCode") for n in SERVERS
    }
    assert set(report["exit statuses"].values()) == {"0"}

    backup = machine.folder / "state.tar"
    with backup.open("wb") as file:
        machine.run("podman", *TAR, "/state", "-cf", "-", ".", stdout=file)
    machine.compose("down")  # the volume stays, as when the image is exchanged
    machine.compose("up", "--detach")
    wait_until(lambda: machine.is_healthy("proof_relay_1"), 120)
    assert machine.captions() == [caption]
    machine.compose("down", "--volumes")
    with backup.open("rb") as file:
        machine.run("podman", *TAR, "/state", "-xf", "-", stdin=file)
    machine.compose("up", "--detach")
    wait_until(lambda: machine.is_healthy("proof_relay_1"), 120)
    assert machine.captions() == [caption]
    machine.compose("down", "--volumes")
    report["backup, restored"] = f"{backup.stat().st_size} bytes"


def prove_one_container(machine: Machine, report: dict[str, Any]) -> None:
    """`podman run captioner` alone, whose health check asks all three servers."""
    options = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
    machine.podman("run", "--detach", "--init", "--name=one", *options, "captioner")
    wait_until(lambda: machine.is_healthy("one"), 120)
    machine.podman("stop", "--time=40", "one")
    assert machine.inspect("one", ".State.ExitCode") == "0"
    machine.podman("rm", "--volumes", "one")
    report["one container"] = "healthy, ended with 0"


def prove_systemd(machine: Machine, report: dict[str, Any]) -> None:
    """The units, by systemd itself, under a user that it makes up."""
    folder = machine.folder / "with-systemd"
    shutil.copytree(ROOT / "docs" / "systemd", folder / "systemd")
    (folder / "Containerfile").write_text(WITH_SYSTEMD)
    machine.podman("build", "--pull=never", "--format=docker", "--tag=with-systemd", folder)
    machine.podman(
        *("run", "--detach", "--name=units", "--systemd=always", f"--cap-add={MAY_SYSTEMD}"),
        *("--security-opt=seccomp=unconfined", "--security-opt=unmask=ALL", "with-systemd"),
    )
    units = [f"captioner-{name}" for name in SERVERS]

    def inside(*words: str) -> str:
        return machine.run("podman", "exec", "units", *words, check=False).stdout.strip()

    def value(unit: str, name: str) -> str:
        return inside("systemctl", "show", "--property", name, "--value", unit)

    health = ("sh", "-c", "cd /app && python -m common.health && echo well")
    wait_until(lambda: inside(*health) == "well", 120)
    for unit in units:
        status = inside("cat", f"/proc/{value(unit, 'MainPID')}/status")
        found = dict(re.findall(r"^(\w+):\t(.*)$", status, re.M))
        assert 61184 <= int(found["Uid"].split()[0]) <= 65519, "no user that systemd made up"
        assert found["Seccomp"] == "2"
        assert int(found["CapBnd"], 16) == 0
    machine.podman("cp", PHOTO, "units:/tmp/photo.png")
    upload = (
        "import json, urllib.request as r; "
        "q = r.Request('http://127.0.0.1:5001/api/captions', open('/tmp/photo.png', 'rb').read(), "
        "{'Content-Type': 'image/png'}); print(json.load(r.urlopen(q))['caption'])"
    )
    assert inside("python", "-c", upload) == report["caption"]
    read = (
        "import json, urllib.request as r; a = r.urlopen('http://127.0.0.1:5000/api/captions'); "
        "print(*(c['caption'] for c in json.load(a)['captions']))"
    )
    wait_until(lambda: inside("python", "-c", read) == report["caption"])
    inside("systemctl", "kill", "--signal=KILL", "captioner-app1")
    wait_until(lambda: value("captioner-app1", "NRestarts") == "1")
    wait_until(lambda: inside(*health) == "well", 120)
    inside("systemctl", "stop", "captioner.target")
    wait_until(lambda: {value(unit, "ActiveState") for unit in units} == {"inactive"}, 60)
    assert {value(unit, "ExecMainStatus") for unit in units} == {"0"}
    # wrong settings end a unit for good
    inside("sh", "-c", "echo RELAY_PORT=x > /etc/captioner.env")
    inside("systemctl", "start", "captioner.target")
    wait_until(lambda: {value(unit, "ActiveState") for unit in units} == {"failed"}, 60)
    assert {value(unit, "NRestarts") for unit in units} == {"0"}
    machine.podman("rm", "--force", "--volumes", "units")
    report["systemd units"] = "captioned, came back after SIGKILL, ended with 0"


def since(began: float) -> float:
    return round(time.monotonic() - began, 1)


@contextlib.contextmanager
def temporary(parent: Path | None) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(dir=parent, prefix="captioner-image-"))
    machine = Machine(folder)
    try:
        yield machine
    finally:
        machine.run("podman", "rm", "--all", "--force", "--volumes", check=False)
        machine.run("podman", "network", "rm", "--force", "proof_default", check=False)
        machine.run("umount", folder / "images" / "overlay", check=False)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mirror", help="of Debian (default: as in apt's own sources)")
    parser.add_argument(
        "--certificates",
        default=os.environ.get("PIP_CERT", ""),
        help="file with those of the package index, if Python does not come with them",
    )
    parser.add_argument("--folder", type=Path, help="where to work (default: the temporary one)")
    arguments = parser.parse_args()
    found = re.search(r"^FROM debian:(\w+)-slim$", CONTAINERFILE.read_text(), re.M)
    assert found, "the Containerfile does not begin with Debian"
    release = found[1]
    report: dict[str, Any] = {}
    with temporary(arguments.folder) as machine:
        began = time.monotonic()
        mirror = arguments.mirror or own_mirror(release)
        make_base(machine, release, mirror, arguments.certificates)
        report["seconds to make the base"] = since(began)
        began = time.monotonic()
        machine.podman("build", "--pull=never", "--format=docker", "--tag=captioner", ".")
        report["seconds to build"] = since(began)
        for name, image in (("base", f"debian:{release}-slim"), ("image", "captioner")):
            size = machine.podman("image", "inspect", "--format", "{{.Size}}", image)
            report[f"{name}, MB"] = round(int(size) / 1e6)
        prove_compose(machine, report)
        prove_one_container(machine, report)
        prove_systemd(machine, report)
        report["podman"] = machine.podman("--version").split()[-1]
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
