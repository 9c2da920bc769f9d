"""The event `hello`: what the relay says to everybody who connects, and when it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.version import page_version
from tests.kit.clients import Client, WireClient
from tests.kit.servers import TOKEN, Relay, wait_until


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(tmp_path, RELAY_KEEP=3)
    yield relay
    relay.stop()


def publish(relay: Relay, count: int) -> None:
    publisher = Client(relay, {"token": TOKEN, "viewer": False})
    for number in range(count):
        assert publisher.call("predict", {"caption": f"number {number}"})["ok"]
    publisher.close()


def test_everybody_is_greeted(relay: Relay) -> None:
    for auth in ({}, {"token": TOKEN}, {"token": TOKEN, "viewer": False}):
        client = Client(relay, auth)
        wait_until(partial(client.of, "hello"))
        (hello,) = client.of("hello")
        assert hello["version"] == page_version()
        assert (hello["oldest_seq"], hello["last_seq"]) == (1, 0)
        apart = datetime.now(timezone.utc) - datetime.fromisoformat(hello["now"])
        assert abs(apart) < timedelta(minutes=1)
        client.close()


def test_what_is_kept_is_said_before_the_history(relay: Relay) -> None:
    publish(relay, 5)
    client = WireClient(relay, {"last_seq": 1})
    pieces = client.history()
    assert (client.hello["oldest_seq"], client.hello["last_seq"]) == (3, 5)
    assert [caption["seq"] for piece in pieces for caption in piece["captions"]] == [3, 4, 5]
    client.close()


@pytest.mark.parametrize(
    ("auth", "missed"), [({"last_seq": 1}, 1), ({"last_seq": 2}, 0), ({"last_seq": 99}, 0), ({}, 0)]
)
def test_captions_that_a_viewer_can_never_get_are_counted(
    relay: Relay, auth: dict[str, Any], missed: int
) -> None:
    publish(relay, 5)
    client = WireClient(relay, auth)
    client.history()
    assert relay.metric("relay_captions_missed_total") == missed
    client.close()


def test_a_client_may_ask_again_but_not_all_the_time(relay: Relay) -> None:
    publish(relay, 1)
    client = WireClient(relay)
    client.history()
    answer = client.call("hello")
    assert answer["ok"]
    assert (answer["oldest_seq"], answer["last_seq"]) == (1, 1)

    def ask_without_end() -> None:
        for _ in range(1000):
            client.call("hello")

    with pytest.raises(ConnectionError):
        ask_without_end()
    client.close()
