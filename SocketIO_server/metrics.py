"""What the relay counts, for `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One set of counters, apart from any other in the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Counter(
            "relay_messages",
            "Messages from clients, by event and by what became of them",
            ["event", "result"],
            registry=self.registry,
        )
        self.viewers = Gauge("relay_viewers", "Viewers connected now", registry=self.registry)
        self.captions = Gauge("relay_captions", "Captions in the history", registry=self.registry)
        self.refused = Counter(
            "relay_connections_refused", "Connections refused", registry=self.registry
        )
        self.turned_away = Counter(
            "relay_clients_turned_away",
            "New clients asked to come back later: there was no room, or the relay was stopping",
            registry=self.registry,
        )
        self.dropped = Counter(
            "relay_clients_dropped",
            "Clients cut off since they did not take what waited for them",
            registry=self.registry,
        )
        self.missed = Counter(
            "relay_captions_missed",
            "Captions that left the history before a viewer that was away came back for them",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "relay_waiting_bytes",
            "Bytes that the network has not taken yet, over all clients",
            registry=self.registry,
        )
        self.storing = Histogram(
            "relay_storing_seconds",
            "Time to put one caption on disk",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2),
            registry=self.registry,
        )
