"""What Waitress does with a connection of ours where a real client cannot be made to time it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from flask import Flask
from waitress.server import create_server

from common.waitress_server import ProblemTask, StrictChannel

REFUSED = b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"


class ClientGoes(ProblemTask):
    """Finds that the client has gone when it is about to answer it."""

    def execute(self) -> None:
        self.channel.connected = False
        super().execute()


@pytest.fixture
def connection() -> Iterator[tuple[StrictChannel, socket.socket]]:
    """A refused request is about to be answered on the channel; the socket is its client's."""
    ours, theirs = socket.socketpair()
    server = create_server(Flask(__name__), host="127.0.0.1", port=0)
    channel = StrictChannel(server, ours, ("127.0.0.1", 1), server.adj, map={})
    try:
        server.add_task = lambda task: None  # the test runs it
        assert channel.received(REFUSED)
        yield channel, theirs
    finally:
        ours.close()
        theirs.close()
        server.task_dispatcher.shutdown()
        server.close()


def test_refused_request_whose_client_has_gone(
    connection: tuple[StrictChannel, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    channel, _ = connection
    channel.error_task_class = ClientGoes
    with caplog.at_level("INFO", logger="waitress"):
        channel.service()
    (record,) = caplog.records
    assert record.getMessage().startswith("Client disconnected")
    assert record.exc_info is None
    assert channel.requests == []


def test_refused_request_is_answered(connection: tuple[StrictChannel, socket.socket]) -> None:
    channel, client = connection
    channel.service()
    answer = client.recv(2**16)
    assert answer.partition(b"\r\n")[0].endswith(b" 400 Bad Request")
    assert b"A request has one Transfer-Encoding at most." in answer
