"""All three servers behind one host name, one port and a path: docs/nginx.conf in a real nginx.

The file is used as it stands, but for the name, the ports and the certificate, which a reader puts
in place too.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.kit import ROOT
from tests.kit.chromium import Chromium
from tests.kit.servers import Server, free_ports, wait_until

pytestmark = pytest.mark.browser

CONF = ROOT / "docs" / "nginx.conf"
NAME = "captions.example.org"
COFFEE = Path(skimage.data.__file__).with_name("coffee.png")  # R. Michetti, CC0


def nginx_program() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not found:
        reason = "needs nginx (Debian: nginx-light)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@dataclass
class OneAddress:
    """The servers behind nginx.

    Attributes:
        origin: https, host and port of the proxy, for each name by which it is reached.
    """

    port: int
    servers: dict[str, Server]
    folder: Path

    def url(self, path: str = "/captions/", host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"

    def get(
        self, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        trusting = ssl.create_default_context(cafile=str(self.folder / "captions.pem"))
        request = urllib.request.Request(self.url(path), body, headers)
        try:
            with urllib.request.urlopen(request, context=trusting, timeout=30) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)


@pytest.fixture
def start(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., OneAddress]]:
    """Starts the servers and nginx; `body` is nginx's limit for bodies."""
    running: list[subprocess.Popen[bytes]] = []
    started: list[Server] = []

    def begin(prefix: str = "/captions", body: str = "80m", **environment: object) -> OneAddress:
        program = nginx_program()
        port, relay, app1, app2 = free_ports(4)
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:::1"),
                *("-keyout", tmp_path / "captions.key", "-out", tmp_path / "captions.pem"),
            ],
            check=True,
            capture_output=True,
        )
        server = CONF.read_text(encoding="utf-8")
        for old, new in {
            NAME: "localhost",
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "listen [::]:443 ssl": f"listen [::1]:{port} ssl",
            "/etc/ssl/certs/captions.pem": str(tmp_path / "captions.pem"),
            "/etc/ssl/private/captions.key": str(tmp_path / "captions.key"),
            "127.0.0.1:5000": f"127.0.0.1:{relay}",
            "127.0.0.1:5001": f"127.0.0.1:{app1}",
            "127.0.0.1:5002": f"127.0.0.1:{app2}",
            "client_max_body_size 80m": f"client_max_body_size {body}",
        }.items():
            assert old in server, old
            server = server.replace(old, new)
        server = server.replace("/captions/", f"{prefix}/").replace("= /captions", f"= {prefix}")
        for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
            (tmp_path / name).mkdir()
        (tmp_path / "nginx.conf").write_text(
            f"user {os.environ.get('USER', 'root')};\n"
            * (os.getuid() == 0)
            + f"daemon off;\npid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/error.log;\n"
            "events { worker_connections 200; }\nhttp {\n"
            "include /etc/nginx/mime.types;\naccess_log off;\n"
            f"client_body_temp_path {tmp_path}/body;\nproxy_temp_path {tmp_path}/proxy;\n"
            f"fastcgi_temp_path {tmp_path}/fastcgi;\nuwsgi_temp_path {tmp_path}/uwsgi;\n"
            f"scgi_temp_path {tmp_path}/scgi;\n{server}\n}}\n",
            encoding="utf-8",
        )
        public = f"https://localhost:{port}{prefix}"
        settings = {
            "CAPTIONER_STATE": tmp_path / "state",
            "CAPTIONER_MODEL": tiny_model,
            "CAPTIONER_TRUSTED_PROXIES": "127.0.0.1",
            "RELAY_PORT": relay,
            "APP1_PORT": app1,
            "APP2_PORT": app2,
            "APP1_PUBLIC_URL": public,
            "APP2_PUBLIC_URL": f"{public}/wall",
            "RELAY_PUBLIC_URL": f"{public}/relay",
            **environment,
        }
        servers = {name: Server(name, settings) for name in ("relay", "app1", "app2")}
        started.extend(servers.values())
        for each in started:
            each.wait_ready(90)
        running.append(
            subprocess.Popen([program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
        )

        def listens() -> bool:
            assert running[-1].poll() is None, (tmp_path / "error.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens)
        return OneAddress(port, servers, tmp_path)

    yield begin
    for process in running:
        process.terminate()
        process.wait(30)
    for server in started:
        server.kill()


@pytest.fixture
def browser(open_browser: Callable[..., Chromium]) -> Callable[..., Chromium]:
    return lambda: open_browser(
        "--ignore-certificate-errors", "--host-resolver-rules=MAP other.test 127.0.0.1"
    )


def upload(page: Chromium, photo: Path = COFFEE) -> None:
    page.one("#choose")
    page.run("document.getElementById('image').parentElement.hidden = false")
    page.all("#image")[0].send_keys(str(photo))


@pytest.mark.parametrize("prefix", ["/captions", ""])
def test_a_photo_goes_from_one_page_to_the_other(
    start: Callable[..., OneAddress], browser: Callable[..., Chromium], prefix: str
) -> None:
    place = start(prefix)
    page, wall = browser(), browser()
    page.open(place.url(f"{prefix}/"))
    link = page.one("#viewer").get_attribute("href")
    assert link == place.url(f"{prefix}/wall/")
    wall.open(link)
    wall.wait_texts("#connection", ["Live"])
    upload(page)
    page.wait(lambda: any(page.texts(".caption")), "no caption", seconds=30)
    (caption,) = page.texts(".caption")
    wall.wait_texts(".card[data-state=done] .caption", [caption])
    assert wall.one("#upload").get_attribute("href") == place.url(f"{prefix}/")
    for seen in (page, wall):
        assert seen.complaints("favicon") == []
    transport = "return performance.getEntriesByType('resource').map((e) => e.name)"
    assert all(place.url("/") in name for name in wall.run(transport) if "http" in name)


def test_over_ipv6(start: Callable[..., OneAddress], browser: Callable[..., Chromium]) -> None:
    """By another address: it answers, and the links lead to the public one."""
    place = start()
    page = browser()
    page.open(place.url(host="[::1]"))
    upload(page)
    page.wait(lambda: any(page.texts(".caption")), "no caption", seconds=30)
    assert page.one("#viewer").get_attribute("href") == place.url("/captions/wall/")


def test_the_rate_limit_counts_the_client(start: Callable[..., OneAddress]) -> None:
    place = start(CAPTIONER_RATE="2/hour")
    photo = COFFEE.read_bytes()
    headers = {"Content-Type": "image/png"}
    trusting = ssl.create_default_context(cafile=str(place.folder / "captions.pem"))

    def status_of(claimed: str) -> int:
        """Of an upload from 127.0.0.2, which is not the proxy's address."""
        connection = http.client.HTTPSConnection(
            "localhost", place.port, source_address=("127.0.0.2", 0), context=trusting
        )
        path = "/captions/api/captions?publish=0"
        connection.request("POST", path, photo, {**headers, "X-Forwarded-For": claimed})
        with contextlib.closing(connection):
            return connection.getresponse().status

    # what the client claims of itself does not help: nginx appends the real address
    assert [status_of(f"192.0.2.{n}") for n in range(3)] == [200, 200, 429]
    # another client of the same proxy is not held up
    status, _, _ = place.servers["app1"].send(
        "POST", "/api/captions?publish=0", photo, {**headers, "X-Forwarded-For": "192.0.2.77"}
    )
    assert status == 200


def test_figures_are_not_for_strangers(start: Callable[..., OneAddress]) -> None:
    place = start()
    assert place.get("/captions/metrics")[0] == 403
    assert place.get("/captions/relay/metrics")[0] == 403
    status, body, _ = place.get("/captions/relay/api/captions")
    assert (status, json.loads(body)["captions"]) == (200, [])


def test_the_proxys_own_refusals_are_said_in_words(
    start: Callable[..., OneAddress], browser: Callable[..., Chromium]
) -> None:
    place = start(body="10k")  # even what the page makes smaller is too large
    page = browser()
    page.open(place.url())
    upload(page)
    page.wait(lambda: page.texts(".card .problem")[0], page.texts(".card")[0], seconds=30)
    assert "client_max_body_size" in page.texts(".card .problem")[0]

    place.servers["app1"].stop()
    small = place.folder / "small.png"
    Image.new("RGB", (60, 40), (200, 30, 30)).save(small)
    upload(page, small)
    page.wait(lambda: any("does not run" in text for text in page.texts(".card .problem")))


def test_a_page_of_another_name_is_refused_with_the_setting_to_change(
    start: Callable[..., OneAddress], browser: Callable[..., Chromium]
) -> None:
    place = start()
    page = browser()
    wall, relay = place.servers["app2"], place.servers["relay"]
    page.open(f"http://other.test:{wall.port}/")
    assert "APP2_PUBLIC_URL" in page.run("return document.body.textContent")
    # the viewer page of another installation, whose relay is this one
    other = Server("app2", {**wall.environment, "APP2_PORT": free_ports(1)[0]})
    try:
        other.environment["RELAY_PUBLIC_URL"] = relay.url
        other.kill()
        other.start()
        other.wait_ready()
        page.open(other.url)
        page.wait(
            lambda: "RELAY_ORIGINS" in page.texts("#connection")[0], "no reason given", seconds=20
        )
    finally:
        other.kill()
