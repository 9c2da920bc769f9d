"""The HTTP API: captions, errors, limits, deletion, the model and the API's description."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from app1.app import create_app
from app1.parts import App1
from app1.uploads import MAX_PICTURES
from captioner import Captioner
from common.state import host_token
from tests.kit.app1 import Relay, Send, problem_of

RED, BLUE = (255, 0, 0), (0, 0, 255)


class TestCaption:
    def test_one_picture(
        self,
        client: FlaskClient,
        send: Send,
        relay: Relay,
        picture: Callable[..., bytes],
        tiny_model: Path,
    ) -> None:
        photo = picture("jpeg", RED)
        response = send(client, (photo, "photo.jpg"))
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"
        body = response.json
        assert body is not None
        expected = Captioner.load(tiny_model).caption(photo)
        assert body["caption"] == expected.text
        assert body["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert body["confident"] is expected.confident
        assert body["confidence"] is expected.confidence is None
        assert [c["caption"] for c in body["candidates"]] == [c.text for c in expected.candidates]
        assert [word["word"] for word in body["words"]] == [w.word for w in expected.words]
        assert all(set(word) == {"word", "probability"} for word in body["words"])
        logs = [math.log(word["probability"]) for word in body["words"]]
        assert body["probability"] == pytest.approx(math.exp(sum(logs) / len(logs)), rel=1e-3)
        assert body["model"] == "tiny"
        assert body["published"] == "delivered"
        assert body["elapsed_ms"] >= 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["created_at"])

    def test_what_the_relay_gets(
        self, client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes]
    ) -> None:
        body = send(client, (picture("png", width=1000, height=500), "../dir/Föto <b>.png")).json
        assert body is not None
        (begun,), (published,) = relay.of("captioning"), relay.of("predict")
        assert relay.events[0][0] == "captioning", "before the caption"
        assert set(begun) == {"id", "image_path", "thumbnail"}
        assert set(published) == {
            "id", "caption", "image_path", "candidates", "words", "confidence", "confident",
            "photo", "thumbnail", "created_at", "model", "elapsed_ms",
        }  # fmt: skip
        for payload in (begun, published):
            assert payload["id"] == body["id"]
            assert payload["image_path"] == "Föto <b>.png"
        for name in ("caption", "candidates", "words", "confident", "created_at", "model"):
            assert published[name] == body[name]
        thumbnail = Image.open(io.BytesIO(published["thumbnail"]))
        assert thumbnail.format == "JPEG"
        assert thumbnail.size == (640, 320)

    def test_metadata_does_not_leave_the_house(
        self, client: FlaskClient, send: Send, relay: Relay
    ) -> None:
        photo = Image.new("RGB", (60, 40), RED)
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "where I live"
        file = io.BytesIO()
        photo.save(file, "jpeg", exif=exif)
        assert b"where I live" in file.getvalue()
        send(client, (file.getvalue(), "a.jpg"))
        thumbnail = relay.of("predict")[0]["thumbnail"]
        assert b"where I live" not in thumbnail
        assert Image.open(io.BytesIO(thumbnail)).size == (40, 60), "upright"

    def test_a_thumbnail_is_never_more_than_the_relay_takes(
        self, client: FlaskClient, send: Send, relay: Relay
    ) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (640, 640, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "png")
        assert send(client, (file.getvalue(), "a.png")).status_code == 200
        thumbnail = relay.of("predict")[0]["thumbnail"]
        assert len(thumbnail) <= 200_000
        assert Image.open(io.BytesIO(thumbnail)).size in ((480, 480), (320, 320))

    def test_word_by_word(
        self, client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes]
    ) -> None:
        body = send(client, (picture(), "a.jpg"), attention=1).json
        assert body is not None
        for word in body["words"]:
            assert [len(row) for row in word["attention"]] == [4, 4, 4, 4]
            assert sum(map(sum, word["attention"])) == pytest.approx(1, abs=1e-3)
        (published,) = relay.of("predict")
        assert all(set(word) == {"word", "probability"} for word in published["words"])

    def test_beam_size_and_candidates(
        self, client: FlaskClient, send: Send, picture: Callable[..., bytes]
    ) -> None:
        one = send(client, (picture(), "a.jpg"), beam_size=1).json
        five = send(client, (picture(), "a.jpg"), beam_size=5).json
        two = send(client, (picture(), "a.jpg"), beam_size=5, max_candidates=2).json
        assert one
        assert five
        assert two
        assert len(one["candidates"]) == 1
        assert len(five["candidates"]) == 5
        assert two["candidates"] == five["candidates"][:2]

    @pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
    def test_kinds_of_pictures(
        self, client: FlaskClient, send: Send, picture: Callable[..., bytes], kind: str
    ) -> None:
        assert send(client, (picture(kind), f"a.{kind}")).status_code == 200

    def test_several_pictures_in_order_a_broken_one_in_its_place(
        self, client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes]
    ) -> None:
        red, blue = picture("jpeg", RED), picture("jpeg", BLUE)
        response = send(client, (red, "1.jpg"), (b"text", "2.jpg"), (blue, "3.jpg"))
        assert response.status_code == 200
        assert response.json is not None
        first, broken, third = response.json["results"]
        assert first["caption"] == send(client, (red, "a.jpg")).json["caption"]  # type: ignore[index]
        assert third["caption"] == send(client, (blue, "a.jpg")).json["caption"]  # type: ignore[index]
        assert first["caption"] != third["caption"]
        assert set(broken) == {"error"}
        assert broken["error"]["status"] == 415
        assert [p["image_path"] for p in relay.of("predict")][:2] == ["1.jpg", "3.jpg"]

    def test_a_relay_that_is_away_is_not_waited_for(
        self, start: Callable[..., App1], send: Send, relay: Relay, picture: Callable[..., bytes],
        wait_for: Callable[..., None],
    ) -> None:  # fmt: skip
        relay.up = False
        parts = start()
        client = create_app(parts).test_client()
        body = send(client, (picture(), "a.jpg")).json
        assert body is not None
        assert body["published"] == "queued"
        relay.up = True
        wait_for(lambda: relay.of("predict"))
        assert relay.of("predict")[0]["id"] == body["id"]


def test_the_same_photo_again_is_another_caption(
    client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    photo = picture()
    first, second = (send(client, (photo, name)).json for name in ("a.jpg", "b.jpg"))
    assert first
    assert second
    assert first["caption"] == second["caption"]
    assert first["id"] != second["id"]
    assert first["delete_token"] != second["delete_token"]
    wait_for(lambda: len(relay.of("predict")) == 2)
    assert [p["image_path"] for p in relay.of("predict")] == ["a.jpg", "b.jpg"]
    assert "app1_caption_seconds_count 2.0" in client.get("/metrics").text, "each is captioned"


def test_what_is_not_to_be_published_is_not(
    client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Nobody but the caller sees it: no announcement either, and no failure."""
    body = send(client, (picture(), "a.jpg"), publish=0).json
    assert body
    assert body["published"] == "no"
    assert send(client, (b"text", "b.jpg"), publish=0).status_code == 415
    assert send(client, (picture(), "c.jpg"), publish="never").status_code == 400
    assert send(client, (picture(), "d.jpg"), publish=1).status_code == 200
    wait_for(lambda: relay.of("predict"))
    assert [payload["image_path"] for _, payload in relay.events] == ["d.jpg", "d.jpg"]


class TestBadRequests:
    """The contract's answer to each, and a good upload right afterwards is answered."""

    @pytest.fixture(autouse=True)
    def _still_serving(
        self, client: FlaskClient, send: Send, picture: Callable[..., bytes]
    ) -> Iterator[None]:
        yield
        assert send(client, (picture(), "a.jpg")).status_code == 200

    @pytest.mark.parametrize(
        ("disposition", "name"),
        [
            (b'form-data; name="image"; filename="a.jpg"', "a.jpg"),
            (b'form-data; name="image"; filename=""', "photo"),
            (b'form-data; name="image"', "photo"),
            (b'form-data; filename="a.jpg"', "a.jpg"),
            (b'form-data; name=""; filename="a.jpg"', "a.jpg"),
            (b"form-data", "photo"),
            (b'form-data; name="image"; filename="caf\xe9.jpg"', "caf\xe9.jpg"),
            ('form-data; name="image"; filename="caf\xe9.jpg"'.encode(), "caf\xe9.jpg"),
            (b"form-data; name=\"image\"; filename*=utf-8''caf%C3%A9.jpg", "caf\xe9.jpg"),
            (b'form-data; name="image"; filename="\x81\x8d.jpg"', ".jpg"),
        ],
    )
    @pytest.mark.parametrize("size", ["small", "2 MB"])
    def test_a_picture_of_any_client_is_taken(
        self,
        client: FlaskClient,
        relay: Relay,
        picture: Callable[..., bytes],
        disposition: bytes,
        name: str,
        size: str,
    ) -> None:
        """Whatever its part says of its name; a good one beside it, and the options, are read."""
        photo = picture() + bytes(2_000_000 if size == "2 MB" else 0)
        parts = (
            b"Content-Disposition: " + disposition + b"\r\n\r\n" + photo,
            b'Content-Disposition: form-data; name="image"; filename="b.jpg"\r\n\r\n' + picture(),
            b'Content-Disposition: form-data; name="max_candidates"\r\n\r\n1',
        )
        body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
        response = client.post(
            "/api/captions", data=body, content_type="multipart/form-data; boundary=x"
        )
        assert response.status_code == 200
        assert response.json
        assert [len(result["candidates"]) for result in response.json["results"]] == [1, 1]
        assert [sent["image_path"] for sent in relay.of("predict")] == [name, "b.jpg"]

    @pytest.mark.parametrize(
        ("kind", "body", "reason"),
        [
            ("multipart/form-data", b"--x--", "names no boundary"),
            ("multipart/form-data; boundary=", b"--x--", "names no boundary"),
            ("multipart/form-data; boundary=\xe9", b"--x--", "names no boundary"),
            ("multipart/form-data; boundary=y", b"--x\r\n\r\n--x--", "begins with the boundary"),
            ("multipart/form-data; boundary=x", b"--x\r\nA: b\r\n\r\nc\r\n--x--", "first part"),
            (
                "multipart/form-data; boundary=x",
                b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc',
                "ends before its last part does",
            ),
        ],
    )
    def test_what_is_wrong_with_a_form_is_said(
        self, client: FlaskClient, kind: str, body: bytes, reason: str
    ) -> None:
        for address in ("/api/captions", "/"):
            response = client.post(address, data=body, content_type=kind)
            assert response.status_code == 400
            assert reason in response.get_data(as_text=True)

    def test_no_file(self, client: FlaskClient) -> None:
        for data in ({}, {"image": "a text"}, {"other": (io.BytesIO(b"x"), "a.jpg")}):
            response = client.post(
                "/api/captions", data=data, content_type="multipart/form-data; boundary=x"
            )
            assert response.status_code == 400
            assert "picture" in problem_of(response)["detail"]

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b"", None),
            (b"", "multipart/form-data"),
            (b"", "multipart/form-data; boundary="),
            (b"nonsense", "multipart/form-data; boundary=x"),
            (b"--x\r\n", "multipart/form-data; boundary=x"),
            (b"--x\r\nno colon\r\n\r\nabc\r\n--x--", "multipart/form-data; boundary=x"),
            (b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--",
             "multipart/form-data; boundary=x"),
            (b"", "image/jpeg"),
            (b'{"image": "abc"}', "application/json"),
            (b"image=%ff%fe&beam_size=%00", "application/x-www-form-urlencoded"),
        ],
    )  # fmt: skip
    def test_not_a_form_with_a_file(
        self, client: FlaskClient, body: bytes, kind: str | None
    ) -> None:
        response = client.post("/api/captions", data=body, content_type=kind)
        assert response.status_code == 400
        problem_of(response)

    @pytest.mark.parametrize(
        ("content", "status", "words"),
        [
            (b"", 400, "empty"),
            (b"This is a text file.", 415, "JPEG"),
            (b"%PDF-1.7", 415, "JPEG"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "JPEG"),
            (b"\x89PNG\r\n\x1a\n", 422, ""),
        ],
    )
    def test_not_a_picture(
        self, client: FlaskClient, send: Send, content: bytes, status: int, words: str
    ) -> None:
        response = send(client, (content, "photo.jpg"))
        assert response.status_code == status
        assert words in problem_of(response)["detail"]

    def test_a_truncated_jpeg(self, client: FlaskClient, send: Send, relay: Relay) -> None:
        noise = Image.effect_noise((400, 300), 80)
        file = io.BytesIO()
        noise.save(file, "jpeg")
        response = send(client, (file.getvalue()[: len(file.getvalue()) // 3], "a.jpg"))
        assert response.status_code == 422
        problem_of(response)
        assert relay.events == [], "nothing was announced, so nobody waits for it"

    def test_a_200_megapixel_png(self, client: FlaskClient, send: Send) -> None:
        file = io.BytesIO()
        Image.new("1", (20_000, 10_000)).save(file, "png")
        response = send(client, (file.getvalue(), "a.png"))
        assert response.status_code == 413
        assert "pixels" in problem_of(response)["detail"]

    def test_too_many_bytes(
        self, client: FlaskClient, send: Send, picture: Callable[..., bytes]
    ) -> None:
        response = send(client, (picture() + bytes(21 * 2**20), "a.jpg"))
        assert response.status_code == 413
        assert "MB" in problem_of(response)["detail"]

    def test_a_request_of_too_many_bytes(self, client: FlaskClient) -> None:
        response = client.post(
            "/api/captions",
            data=b"",
            content_type="multipart/form-data; boundary=x",
            environ_overrides={"CONTENT_LENGTH": str(200 * 2**20)},
        )
        assert response.status_code == 413
        problem_of(response)

    def test_too_many_pictures(
        self, client: FlaskClient, send: Send, picture: Callable[..., bytes]
    ) -> None:
        response = send(client, *[(picture(), "a.jpg")] * (MAX_PICTURES + 1))
        assert response.status_code == 400
        assert str(MAX_PICTURES) in problem_of(response)["detail"]

    def test_too_many_parts(self, client: FlaskClient) -> None:
        body = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' for _ in range(2000)
        )
        response = client.post(
            "/api/captions", data=body + b"--x--", content_type="multipart/form-data; boundary=x"
        )
        assert response.status_code == 413
        problem_of(response)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("beam_size", value) for value in ("0", "11", "-1", "x", "3.5", "1e1", "٣", " 3")),
            *(("max_candidates", value) for value in ("0", "11", "nan", "9" * 5000)),
            *(("attention", value) for value in ("2", "yes", "true")),
        ],
    )
    def test_fields_out_of_range(
        self, client: FlaskClient, send: Send, picture: Callable[..., bytes], field: str, value: str
    ) -> None:
        response = send(client, (picture(), "a.jpg"), **{field: value})
        assert response.status_code == 400
        assert field in problem_of(response)["detail"]

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/api/nothing", 404),
            ("GET", "/api/captions", 405),
            ("PUT", "/api/captions", 405),
            ("GET", "/api/captions/1", 405),
            ("PATCH", "/api/model", 405),
            ("POST", "/api/captions/%00%ff", 405),
        ],
    )
    def test_addresses(self, client: FlaskClient, method: str, path: str, status: int) -> None:
        response = client.open(path, method=method)
        assert response.status_code == status
        problem_of(response)
        assert status != 405 or response.headers["Allow"]

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-site"},
            {"Origin": "null", "Sec-Fetch-Site": "cross-site"},  # a sandboxed frame, a data: URL
            {"Origin": "http://localhost:8000"},  # a browser without Sec-Fetch-Site
            {"Origin": "null"},
        ],
    )
    def test_a_page_of_another_site(
        self, client: FlaskClient, send: Send, relay: Relay, parts: App1,
        picture: Callable[..., bytes], headers: dict[str, str],
    ) -> None:  # fmt: skip
        """Not one of the routes that change something does so for it."""
        own = send(client, (picture(), "a.jpg"), headers={"Sec-Fetch-Site": "same-origin"}).json
        assert own
        before = list(relay.events)
        token = own["delete_token"]
        for path in ("/", "/api/captions"):
            assert send(client, (picture(), "b.jpg"), to=path, headers=headers).status_code == 403
        delete = {"id": own["id"], "delete_token": token}
        assert client.post("/delete", data=delete, headers=headers).status_code == 403
        response = client.delete(
            f"/api/captions/{own['id']}", headers={**headers, "Authorization": f"Bearer {token}"}
        )
        assert response.status_code == 403
        problem_of(response)
        authorized = {**headers, "Authorization": f"Bearer {token}"}
        corrected = client.patch(
            f"/api/captions/{own['id']}", json={"caption": "Mine."}, headers=authorized
        )
        assert corrected.status_code == 403
        as_host = {**headers, "Authorization": f"Bearer {host_token(parts.settings)}"}
        decided = client.put("/api/guests", json={"uploads": "host"}, headers=as_host)
        assert decided.status_code == 403
        changing = {
            (rule.rule, method)
            for rule in client.application.url_map.iter_rules()
            for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
        }
        others = {"/api/generate", "/api/chat", "/api/show", "/v1/chat/completions"}
        for path in others:
            assert client.post(path, json={"model": "tiny"}, headers=headers).status_code == 403
        assert len(changing) == 6 + len(others), "those above"
        assert relay.events == before
        assert len(parts.outbox) == 0

    def test_another_name_for_this_machine(
        self, client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes]
    ) -> None:
        evil = {"Host": "evil.example:5001", "Origin": "http://evil.example:5001"}
        response = send(client, (picture(), "a.jpg"), headers=evil)
        assert response.status_code == 421
        assert "APP1_PUBLIC_URL" in problem_of(response)["detail"]
        assert relay.events == []

    def test_a_decoder_that_trips(
        self, client: FlaskClient, send: Send, picture: Callable[..., bytes],
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr("captioner.pictures.preprocess.read_picture", lambda *a, **k: 1 / 0)
            response = send(client, (picture(), "a.jpg"))
        assert response.status_code == 422
        problem_of(response)
        assert "ZeroDivisionError" in caplog.text


def test_a_failure_of_ours_is_told_to_viewers_and_shows_no_stack_trace(
    client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Captioner, "caption_rgb", lambda *a, **k: 1 / 0)
        response = send(client, (picture(), "a.jpg"))
    assert response.status_code == 500
    assert "Zero" not in problem_of(response)["detail"]
    assert "ZeroDivisionError" in caplog.text
    assert relay.of("captioning_failed")[0]["id"] == relay.of("captioning")[0]["id"]
    assert send(client, (picture(), "a.jpg")).status_code == 200


def test_past_the_queue_503(
    start: Callable[..., App1], send: Send, tiny_model: Path, picture: Callable[..., bytes],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    loading = threading.Event()

    def load() -> list[Captioner]:
        loading.wait(10)
        return [Captioner.load(tiny_model)]

    parts = start(load, CAPTIONER_QUEUE=1, CAPTIONER_WORKERS=1)
    app = create_app(parts)

    def upload() -> TestResponse:
        return send(app.test_client(), (picture(), "a.jpg"))

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(upload) for _ in range(2)]
        wait_for(lambda: parts.workers.taken == 2)
        response = upload()
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        problem_of(response)
        client = app.test_client()
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        model = client.get("/api/model")
        assert model.status_code == 503
        assert model.headers["Retry-After"]
        problem_of(model)
        assert client.get("/").status_code == 200
        loading.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
    assert client.get("/readyz").json == {"status": "ready"}


def test_past_the_rate_429(
    start: Callable[..., App1], send: Send, picture: Callable[..., bytes]
) -> None:
    app = create_app(start(CAPTIONER_RATE="3/hour"))
    one, other = app.test_client(), app.test_client()
    other.environ_base["REMOTE_ADDR"] = "192.0.2.9"
    assert send(one, (picture(), "a.jpg"), (picture(), "b.jpg")).status_code == 200
    assert send(one, (picture(), "a.jpg")).status_code == 200
    for forged in ({}, {"X-Forwarded-For": "192.0.2.77"}, {"Forwarded": "for=192.0.2.77"}):
        response = send(one, (picture(), "a.jpg"), headers=forged)
        assert response.status_code == 429
        assert 1000 < int(response.headers["Retry-After"]) <= 1200
        problem_of(response)
    page = send(one, (picture(), "a.jpg"), to="/")
    assert page.status_code == 429
    assert page.headers["Retry-After"]
    assert page.mimetype == "text/html"
    assert send(other, (picture(), "a.jpg")).status_code == 200
    assert one.get("/api/model").status_code == 200


class TestDelete:
    def test_by_whoever_uploaded_it(
        self, client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes],
        wait_for: Callable[..., None],
    ) -> None:  # fmt: skip
        body = send(client, (picture(), "a.jpg")).json
        assert body is not None
        for _ in range(2):  # it may be repeated
            response = client.delete(
                f"/api/captions/{body['id']}",
                headers={"Authorization": f"Bearer {body['delete_token']}"},
            )
            assert response.status_code == 204
            assert response.data == b""
        wait_for(lambda: relay.of("forget"))
        assert relay.of("forget")[0] == {"id": body["id"]}

    def test_by_nobody_else(
        self, client: FlaskClient, send: Send, relay: Relay, picture: Callable[..., bytes]
    ) -> None:
        first = send(client, (picture(), "a.jpg")).json
        second = send(client, (picture(), "a.jpg")).json
        assert first
        assert second
        path = f"/api/captions/{first['id']}"
        for header in (None, "Bearer", "Bearer ", f"Basic {first['delete_token']}"):
            response = client.delete(path, headers={"Authorization": header} if header else {})
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            problem_of(response)
        for token in (second["delete_token"], "x", "é"):
            response = client.delete(path, headers={"Authorization": f"Bearer {token}"})
            assert response.status_code == 403
            problem_of(response)
        response = client.delete(
            path,
            headers={
                "Authorization": f"Bearer {first['delete_token']}",
                "Origin": "https://evil.example",
            },
        )
        assert response.status_code == 403
        assert relay.of("forget") == []

    def test_after_a_restart(
        self, start: Callable[..., App1], send: Send, picture: Callable[..., bytes]
    ) -> None:
        before = start(RELAY_TOKEN="one")
        body = send(create_app(before).test_client(), (picture(), "a.jpg")).json
        assert body is not None
        before.stop()
        response = (
            create_app(start(RELAY_TOKEN="another"))
            .test_client()
            .delete(
                f"/api/captions/{body['id']}",
                headers={"Authorization": f"Bearer {body['delete_token']}"},
            )
        )
        assert response.status_code == 204


def test_model(client: FlaskClient, tiny_model: Path) -> None:
    response = client.get("/api/model")
    assert response.status_code == 200
    assert response.json == json.loads((tiny_model / "manifest.json").read_bytes())


def test_the_description_names_every_route_and_every_answer(
    client: FlaskClient, send: Send, picture: Callable[..., bytes]
) -> None:
    description = client.get("/openapi.json").json
    assert description is not None
    described = {
        (method.upper(), re.sub(r"{\w+}", "ID", path))
        for path, methods in description["paths"].items()
        for method in methods
    }
    pages = {("GET", "/"), ("POST", "/"), ("POST", "/delete")}
    pages |= {("GET", "/host"), ("GET", "/guest/ID"), ("GET", "/guests.svg")}
    of_others = {  # Ollama's and OpenAI's own, which they describe
        (method, rule.rule)
        for rule in client.application.url_map.iter_rules()
        if rule.endpoint.startswith(("ollama.", "openai."))
        for method in ("GET", "POST")
    }
    routes = {
        (method, re.sub(r"<\w+>", "ID", rule.rule))
        for rule in client.application.url_map.iter_rules()
        if not rule.endpoint.endswith("static")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == routes - pages - of_others
    schemas = description["components"]["schemas"]
    body = send(client, (picture(), "a.jpg"), attention=1).json
    assert body is not None
    assert {*body, "thumbnail"} == set(schemas["Captioned"]["properties"])
    assert set(body) == set(schemas["Captioned"]["required"])
    assert set(body["words"][0]) == set(schemas["Word"]["properties"])
    assert set(body["candidates"][0]) == set(schemas["Candidate"]["properties"])
    answers = description["paths"]["/api/captions"]["post"]["responses"]
    assert set(answers) == {"200", "400", "403", "413", "415", "422", "429", "503"}
    fields = description["paths"]["/api/captions"]["post"]["requestBody"]["content"]
    image = fields["multipart/form-data"]["schema"]["properties"]["image"]
    assert image["maxItems"] == MAX_PICTURES


def test_a_small_picture_for_browsers_that_cannot_show_the_file(
    client: FlaskClient, send: Send, picture: Callable[..., bytes]
) -> None:
    answer = send(client, (picture("tiff"), "scan.tif"), thumbnail=1).get_json()
    kind, _, content = answer["thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (80, 60)
    assert "thumbnail" not in send(client, (picture("tiff"), "scan.tif")).get_json()
