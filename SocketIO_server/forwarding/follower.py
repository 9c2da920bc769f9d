"""Follows the history in a thread of its own, and hands each caption on: at least once, in order.

The number of the last caption that was taken is in a file, so a kill at any moment loses nothing:
the captions after it are handed on when the relay runs again. While the other side is away the
captions wait in the history, as long as RELAY_KEEP keeps them. A caption that was deleted meanwhile
is not handed on.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from SocketIO_server.stores.protocol import Store, StoreError

log = logging.getLogger("relay")

BATCH = 20
PATIENCE = 5.0  # seconds, for the first look into the store
LOOK_AGAIN = 2.0  # seconds, where nothing wakes the thread
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts


class DeliveryError(Exception):
    """The other side did not take a caption; the message says why."""


class Receiver(Protocol):
    """Takes captions. `name` is for the log, `address` says whether it is still the same."""

    name: str
    address: str

    def send(self, caption: dict[str, Any]) -> None:
        """Hands a caption on, and returns when the other side has it.

        Raises:
            DeliveryError: it did not take it.
        """

    def close(self) -> None:
        """Ends the connection."""


class Follower:
    """Hands captions on; a listener of the relay, whose broadcasts wake it.

    Args:
        open_store: makes a store of the thread's own.
        file: of the position.
    """

    def __init__(self, receiver: Receiver, open_store: Callable[[], Store], file: Path) -> None:
        self._receiver, self._open_store, self._file = receiver, open_store, file
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._run, name=receiver.name, daemon=True)

    def start(self) -> None:
        """Starts to hand on what comes after this call, and what was left to hand on before."""
        self._thread.start()
        # Else a caption that comes sooner than the first look would count as one from before.
        self._began.wait(PATIENCE)

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(5)

    def put(self, event: str, payload: dict[str, Any]) -> None:
        self._wake.set()

    def close(self) -> None:
        self._wake.set()

    def _run(self) -> None:
        store, pause = self._open_store(), 0.0
        while not self._stopping.is_set():
            try:
                found = self._step(store)
            except (DeliveryError, StoreError) as error:
                self._began.set()
                if not pause:
                    log.warning("%s: %s Trying again until it works.", self._receiver.name, error)
                pause = min(LONGEST_PAUSE, 2 * pause or FIRST_PAUSE)
                self._stopping.wait(pause)
                continue
            if pause:
                log.info("%s: captions are taken again.", self._receiver.name)
            pause = 0.0
            if not found:
                self._wake.wait(LOOK_AGAIN)
                self._wake.clear()
        self._receiver.close()
        store.close()

    def _step(self, store: Store) -> bool:
        """Hands the next captions on; whether there were any."""
        last = store.last_seq()
        position = self._position(last)
        self._began.set()
        captions, _ = store.after(position, BATCH)
        for caption in captions:
            if self._stopping.is_set():
                return False
            self._receiver.send(caption)
            self._keep(caption["seq"])
        return bool(captions)

    def _position(self, last: int) -> int:
        """After which caption to go on: where it was, or for another address with new ones."""
        try:
            kept = json.loads(self._file.read_text("utf-8"))
            if kept["address"] == self._receiver.address:
                position = int(kept["seq"])
                return position if position <= last else 0  # another history begins at 1
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._keep(last)
        return last

    def _keep(self, seq: int) -> None:
        new = self._file.with_name(f".{self._file.name}.{uuid.uuid4().hex}")
        text = json.dumps({"address": self._receiver.address, "seq": seq})
        try:
            new.write_text(text, "utf-8")
            os.replace(new, self._file)
        except OSError as error:
            raise DeliveryError(f"{self._file} cannot be written ({error.strerror}).") from None
        finally:
            new.unlink(missing_ok=True)
