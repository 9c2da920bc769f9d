"""The servers of `benchmarks.soak` as a user runs them, and what is done to them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil

from benchmarks.servers import settings
from common.settings import PREFIXES
from common.supervisor import SERVERS
from common.supervisor import Server as Supervised
from tests.kit import ROOT
from tests.kit.servers import Redis

NAMES = ("relay", "app1", "app2")
READY_WITHIN = 120.0  # seconds
LITTLE_ROOM = 50_000  # bytes that are left on a full disk


class UpServers:
    """The three servers by `captioner up`, which starts again what dies.

    Args:
        log: gets what they write.
    """

    def __init__(self, state: Path, log: Path, **more: str) -> None:
        values = settings(state, **more)
        self.port = {name: int(values[f"{name.upper()}_PORT"]) for name in NAMES}
        self._log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
        self._stream = log.open("wb")
        self._up = subprocess.Popen(
            [sys.executable, "-m", "captioner", "up"],
            cwd=ROOT,
            env={**inherited, **values},
            stdout=self._stream,
            stderr=subprocess.STDOUT,
        )
        for name in NAMES:
            self.wait_ready(name)

    def process(self, name: str) -> psutil.Process | None:
        """The process of a server; None while there is none."""
        scripts = {server.name: server.script for server in SERVERS}
        with suppress(psutil.Error):
            for child in psutil.Process(self._up.pid).children():
                with suppress(psutil.Error):
                    script = scripts[name]
                    if child.cmdline()[-1] == script.name and child.cwd() == str(script.parent):
                        return child
        return None

    def kill(self, *names: str) -> None:
        """SIGKILL, all at the same moment; they have ended when this returns."""
        processes = [process for name in names if (process := self.process(name))]
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=READY_WITHIN)

    def wait_ready(self, name: str) -> float:
        """Wait until a server is ready; for how many seconds."""
        began = time.monotonic()
        while self.why_not_ready(name):
            if self._up.poll() is not None or time.monotonic() > began + READY_WITHIN:
                raise RuntimeError(f"{name} is not ready:\n{self.output[-3000:]}")
            time.sleep(0.05)
        return time.monotonic() - began

    def why_not_ready(self, name: str) -> str:
        server: Supervised = next(server for server in SERVERS if server.name == name)

        address = {f"{name}_host": "127.0.0.1", f"{name}_port": self.port[name]}
        # Of the settings it reads these two.
        return server.why_not_ready(SimpleNamespace(**address), timeout=5)  # type: ignore[arg-type]

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """SIGTERM, as Ctrl-C does; the exit status."""
        self._up.terminate()
        try:
            return self._up.wait(90)
        finally:
            self._stream.close()


class Disk:
    """The folder of the servers' state, on a disk that can be filled.

    As root on Linux that is a file system of its own in memory. Elsewhere the files of the servers
    may not grow any more, which is to them the same.

    Attributes:
        is_own: it is a file system of its own.
    """

    def __init__(self, folder: Path, megabytes: int, mount: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.is_own = False
        if mount and sys.platform == "linux" and os.getuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs"]
            done = subprocess.run([*command, str(folder)], capture_output=True)
            self.is_own = done.returncode == 0
        self._limited: list[int] = []

    def fill(self, servers: UpServers) -> None:
        """Leave room for nothing."""
        if self.is_own:
            ballast = os.open(self.folder / "ballast", os.O_WRONLY | os.O_CREAT)
            for piece in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        os.write(ballast, bytes(piece))
            os.close(ballast)
            return
        for name in ("relay", "app1"):
            process = servers.process(name)
            if process is not None:
                hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (LITTLE_ROOM, hard))
                self._limited.append(process.pid)

    def clear(self) -> None:
        """Make room again."""
        if self.is_own:
            (self.folder / "ballast").unlink(missing_ok=True)
        for pid in self._limited:
            with suppress(OSError):
                hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        self._limited = []

    def close(self) -> None:
        """Let it go, with what is on it."""
        if self.is_own:
            command = ["umount", "-l", str(self.folder)]
            subprocess.run(command, capture_output=True)


def away(redis: Redis, seconds: float) -> None:
    """Kill a Redis server, and start it again after so many seconds."""
    redis.kill()
    time.sleep(seconds)
    redis.start()
