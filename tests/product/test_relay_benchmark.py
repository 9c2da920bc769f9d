"""The benchmark of the relay counts what arrives. No figure is tested: those are the machine's."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import relay as benchmark
from benchmarks.relay_load import connected, load, prediction
from SocketIO_server import messages
from tests.kit.clients import WireClient
from tests.kit.servers import TOKEN, Relay

SMALL = argparse.Namespace(viewers=3, messages=2, bytes=8192, pace=0.01)


def test_predictions_have_the_size_and_the_form() -> None:
    for size in (1_500, 8_192):
        payload = prediction(7, size)
        assert size - 4 < len(json.dumps(payload)) <= size
        assert messages.predict(payload).payload() == payload
    with pytest.raises(ValueError, match="too small"):
        prediction(7, 500)


def test_a_round_with_the_relay() -> None:
    with benchmark.relay("eventlet") as server:
        figures = benchmark.measure(server, SMALL)
    assert 0 < figures["p50"] <= figures["p99"]
    assert 0 < figures["first viewer"] <= figures["last viewer"]
    assert figures["storing"] > 0
    assert figures["memory"] > 10


@pytest.mark.skipif(
    shutil.which("node") is None or not (benchmark.NODE / "node_modules").is_dir(),
    reason="the reference server is not installed; benchmarks.relay does that",
)
def test_a_round_with_the_reference() -> None:
    with benchmark.reference() as server:
        figures = benchmark.measure(server, SMALL)
    assert 0 < figures["p50"] <= figures["p99"]
    assert 0 < figures["first viewer"] <= figures["last viewer"]
    assert figures["storing"] == 0


def test_a_prediction_of_somebody_else_ends_the_load(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    stranger = WireClient(relay, {"token": TOKEN, "viewer": False})
    try:
        with connected(relay.port, TOKEN, 3) as (publisher, viewers):
            assert stranger.call("predict", {"caption": "Not of the benchmark."})["ok"]
            with pytest.raises(RuntimeError, match="out of order, or twice"):
                load(publisher, viewers, count=1, size=2_000, pace=0)
    finally:
        stranger.close()
        relay.kill()


def figures(p50: float, p99: float, memory: float = 80) -> dict[str, float]:
    return {"p50": p50, "p99": p99, "memory": memory}


@pytest.mark.parametrize(
    ("medians", "met"),
    [
        ({"eventlet": figures(15, 30), "gevent": figures(10, 20)}, [True, True, True]),
        ({"eventlet": figures(17, 30), "gevent": figures(10, 21)}, [False, False, True]),
        ({"eventlet": figures(9, 33, 121)}, [False, False, False]),
        ({"eventlet": figures(11, 21), benchmark.BROADCAST: figures(5, 9)}, [True, False, True]),
    ],
)
def test_goals_are_met_or_not(medians: dict[str, Any], met: list[bool]) -> None:
    goals = benchmark.goals({"node": figures(10, 20), **medians}, viewers=500)
    assert [goal.met for goal in goals] == met
