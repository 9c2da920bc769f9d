"""The benchmarks of many viewers, small: they count what arrives. No figure is tested."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import crowd, drops, relay, returning, storm
from benchmarks.returning import Crowd, Publisher, Viewer
from tests.kit.clients import WireClient
from tests.kit.servers import TOKEN, Relay

PUBLISHER = {"token": TOKEN, "viewer": False}

with_node = pytest.mark.skipif(
    shutil.which("node") is None or not (relay.NODE / "node_modules").is_dir(),
    reason="the reference server is not installed; benchmarks.relay does that",
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that come back soon, and rounds that end soon after the last caption."""
    monkeypatch.setattr(returning, "BACK_AFTER", 0.1)
    monkeypatch.setattr(returning, "LONGEST", 0.4)
    monkeypatch.setattr(returning, "SILENT_FOR", 0.5)
    for module in (storm, drops):
        monkeypatch.setattr(module, "QUIET", 0.8)
    monkeypatch.setattr(storm, "DOWN", 0.1)
    monkeypatch.setattr(crowd, "SETTLES", 0.0)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[relay.OurRelay]:
    server = relay.OurRelay(tmp_path)
    yield server
    server.server.kill()


@pytest.fixture
def node() -> Iterator[Callable[..., relay.Reference]]:
    started: list[relay.Reference] = []

    def start(*arguments: str) -> relay.Reference:
        started.append(relay.Reference(*arguments))
        return started[-1]

    yield start
    for server in started:
        server.end()


def test_a_crowd_grows() -> None:
    with relay.relay("eventlet") as server:
        found = crowd.grown(server, (3, 5), messages=2, size=2000, pace=0.01)
    assert list(found) == [3, 5]
    assert all(of["p50"] > 0 and of["memory, MB"] > 10 for of in found.values())


@with_node
def test_a_crowd_at_the_reference_grows() -> None:
    with relay.reference() as server:
        found = crowd.grown(server, (3, 5), messages=2, size=2000, pace=0.01)
    assert list(found) == [3, 5]


def test_after_a_storm_each_viewer_has_everything(ours: relay.OurRelay) -> None:
    found = storm.weather(ours, 9, viewers=5, captions=12, pace=0.1)
    assert found["share of the captions, worst viewer"] == 1
    assert found["came twice"] == 0
    assert found["all have everything, seconds after the start"] is not None


@with_node
def test_after_a_storm_viewers_of_the_reference_have_lost_some(
    node: Callable[..., relay.Reference],
) -> None:
    found = storm.weather(node(), 9, viewers=5, captions=12, pace=0.1)
    assert found["came twice"] == 0
    assert found["all are back, seconds after the start"] >= 0


def test_cut_connections_lose_nothing(ours: relay.OurRelay) -> None:
    found = drops.delivered(ours.port, viewers=5, captions=20, pace=0.05, every=0.4)
    assert found["cuts"] > 0
    assert found["viewers that have all"] == 5
    assert found["came twice"] == 0
    assert found["came live"] + found["came later"] == 5 * 20


@with_node
@pytest.mark.parametrize("arguments", [(), ("recovery",)])
def test_cut_connections_of_the_reference(
    node: Callable[..., relay.Reference], arguments: tuple[str, ...]
) -> None:
    found = drops.delivered(node(*arguments).port, viewers=5, captions=20, pace=0.05, every=0.4)
    assert found["cuts"] > 0
    assert 0 < found["share of the captions, all viewers"] <= 1
    assert found["came twice"] == 0
    assert (found["came later"] > 0) == bool(arguments), "it keeps what a session misses"


def test_what_comes_twice_and_what_does_not_come_is_counted(tmp_path: Path) -> None:
    server = Relay(tmp_path)
    crowd_ = Crowd(server.port)
    try:
        crowd_.add(2)
        publisher = Publisher(crowd_, TOKEN, 3, 2000, 0.01)
        crowd_.run(lambda: publisher.is_done, 30)
        crowd_.until_quiet(0.2)
        assert crowd_.shares(4) == [0.75, 0.75]
        assert crowd_.twice() == 0
        crowd_.viewers[0]._last_seq = 1  # it forgets that it has the others
        crowd_.viewers[0].cut()
        crowd_.until_quiet(0.3)
        assert crowd_.twice() == 2
    finally:
        crowd_.close()
        server.kill()


def test_a_viewer_that_is_sent_away_waits_as_long_as_it_was_told() -> None:
    viewer = Viewer(Crowd(0), 0)
    assert 7 <= viewer.come_back_after(7) <= 10.5
    pauses = [viewer.come_back_after(0) for _ in range(10)]
    assert 0.05 <= pauses[0] <= 0.15
    assert pauses[-1] == 0.4


def test_a_publisher_whose_caption_is_refused_sends_it_again(tmp_path: Path) -> None:
    server = Relay(tmp_path)
    other = WireClient(server, PUBLISHER)
    crowd_ = Crowd(server.port)
    try:
        publisher = Publisher(crowd_, TOKEN, 2, 2000, 0.01)
        publisher.take(b"40{}")
        publisher.take(b'430[{"ok":false,"error":"full","retry":true,"retry_after":0.01}]')
        crowd_.run(lambda: publisher.is_done, 30)
        assert publisher.acknowledged == 2
    finally:
        crowd_.close()
        other.close()
        server.kill()


def storms(seconds: float | None, share: float, twice: int) -> dict[str, Any]:
    return {
        "all are back, seconds after the start": 1.0,
        "all have everything, seconds after the start": seconds,
        "share of the captions, worst viewer": share,
        "captions lost by a viewer, on average": 60 * (1 - share),
        "came twice": twice,
        "to those who are back, ms": {"p50": 1.0, "p99": 2.0},
    }


@pytest.mark.parametrize(
    ("of", "met"),
    [
        ((9.0, 1.0, 0), [True, True]),
        ((11.0, 1.0, 0), [False, True]),
        ((None, 0.9, 0), [False, False]),
        ((9.0, 1.0, 1), [True, False]),
    ],
)
def test_goals_of_a_storm(of: tuple[Any, float, int], met: list[bool]) -> None:
    found = {storm.KILLED: storms(*of), storm.ENDED: storms(*of), storm.NODE: storms(None, 0.8, 0)}
    goals = storm.goals(found, 2000)
    assert [goal.met for goal in goals] == met * 2
    assert goals[1].beside == "Node.js socket.io, killed: a viewer has lost 12.0"


def delivered(share: float, p99: float, twice: int = 0) -> dict[str, Any]:
    return {
        "share of the captions, all viewers": share,
        "share of the captions, worst viewer": share,
        "came twice": twice,
        "live, ms": {"p99": p99},
        "live or later, ms": {"p99": 10 * p99},
    }


@pytest.mark.parametrize(
    ("of", "met"),
    [
        ((1.0, 20.0), [True, True]),
        ((0.999, 20.0), [False, True]),
        ((1.0, 31.0, 1), [False, False]),
    ],
)
def test_goals_under_drops(of: tuple[Any, ...], met: list[bool]) -> None:
    found = {drops.RELAY: delivered(*of), drops.NODE: delivered(0.85, 30.0)}
    assert [goal.met for goal in drops.goals(found)] == met


def test_goals_of_a_crowd() -> None:
    def of(kilobytes: float, milliseconds: float) -> dict[str, float]:
        return {"kB a connection": kilobytes, "p50": milliseconds, "p99": 2 * milliseconds}

    medians = {relay.DEFAULT: {9: of(31, 5)}, relay.REFERENCE: {9: of(20, 5)}}
    assert [goal.met for goal in crowd.goals(medians)] == [False, True]
