"""The settings of every process: one typed table, read from environment variables.

Every process (relay, app1, app2, command line) accepts the whole table, so that one environment
serves all of them, and refuses a variable that has one of our prefixes but is not in the table.

    settings = Settings.from_environment()
    settings.relay_port              # 5000
    settings.was_set("RELAY_PORT")   # False: a taken port may be moved
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from common import parsers
from common.errors import SettingsError
from common.hosts import http_url, is_loopback
from common.parsers import Rate

PREFIXES = ("RELAY_", "APP1_", "APP2_", "CAPTIONER_")
SECRET_FILE = "relay-token"
HOST_FILE = "host-token"
_CHECKOUT = Path(__file__).resolve().parent.parent


def _setting(
    default: Any, parse: Callable[[str], Any], meaning: str, shown: str = "", **kw: Any
) -> Any:
    """A field of the table; `shown` describes a computed default in words."""
    return field(
        default=default, metadata={"parse": parse, "meaning": meaning, "shown": shown}, **kw
    )


_PORT = parsers.whole_number(1, 65535)


@dataclass(frozen=True)
class Settings:
    """The whole table, checked. Field `relay_port` is the variable `RELAY_PORT`, and so on.

    Defaults that depend on others (`relay_url`, `relay_db`, `captioner_rate`) are filled in, so
    that readers never see a placeholder; `relay_origins`, `relay_token` and `captioner_model` keep
    None for "not set", which is not the same as empty.

    Raises:
        SettingsError: two settings contradict each other; the sentence names the one to change.
    """

    relay_host: str = _setting("127.0.0.1", parsers.host, "address that the relay listens on")
    relay_port: int = _setting(5000, _PORT, "port of the relay")
    app1_host: str = _setting("127.0.0.1", parsers.host, "address that the upload page listens on")
    app1_port: int = _setting(5001, _PORT, "port of the upload page")
    app2_host: str = _setting("127.0.0.1", parsers.host, "address that the viewer page listens on")
    app2_port: int = _setting(5002, _PORT, "port of the viewer page")
    relay_url: str = _setting(
        "", parsers.origin, "URL at which app1 reaches the relay", "http://127.0.0.1:$RELAY_PORT"
    )
    relay_public_url: str = _setting(
        "",
        parsers.public_url,
        "URL at which browsers reach the relay, with its path behind a proxy; empty: the page's "
        "own host name and RELAY_PORT",
    )
    app1_public_url: str = _setting(
        "", parsers.public_url, "likewise of the upload page; empty: the host name and APP1_PORT"
    )
    app2_public_url: str = _setting(
        "", parsers.public_url, "likewise of the viewer page; empty: the host name and APP2_PORT"
    )
    relay_origins: tuple[str, ...] | None = _setting(
        None,
        parsers.origins,
        "origins that browsers may connect from, separated by commas; * for any",
        "pages on this machine's names at APP1_PORT and APP2_PORT",
    )
    relay_token: str | None = _setting(
        None,
        parsers.token,
        "secret that publishers send; set but empty: anyone may publish, on loopback only",
        f"a secret made once in CAPTIONER_STATE ({SECRET_FILE}, mode 0600)",
        repr=False,
    )
    relay_db: Path = _setting(
        Path(), parsers.path, "file of the history", "history.db in CAPTIONER_STATE"
    )
    relay_keep: int = _setting(
        10_000,
        parsers.whole_number(1, 10_000_000),
        "captions kept in the history; the oldest are dropped",
    )
    relay_async_mode: str = _setting(
        "eventlet",
        parsers.async_mode,
        "concurrency of the relay: eventlet, gevent or threading",
    )
    relay_message_queue: str = _setting(
        "",
        parsers.queue_url,
        "Redis server of several relays, such as redis://...; empty: a single relay",
        repr=False,
    )
    relay_webhook_url: str = _setting(
        "", parsers.http_url_or_empty, "each caption is POSTed there as JSON", repr=False
    )
    relay_webhook_secret: str = _setting(
        "", str, "key of the signature in X-Signature-256 (HMAC-SHA256 of the body)", repr=False
    )
    relay_mqtt_url: str = _setting(
        "",
        parsers.mqtt_url,
        "MQTT broker for each caption, mqtt://user:password@host/prefix; with Home Assistant's "
        "discovery",
        repr=False,
    )
    captioner_model: str | None = _setting(
        None, parsers.model, "a name under models/, or a path", "the default folder under models/"
    )
    captioner_state: Path = _setting(
        Path(),
        parsers.path,
        "folder of secret, history and outbox; never inside the checkout",
        "the platform's per-user state folder",
    )
    captioner_max_upload_mb: int = _setting(
        20,
        parsers.whole_number(1, 10_000),
        "largest file of an upload, in MiB; checked before decoding",
    )
    captioner_max_pixels: int = _setting(
        50_000_000,
        parsers.whole_number(1, 10**10),
        "largest picture, in pixels (a JPEG: four times as many); checked before decoding",
    )
    captioner_words: str = _setting(
        "",
        str.strip,
        'file of replaced words, "from = to" a line (an empty "to" bars the word)',
    )
    captioner_workers: int = _setting(
        0,
        parsers.workers,
        "pictures that are captioned at the same time, in app1 and on the command line",
        "auto: one for each core that the process may use",
    )
    captioner_queue: int = _setting(
        32, parsers.whole_number(1, 100_000), "uploads that may wait; further ones get 503"
    )
    app1_approve: bool = _setting(
        False,
        parsers.switch,
        "on: a caption waits on the host's page until somebody approves it, and no wall shows it "
        "before",
        "off",
    )
    captioner_trusted_proxies: tuple[parsers.Network, ...] = _setting(
        (),
        parsers.networks,
        "addresses of proxies whose X-Forwarded-For, -Proto, -Host and -Prefix are believed",
    )
    captioner_rate: Rate | None = _setting(
        None,
        parsers.rate,
        'pictures per address: "N/second", "N/minute", "N/hour" or "off"; further ones get 429',
        "off while APP1_HOST is loopback and there is no proxy, else 60/minute",
    )
    explicit: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        def fill(name: str, value: object) -> None:
            # how frozen dataclasses set their own fields
            object.__setattr__(self, name, value)

        if self.captioner_state == Path():
            fill("captioner_state", platformdirs.user_state_path("captioner", appauthor=False))
        if not self.captioner_state.is_absolute():
            raise SettingsError(
                "This user has no home folder, so set CAPTIONER_STATE to a folder to write in."
            )
        if self.captioner_state.resolve().is_relative_to(_CHECKOUT):
            raise SettingsError(
                f"CAPTIONER_STATE is {self.captioner_state}, inside the program's own "
                "folder, where secrets and photos would end up under version control; choose a "
                "folder outside it."
            )
        if self.relay_db == Path():
            fill("relay_db", self.captioner_state / "history.db")
        if not self.relay_url:
            # a relay that listens on one other address is not on 127.0.0.1
            own = self.relay_host if self.relay_host != "localhost" else "127.0.0.1"
            fill("relay_url", http_url(own, self.relay_port))
        if "CAPTIONER_RATE" not in self.explicit and self.captioner_rate is None:
            is_private = is_loopback(self.app1_host) and not self.captioner_trusted_proxies
            fill("captioner_rate", None if is_private else Rate(60, 60))
        if self.relay_token == "" and not is_loopback(self.relay_host):
            raise SettingsError(
                f"RELAY_TOKEN is empty, so that everybody may publish, but RELAY_HOST is "
                f"{self.relay_host}, which other machines may reach; unset RELAY_TOKEN, give it a "
                "secret, or set RELAY_HOST to 127.0.0.1."
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the table from environment variables.

        Raises:
            SettingsError: a variable with one of our prefixes is not in the table, a value is
                malformed, or two settings contradict each other. One sentence, which names it.
        """
        table = {f.name.upper(): f for f in _fields()}
        values: dict[str, Any] = {}
        for name in sorted(n for n in environ if n.startswith(PREFIXES)):
            if name not in table:
                near = difflib.get_close_matches(name.upper(), table, n=1)
                hint = f"did you mean {near[0]}?" if near else "the README lists them all."
                raise SettingsError(f"{name} is not a setting of this program; {hint}")
            try:
                values[table[name].name] = table[name].metadata["parse"](environ[name])
            except ValueError as error:
                # a value that could be a secret is not repeated
                shown = "" if not table[name].repr else f' is "{environ[name]}", but'
                raise SettingsError(f"{name}{shown} {error}.") from None
        return cls(**values, explicit=frozenset(name.upper() for name in values))

    def was_set(self, name: str) -> bool:
        """Whether the variable `name` was there, even if empty or equal to its default."""
        if name not in {f.name.upper() for f in _fields()}:
            raise KeyError(name)
        return name in self.explicit

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these settings: those that were set, as text.

        It holds secrets in clear text. To change one:
        `Settings.from_environment({**settings.environment(), "RELAY_PORT": "5003"})`.
        """
        return {
            f.name.upper(): self._text(f.name) for f in _fields() if f.name.upper() in self.explicit
        }

    def describe(self) -> str:
        """All settings in force, as one line of shell assignments, secrets masked."""
        shown = {f.name.upper(): self._text(f.name) for f in _fields()}
        if self.relay_token:
            shown["RELAY_TOKEN"] = "***"
        if self.relay_webhook_secret:
            shown["RELAY_WEBHOOK_SECRET"] = "***"
        # Its path may be a secret of its own.
        shown["RELAY_WEBHOOK_URL"] = re.sub(r"(//[^/]*)/.+", r"\1/***", self.relay_webhook_url)
        shown["RELAY_MQTT_URL"] = re.sub(r"//.*@", "//***@", self.relay_mqtt_url)
        shown["RELAY_MESSAGE_QUEUE"] = re.sub(r"//.*@", "//***@", self.relay_message_queue)
        for name in ("RELAY_TOKEN", "RELAY_ORIGINS", "CAPTIONER_MODEL"):
            if not self.was_set(name) and getattr(self, name.lower()) is None:
                del shown[name]  # unset is not the same as empty
        return " ".join(f"{name}={shlex.quote(text)}" for name, text in shown.items())

    def _text(self, field_name: str) -> str:
        value = getattr(self, field_name)
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        if field_name == "captioner_workers":
            return str(value or "auto")
        if value is None:
            return "off" if field_name == "captioner_rate" else ""
        return str(value)

    @property
    def max_upload_bytes(self) -> int:
        """CAPTIONER_MAX_UPLOAD_MB in bytes (1 MB is 1,048,576 bytes here)."""
        return self.captioner_max_upload_mb * 1024 * 1024


def _fields() -> Iterator[dataclasses.Field[Any]]:
    """The settings themselves, without the bookkeeping."""
    return (f for f in dataclasses.fields(Settings) if f.metadata)


def table() -> list[tuple[str, str, str]]:
    """Name, default and meaning of each setting, for `--help` and for the README's table."""
    defaults = Settings.__dataclass_fields__
    return [
        (
            f.name.upper(),
            f.metadata["shown"] or str(defaults[f.name].default or ""),
            f.metadata["meaning"],
        )
        for f in _fields()
    ]
