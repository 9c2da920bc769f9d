"""The settings table: every default, every malformed value, and the secret that servers share."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from common.errors import SettingsError
from common.hosts import http_url, is_loopback, is_wildcard
from common.parsers import Rate
from common.settings import SECRET_FILE, Settings, table
from common.state import make_state_folder, publisher_token
from tests.kit import ROOT

STATE = {"CAPTIONER_STATE": "/somewhere/state"}


def test_defaults_are_those_of_the_readme() -> None:
    settings = Settings.from_environment({})
    state = platformdirs.user_state_path("captioner", appauthor=False)
    assert {name: getattr(settings, name.lower()) for name, _, _ in table()} == {
        "RELAY_HOST": "127.0.0.1",
        "RELAY_PORT": 5000,
        "APP1_HOST": "127.0.0.1",
        "APP1_PORT": 5001,
        "APP2_HOST": "127.0.0.1",
        "APP2_PORT": 5002,
        "RELAY_URL": "http://127.0.0.1:5000",
        "RELAY_PUBLIC_URL": "",
        "APP1_PUBLIC_URL": "",
        "APP2_PUBLIC_URL": "",
        "RELAY_ORIGINS": None,
        "RELAY_TOKEN": None,
        "RELAY_DB": state / "history.db",
        "RELAY_KEEP": 10000,
        "RELAY_ASYNC_MODE": "eventlet",
        "RELAY_MESSAGE_QUEUE": "",
        "RELAY_WEBHOOK_URL": "",
        "RELAY_WEBHOOK_SECRET": "",
        "RELAY_MQTT_URL": "",
        "CAPTIONER_MODEL": None,
        "CAPTIONER_STATE": state,
        "CAPTIONER_MAX_UPLOAD_MB": 20,
        "CAPTIONER_MAX_PIXELS": 50_000_000,
        "CAPTIONER_WORDS": "",
        "CAPTIONER_WORKERS": 0,
        "CAPTIONER_QUEUE": 32,
        "APP1_APPROVE": False,
        "CAPTIONER_TRUSTED_PROXIES": (),
        "CAPTIONER_RATE": None,
    }
    assert settings.max_upload_bytes == 20 * 1024 * 1024
    assert not any(settings.was_set(name) for name, _, _ in table())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("RELAY_HOST", "0.0.0.0", "0.0.0.0"),  # noqa: S104 (what the test is about)
        ("RELAY_HOST", "::1", "::1"),
        ("APP1_HOST", "[::1]", "::1"),
        ("APP2_HOST", "my-box.local", "my-box.local"),
        ("APP2_PORT", "65535", 65535),
        ("RELAY_URL", "https://relay.example/", "https://relay.example"),
        ("RELAY_URL", "HTTP://Relay.Example:80", "http://relay.example"),
        ("RELAY_PUBLIC_URL", "", ""),
        ("RELAY_PUBLIC_URL", "https://relay.example:8443", "https://relay.example:8443"),
        ("RELAY_PUBLIC_URL", "https://Example.org:443/a/relay/", "https://example.org/a/relay"),
        ("APP1_PUBLIC_URL", "https://example.org/", "https://example.org"),
        ("APP2_PUBLIC_URL", "http://[::1]:8080/wall", "http://[::1]:8080/wall"),
        ("APP1_APPROVE", "on", True),
        ("APP1_APPROVE", "1", True),
        ("APP1_APPROVE", "off", False),
        ("CAPTIONER_TRUSTED_PROXIES", "", ()),
        (
            "CAPTIONER_TRUSTED_PROXIES",
            "127.0.0.1, 10.0.0.0/8,::1",
            tuple(map(ipaddress.ip_network, ("127.0.0.1", "10.0.0.0/8", "::1"))),
        ),
        ("RELAY_ORIGINS", "", ()),
        ("RELAY_ORIGINS", "*", ("*",)),
        ("RELAY_ORIGINS", "http://a:1, https://[::1]:443", ("http://a:1", "https://[::1]")),
        ("RELAY_TOKEN", "", ""),
        ("RELAY_TOKEN", "s3cret", "s3cret"),
        ("RELAY_DB", "/data/h.db", Path("/data/h.db")),
        ("RELAY_DB", "h.db", Path.cwd() / "h.db"),
        ("RELAY_DB", "~/h.db", Path.home() / "h.db"),
        ("RELAY_KEEP", "1", 1),
        ("RELAY_ASYNC_MODE", "threading", "threading"),
        ("RELAY_MESSAGE_QUEUE", "", ""),
        ("RELAY_MESSAGE_QUEUE", "redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("CAPTIONER_MODEL", "first", "first"),
        ("CAPTIONER_MAX_UPLOAD_MB", "1", 1),
        ("CAPTIONER_MAX_PIXELS", "1000", 1000),
        ("CAPTIONER_WORKERS", "auto", 0),
        ("CAPTIONER_WORKERS", "3", 3),
        ("CAPTIONER_QUEUE", "1", 1),
        ("CAPTIONER_RATE", "off", None),
        ("CAPTIONER_RATE", "1/second", Rate(1, 1)),
        ("CAPTIONER_RATE", "60/minute", Rate(60, 60)),
        ("CAPTIONER_RATE", "1000/hour", Rate(1000, 3600)),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    settings = Settings.from_environment({**STATE, name: text})
    assert getattr(settings, name.lower()) == value
    assert settings.was_set(name)
    # and a child process that is given these settings reads the same ones
    assert Settings.from_environment(settings.environment()) == settings


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RELAY_HOST", ""),
        ("RELAY_HOST", "127.0.0.1:5000"),
        ("RELAY_HOST", "http://localhost"),
        ("APP1_HOST", "two words"),
        ("RELAY_PORT", ""),
        ("RELAY_PORT", "0"),
        ("RELAY_PORT", "65536"),
        ("RELAY_PORT", "-1"),
        ("RELAY_PORT", " 5000"),
        ("RELAY_PORT", "5_000"),
        ("RELAY_PORT", "٥٠٠٠"),
        ("APP1_PORT", "http"),
        ("APP2_PORT", "9" * 400),
        ("RELAY_URL", ""),
        ("RELAY_URL", "localhost:5000"),
        ("RELAY_URL", "ftp://localhost"),
        ("RELAY_URL", "http://localhost:99999"),
        ("RELAY_URL", "http://localhost:5000/relay"),
        ("RELAY_PUBLIC_URL", "http://a b"),
        ("RELAY_PUBLIC_URL", "http://x; script-src *"),
        ("RELAY_PUBLIC_URL", "http://user@x"),
        ("RELAY_PUBLIC_URL", "http://[::1"),
        ("RELAY_PUBLIC_URL", "https://example.org/a?b"),
        ("RELAY_PUBLIC_URL", "https://example.org/a#b"),
        ("APP1_PUBLIC_URL", "/captions"),
        ("APP1_PUBLIC_URL", "https://example.org/a//b"),
        ("APP1_PUBLIC_URL", 'https://example.org/"; x'),
        ("APP1_APPROVE", "yes please"),
        ("CAPTIONER_TRUSTED_PROXIES", "proxy.local"),
        ("CAPTIONER_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("RELAY_ORIGINS", "http://a:1,,http://b:1"),
        ("RELAY_ORIGINS", "a:1"),
        ("RELAY_TOKEN", "two\nlines"),
        ("RELAY_DB", ""),
        ("RELAY_KEEP", "0"),
        ("RELAY_KEEP", "many"),
        ("RELAY_ASYNC_MODE", ""),
        ("RELAY_ASYNC_MODE", "asyncio"),
        ("RELAY_MESSAGE_QUEUE", "localhost:6379"),
        ("CAPTIONER_MODEL", ""),
        ("CAPTIONER_STATE", ""),
        ("CAPTIONER_STATE", str(ROOT / "state")),
        ("CAPTIONER_STATE", str(ROOT)),
        ("CAPTIONER_MAX_UPLOAD_MB", "0"),
        ("CAPTIONER_MAX_PIXELS", "1e6"),
        ("CAPTIONER_WORKERS", "0"),
        ("CAPTIONER_WORKERS", "many"),
        ("CAPTIONER_QUEUE", "-3"),
        ("RELAY_WEBHOOK_URL", "hook"),
        ("RELAY_WEBHOOK_URL", "ftp://example/"),
        ("RELAY_MQTT_URL", "http://broker"),
        ("RELAY_MQTT_URL", "mqtt://broker/a/#"),
        ("CAPTIONER_RATE", ""),
        ("CAPTIONER_RATE", "60"),
        ("CAPTIONER_RATE", "0/minute"),
        ("CAPTIONER_RATE", "60/day"),
        ("CAPTIONER_RATE", "60 / minute"),
    ],
)
def test_malformed_values_are_refused(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({**STATE, name: text})
    sentence = str(refused.value)
    assert sentence.startswith(name)
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RELAY_PROT", "RELAY_PORT"),
        ("APP1_HOTS", "APP1_HOST"),
        ("APP2_X", "APP2_X"),
        ("CAPTIONER_", "CAPTIONER_"),
        ("RELAY_port", "RELAY_PORT"),
    ],
)
def test_unknown_names_are_refused(name: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=hint) as refused:
        Settings.from_environment({name: "1"})
    assert name in str(refused.value)


def test_other_variables_are_none_of_our_business() -> None:
    Settings.from_environment(
        {"PATH": "/bin", "APP3_PORT": "x", "MY_RELAY_PORT": "x", "RELAY": "x"}
    )


def test_unset_and_empty_token_differ() -> None:
    assert Settings.from_environment({}).relay_token is None
    assert not Settings.from_environment({}).was_set("RELAY_TOKEN")
    assert Settings.from_environment({"RELAY_TOKEN": ""}).relay_token == ""
    assert Settings.from_environment({"RELAY_TOKEN": ""}).was_set("RELAY_TOKEN")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_open_publishing_on_loopback(host: str) -> None:
    settings = Settings.from_environment({**STATE, "RELAY_TOKEN": "", "RELAY_HOST": host})
    assert publisher_token(settings) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "my-box.local"])  # noqa: S104
def test_open_publishing_is_refused_elsewhere(host: str) -> None:
    with pytest.raises(SettingsError, match="RELAY_TOKEN"):
        Settings.from_environment({"RELAY_TOKEN": "", "RELAY_HOST": host})


def test_defaults_that_follow_others() -> None:
    settings = Settings.from_environment({"CAPTIONER_STATE": "/x/y", "RELAY_PORT": "6000"})
    assert settings.relay_db == Path("/x/y/history.db")
    assert settings.relay_url == "http://127.0.0.1:6000"

    wide = Settings.from_environment({"APP1_HOST": "0.0.0.0", "RELAY_HOST": "0.0.0.0"})  # noqa: S104
    assert wide.relay_url == "http://127.0.0.1:5000"
    assert wide.captioner_rate == Rate(60, 60)
    off = Settings.from_environment({"APP1_HOST": "0.0.0.0", "CAPTIONER_RATE": "off"})  # noqa: S104
    assert off.captioner_rate is None
    assert str(wide.captioner_rate) == "60/minute"

    assert (
        Settings.from_environment({"RELAY_HOST": "192.0.2.7"}).relay_url == "http://192.0.2.7:5000"
    )
    assert Settings.from_environment({"RELAY_HOST": "::1"}).relay_url == "http://[::1]:5000"


def test_addresses() -> None:
    assert is_loopback("127.9.9.9")
    assert not is_loopback("127.0.0.1.example")
    assert is_wildcard("::")
    assert not is_wildcard("127.0.0.1")
    assert http_url("::", 1) == "http://127.0.0.1:1"


def test_changing_one_setting() -> None:
    settings = Settings.from_environment({**STATE, "RELAY_TOKEN": ""})
    moved = Settings.from_environment({**settings.environment(), "RELAY_PORT": "5003"})
    assert moved.relay_url == "http://127.0.0.1:5003"
    assert moved.relay_token == ""
    with pytest.raises(KeyError):
        settings.was_set("PORT")


def test_secrets_are_masked() -> None:
    settings = Settings.from_environment(
        {
            **STATE,
            "RELAY_TOKEN": "s3cret-1",
            "RELAY_MESSAGE_QUEUE": "redis://me:s3cret-2@host/0",
        }
    )
    for text in (repr(settings), settings.describe()):
        assert "s3cret" not in text
    assert "RELAY_TOKEN='***'" in settings.describe()
    assert "RELAY_MESSAGE_QUEUE='redis://***@host/0'" in settings.describe()
    assert "RELAY_TOKEN" not in Settings.from_environment({}).describe()
    assert "RELAY_TOKEN=''" in Settings.from_environment({"RELAY_TOKEN": ""}).describe()
    for name in ("RELAY_TOKEN", "RELAY_MESSAGE_QUEUE"):
        with pytest.raises(SettingsError) as refused:
            Settings.from_environment({name: "s3cret\n"})
        assert "s3cret" not in str(refused.value)


def test_describe_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    environment = {"CAPTIONER_STATE": str(tmp_path / "a b'c"), "RELAY_ORIGINS": "http://a:1"}
    settings = Settings.from_environment(environment)
    command = f"env -i {settings.describe()} env -0"
    output = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout.decode()
    pairs = dict(line.split("=", 1) for line in output.split("\0") if line)
    read = Settings.from_environment({k: v for k, v in pairs.items() if k != "PWD"})
    assert read.captioner_state == settings.captioner_state
    assert read.relay_origins == settings.relay_origins


def test_secret_is_made_once_and_private(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    settings = Settings.from_environment({"CAPTIONER_STATE": str(state)})
    assert not state.exists()
    token = publisher_token(settings)
    assert len(token) >= 32
    assert publisher_token(settings) == token
    assert [path.name for path in state.iterdir()] == [SECRET_FILE]
    assert (state / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_secret_that_others_could_read_is_made_private_again(tmp_path: Path) -> None:
    (tmp_path / SECRET_FILE).write_text("abc\n")
    (tmp_path / SECRET_FILE).chmod(0o644)
    assert publisher_token(Settings.from_environment({"CAPTIONER_STATE": str(tmp_path)})) == "abc"
    assert (tmp_path / SECRET_FILE).stat().st_mode & 0o777 == 0o600


def test_processes_that_start_together_share_one_secret(tmp_path: Path) -> None:
    program = (
        "import sys; from common.settings import Settings;"
        "from common.state import publisher_token; s = Settings.from_environment();"
        "print('ready', flush=True); sys.stdin.readline(); print(publisher_token(s))"
    )
    environment = {
        **os.environ,
        "CAPTIONER_STATE": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    tokens = set()
    for process in processes:  # all of them wait at the same line
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        tokens.add(process.communicate()[0])
    assert len(tokens) == 1
    assert tokens != {""}
    assert [path.name for path in (tmp_path / "state").iterdir()] == [SECRET_FILE]


def test_secret_that_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for state in (tmp_path / "file", tmp_path / "file" / "state"):
        settings = Settings.from_environment({"CAPTIONER_STATE": str(state)})
        with pytest.raises(SettingsError, match="CAPTIONER_STATE"):
            publisher_token(settings)
        with pytest.raises(SettingsError, match="CAPTIONER_STATE"):
            make_state_folder(settings)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_secret_that_is_no_secret(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SECRET_FILE).write_bytes(content)
    with pytest.raises(SettingsError, match="remove"):
        publisher_token(Settings.from_environment({"CAPTIONER_STATE": str(tmp_path)}))


def test_no_web_and_no_model_comes_with_the_settings() -> None:
    program = (
        "import sys, common.settings, common.state;"
        "heavy = {'flask', 'cv2', 'numpy', 'ai_edge_litert'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert output.stdout.strip() == "[]"
