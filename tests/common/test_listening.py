"""How a server gets its port and its file descriptors."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from common.listening import CannotListenError, listen
from tests.kit import ROOT


def test_it_listens_on_the_first_ipv4_address_of_a_name() -> None:
    with closing(listen("localhost", 0, "APP2")) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with socket.create_connection((host, port), timeout=5):
            connection, _ = listener.accept()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()


def test_the_wildcard_of_ipv6_is_for_ipv4_too() -> None:
    try:
        listener = listen("::", 0, "RELAY")
    except CannotListenError as error:
        reason = error.__cause__
        if isinstance(reason, OSError) and reason.errno == errno.EAFNOSUPPORT:
            pytest.skip("no IPv6 here")
        raise
    with closing(listener):
        address = ("127.0.0.1", listener.getsockname()[1])
        with contextlib.closing(socket.create_connection(address, timeout=5)):
            pass


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListenError) as refused:
            listen("127.0.0.1", port, "APP1")
    assert str(refused.value) == (
        f"Port {port} is taken on 127.0.0.1; stop the program that listens there, or set "
        "APP1_PORT to another port."
    )
    assert refused.value.exit_status == 1


def test_an_address_of_another_machine_is_named_with_its_setting() -> None:
    with pytest.raises(CannotListenError, match="set RELAY_HOST and RELAY_PORT to an address"):
        listen("192.0.2.1", 5000, "RELAY")


@pytest.mark.parametrize(
    ("soft", "hard", "allowed"), [(256, 2048, 1024), (256, 512, 512), (2048, 2048, 1024)]
)
def test_the_file_limit_is_raised_as_far_as_the_system_allows(
    soft: int, hard: int, allowed: int
) -> None:
    pytest.importorskip("resource")
    program = (
        "import resource; from resource import RLIMIT_NOFILE\n"
        "from common.listening import raise_file_limit\n"
        f"resource.setrlimit(RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print(raise_file_limit(1024), resource.getrlimit(RLIMIT_NOFILE)[0])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(allowed), str(max(soft, allowed))]
