"""What operators and load balancers look at: health, readiness, metrics."""

from __future__ import annotations

from flask import Blueprint, Response

from app1.parts import parts

operations = Blueprint("operations", __name__)


@operations.get("/healthz")
def healthz() -> dict[str, str]:
    """Alive."""
    return {"status": "alive"}


@operations.get("/readyz")
def readyz() -> tuple[dict[str, str], int]:
    """Ready to caption: the model is warm, and the process is not being stopped."""
    workers = parts().workers
    if workers.ready:
        return {"status": "ready"}, 200
    return {"status": "draining" if workers.draining else "loading"}, 503


@operations.get("/metrics")
def metrics() -> Response:
    """The numbers of this process, as Prometheus text."""
    own = parts().metrics
    return Response(own.text(), content_type=own.content_type)
