"""Fixtures that several test files share. No test needs a network, a GPU or other files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from common.settings import PREFIXES, Settings
from tests.kit import ROOT, servers

if TYPE_CHECKING:
    from tests.kit.chromium import Chromium


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare() -> Generator[None, Any, Any]:
    """Say of two sides that differ where they begin to, in CI too.

    There pytest would make a whole diff of them, which for a few dozen captions takes longer than
    any test may: the run would end with a stack trace, and without a word on what failed.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CI", "BUILD_NUMBER"):  # by which pytest knows
            patch.delenv(name, raising=False)
        return (yield)


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody has set in their shell does not reach the tests."""
    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives a port of 127.0.0.1 that nobody listens on."""
    return servers.free_port


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Waits, by asking often, until a condition holds: `wait_for(lambda: ..., seconds=10)`."""

    def wait(condition: Callable[[], object], seconds: float = 10) -> None:
        servers.wait_until(condition, seconds)

    return wait


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Settings as the environment would give them, with a state folder of the test's own."""

    def make(**environment: object) -> Settings:
        texts = {name: str(value) for name, value in environment.items()}
        return Settings.from_environment({"CAPTIONER_STATE": str(tmp_path / "state"), **texts})

    return make


@pytest.fixture(scope="session")
def tiny_model(request: pytest.FixtureRequest) -> Path:
    """A model folder with a tiny network of random weights (see tests/kit/tiny_model.py).

    Made once, and again when the code that makes it has changed.
    """
    package = ROOT / "captioner"
    sources = [
        ROOT / "tests" / "kit" / "tiny_model.py",
        *(package / f"{name}.py" for name in ("engine", "model_folder", "tokenizer")),
        *(package / "training" / name for name in ("network/decoder.py", "export.py")),
    ]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    folder = Path(request.config.cache.mkdir("tiny-model")) / digest[:16]
    if not (folder / "manifest.json").exists():
        new = folder.with_name(f"{folder.name}.{os.getpid()}")
        made = subprocess.run(
            [sys.executable, "-m", "tests.kit.tiny_model", str(new)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        with contextlib.suppress(OSError):  # another process of this run was faster
            new.rename(folder)
    return folder


@pytest.fixture
def multipart() -> Callable[..., tuple[bytes, str]]:
    """Body and Content-Type of a form: `multipart((b"...", "a.jpg"), beam_size=1)`.

    Files are in the field `image`; names go in as they are, as browsers write them.
    """

    def make(*files: tuple[bytes, str], **fields: object) -> tuple[bytes, str]:
        head = '--xyz\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
        parts = [head.format(name, "").encode() + str(fields[name]).encode() for name in fields]
        parts += [
            head.format("image", f'; filename="{name}"').encode() + content
            for content, name in files
        ]
        body = b"".join(part + b"\r\n" for part in parts) + b"--xyz--\r\n"
        return body, "multipart/form-data; boundary=xyz"

    return make


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Bytes of a picture file of one colour: `picture("png", (255, 0, 0), width=80, height=60)`.

    The tiny model has another caption for each of red, green, blue and black.
    """

    def make(
        kind: str = "jpeg",
        colour: tuple[int, int, int] = (255, 0, 0),
        width: int = 80,
        height: int = 60,
    ) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (width, height), colour).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., servers.Server]]:
    """Starts a server: `start_server("app1", APP1_PORT=port)`.

    All servers of a test share one state folder, thus one secret. With `ready=False` it returns at
    once.
    """
    started: list[servers.Server] = []

    def start(
        name: str, *, ready: bool = True, script: Path | None = None, **environment: object
    ) -> servers.Server:
        environment = {"CAPTIONER_STATE": tmp_path / "state", **environment}
        started.append(servers.Server(name, environment, script=script))
        if ready:
            started[-1].wait_ready()
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def evil() -> Iterator[str]:
    """The address of a page of somebody else's, on 127.0.0.1."""
    from flask import Flask
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, Flask("evil", static_folder=None), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def open_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Chromium]]:
    """Opens headless Chromium with a fresh profile: `open_browser("--flag", preference=value)`."""
    from tests.kit.chromium import Chromium

    opened: list[Chromium] = []

    def open_(*flags: str, **preferences: object) -> Chromium:
        opened.append(Chromium(tmp_path_factory.mktemp("profile"), *flags, **preferences))
        return opened[-1]

    yield open_
    for browser in opened:
        browser.quit()
