"""Approval by the host, corrections and guests: app1's side, with a relay that is a list."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from app1.app import create_app
from app1.parts import App1
from app1.views.host import DOT
from common.state import host_token
from tests.kit.app1 import Relay, Send, problem_of


@pytest.fixture
def approving(start: Callable[..., App1]) -> App1:
    return start(APP1_APPROVE="on")


def as_host(parts: App1) -> dict[str, str]:
    return {"Authorization": f"Bearer {host_token(parts.settings)}"}


def as_uploader(answer: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {answer['delete_token']}"}


def test_nothing_of_a_photo_leaves_before_it_is_approved(
    approving: App1, relay: Relay, send: Send, picture: Callable[..., bytes]
) -> None:
    client = create_app(approving).test_client()
    answer = send(client, (picture("jpeg"), "a.jpg")).get_json()
    assert answer["published"] == "waiting"
    (waiting,) = client.get("/api/review", headers=as_host(approving)).get_json()["waiting"]
    assert (waiting["id"], waiting["image_path"]) == (answer["id"], "a.jpg")
    assert "thumbnail" not in waiting
    thumbnail = client.get(f"/api/review/{answer['id']}/thumbnail", headers=as_host(approving))
    assert Image.open(io.BytesIO(thumbnail.data)).format == "JPEG"
    assert relay.events == [], "not even that work has begun"

    path = f"/api/captions/{answer['id']}"
    approved = client.patch(path, json={"approved": True}, headers=as_host(approving)).get_json()
    assert approved["published"] == "delivered"
    (sent,) = relay.of("predict")
    assert (sent["id"], sent["caption"], sent["approved"]) == (
        answer["id"], answer["caption"], True,
    )  # fmt: skip
    assert sent["thumbnail"] == thumbnail.data
    assert client.get("/api/review", headers=as_host(approving)).get_json()["waiting"] == []
    assert client.get("/api/corrections", headers=as_host(approving)).get_json()["captions"] == {}


def test_the_plain_form_waits_too(
    approving: App1, relay: Relay, send: Send, picture: Callable[..., bytes]
) -> None:
    client = create_app(approving).test_client()
    page = send(client, (picture("jpeg"), "a.jpg"), to="/")
    assert "Waits for the host" in page.text
    assert relay.events == []


def test_a_rejected_photo_is_nowhere(
    approving: App1, relay: Relay, send: Send, picture: Callable[..., bytes]
) -> None:
    client = create_app(approving).test_client()
    answer = send(client, (picture("jpeg"), "unlucky.jpg")).get_json()
    path = f"/api/captions/{answer['id']}"
    assert client.delete(path, headers=as_host(approving)).status_code == 204
    assert client.get("/api/review", headers=as_host(approving)).get_json()["waiting"] == []
    assert relay.of("predict") == []
    for file in approving.settings.captioner_state.glob("review.db*"):
        assert b"unlucky" not in file.read_bytes()


def test_an_uploader_does_not_change_what_the_host_has_approved(
    approving: App1, relay: Relay, send: Send, picture: Callable[..., bytes],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Else approval could be got for one sentence, and another one shown."""
    client = create_app(approving).test_client()
    answer = send(client, (picture("jpeg"), "a.jpg")).get_json()
    path = f"/api/captions/{answer['id']}"
    approved = client.patch(path, json={"approved": True}, headers=as_host(approving))
    assert approved.status_code == 200
    wait_for(lambda: relay.of("predict"))
    changed = client.patch(path, json={"caption": "Rude."}, headers=as_uploader(answer))
    assert changed.status_code == 403
    assert "ask the host" in problem_of(changed)["detail"]
    assert (
        client.patch(path, json={"caption": "Kind."}, headers=as_host(approving)).status_code == 200
    )
    wait_for(lambda: relay.of("corrected"))
    assert [event["caption"] for event in relay.of("corrected")] == ["Kind."]


def test_words_are_approved_as_the_host_has_seen_them(
    approving: App1, relay: Relay, send: Send, picture: Callable[..., bytes]
) -> None:
    client = create_app(approving).test_client()
    answer = send(client, (picture("jpeg"), "a.jpg")).get_json()
    path = f"/api/captions/{answer['id']}"
    client.patch(path, json={"caption": "Rude."}, headers=as_uploader(answer))
    old = {"approved": True, "seen": answer["caption"]}
    refused = client.patch(path, json=old, headers=as_host(approving))
    assert refused.status_code == 409
    assert "look at them again" in problem_of(refused)["detail"]
    assert relay.of("predict") == []
    new = {"approved": True, "seen": "Rude."}
    assert client.patch(path, json=new, headers=as_host(approving)).status_code == 200


def test_what_waits_survives_a_restart(
    start: Callable[..., App1], relay: Relay, send: Send, picture: Callable[..., bytes]
) -> None:
    parts = start(APP1_APPROVE="on")
    answer = send(create_app(parts).test_client(), (picture("jpeg"), "a.jpg")).get_json()
    parts.stop()
    again = start(APP1_APPROVE="on")
    client = create_app(again).test_client()
    (waiting,) = client.get("/api/review", headers=as_host(again)).get_json()["waiting"]
    assert waiting["id"] == answer["id"]


def test_no_more_wait_than_are_kept(
    start: Callable[..., App1], send: Send, picture: Callable[..., bytes]
) -> None:
    client = create_app(start(APP1_APPROVE="on", RELAY_KEEP=1)).test_client()
    assert send(client, (picture("jpeg"), "a.jpg")).status_code == 200
    refused = send(client, (picture("jpeg"), "b.jpg"))
    assert refused.status_code == 503
    assert "wait for the host" in problem_of(refused)["detail"]


def test_an_uploader_corrects_what_waits(
    approving: App1, relay: Relay, send: Send, picture: Callable[..., bytes]
) -> None:
    client = create_app(approving).test_client()
    answer = send(client, (picture("jpeg"), "a.jpg")).get_json()
    path = f"/api/captions/{answer['id']}"
    changed = client.patch(path, json={"caption": " My\n dog. "}, headers=as_uploader(answer))
    assert changed.get_json() == {
        "id": answer["id"], "caption": "My dog.", "by": "uploader", "approved": False,
        "published": "waiting",
    }  # fmt: skip
    refused = client.patch(path, json={"approved": True}, headers=as_uploader(answer))
    assert (refused.status_code, relay.events) == (403, [])
    client.patch(path, json={"approved": True}, headers=as_host(approving))
    (sent,) = relay.of("predict")
    assert (sent["caption"], sent["by"], sent["model_caption"]) == (
        "My dog.", "uploader", answer["caption"],
    )  # fmt: skip
    kept = client.get("/api/corrections", headers=as_host(approving)).get_json()
    name = f"{answer['id']}.jpg"
    assert kept["captions"] == {name: ["My dog."]}
    assert kept["model_captions"] == {name: answer["caption"]}
    assert base64.b64decode(kept["images"][name]) == sent["thumbnail"]


def test_a_published_caption_is_corrected_through_the_relay(
    client: FlaskClient, relay: Relay, send: Send, picture: Callable[..., bytes]
) -> None:
    answer = send(client, (picture("jpeg"), "a.jpg")).get_json()
    path = f"/api/captions/{answer['id']}"
    changed = client.patch(path, json={"caption": "My dog."}, headers=as_uploader(answer))
    assert changed.get_json()["published"] == "delivered"
    assert relay.of("corrected") == [
        {"id": answer["id"], "caption": "My dog.", "by": "uploader", "approved": False}
    ]


def test_a_correction_waits_for_the_relay_and_the_last_one_counts(
    parts: App1,
    client: FlaskClient,
    relay: Relay,
    send: Send,
    picture: Callable[..., bytes],
    wait_for: Callable[..., None],
) -> None:
    answer = send(client, (picture("jpeg"), "a.jpg")).get_json()
    path = f"/api/captions/{answer['id']}"
    relay.up = False
    for words in ("A dog.", "My dog."):
        changed = client.patch(path, json={"caption": words}, headers=as_uploader(answer))
        assert changed.get_json()["published"] == "queued"
    relay.up = True
    wait_for(lambda: relay.of("corrected"))
    wait_for(lambda: parts.publisher.waiting == 0)
    assert [event["caption"] for event in relay.of("corrected")] == ["My dog."]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"caption": ""}, "empty"),
        ({"caption": "  "}, "empty"),
        ({"caption": "x" * 1001}, "at most"),
        ({"caption": "a\u202eb"}, "printable"),
        ({"caption": 5}, "JSON"),
        ({"approved": "yes"}, "JSON"),
        ([], "JSON"),
    ],
)
def test_a_correction_that_makes_no_sense(
    client: FlaskClient,
    relay: Relay,
    send: Send,
    picture: Callable[..., bytes],
    body: Any,
    said: str,
) -> None:
    answer = send(client, (picture("jpeg"), "a.jpg")).get_json()
    path = f"/api/captions/{answer['id']}"
    refused = client.patch(path, json=body, headers=as_uploader(answer))
    assert refused.status_code == 400
    assert said in problem_of(refused)["detail"]
    assert relay.of("corrected") == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/api/captions/i"),
        ("DELETE", "/api/captions/i"),
        ("GET", "/api/corrections"),
        ("GET", "/api/review"),
        ("GET", "/api/review/i/thumbnail"),
        ("GET", "/api/guests"),
        ("PUT", "/api/guests"),
    ],
)
def test_without_the_right_token_nothing_is_seen_or_changed(
    client: FlaskClient, method: str, path: str
) -> None:
    assert client.open(path, method=method, json={"caption": "a"}).status_code == 401
    for token in ("wrong", "\u00fc", "x" * 43):
        headers = {"Authorization": f"Bearer {token}"}
        answer = client.open(path, method=method, json={"caption": "a"}, headers=headers)
        assert answer.status_code == 403, token
        problem_of(answer)


def test_the_hosts_token_is_a_file_of_the_users_own(parts: App1) -> None:
    file = parts.settings.captioner_state / "host-token"
    assert file.read_text().strip() == host_token(parts.settings)
    assert file.stat().st_mode & 0o077 == 0


# --- guests --------------------------------------------------------------------------------------


def decide(client: FlaskClient, parts: App1, **decision: Any) -> dict[str, Any]:
    answer = client.put("/api/guests", json=decision, headers=as_host(parts))
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def test_a_guests_link_uploads_until_the_host_ends_it(
    parts: App1, client: FlaskClient, send: Send, picture: Callable[..., bytes]
) -> None:
    photo = (picture("jpeg"), "a.jpg")
    first = decide(client, parts, uploads="guests")
    path = "/guest/" + first["url"].rpartition("/")[2]
    token = path.rpartition("/")[2]
    page = client.get(path)
    assert f'data-guest="{token}"' in page.text
    assert "Open the wall" not in page.text
    assert send(client, photo, to=f"/api/captions?guest={token}").status_code == 200
    assert send(client, photo, to=f"/?guest={token}").status_code == 200
    bearer = {"Authorization": f"Bearer {token}"}
    assert send(client, photo, headers=bearer).status_code == 200
    # a guest is no host
    assert client.get("/api/review", headers=bearer).status_code == 403
    # others are refused, the host is not
    for refused in (send(client, photo), send(client, photo, to="/api/captions?guest=x")):
        assert refused.status_code == 403
        assert "link" in problem_of(refused)["detail"]
    assert send(client, photo, headers=as_host(parts)).status_code == 200

    # the same link while it is not renewed
    assert decide(client, parts, uploads="guests", on_wall=True)["url"] == first["url"]
    second = decide(client, parts, uploads="guests", renew=True)
    assert second["url"] != first["url"]
    assert client.get(path).status_code == 410
    assert "has ended" in client.get(path).text
    assert send(client, photo, to=f"/api/captions?guest={token}").status_code == 403
    decide(client, parts, uploads="host")
    new = second["url"].rpartition("/")[2]
    assert send(client, photo, to=f"/api/captions?guest={new}").status_code == 403
    assert decide(client, parts, uploads="guests")["url"] not in (first["url"], second["url"])
    decide(client, parts, uploads="everybody")
    assert send(client, photo).status_code == 200


def test_programs_that_speak_ollama_are_no_way_round(
    parts: App1, client: FlaskClient, picture: Callable[..., bytes]
) -> None:
    decide(client, parts, uploads="host")
    body = {
        "model": parts.workers.model.name if parts.workers.model else "",
        "prompt": "What is it?",
        "images": [base64.b64encode(picture("jpeg")).decode()],
        "stream": False,
    }
    refused = client.post("/api/generate", json=body)
    assert (refused.status_code, "host" in refused.get_json()["error"]) == (403, True)
    assert client.post("/api/generate", json=body, headers=as_host(parts)).status_code != 403


def test_the_wall_gets_the_code_only_while_the_host_wants_it(
    parts: App1, client: FlaskClient
) -> None:
    none = client.get("/guests.svg")
    assert (none.status_code, none.data) == (200, DOT)
    decide(client, parts, uploads="guests")
    assert client.get("/guests.svg").data == DOT
    decide(client, parts, uploads="guests", on_wall=True)
    code = client.get("/guests.svg")
    assert (code.status_code, code.mimetype) == (200, "image/svg+xml")
    assert code.data != DOT
    assert code.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    decide(client, parts, uploads="everybody", on_wall=True)
    assert client.get("/guests.svg").data == DOT


def test_the_qr_code_is_the_link(tmp_path: Path) -> None:
    """Read by OpenCV, which had no part in making it."""
    import cv2
    import segno

    from app1.guests import qr_code

    url = "https://captions.example.org/captions/guest/abcDEF123_-xyz01"
    assert url in qr_code(url).decode()
    file = tmp_path / "code.png"
    segno.make(url, error="m", micro=False).save(str(file), scale=8, border=3)
    text, *_ = cv2.QRCodeDetector().detectAndDecode(cv2.imread(str(file)))
    assert text == url


@pytest.mark.parametrize(
    "body", [{}, {"uploads": "all"}, {"uploads": "guests", "on_wall": 1}, {"uploads": ["host"]}]
)
def test_a_decision_that_makes_no_sense(parts: App1, client: FlaskClient, body: Any) -> None:
    answer = client.put("/api/guests", json=body, headers=as_host(parts))
    assert answer.status_code == 400
    problem_of(answer)
