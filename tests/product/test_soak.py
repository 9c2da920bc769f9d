"""The soak benchmark, for seconds instead of hours, and that it notices what is wrong."""

from __future__ import annotations

import argparse
import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak, soak_clients
from benchmarks.returning import Crowd
from benchmarks.soak_clients import Expected, Ledger, Watcher, complete

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE", "HERE", "AWAY", "AWAKE", "ASLEEP"):
        monkeypatch.setattr(soak_clients, name, (0.2, 0.6))
    monkeypatch.setattr(soak, "STAY", 2)
    monkeypatch.setattr(soak, "COME_AND_GO", 1)
    monkeypatch.setattr(soak, "SLEEP", 1)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize(
    "name",
    [
        "sqlite",
        pytest.param(
            "redis",
            marks=pytest.mark.skipif(
                shutil.which("redis-server") is None, reason="redis-server is not installed"
            ),
        ),
    ],
)
def test_a_part_of_seconds(name: str, tiny_model: Path, tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        seed=1, kills_every=1.2, disaster=0.5, uploaders=4, model=str(tiny_model), mount=False
    )
    expected = soak_clients.expected_of(8, str(tiny_model))
    found = soak.part(name, 4.0, arguments, expected, tmp_path)
    assert found["failure"] == ""
    assert found["uploads answered with a caption"] > 0
    assert sum(found["kills"].values()) > 0
    assert [event["what"] for event in found["events"] if "has arrived" in event["what"]]
    wrong = ("lost", "twice", "out of order", "gaps and resets", "wrong captions or pictures",
             "stack traces in the logs")  # fmt: skip
    assert {key: found[key] for key in wrong} == dict.fromkeys(wrong, 0)
    assert soak.goals({name: found})[0].met


EXPECTED = [
    Expected(b"a", "A dog.", b"\xff\xd8\xffdog"),
    Expected(b"b", "A cat.", b"\xff\xd8\xffcat"),
]


def seen(number: int, seq: int, **fields: Any) -> dict[str, Any]:
    photo = EXPECTED[number % 2]
    thumbnail = "data:image/jpeg;base64," + base64.b64encode(photo.thumbnail).decode()
    name = f"{number % 2:04}-{number:08}.jpg"
    return {
        "id": f"i{number}", "seq": seq, "caption": photo.caption, "image_path": name,
        "thumbnail": thumbnail, **fields,
    }  # fmt: skip


@pytest.fixture
def watcher() -> Watcher:
    return Watcher(Crowd(0), Ledger(EXPECTED), stays=True)


def live(watcher: Watcher, caption: dict[str, Any]) -> None:
    watcher.take(b"42" + json.dumps(["prediction", caption]).encode())


def answer(watcher: Watcher, number: int, **fields: Any) -> None:
    caption = seen(number, 0)
    name = fields.pop("name", caption["image_path"])
    watcher.ledger.answer(name, {**caption, "published": "queued", **fields})


def test_all_is_well(watcher: Watcher) -> None:
    answer(watcher, 0)
    assert not complete(watcher._crowd, watcher.ledger)
    history = {"captions": [seen(0, 1)], "more": False, "reset": False}
    watcher.take(b"42" + json.dumps(["history", history]).encode())
    live(watcher, seen(1, 2))  # and one whose upload broke off
    answer(watcher, 1)
    assert complete(watcher._crowd, watcher.ledger)
    assert {what: n for what, n in watcher.ledger.counts.items() if n} == {"answered, queued": 2}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"caption": "A cat."}, "has 'A cat.' for 'A dog.'"),
        ({"thumbnail": seen(1, 1)["thumbnail"]}, "has another thumbnail"),
        ({"image_path": "photo.jpg"}, "no upload has the name 'photo.jpg'"),
        ({"id": "i2"}, "0000-00000002.jpg was shown as 0000-00000000.jpg"),
    ],
)
def test_what_does_not_belong_together_is_noticed(
    watcher: Watcher, fields: dict[str, Any], sentence: str
) -> None:
    answer(watcher, 2)
    live(watcher, seen(0, 1, **fields))
    assert watcher.ledger.counts["wrong"] == 1
    assert sentence in watcher.ledger.wrong[0]


def test_an_answer_of_another_photo_is_noticed(watcher: Watcher) -> None:
    answer(watcher, 0, caption="A cat.")
    assert watcher.ledger.counts["wrong"] == 1


def test_what_comes_twice_or_too_early_is_noticed(watcher: Watcher) -> None:
    live(watcher, seen(0, 5))
    live(watcher, seen(0, 6))
    assert watcher.ledger.counts["twice"] == 1
    live(watcher, seen(1, 6))
    assert watcher.ledger.counts["out of order"] == 1


def test_a_gap_is_noticed(watcher: Watcher) -> None:
    live(watcher, seen(0, 5))
    for oldest in (1, 6, 7):
        watcher.take(b"42" + json.dumps(["hello", {"oldest_seq": oldest}]).encode())
    assert watcher.ledger.counts["gaps"] == 1


def part(**fields: Any) -> dict[str, Any]:
    return {
        "minutes": 40.0, "uploads answered with a caption": 100, "shown, but not answered": 1,
        "viewers that stay": 7, "distinct photos": 64, "uploaders": 8,
        "lost": 0, "twice": 0, "out of order": 0, "gaps and resets": 0,
        "wrong captions or pictures": 0, "servers said that the disk is full": 2, "counts": {},
        "kills": {"relay": 2}, "failure": "",
        "memory in the calm quarter": {
            "relay": {"peak, MB": 100.0, "growth, MB a minute": 0.5, "minutes": 9},
        },
        **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "met"),
    [
        ({}, [True, True, True, True]),
        ({"lost": 1}, [False, True, True, True]),
        ({"failure": "app1 is not ready"}, [False, True, True, True]),
        ({"twice": 1}, [True, False, True, True]),
        ({"gaps and resets": 1}, [True, False, True, True]),
        ({"wrong captions or pictures": 1}, [True, True, False, True]),
    ],
)
def test_goals(fields: dict[str, Any], met: list[bool]) -> None:
    assert [goal.met for goal in soak.goals({"sqlite": part(**fields)})] == met
