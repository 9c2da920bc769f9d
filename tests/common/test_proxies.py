"""Requests through proxies: whose headers count, and under which prefix a server is."""

from __future__ import annotations

import ipaddress
from typing import Any

import flask
import pytest

from common.proxies import BehindProxies

TRUSTED = tuple(ipaddress.ip_network(n) for n in ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32"))


@pytest.fixture
def app() -> flask.Flask:
    """It answers with what it is given of a request."""
    app = flask.Flask(__name__)

    @app.get("/there")
    def there() -> dict[str, Any]:
        request = flask.request
        return {"client": request.remote_addr, "url": request.url, "link": flask.url_for("there")}

    return app


def ask(
    app: flask.Flask,
    sender: str = "127.0.0.1",
    path: str = "/there",
    public_url: str = "",
    host: str = "inside:5001",
    **headers: str,
) -> dict[str, Any]:
    middleware = BehindProxies(app.wsgi_app, TRUSTED, public_url)
    app.wsgi_app = middleware  # type: ignore[method-assign]
    given = {f"X-Forwarded-{name.capitalize()}": value for name, value in headers.items()}
    response = app.test_client().get(
        path, headers={"Host": host, **given}, environ_overrides={"REMOTE_ADDR": sender}
    )
    assert response.status_code == 200, response.text
    return dict(response.get_json())


def test_a_trusted_proxy_is_believed(app: flask.Flask) -> None:
    answer = ask(app, **{"for": "192.0.2.7"}, proto="https", prefix="/captions")
    assert answer["client"] == "192.0.2.7"
    assert answer["url"].startswith("https://inside:5001/captions/there")
    assert answer["link"] == "/captions/there"


def test_a_proxy_may_name_the_host(app: flask.Flask) -> None:
    middleware = BehindProxies(app.wsgi_app, TRUSTED)
    app.wsgi_app = middleware  # type: ignore[method-assign]
    headers = {"X-Forwarded-Host": "captions.example", "X-Forwarded-For": "192.0.2.7"}
    answer = app.test_client().get("/there", headers=headers).get_json()
    assert answer["url"] == "http://captions.example/there"


def test_nobody_else_is_believed(app: flask.Flask) -> None:
    answer = ask(app, "192.0.2.9", **{"for": "1.2.3.4"}, proto="https", prefix="/elsewhere")
    assert answer == {
        "client": "192.0.2.9",
        "url": "http://inside:5001/there",
        "link": "/there",
    }


@pytest.mark.parametrize(
    ("sender", "named", "client"),
    [
        ("127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "6.6.6.6, 192.0.2.7", "192.0.2.7"),  # the client has made up the first
        ("127.0.0.1", "6.6.6.6, 192.0.2.7, 10.1.1.1", "192.0.2.7"),  # two proxies
        ("127.0.0.1", "10.2.2.2, 10.1.1.1", "10.2.2.2"),  # a client within the network of proxies
        ("::ffff:127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("2001:db8::5", "[2001:dead::1]:4711", "2001:dead::1"),
        ("127.0.0.1", "192.0.2.7:4711", "192.0.2.7"),
        ("127.0.0.1", "", "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_one_that_is_no_proxy(
    app: flask.Flask, sender: str, named: str, client: str
) -> None:
    assert ask(app, sender, **{"for": named})["client"] == client


@pytest.mark.parametrize("path", ["/there", "/captions/there"])
def test_a_prefix_may_be_cut_off_by_the_proxy_or_left(app: flask.Flask, path: str) -> None:
    url = "https://captions.example/captions"
    answer = ask(app, path=path, public_url=url, host="captions.example")
    assert answer["link"] == "/captions/there"


def test_the_prefix_is_not_for_other_hosts(app: flask.Flask) -> None:
    """Someone on the same machine goes round the proxy."""
    answer = ask(app, public_url="https://captions.example/captions", host="127.0.0.1:5001")
    assert answer["link"] == "/there"


@pytest.mark.parametrize(
    "prefix",
    ["//evil.example", "https://evil.example", "/a//b", "captions", '/a"b', "/a b", "/a/?"],
)
def test_a_prefix_that_is_no_path_does_not_count(app: flask.Flask, prefix: str) -> None:
    answer = ask(app, **{"for": "192.0.2.7"}, prefix=prefix)
    assert answer == ask(app, **{"for": "192.0.2.7"})


@pytest.mark.parametrize(
    ("host", "believed"),
    [
        ("evil.example:5001", False),  # rebound to this machine, by a page that sends headers
        ("captions.example.org", True),
        ("127.0.0.1:5001", True),
        ("localhost:5001", True),
        ("[::1]:5001", True),
        ("relay", True),  # as nginx calls an upstream
    ],
)
def test_a_page_of_this_machine_is_no_proxy(app: flask.Flask, host: str, believed: bool) -> None:
    answer = ask(app, host=host, **{"for": "192.0.2.7", "Host": "captions.example.org"})
    assert answer["url"].startswith("http://captions.example.org/") == believed


def test_a_proxy_elsewhere_may_call_this_server_by_any_name(app: flask.Flask) -> None:
    answer = ask(
        app, "10.0.0.5", host="captions.lan:5001", **{"for": "192.0.2.7", "Host": "example.org"}
    )
    assert answer["url"].startswith("http://example.org/")
