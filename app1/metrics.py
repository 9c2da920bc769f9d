"""The numbers of this process, as Prometheus text."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from app1.publisher import Publisher
from app1.workers import CaptionWorkers


class Metrics:
    """What is counted; one of these for each app, so that two in one process do not mix."""

    def __init__(self, workers: CaptionWorkers, publisher: Publisher) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "app1_http_requests",
            "Requests by route and status",
            ["route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "app1_upload_seconds",
            "From a whole upload request to its answer",
            registry=registry,
            buckets=(0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.pictures = Counter(
            "app1_pictures",
            "Pictures by what came of them: captioned, or the problem's status",
            ["outcome"],
            registry=registry,
        )
        self.caption_seconds = Histogram(
            "app1_caption_seconds",
            "From bytes to caption, without waiting",
            registry=registry,
            buckets=(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
        )
        for name, meaning, value in (
            ("app1_ready", "Whether an upload is worked on at once", lambda: workers.ready),
            ("app1_uploads_admitted", "Uploads that are worked on or wait", lambda: workers.taken),
            ("app1_relay_connected", "Whether the relay is connected", lambda: publisher.connected),
            ("app1_outbox_waiting", "Events not yet with the relay", lambda: publisher.waiting),
            ("app1_published", "Events acknowledged by the relay", lambda: publisher.acknowledged),
            ("app1_refused", "Events refused by the relay", lambda: publisher.refused),
        ):
            Gauge(name, meaning, registry=registry).set_function(value)

    content_type = CONTENT_TYPE_LATEST

    def text(self) -> bytes:
        return generate_latest(self.registry)
