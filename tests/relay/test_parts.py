"""Parts of the relay alone: the history, the limits."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable

import pytest

from common.settings import Settings
from SocketIO_server import messages, server, transport
from SocketIO_server.application import create_app
from SocketIO_server.log_filter import BriefFilter
from SocketIO_server.stores.protocol import search_words
from SocketIO_server.transport import limits
from tests.kit.clients import JPEG


def test_a_relay_that_stops_is_not_ready(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(RELAY_ASYNC_MODE="threading")
    transport.install(settings)
    app = create_app(settings)
    client = app.test_client()
    assert client.get("/readyz").status_code == 200
    app.extensions["relay"].stopping = True
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "stopping" in answer.get_json()["reason"]
    assert client.get("/healthz").status_code == 200
    app.extensions["relay"].store.close()


def test_search_words() -> None:
    assert search_words("A dog's  tail, 100%! ÄRGER") == ["a", "dog", "s", "tail", "100", "ärger"]


def test_unmask_is_what_rfc_6455_says() -> None:
    random_bytes = random.Random(1)
    mask = (0x37, 0xFA, 0x21, 0x3D)
    assert limits.unmask(bytes([0x7F, 0x9F, 0x4D, 0x51, 0x58]), mask) == b"Hello"
    for size in (0, 1, 3, 4, 5, 100):
        for offset in (0, 1, 2, 3, 4, 7):
            data = random_bytes.randbytes(size)
            plain = bytes(byte ^ mask[(offset + i) % 4] for i, byte in enumerate(data))
            assert limits.unmask(data, mask, size, offset) == plain


def test_connection_limit_leaves_room() -> None:
    resource = pytest.importorskip("resource")
    limit = server.raise_connection_limit()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == resource.RLIM_INFINITY or limit < soft


def test_errors_of_libraries_are_brief(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test of the filter")
    brief = BriefFilter()
    log.addFilter(brief)
    for _ in range(3):
        try:
            raise KeyError("x" * 1000)
        except KeyError:
            log.exception("post request handler error")
    log.error("another")
    log.removeFilter(brief)
    assert [len(record.getMessage()) < 300 for record in caplog.records] == [True, True]
    assert "Traceback" not in caplog.text
    assert sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp"])
def test_thumbnails_of_every_kind(kind: str) -> None:
    start = {
        "jpeg": b"\xff\xd8\xff",
        "png": b"\x89PNG\r\n\x1a\n",
        "gif": b"GIF89a",
        "webp": b"RIFF\n\n\n\nWEBP",
    }[kind]
    url = messages.Thumbnail(start, f"image/{kind}").data_url()
    assert messages.predict({"caption": "a", "thumbnail": url}).payload()["thumbnail"] == url
    assert messages.predict({"caption": "a", "thumbnail": start}).payload()["thumbnail"] == url


def test_thumbnails_up_to_the_limit() -> None:
    largest = JPEG + bytes(messages.MAX_THUMBNAIL - len(JPEG))
    url = messages.predict({"caption": "a", "thumbnail": largest}).payload()["thumbnail"]
    assert messages.predict({"caption": "a", "thumbnail": url}).thumbnail is not None
    for value in (largest + b"x", messages.Thumbnail(largest + b"x", "image/jpeg").data_url()):
        with pytest.raises(messages.MessageError, match="thumbnail"):
            messages.predict({"caption": "a", "thumbnail": value})


def test_the_largest_message_fits_through_the_transport() -> None:
    """All fields at their limits, in characters that take the most bytes."""
    import json

    letter = "\U0001f415"
    long = letter * messages.MAX_CAPTION
    data = {
        "caption": long,
        "id": "x" * 100,
        "image_path": letter * messages.MAX_PATH,
        "candidates": [{"caption": long, "probability": 0.123456789012345678}] * 20,
        "words": [{"word": letter * 100, "probability": 0.123456789012345678}] * 200,
        "model": letter * 200,
        "thumbnail": messages.Thumbnail(
            JPEG + bytes(messages.MAX_THUMBNAIL - len(JPEG)), "image/jpeg"
        ).data_url(),
    }
    messages.predict(data)
    assert len(json.dumps(["predict", data])) < messages.MAX_MESSAGE - 1000
