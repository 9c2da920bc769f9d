"""Ollama's and OpenAI's protocols, by their own clients, and as other programs send them."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ollama
import openai
import pydantic
import pytest
import requests
from werkzeug.serving import make_server

from app1.app import create_app
from app1.parts import App1
from app1.schema_filling import SchemaError, fill
from captioner import Captioner
from common.settings import Settings
from tests.kit.app1 import Relay


@pytest.fixture(scope="module")
def relay() -> Relay:
    return Relay()


@pytest.fixture(scope="module")
def base(tiny_model: Path, relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server."""
    state = tmp_path_factory.mktemp("state")
    environment = {"CAPTIONER_MODEL": str(tiny_model), "CAPTIONER_STATE": str(state)}
    settings = Settings.from_environment(environment)
    warm = threading.Event()
    own = App1(settings, loaded=lambda error: warm.set(), connect=relay.connect)
    server = make_server("127.0.0.1", 0, create_app(own), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    own.start()
    thread.start()
    assert warm.wait(30)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    own.stop()


@pytest.fixture
def photo(picture: Callable[..., bytes]) -> bytes:
    return picture("jpeg", (255, 0, 0))


@pytest.fixture
def expected(tiny_model: Path, photo: bytes) -> str:
    return Captioner.load(tiny_model).caption(photo).text


def data_url(photo: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"


class TestOllama:
    @pytest.fixture
    def client(self, base: str) -> Iterator[ollama.Client]:
        with ollama.Client(base) as client:
            yield client

    def test_what_is_there(self, client: ollama.Client, base: str) -> None:
        assert [model.model for model in client.list().models] == ["tiny:latest"]
        shown = client.show("tiny")
        assert shown.capabilities == ["completion", "vision"]
        assert requests.get(f"{base}/api/version", timeout=9).json() == {"version": "0.6.0"}
        assert len(client.ps().models) == 1

    def test_generate(
        self, client: ollama.Client, photo: bytes, expected: str, relay: Relay
    ) -> None:
        answer = client.generate("tiny", "Describe it.", images=[photo])
        assert (answer.response, answer.done, answer.done_reason) == (expected, True, "stop")
        assert answer.total_duration
        pieces = [*client.generate("tiny", "Describe it.", images=[photo], stream=True)]
        assert "".join(piece.response or "" for piece in pieces) == expected
        assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert len(pieces) > 2
        assert relay.events == [], "nothing is published that nobody asked for"

    def test_chat_with_several_pictures(
        self, client: ollama.Client, photo: bytes, expected: str
    ) -> None:
        """As Home Assistant sends it: a message a picture, and the prompt last."""
        messages = [{"role": "user", "content": "", "images": [photo]} for _ in range(2)]
        messages.append({"role": "user", "content": "What is it?"})
        answer = client.chat("tiny", messages)
        assert answer.message.content == f"{expected}\n{expected}"
        pieces = [*client.chat("tiny", messages, stream=True)]
        assert "".join(p.message.content or "" for p in pieces) == answer.message.content

    def test_a_json_schema(self, client: ollama.Client, photo: bytes, expected: str) -> None:
        class Review(pydantic.BaseModel):
            title: str
            confidence: float = pydantic.Field(ge=0, le=1)
            tags: list[str] = []

        schema = Review.model_json_schema()
        answer = client.generate("tiny", images=[photo], format=schema)
        review = Review.model_validate_json(answer.response or "")
        assert review.title == expected
        assert 0 < review.confidence < 1
        answer = client.generate("tiny", images=[photo], format="json")
        assert json.loads(answer.response or "") == {"caption": expected}

    def test_a_schema_that_a_captioner_cannot_fill(
        self, client: ollama.Client, photo: bytes
    ) -> None:
        class Threat(pydantic.BaseModel):
            scene: str
            potential_threat_level: int

        schema = Threat.model_json_schema()
        with pytest.raises(ollama.ResponseError, match="no integer for 'potential_threat_level'"):
            client.generate("tiny", images=[photo], format=schema)

    def test_errors(self, client: ollama.Client, photo: bytes) -> None:
        for pictures, model, status, sentence in (
            ([b"no picture"], "tiny", 415, "not a picture that we read"),
            ([photo[:200]], "tiny", 422, "damaged"),
            ([photo], "llava", 404, "no model 'llava' here; the model is 'tiny'"),
            ([photo] * 17, "tiny", 400, "At most 16 pictures"),
        ):
            with pytest.raises(ollama.ResponseError, match=sentence) as error:
                client.generate(model, "Describe it.", images=pictures)
            assert error.value.status_code == status
        with pytest.raises(ollama.ResponseError, match="none was sent"):
            client.generate("tiny", "Tell me a story.")

    def test_loading_the_model(self, client: ollama.Client) -> None:
        assert client.generate("tiny").done_reason == "load"

    def test_what_is_no_photo_is_an_error(
        self, client: ollama.Client, photo: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("captioner.captioner.Caption.photo", False)
        with pytest.raises(ollama.ResponseError, match="nothing that this model can describe"):
            client.generate("tiny", images=[photo])

    def test_published_when_asked(
        self, base: str, photo: bytes, relay: Relay, wait_for: Callable[..., None]
    ) -> None:
        """As PhotoPrism sends it, with the header."""
        body = {
            "model": "tiny", "prompt": "Write a caption.", "system": "", "suffix": "",
            "images": [base64.b64encode(photo).decode()], "stream": False, "options": {"seed": 1},
        }  # fmt: skip
        answer = requests.post(
            f"{base}/api/generate", json=body, headers={"X-Publish": "1"}, timeout=30
        ).json()
        assert answer["response"]
        wait_for(lambda: any(event == "predict" for event, _ in relay.events))


class TestOpenAI:
    @pytest.fixture
    def client(self, base: str) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
            yield client

    @staticmethod
    def messages(*photos: bytes) -> Any:
        parts = [
            {"type": "image_url", "image_url": {"url": data_url(p), "detail": "low"}}
            for p in photos
        ]
        return [{"role": "user", "content": [{"type": "text", "text": "Describe it."}, *parts]}]

    def test_models(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["tiny"]

    def test_completions(self, client: openai.OpenAI, photo: bytes, expected: str) -> None:
        answer = client.chat.completions.create(model="tiny", messages=self.messages(photo, photo))
        assert answer.choices[0].message.content == f"{expected}\n{expected}"
        assert answer.choices[0].finish_reason == "stop"
        stream = client.chat.completions.create(
            model="tiny", messages=self.messages(photo), stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == expected

    def test_a_json_schema(self, client: openai.OpenAI, photo: bytes, expected: str) -> None:
        class Alt(pydantic.BaseModel):
            alt_text: str

        answer = client.chat.completions.parse(
            model="tiny", messages=self.messages(photo), response_format=Alt
        )
        assert answer.choices[0].message.parsed == Alt(alt_text=expected)

    def test_errors(self, client: openai.OpenAI, photo: bytes) -> None:
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o' here"):
            client.chat.completions.create(model="gpt-4o", messages=self.messages(photo))
        with pytest.raises(openai.UnprocessableEntityError, match="damaged"):
            client.chat.completions.create(model="tiny", messages=self.messages(photo[:200]))
        with pytest.raises(openai.BadRequestError, match="none was sent"):
            client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "Hello."}]
            )
        place = {"type": "image_url", "image_url": {"url": "https://photos.example/a.jpg"}}
        messages: Any = [{"role": "user", "content": [place]}]
        with pytest.raises(openai.BadRequestError, match="addresses are not fetched"):
            client.chat.completions.create(model="tiny", messages=messages)


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "body", [b"", b"text", b"[]", b'{"messages": 7}', b'{"images": [7]}', b"[" * 99_999]
)
def test_malformed_bodies(base: str, path: str, body: bytes) -> None:
    answer = requests.post(base + path, data=body, timeout=30)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


def test_a_busy_server_says_when_to_come_back(
    base: str, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = SimpleNamespace(workers=SimpleNamespace(model=None))
    monkeypatch.setattr("app1.views.protocols.parts", lambda: loading)
    answer = requests.post(f"{base}/api/generate", json={"model": "tiny"}, timeout=30)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "2"


class TestUploads:
    """Other forms of an upload to the same address."""

    def test_a_bare_picture(self, base: str, photo: bytes, expected: str) -> None:
        for kind in ("image/jpeg", "application/octet-stream"):
            answer = requests.post(
                f"{base}/api/captions?name=door.jpg&publish=0&attention=1", data=photo,
                headers={"Content-Type": kind}, timeout=30,
            ).json()  # fmt: skip
            assert answer["caption"] == expected
            assert answer["published"] == "no"
            assert "attention" in answer["words"][0]

    def test_json(self, base: str, photo: bytes, expected: str) -> None:
        for text in (base64.b64encode(photo).decode(), data_url(photo)):
            body = {"image": text, "name": "door.jpg", "publish": False, "beam_size": 2}
            answer = requests.post(f"{base}/api/captions", json=body, timeout=30).json()
            assert answer["caption"]
            assert len(answer["candidates"]) == 2

    @pytest.mark.parametrize(
        ("arguments", "status"),
        [
            ({"json": {"image": "%%%"}}, 400),
            ({"json": {"name": "a"}}, 400),
            ({"json": [1]}, 400),
            ({"json": {"image": base64.b64encode(b"text").decode()}}, 415),
            ({"data": b"", "headers": {"Content-Type": "image/jpeg"}}, 400),
            ({"data": b"text", "headers": {"Content-Type": "image/jpeg"}}, 415),
        ],
    )
    def test_errors(self, base: str, arguments: dict[str, Any], status: int) -> None:
        answer = requests.post(f"{base}/api/captions", timeout=30, **arguments)
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, {"caption": "A dog."}),
        ({"type": "string"}, "A dog."),
        ({"type": "string", "maxLength": 4}, "A"),
        ({"type": ["null", "string"]}, "A dog."),
        ({"type": "array", "items": {"type": "string"}}, ["A dog."]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        (
            {
                "type": "object",
                "required": ["a", "b"],
                "properties": {
                    "a": {"$ref": "#/$defs/A"},
                    "b": {"const": 1},
                    "c": {"type": "integer"},
                    "d": {"type": "array", "items": {"type": "integer"}},
                },
                "$defs": {"A": {"type": "object", "properties": {"score": {"type": "number"}}}},
            },
            {"a": {"score": 0.5}, "b": 1, "d": []},
        ),
    ],
)
def test_schemas(schema: Any, value: Any) -> None:
    assert fill(schema, "A dog.", 0.5) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"type": "boolean"},
        {"type": "string", "pattern": "^x"},
        {"type": "string", "minLength": 100},
        {"type": "array", "items": {"type": "string"}, "minItems": 3},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]},
        {"$ref": "#/$defs/none"},
        {"$ref": "#"},
        {"type": "object", "required": ["score"],
         "properties": {"score": {"type": "number", "minimum": 2}}},
        [],
        7,
    ],
)  # fmt: skip
def test_schemas_that_cannot_be_filled(schema: Any) -> None:
    with pytest.raises(SchemaError):
        fill(schema, "A dog.", 0.5)
