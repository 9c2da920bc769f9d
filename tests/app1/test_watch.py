"""`captioner watch`: real folders, a real video file, a real stream, and the real relay."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from app1 import watch
from captioner import cli
from tests.kit import ROOT
from tests.kit.clients import WireClient
from tests.kit.servers import TOKEN, Relay, wait_until


class Process:
    """`captioner watch` as a process of its own."""

    def __init__(self, model: Path, *arguments: object, **environment: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "captioner", "watch", *map(str, arguments), "--model", model],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **{k: str(v) for k, v in environment.items()}},
        )  # fmt: skip
        self.lines: list[str] = []
        self.complaints: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(stream, into), daemon=True)
            for stream, into in (
                (self.process.stdout, self.lines),
                (self.process.stderr, self.complaints),
            )
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Any, into: list[str]) -> None:
        for line in stream:
            into.append(line.rstrip("\n"))

    def says(self, text: str) -> bool:
        return any(text in line for line in self.complaints)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        for thread in self._threads:
            thread.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()  # type: ignore[union-attr]
        return status


@pytest.fixture
def run(tiny_model: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*arguments: object, **environment: object) -> Process:
        started.append(Process(tiny_model, *arguments, **environment))
        return started[-1]

    yield start
    for own in started:
        if own.process.poll() is None:
            own.stop()


def test_a_folder(tmp_path: Path, run: Callable[..., Process], picture: Any) -> None:
    """Whole files only, also in new folders, and no litter; captions beside them."""
    folder = tmp_path / "door"
    folder.mkdir()
    (folder / "old.png").write_bytes(picture("png"))
    own = run(folder, "--write", "txt")
    wait_until(lambda: own.says("watching"))
    data = picture("png", (255, 0, 0))
    with (folder / "slow.png").open("wb") as file:  # as a camera copies it
        for start in range(0, len(data), 40):
            file.write(data[start : start + 40])
            file.flush()
            time.sleep(0.01)
    (folder / "@eaDir").mkdir()
    (folder / ".slow.png.part").write_bytes(data)
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "new").mkdir()
    wait_until(lambda: len(own.lines) == 1)
    (tmp_path / "moved.png").write_bytes(picture("png", (0, 0, 255)))
    shutil.move(tmp_path / "moved.png", folder / "new" / "moved.png")
    wait_until(lambda: len(own.lines) == 2)
    wait_until(lambda: own.says("broken.jpg: This is text"))
    assert own.stop() == 0
    names = [Path(line.split("\t")[0]).name for line in own.lines]
    assert names == ["slow.png", "moved.png"]
    assert (folder / "slow.txt").read_text().strip() == own.lines[0].split("\t")[1]
    assert not (folder / "old.txt").exists()


def test_to_the_wall(tmp_path: Path, run: Callable[..., Process], picture: Any) -> None:
    relay = Relay(tmp_path / "state")
    viewer = WireClient(relay)
    viewer.history()
    folder = tmp_path / "door"
    folder.mkdir()
    own = run(
        folder, "--publish", RELAY_PORT=relay.port, RELAY_TOKEN=TOKEN,
        CAPTIONER_STATE=tmp_path / "own",
    )  # fmt: skip
    wait_until(lambda: own.says("watching"))
    (folder / "a.png").write_bytes(picture("png"))
    event, caption = viewer.receive()
    assert (event, caption["image_path"]) == ("prediction", "a.png")
    assert caption["thumbnail"].startswith("data:image/jpeg;base64,")
    assert own.stop() == 0
    viewer.close()
    relay.kill()


def test_no_name_ends_the_watch(tmp_path: Path, run: Callable[..., Process], picture: Any) -> None:
    relay = Relay(tmp_path / "state")
    viewer = WireClient(relay)
    viewer.history()
    folder = tmp_path / "door"
    folder.mkdir()
    own = run(
        folder, "--publish", "--write", "xmp", RELAY_PORT=relay.port, RELAY_TOKEN=TOKEN,
        CAPTIONER_STATE=tmp_path / "own",
    )  # fmt: skip
    wait_until(lambda: own.says("watching"))
    names = [b"bad \xff.png", b"two\nlines.png", "\u202egnp.png".encode(), b"x" * 251 + b".png"]
    for name in [*names, b"z.png"]:
        (folder / os.fsdecode(name)).write_bytes(picture("png", (255, 0, 0)))
    wait_until(lambda: any("z.png" in line for line in own.lines))
    sent = {viewer.receive()[1]["image_path"] for _ in range(4)}
    assert sent == {"bad .png", "twolines.png", "gnp.png", "z.png"}
    assert own.stop() == 0
    assert own.says("File name too long")
    shown = [json.dumps(os.fsdecode(os.path.join(os.fsencode(folder), n))) for n in names[:3]]
    assert {line.split("\t")[0] for line in own.lines} == {*shown, str(folder / "z.png")}
    viewer.close()
    relay.kill()


def film(file: Path, *scenes: np.ndarray, seconds: int = 2) -> Path:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for rgb in scenes:
        frame = cv2.resize(rgb[..., ::-1], (160, 120))
        for _ in range(10 * seconds):
            writer.write(frame)
    writer.release()
    return file


def test_a_video_becomes_a_descriptions_track(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cue a scene, each to the beginning of the next, and no sentence twice in a row."""
    scenes = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.astronaut())
    video, track = film(tmp_path / "film.avi", *scenes), tmp_path / "film.vtt"
    arguments = ["watch", str(video), "--vtt", str(track), "--model", str(tiny_model)]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0].split()[-1] for line in lines] == [
        "00:00:00.000", "00:00:02.000", "00:00:04.000",
    ]  # fmt: skip
    head, *cues = track.read_text().strip().split("\n\n")
    assert head == "WEBVTT"
    times = [cue.splitlines()[0] for cue in cues]
    texts = [cue.splitlines()[1] for cue in cues]
    assert times[0].startswith("00:00:00.000 --> ")
    assert times[-1].endswith(" --> 00:00:06.000")
    assert all(a != b for a, b in pairwise(texts))
    assert {line.split("\t")[1] for line in lines} == set(texts)


def test_every_so_many_seconds(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = film(tmp_path / "film.avi", skimage.data.astronaut(), seconds=4)
    assert cli.main(["watch", str(video), "--every", "1", "--model", str(tiny_model)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "There is no folder and no video file"),
        (["0", "--vtt", "a.vtt"], "--vtt takes one video file"),
        (["0", "--every", "0"], "--every takes from"),
    ],
)
def test_what_cannot_be_watched(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_video(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    assert cli.main(["watch", str(tmp_path / "a.mp4"), "--model", str(tiny_model)]) == 1
    assert "not a video that can be read" in capsys.readouterr().err


class Camera:
    """An MJPEG stream over HTTP, as network cameras have it; it can be away."""

    def __init__(self) -> None:
        self.photo = skimage.data.astronaut()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                kind = "multipart/x-mixed-replace; boundary=frame"
                self.send_header("Content-Type", kind)
                self.end_headers()
                while not camera.away.wait(0.05):
                    small = cv2.resize(camera.photo[..., ::-1], (160, 120))
                    jpeg = cv2.imencode(".jpg", small)[1].tobytes()
                    part = "--frame\r\nContent-Type: image/jpeg\r\n"
                    part += f"Content-Length: {len(jpeg)}\r\n\r\n"
                    try:
                        self.wfile.write(part.encode() + jpeg + b"\r\n")
                    except OSError:
                        return

            def log_message(self, *_: Any) -> None:
                pass

        self.away = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/video.mjpg"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.away.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


def test_a_stream_that_was_away_is_opened_again(run: Callable[..., Process]) -> None:
    camera = Camera()
    own = run(camera.url)
    wait_until(lambda: len(own.lines) == 1, seconds=60)
    camera.photo = skimage.data.coffee()
    wait_until(lambda: len(own.lines) == 2, seconds=60)
    camera.away.set()
    wait_until(lambda: own.says("trying again in 1 s"), seconds=60)
    camera.away.clear()
    camera.photo = skimage.data.chelsea()
    wait_until(lambda: len(own.lines) == 3, seconds=60)
    assert own.stop() == 0
    camera.close()


def test_times_of_webvtt() -> None:
    assert watch._clock(3_723.0456) == "01:02:03.046"
