"""The settings of every process: one typed table, read from environment variables.

Every process (relay, app1, app2, command line) accepts the whole table, so that one environment
serves all of them, and refuses a variable that looks like one of ours but is not. This file knows
no web framework and no model; it turns text into checked values and keeps the secret that the
servers of one user share.

    settings = Settings.from_environment()
    settings.relay_port              # 5000
    settings.was_set("RELAY_PORT")   # False: a taken port may be moved
    settings.publisher_token()       # the shared secret, made on first use
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import ipaddress
import os
import re
import secrets
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from captioner.errors import SettingsError

PREFIXES = ("RELAY_", "APP1_", "APP2_", "CAPTIONER_")
ASYNC_MODES = ("eventlet", "gevent", "threading")
SECRET_FILE = "relay-token"
_CHECKOUT = Path(__file__).resolve().parent.parent
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}


@dataclass(frozen=True)
class Rate:
    """At most `count` requests in any `seconds`."""

    count: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.count}/{({s: word for word, s in _SECONDS.items()})[self.seconds]}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`.

    A name other than `localhost` counts as not loopback, since what it resolves to may change.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether `host` stands for every address of this machine (`0.0.0.0`, `::`)."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def http_url(host: str, port: int) -> str:
    """The URL, without a closing slash, at which this machine reaches such a server of its own."""
    if is_wildcard(host):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# Parsers: text -> value. Each raises ValueError with what the value must be ("must be ...").


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[A-Za-z0-9_.:%-]+", host):
        raise ValueError("must be a host name or an address to listen on, without port")
    if ":" in host:  # only an IPv6 address may hold one; this catches "127.0.0.1:5000"
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise ValueError("must be a host name or an address, without port") from error
    return host


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() alone would also take "5_000", " 5" and digits of other scripts
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def _origin(text: str) -> str:
    """An http(s) URL of scheme, host and port alone, written as browsers write an origin."""
    wanted = ValueError("must be of the form http://host:port, without a path")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise wanted from error
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    if scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9_.:-]+", host):
        raise wanted
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise wanted
    host = f"[{host}]" if ":" in host else host
    is_default_port = port in (None, {"http": 80, "https": 443}[scheme])
    return f"{scheme}://{host}" if is_default_port else f"{scheme}://{host}:{port}"


def _origin_or_empty(text: str) -> str:
    return _origin(text) if text else ""


def _origins(text: str) -> tuple[str, ...]:
    if text.strip() == "*":
        return ("*",)
    try:
        return tuple(_origin(part.strip()) for part in text.split(",")) if text.strip() else ()
    except ValueError as error:
        raise ValueError(
            'must be origins like "http://photos.example:5001" with commas between, or *'
        ) from error


def _token(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text")
    return text


def _path(text: str) -> Path:
    if not text:
        raise ValueError("must be a path")
    # relative paths are resolved at once: the processes run in different working directories
    return Path(os.path.abspath(os.path.expanduser(text)))


def _async_mode(text: str) -> str:
    if text not in ASYNC_MODES:
        raise ValueError(f"must be one of {', '.join(ASYNC_MODES)}")
    return text


def _queue_url(text: str) -> str:
    if text and not re.match(r"[a-z][a-z0-9+.-]*://\S+$", text):
        raise ValueError("must be a URL such as redis://127.0.0.1:6379/0, or empty")
    return text


def _model(text: str) -> str:
    if not text:
        raise ValueError("must be the name of a folder under models/, or a path")
    return text


def _rate(text: str) -> Rate | None:
    if text == "off":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(second|minute|hour)", text)
    if not match:
        raise ValueError('must be like "60/minute" (second, minute or hour), or "off"')
    return Rate(int(match[1]), _SECONDS[match[2]])


def _setting(
    default: Any, parse: Callable[[str], Any], meaning: str, shown: str = "", **kw: Any
) -> Any:
    """A field of the table; `shown` says the default in words where it is computed."""
    return field(
        default=default, metadata={"parse": parse, "meaning": meaning, "shown": shown}, **kw
    )


_PORT = _whole_number(1, 65535)


@dataclass(frozen=True)
class Settings:
    """The whole table, checked. Field `relay_port` is the variable `RELAY_PORT`, and so on.

    Defaults that depend on others (`relay_url`, `relay_db`, `captioner_rate`) are filled in, so
    that readers never see a placeholder; `relay_origins`, `relay_token` and `captioner_model` keep
    None for "not set", which is not the same as empty.

    Raises:
        SettingsError: two settings contradict each other; the sentence names the one to change.
    """

    relay_host: str = _setting("127.0.0.1", _host, "where the relay listens")
    relay_port: int = _setting(5000, _PORT, "where the relay listens")
    app1_host: str = _setting("127.0.0.1", _host, "where the upload page listens")
    app1_port: int = _setting(5001, _PORT, "where the upload page listens")
    app2_host: str = _setting("127.0.0.1", _host, "where the viewer page listens")
    app2_port: int = _setting(5002, _PORT, "where the viewer page listens")
    relay_url: str = _setting(
        "", _origin, "where app1 reaches the relay", "http://127.0.0.1:$RELAY_PORT"
    )
    relay_public_url: str = _setting(
        "",
        _origin_or_empty,
        "where a browser reaches the relay; empty: the page's own host name, with RELAY_PORT",
    )
    relay_origins: tuple[str, ...] | None = _setting(
        None,
        _origins,
        "origins that may connect from a browser, with commas between; * for all",
        "pages on this machine's names at APP1_PORT and APP2_PORT",
    )
    relay_token: str | None = _setting(
        None,
        _token,
        "who may publish; set but empty: everybody, on loopback only",
        f"a secret made once in CAPTIONER_STATE ({SECRET_FILE}, mode 0600)",
        repr=False,
    )
    relay_db: Path = _setting(Path(), _path, "the history", "history.db in CAPTIONER_STATE")
    relay_keep: int = _setting(
        10_000, _whole_number(1, 10_000_000), "captions kept; the oldest go first"
    )
    relay_async_mode: str = _setting(
        "eventlet", _async_mode, "how the relay waits for its clients: eventlet, gevent, threading"
    )
    relay_message_queue: str = _setting(
        "", _queue_url, "for example redis://...: several relays; empty: one process", repr=False
    )
    captioner_model: str | None = _setting(
        None, _model, "a name under models/, or a path", "the default folder under models/"
    )
    captioner_state: Path = _setting(
        Path(),
        _path,
        "secret, history, outbox; never inside the checkout",
        "the platform's per-user state folder",
    )
    captioner_max_upload_mb: int = _setting(
        20, _whole_number(1, 10_000), "largest upload, in MiB, checked before decoding"
    )
    captioner_max_pixels: int = _setting(
        50_000_000, _whole_number(1, 10**10), "largest picture, in pixels, checked before decoding"
    )
    captioner_queue: int = _setting(
        32, _whole_number(1, 100_000), "uploads that may wait; beyond it 503"
    )
    captioner_rate: Rate | None = _setting(
        None,
        _rate,
        'uploads from one address, "N/second", "N/minute", "N/hour" or "off"; beyond it 429',
        "off while APP1_HOST is loopback, else 60/minute",
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
            # a relay bound to one address of its own is not to be found on 127.0.0.1
            own = self.relay_host if self.relay_host != "localhost" else "127.0.0.1"
            fill("relay_url", http_url(own, self.relay_port))
        if "CAPTIONER_RATE" not in self.explicit and self.captioner_rate is None:
            fill("captioner_rate", None if is_loopback(self.app1_host) else Rate(60, 60))
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
        """Whether the variable `name` was there, be it empty or equal to its default."""
        if name not in {f.name.upper() for f in _fields()}:
            raise KeyError(name)
        return name in self.explicit

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these settings: those that were set, as text.

        Secrets stand in it in clear. To change one:
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
        shown["RELAY_MESSAGE_QUEUE"] = re.sub(r"//.*@", "//***@", self.relay_message_queue)
        for name in ("RELAY_TOKEN", "RELAY_ORIGINS", "CAPTIONER_MODEL"):
            if not self.was_set(name) and getattr(self, name.lower()) is None:
                del shown[name]  # unset is not the same as empty
        return " ".join(f"{name}={shlex.quote(text)}" for name, text in shown.items())

    def _text(self, field_name: str) -> str:
        value = getattr(self, field_name)
        if isinstance(value, tuple):
            return ",".join(value)
        if value is None:
            return "off" if field_name == "captioner_rate" else ""
        return str(value)

    @property
    def max_upload_bytes(self) -> int:
        """CAPTIONER_MAX_UPLOAD_MB in bytes (1 MB is 1,048,576 bytes here)."""
        return self.captioner_max_upload_mb * 1024 * 1024

    def is_own_name(self, host: str) -> bool:
        """Whether a host name, without port, is one of this machine's, or stands in the settings.

        No name is looked up: what a stranger's name resolves to is in the stranger's hands. So a
        name that only the network's DNS knows has to be set, in RELAY_ORIGINS.
        """
        host = host.lower().rstrip(".")
        name = socket.gethostname().lower()
        short = name.split(".")[0]
        own = {"localhost", name, short, f"{short}.local"}
        own |= {h.lower() for h in (self.relay_host, self.app1_host, self.app2_host)}
        urls = (self.relay_url, self.relay_public_url, *(self.relay_origins or ()))
        own |= {urlsplit(url).hostname or "localhost" for url in urls}
        return host in own or host.endswith(".localhost")

    def answers_to(self, host: str) -> bool:
        """Whether a request with this Host header, with or without port, is for one of our servers.

        A page from elsewhere may make its own name resolve to an address of ours (DNS rebinding);
        to a browser it then is one of our pages. An address cannot be made to mean another machine,
        so any passes: behind a router or in a container, ours need not be known here.
        """
        match = re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?", host)
        if not match:
            return False
        try:
            ipaddress.ip_address(match[1].strip("[]"))
        except ValueError:
            return self.is_own_name(match[1])
        return True

    def make_state_folder(self) -> Path:
        """CAPTIONER_STATE, made readable by its owner alone if it is not there yet.

        Raises:
            SettingsError: it cannot be made.
        """
        try:
            self.captioner_state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"The folder {self.captioner_state} cannot be made ({error.strerror}); set "
                "CAPTIONER_STATE to a folder to write in."
            ) from None
        return self.captioner_state

    def publisher_token(self) -> str:
        """What a publisher has to show the relay: RELAY_TOKEN, or the secret in the state folder.

        "" when publishing is open. The secret is made by whichever process asks first; all others,
        also those that ask at the same moment, read the same one.

        Raises:
            SettingsError: the secret cannot be read or made.
        """
        if self.relay_token is not None:
            return self.relay_token
        path = self.captioner_state / SECRET_FILE
        try:
            return _read_secret(path)
        except FileNotFoundError:
            self.make_state_folder()
        try:
            _make_secret(path)
            return _read_secret(path)
        except OSError as error:
            raise SettingsError(
                f"The secret that the servers share cannot be kept in {path} "
                f"({error.strerror}); set CAPTIONER_STATE to a folder to write in, or set "
                "RELAY_TOKEN to a secret of your own."
            ) from None


def _fields() -> Iterator[dataclasses.Field[Any]]:
    """The settings themselves, without the bookkeeping."""
    return (f for f in dataclasses.fields(Settings) if f.metadata)


def table() -> list[tuple[str, str, str]]:
    """Name, default and meaning of each setting, for `--help` and for the README's table."""
    defaults = Settings.__dataclass_fields__
    return [
        (
            f.name.upper(),
            f.metadata["shown"] or str(defaults[f.name].default),
            f.metadata["meaning"],
        )
        for f in _fields()
    ]


def _read_secret(path: Path) -> str:
    """The secret in `path`; FileNotFoundError if it was never made."""
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            path.chmod(0o600)  # copied about, or restored from a backup
        secret = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The secret in {path} cannot be read ({error}); make it readable, remove it, or set "
            "CAPTIONER_STATE to another folder."
        ) from None
    if not secret:
        raise SettingsError(
            f"The secret in {path} is empty; remove the file, and a new one is made."
        )
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret to `path` unless there is one by now.

    The file appears complete and private or not at all: written under another name, then linked,
    which fails when another process was faster (a rename would put its secret out of use).
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
