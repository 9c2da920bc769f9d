"""Health, readiness and metrics of app1."""

from __future__ import annotations

from collections.abc import Callable

from flask.testing import FlaskClient

from tests.kit.app1 import Send


def test_metrics(client: FlaskClient, send: Send, picture: Callable[..., bytes]) -> None:
    send(client, (picture(), "a.jpg"), (b"text", "b.jpg"))
    client.get("/nothing/at/all")
    response = client.get("/metrics")
    assert response.mimetype == "text/plain"
    lines = response.text.splitlines()
    for line in (
        'app1_pictures_total{outcome="captioned"} 1.0',
        'app1_pictures_total{outcome="415"} 1.0',
        'app1_http_requests_total{route="/api/captions",status="200"} 1.0',
        'app1_http_requests_total{route="none",status="404"} 1.0',
        "app1_upload_seconds_count 1.0",
        "app1_caption_seconds_count 1.0",
        "app1_ready 1.0",
        "app1_uploads_admitted 0.0",
        "app1_relay_connected 1.0",
        "app1_outbox_waiting 0.0",
    ):
        assert line in lines
