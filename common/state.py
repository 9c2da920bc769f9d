"""The state folder, and the secret in it that the servers of one user share."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from common.errors import SettingsError
from common.settings import HOST_FILE, SECRET_FILE, Settings


def make_state_folder(settings: Settings) -> Path:
    """CAPTIONER_STATE; a new folder is readable by its owner alone.

    Raises:
        SettingsError: it cannot be made.
    """
    folder = settings.captioner_state
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"The folder {folder} cannot be made ({error.strerror}); set "
            "CAPTIONER_STATE to a folder to write in."
        ) from None
    return folder


def publisher_token(settings: Settings) -> str:
    """What a publisher has to show the relay: RELAY_TOKEN, or the shared secret.

    "" when publishing is open.

    Raises:
        SettingsError: the secret cannot be read or made.
    """
    return shared_secret(settings) if settings.relay_token is None else settings.relay_token


def host_token(settings: Settings) -> str:
    """What the host shows app1's page for hosts; made on first use, like the shared secret.

    Raises:
        SettingsError: it cannot be read or made.
    """
    return shared_secret(settings, HOST_FILE)


def shared_secret(settings: Settings, name: str = SECRET_FILE) -> str:
    """A secret in the state folder, made on first use.

    Processes that ask at the same moment all get the same one.

    Raises:
        SettingsError: it cannot be read or made.
    """
    path = settings.captioner_state / name
    try:
        return _read_secret(path)
    except FileNotFoundError:
        make_state_folder(settings)
    try:
        _make_secret(path)
        return _read_secret(path)
    except OSError as error:
        raise SettingsError(
            f"The secret that the servers share cannot be kept in {path} "
            f"({error.strerror}); set CAPTIONER_STATE to a folder to write in, or set "
            "RELAY_TOKEN to a secret of your own."
        ) from None


def _read_secret(path: Path) -> str:
    """The secret in `path`; FileNotFoundError if it was never made."""
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            path.chmod(0o600)  # it was copied, or restored from a backup
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

    The file appears complete and private, or not at all: it is written under another name and then
    linked. The link fails if another process was faster; a rename would replace that one's secret.
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
