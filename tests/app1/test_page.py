"""The page without JavaScript; what it looks like is the browser tests' business."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from app1.guests import Guests
from app1.parts import App1
from app1.review import ReviewError
from tests.kit.app1 import Files, Relay, Send


def test_upload(
    client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes]
) -> None:
    response = send(client, (picture(), "<b>.jpg"), to="/")
    assert response.status_code == 200
    published = relay.of("predict")[0]
    assert published["caption"] in response.text
    thumbnail = base64.b64encode(published["thumbnail"]).decode()
    assert f"data:image/jpeg;base64,{thumbnail}" in response.text
    first = response.text.partition("<template")[0]
    verdict = "Fairly sure" if published["confident"] else "Not sure"
    assert first.index(f">{verdict}<") < first.index(f">{published['caption']}<")
    assert '<details class="confidence" hidden>' in first, "this model cannot tell"
    assert "&lt;b&gt;.jpg" in response.text
    assert "<b>.jpg" not in response.text


def test_delete(
    client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    page = send(client, (picture(), "a.jpg"), to="/").text
    fields = dict(re.findall(r'name="(id|delete_token)" value="([^"]+)"', page))
    assert client.post("/delete", data={**fields, "delete_token": "x"}).status_code == 403
    assert client.post("/delete", data={}).status_code == 400
    response = client.post("/delete", data=fields)
    assert response.status_code == 200
    assert "Deleted from every screen." in response.text
    wait_for(lambda: relay.of("forget"))
    assert relay.of("forget")[0] == {"id": fields["id"]}


def test_who_may_upload_is_said_before_a_photo_is_chosen(
    client: FlaskClient, parts: App1, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'id="refusal"' not in client.get("/").text
    guests = Guests().changed("guests", on_wall=False, renew=False)
    guests.keep(parts.review)
    refusal = "<strong>Photos are taken by the host&#39;s link only; ask for it.</strong>"
    assert refusal in client.get("/").text
    assert refusal in client.get("/?guest=wrong").text
    assert 'id="refusal"' not in client.get(f"/?guest={guests.token}").text

    def fail(name: str) -> str:
        raise ReviewError("The file cannot be read.")

    monkeypatch.setattr(parts.review, "mark", fail)
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([], 400),
        ([(b"", "")], 400),
        ([(b"", "a.jpg")], 400),
        ([(b"text", "a.jpg")], 415),
        ([(b"text", "a.jpg"), (b"\x89PNG\r\n\x1a\n", "b.png")], 415),
    ],
)
def test_errors_are_sentences_in_the_page(
    client: FlaskClient, send: Send, files: Files, status: int
) -> None:
    response = send(client, *files, to="/")
    assert response.status_code == status
    assert response.mimetype == "text/html"
    assert '<input type="file"' in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing/here", 404), ("DELETE", "/", 405), ("POST", "/healthz", 405)],
)
def test_addresses(client: FlaskClient, method: str, path: str, status: int) -> None:
    response = client.open(path, method=method)
    assert response.status_code == status
    assert response.mimetype == "text/html"


def test_headers(client: FlaskClient) -> None:
    for path in ("/", "/api/model", "/nothing", "/static/upload.js"):
        response = client.get(path)
        headers = response.headers
        response.close()
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "same-origin", "a form has to send its origin"
    assert client.get("/").headers["Cache-Control"] == "no-store"
