"""The relay's events, against a real process."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import socketio
import websocket
from websocket import ABNF

from tests.kit.clients import JPEG, Client, WireClient, numbers
from tests.kit.servers import TOKEN, Relay, wait_until

Connect = Callable[..., WireClient]
JPEG_URL = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()


def new_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """One relay for all tests here that do not break it."""
    process = Relay(tmp_path_factory.mktemp("relay") / "state")
    yield process
    process.kill()
    assert "Traceback" not in process.output


@pytest.fixture
def connect(relay: Relay) -> Iterator[Connect]:
    clients: list[WireClient] = []

    def make(
        auth: dict[str, Any] | None = None, relay: Relay = relay, **headers: str
    ) -> WireClient:
        clients.append(WireClient(relay, auth, None, **headers))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def publisher(connect: Connect) -> WireClient:
    return connect({"token": TOKEN, "viewer": False})


@pytest.fixture
def viewer(connect: Connect) -> WireClient:
    client = connect()
    client.history()
    return client


FULL = {
    "caption": "two dogs run over grass",
    "image_path": "holiday/Bär <b>.jpg",
    "candidates": [{"caption": "two dogs run", "probability": 0.5}],
    "words": [{"word": "two", "probability": 1}, {"word": "dogs", "probability": 0.25}],
    "confidence": 0.7166,
    "confident": True,
    "photo": True,
    "created_at": "2026-01-31T12:00:00.123Z",
    "model": "first",
    "elapsed_ms": 61.5,
}


def test_a_caption_reaches_every_viewer_with_its_number(
    relay: Relay, publisher: WireClient, viewer: WireClient
) -> None:
    ordinary = Client(relay)
    message = {**FULL, "id": new_id(), "thumbnail": JPEG_URL}
    answer = publisher.call("predict", message)
    assert answer == {"ok": True, "seq": answer["seq"]}
    assert viewer.receive() == ("prediction", {**message, "seq": answer["seq"]})
    wait_until(lambda: ordinary.of("prediction"))
    assert ordinary.of("prediction") == [{**message, "seq": answer["seq"]}]
    ordinary.close()


def test_seq_rises_with_each_caption(publisher: WireClient, viewer: WireClient) -> None:
    sent = [publisher.call("predict", {"caption": f"caption {i}"})["seq"] for i in range(5)]
    received = [viewer.receive()[1] for _ in range(5)]
    assert [caption["seq"] for caption in received] == sent == sorted(set(sent))
    assert [caption["caption"] for caption in received] == [f"caption {i}" for i in range(5)]


def test_a_thumbnail_of_bytes_arrives_as_data_url(relay: Relay, viewer: WireClient) -> None:
    client = Client(relay, {"token": TOKEN, "viewer": False})
    assert client.call("predict", {"caption": "a", "thumbnail": JPEG})["ok"]
    assert viewer.receive()[1]["thumbnail"] == JPEG_URL
    assert [event for event, _ in client.events] == ["hello"]  # "viewer": False
    client.close()


def test_a_publisher_is_a_viewer_too_unless_it_says_otherwise(connect: Connect) -> None:
    client = connect({"token": TOKEN})
    client.history()
    client.send("predict", {"caption": "to myself"})
    assert client.receive()[1]["caption"] == "to myself"


def test_the_same_id_counts_once(publisher: WireClient, viewer: WireClient) -> None:
    message = {"id": new_id(), "caption": "once"}
    first = publisher.call("predict", message)
    assert publisher.call("predict", {**message, "caption": "twice"}) == first
    last = publisher.call("predict", {"caption": "after it"})
    assert [viewer.receive()[1]["seq"] for _ in range(2)] == [first["seq"], last["seq"]]


def test_the_same_id_from_two_publishers_at_once_counts_once(
    relay: Relay, viewer: WireClient
) -> None:
    identifiers = [new_id() for _ in range(20)]
    answers: list[list[int]] = [[], []]

    def publish(mine: list[int]) -> None:
        client = WireClient(relay, {"token": TOKEN, "viewer": False})
        for identifier in identifiers:
            mine.append(client.call("predict", {"id": identifier, "caption": "race"})["seq"])
        client.close()

    threads = [threading.Thread(target=publish, args=(mine,)) for mine in answers]
    for thread in threads:
        thread.start()
    received = [viewer.receive()[1] for _ in identifiers]
    for thread in threads:
        thread.join()
    assert answers[0] == answers[1] == [caption["seq"] for caption in received]
    assert [caption["id"] for caption in received] == identifiers


def test_a_late_viewer_gets_the_most_recent_ones(publisher: WireClient, connect: Connect) -> None:
    sent = [publisher.call("predict", {**FULL, "id": new_id()})["seq"] for _ in range(3)]
    pieces = connect().history()
    assert numbers(pieces)[-3:] == sent
    assert pieces[0]["captions"][-1]["words"] == FULL["words"]
    assert pieces[0]["reset"] is False
    assert pieces[0]["forgotten"] == []


def test_a_viewer_that_comes_back_gets_what_it_missed(
    publisher: WireClient, connect: Connect
) -> None:
    sent = [publisher.call("predict", {"caption": f"missed {i}"})["seq"] for i in range(4)]
    assert numbers(connect({"last_seq": sent[1]}).history()) == sent[2:]
    assert numbers(connect({"last_seq": sent[3]}).history()) == []


def test_work_in_progress_is_shown_and_ends(
    publisher: WireClient, viewer: WireClient, connect: Connect
) -> None:
    first, second = new_id(), new_id()
    work = {"id": first, "image_path": "a.jpg", "thumbnail": JPEG_URL}
    assert publisher.call("captioning", work) == {"ok": True}
    assert publisher.call("captioning", {"id": second}) == {"ok": True}
    assert viewer.receive() == ("captioning", work)
    assert viewer.receive() == ("captioning", {"id": second})

    late = connect()
    late.history()
    assert [late.receive() for _ in range(2)] == [
        ("captioning", work),
        ("captioning", {"id": second}),
    ]

    publisher.call("predict", {"id": first, "caption": "done"})
    assert publisher.call("captioning_failed", {"id": second, "error": "Broken."}) == {"ok": True}
    for client in (viewer, late):
        assert client.receive()[1]["caption"] == "done"
        assert client.receive() == ("captioning_failed", {"id": second, "error": "Broken."})

    # what is done, or comes too late, is nothing to wait for
    assert publisher.call("captioning", {"id": first}) == {"ok": True}
    publisher.call("predict", {"caption": "next"})
    assert viewer.receive()[1]["caption"] == "next"
    newest = connect()
    newest.history()
    publisher.call("predict", {"caption": "live"})
    assert newest.receive()[1]["caption"] == "live"


def test_nobody_waits_for_a_publisher_that_is_gone(connect: Connect, viewer: WireClient) -> None:
    identifier = new_id()
    client = connect({"token": TOKEN, "viewer": False})
    client.call("captioning", {"id": identifier})
    client.close()
    assert viewer.receive() == ("captioning", {"id": identifier})
    event, failure = viewer.receive()
    assert event == "captioning_failed"
    assert failure["id"] == identifier
    again = connect({"token": TOKEN, "viewer": False})
    again.call("predict", {"id": identifier, "caption": "still"})
    assert viewer.receive()[1]["caption"] == "still"


def test_forget(relay: Relay, publisher: WireClient, viewer: WireClient, connect: Connect) -> None:
    secret, other = new_id(), new_id()
    message = {"id": secret, "caption": "an unlucky selfie", "thumbnail": JPEG_URL}
    seq = publisher.call("predict", message)["seq"]
    publisher.call("predict", {"id": other, "caption": "something else"})
    assert publisher.call("forget", {"id": secret}) == {"ok": True}
    assert viewer.receive_until("forget")[-1] == ("forget", {"id": secret})

    assert seq not in numbers(connect().history())
    assert relay.get("/api/captions?q=unlucky")[2]["captions"] == []
    # a viewer that was away is told to drop it, one that never had it is not
    assert secret in connect({"last_seq": seq}).history()[0]["forgotten"]
    assert secret not in connect({"last_seq": seq - 1}).history()[0]["forgotten"]
    # a retry, of a publisher that has not heard, does not bring it back
    assert publisher.call("predict", message) == {"ok": True, "seq": seq}
    assert publisher.call("forget", {"id": secret}) == {"ok": True}
    assert seq not in numbers(connect({"last_seq": seq - 1}).history())
    # nothing of it is left on the disk
    for path in relay.state.glob("history.db*"):
        assert b"unlucky selfie" not in path.read_bytes()
    assert any(b"something else" in path.read_bytes() for path in relay.state.glob("history.db*"))


def test_forget_before_the_caption_is_there(publisher: WireClient, viewer: WireClient) -> None:
    identifier = new_id()
    publisher.call("captioning", {"id": identifier})
    publisher.call("forget", {"id": identifier})
    assert publisher.call("predict", {"id": identifier, "caption": "too late"})["ok"]
    publisher.call("predict", {"caption": "next"})
    assert [viewer.receive()[0] for _ in range(3)] == ["captioning", "forget", "prediction"]


# A person's words


def test_a_persons_words_take_the_place_of_the_models(
    relay: Relay, publisher: WireClient, viewer: WireClient, connect: Connect
) -> None:
    identifier = new_id()
    message = {"id": identifier, "caption": "a sheepish cow", "thumbnail": JPEG_URL}
    seq = publisher.call("predict", message)["seq"]
    correction = {"id": identifier, "caption": "A woolly lamb.", "by": "the host"}
    answer = publisher.call("corrected", correction)
    kept = {**message, "caption": "A woolly lamb.", "by": "the host", "seq": seq}
    kept["model_caption"] = "a sheepish cow"
    assert answer == {"ok": True, "seq": seq, "caption": kept}
    sent = {**correction, "approved": False}
    assert viewer.receive_until("corrected")[-1] == ("corrected", sent)

    # in the history, in the search, and for a viewer that was away
    assert connect({"last_seq": seq - 1}).history()[0]["captions"] == [kept]
    assert relay.get("/api/captions?q=woolly")[2]["captions"] == [kept]
    assert relay.get("/api/captions?q=sheepish")[2]["captions"] == []
    assert sent in connect({"last_seq": seq}).history()[0]["corrected"]
    assert sent not in connect({"last_seq": seq - 1}).history()[0]["corrected"]

    # once more: the model's words stay known; approval changes no words
    again = publisher.call("corrected", {"id": identifier, "caption": "A lamb.", "by": "me"})
    assert again["caption"]["model_caption"] == "a sheepish cow"
    approved = publisher.call("corrected", {"id": identifier, "caption": "", "approved": True})
    assert (approved["caption"]["caption"], approved["caption"]["approved"]) == ("A lamb.", True)
    # a message of before does not bring the model's words back
    assert publisher.call("predict", message) == {"ok": True, "seq": seq}
    assert connect({"last_seq": seq - 1}).history()[0]["captions"][0]["caption"] == "A lamb."

    assert publisher.call("forget", {"id": identifier}) == {"ok": True}
    for path in relay.state.glob("history.db*"):
        assert b"woolly" not in path.read_bytes()


def test_approved_as_it_is(publisher: WireClient, viewer: WireClient) -> None:
    identifier = new_id()
    publisher.call("predict", {"id": identifier, "caption": "a dog"})
    publisher.call("corrected", {"id": identifier, "approved": True, "by": "the host"})
    assert viewer.receive_until("corrected")[-1][1] == {
        "id": identifier,
        "caption": "",
        "by": "",
        "approved": True,
    }


def test_a_correction_of_nothing(publisher: WireClient) -> None:
    answer = publisher.call("corrected", {"id": new_id(), "caption": "a cat", "by": "me"})
    assert (answer["ok"], answer["error"]) == (False, "There is no caption of this id.")


# Who may do what


def test_a_wrong_token_is_refused_at_connect(relay: Relay, connect: Connect) -> None:
    for token in ("wrong", TOKEN + "x", TOKEN[:-1], "ü", "\ud800"):
        client = connect({"token": token})
        assert "token is wrong" in client.refusal["message"]
    with pytest.raises(socketio.exceptions.ConnectionError):
        Client(relay, {"token": "wrong"})


@pytest.mark.parametrize(
    "auth",
    [
        {"token": 5},
        {"token": ["x"]},
        {"last_seq": -1},
        {"last_seq": "5"},
        {"last_seq": True},
        {"last_seq": 1.5},
        {"last_seq": 2**60},
        {"viewer": "no"},
    ],
)
def test_malformed_auth_is_refused(connect: Connect, auth: dict[str, Any]) -> None:
    assert connect(auth).refusal["message"].startswith("auth.")


@pytest.mark.parametrize(
    "event", ["predict", "captioning", "captioning_failed", "forget", "corrected"]
)
@pytest.mark.parametrize("auth", [None, {"token": ""}, {"token": None}])
def test_without_token_one_can_only_view(
    connect: Connect, viewer: WireClient, publisher: WireClient, event: str, auth: Any
) -> None:
    answer = connect(auth).call(event, {"id": "i", "caption": "smuggled"})
    assert answer["ok"] is False
    assert answer["retry"] is False
    assert "publisher" in answer["error"]
    publisher.call("predict", {"caption": "next"})
    assert viewer.receive()[1]["caption"] == "next"


def test_a_viewer_that_goes_on_sending_is_put_out(connect: Connect) -> None:
    client = connect()
    for _ in range(100):
        client.send("predict", {"caption": "spam"})
    with pytest.raises((ConnectionError, OSError)):
        client.receive_until("never")


def test_an_event_that_is_called_connect_changes_nothing(
    connect: Connect, viewer: WireClient
) -> None:
    client = connect()
    client.history()
    client.send("connect", {"token": TOKEN})
    assert client.call("predict", {"caption": "smuggled"})["ok"] is False
    client.send("disconnect", "x")
    with pytest.raises(ConnectionError):
        client.call("predict", {"caption": "smuggled"})


# Bad messages

DEEP: Any = json.loads("[" * 200 + "]" * 200)


@pytest.mark.parametrize(
    ("event", "data", "said"),
    [
        ("predict", None, "must be an object"),
        ("predict", "caption", "must be an object"),
        ("predict", ["caption"], "must be an object"),
        ("predict", {}, "no caption"),
        ("predict", {"caption": None}, "no caption"),
        ("predict", {"caption": 5}, "caption must be"),
        ("predict", {"caption": ["a"]}, "caption must be"),
        ("predict", {"caption": DEEP}, "caption must be"),
        ("predict", {"caption": " \n"}, "blank"),
        ("predict", {"caption": "x" * 1001}, "at most 1000"),
        ("predict", {"caption": "\ud800"}, "Unicode"),
        ("predict", {"caption": "a", "id": 5}, "id must be"),
        ("predict", {"caption": "a", "id": ""}, "id must be"),
        ("predict", {"caption": "a", "id": "x" * 101}, "id must be"),
        ("predict", {"caption": "a", "id": "<b>"}, "id must be"),
        ("predict", {"caption": "a", "image_path": "x" * 1001}, "image_path must be"),
        ("predict", {"caption": "a", "confidence": 1.01}, "confidence must be"),
        ("predict", {"caption": "a", "confidence": True}, "confidence must be"),
        ("predict", {"caption": "a", "confident": 1}, "confident must be"),
        ("predict", {"caption": "a", "elapsed_ms": -1}, "elapsed_ms must be"),
        ("predict", {"caption": "a", "elapsed_ms": True}, "elapsed_ms must be"),
        ("predict", {"caption": "a", "elapsed_ms": float("nan")}, "elapsed_ms must be"),
        ("predict", {"caption": "a", "elapsed_ms": 10**90}, "elapsed_ms must be"),
        ("predict", {"caption": "a", "created_at": "yesterday"}, "created_at must be"),
        ("predict", {"caption": "a", "created_at": "2026-02-30T00:00:00Z"}, "created_at must be"),
        ("predict", {"caption": "a", "created_at": "2026-01-01T00:00:00"}, "created_at must be"),
        ("predict", {"caption": "a", "created_at": 1767225600}, "created_at must be"),
        ("predict", {"caption": "a", "words": {}}, "words must be"),
        ("predict", {"caption": "a", "words": ["a"]}, "words[0] must be"),
        ("predict", {"caption": "a", "words": [{"word": "a"}]}, "words[0] has no probability"),
        (
            "predict",
            {"caption": "a", "words": [{"word": "a", "probability": 1.01}]},
            "words[0].probability must be",
        ),
        ("predict", {"caption": "a", "words": [{}] * 201}, "at most 200"),
        ("predict", {"caption": "a", "candidates": [DEEP]}, "candidates[0] must be"),
        ("predict", {"caption": "a", "thumbnail": 5}, "thumbnail must be"),
        ("predict", {"caption": "a", "thumbnail": "https://evil.example/x.jpg"}, "thumbnail"),
        ("predict", {"caption": "a", "thumbnail": "data:image/svg+xml;base64,PHN2Zz4="}, "thumb"),
        ("predict", {"caption": "a", "thumbnail": "data:image/jpeg;base64,PHN2Zz4="}, "thumbnail"),
        ("predict", {"caption": "a", "thumbnail": "data:image/jpeg;base64,\u00fc"}, "thumbnail"),
        ("predict", {"caption": "a", "thumbnail": JPEG_URL + "A" * 300_000}, "thumbnail must"),
        ("captioning", {"image_path": "a.jpg"}, "no id"),
        ("captioning_failed", {"error": "x"}, "no id"),
        ("captioning_failed", {"id": "a", "error": "x" * 501}, "error must be"),
        ("forget", {}, "no id"),
        ("forget", {"id": ["a"]}, "id must be"),
        ("corrected", {"caption": "a cat"}, "no id"),
        ("corrected", {"id": "i", "caption": " "}, "not blank"),
        ("corrected", {"id": "i", "caption": 5}, "caption must be"),
        ("corrected", {"id": "i", "caption": "a", "approved": "yes"}, "approved must be"),
        ("prediction", {"caption": "a"}, "Unknown event"),
        ("history", {}, "Unknown event"),
    ],
)
def test_bad_messages_are_refused_with_a_sentence(
    publisher: WireClient, event: str, data: Any, said: str
) -> None:
    answer = publisher.call(event, data)
    assert answer["ok"] is False
    assert answer["retry"] is False
    assert said in answer["error"]
    assert answer["error"].endswith(".")
    assert publisher.call("predict", {"caption": "good"})["ok"]


def test_an_event_without_payload_is_refused(publisher: WireClient) -> None:
    assert "object" in publisher.call("predict")["error"]
    assert publisher.call("predict", {"caption": "a"}, "and", "more")["ok"]


def test_fields_that_we_do_not_know_go_no_further(
    publisher: WireClient, viewer: WireClient
) -> None:
    message = {"caption": "a", "seq": -5, "extra": DEEP, "model": None, "__proto__": {"x": 1}}
    answer = publisher.call("predict", message)
    assert viewer.receive() == ("prediction", {"caption": "a", "seq": answer["seq"]})


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "x",
        "9",
        "4",
        "4" + "[" * 100_000,
        "42" + "[" * 100_000,
        "42[]",
        "42{}",
        "42[5]",
        '42[{"a":1}]',
        '42["predict"',
        "42" + "9" * 500 + '["predict"]',
        '42/other,["predict",{}]',
        "43999[]",
        "44{}",
        '459999999999-["predict",{"_placeholder":true,"num":0}]',
        '451-["predict",{"caption":"a","thumbnail":{"_placeholder":true,"num":7}}]',
        '451-["predict",{"caption":"a","thumbnail":{"_placeholder":true,"num":"x"}}]',
        "b!!!",
        "1",
        "6",
        "x" * 999_000,
        "x" * 1_100_000,
    ],
)
def test_broken_frames_harm_nobody_else(
    connect: Connect, publisher: WireClient, viewer: WireClient, frame: str
) -> None:
    client = connect({"token": TOKEN, "viewer": False})
    with contextlib.suppress(OSError):  # what is too long is cut off in the middle
        client.socket.send(frame)
        client.socket.send_binary(b"\x00\x01")
        client.socket.send_binary(b"4")
    publisher.call("predict", {"caption": "good"})
    assert viewer.receive()[1]["caption"] == "good"


def test_a_message_in_many_fragments_is_cut_off(connect: Connect) -> None:
    """Each fragment is small, and there is no last one."""
    client = connect()
    client.history()
    client.socket.send_frame(ABNF(0, 0, 0, 0, ABNF.OPCODE_TEXT, 1, "4" + "x" * 99_999))
    for _ in range(200):
        try:
            client.socket.send_frame(ABNF(0, 0, 0, 0, ABNF.OPCODE_CONT, 1, "x" * 100_000))
        except (OSError, websocket.WebSocketException):
            return
    pytest.fail("the relay takes a message without end")


def test_binary_that_nobody_announced_is_not_kept(connect: Connect) -> None:
    client = connect({"token": TOKEN})
    client.history()
    client.socket.send('4550-["predict",{}]')
    for _ in range(50):
        client.socket.send_binary(bytes(10_000))
    assert client.call("predict", {"caption": "good"})["ok"]


# Transports


def test_long_polling_works_too(relay: Relay, publisher: WireClient) -> None:
    client = Client(relay, transports=["polling"])
    wait_until(lambda: any(not piece["more"] for piece in client.of("history")))
    answer = publisher.call("predict", {"caption": "polled", "thumbnail": JPEG_URL})
    wait_until(lambda: client.of("prediction"))
    assert client.of("prediction")[0]["seq"] == answer["seq"]
    client.close()
