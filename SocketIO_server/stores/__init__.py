"""Where the relay keeps captions: `protocol.Store`, and one module for each kind of store."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from common.errors import SettingsError
from common.settings import Settings
from SocketIO_server.stores.protocol import Store
from SocketIO_server.stores.sqlite import SqliteStore


def make_store(settings: Settings, sleep: Callable[[float], object]) -> Store:
    """A file, or Redis where RELAY_MESSAGE_QUEUE names a server.

    Args:
        sleep: for some seconds, in the caller's async mode.

    Raises:
        SettingsError: RELAY_MESSAGE_QUEUE cannot be used.
    """
    queue = settings.relay_message_queue
    if not queue:
        # In an event loop, calls of this store block the whole process. They are short: a commit
        # takes about as long as a broadcast.
        return SqliteStore(settings.relay_db, settings.relay_keep, sleep)
    if not queue.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE must be the URL of a Redis server (redis://, rediss://, unix://), "
            "in which several relays keep one history."
        )
    if find_spec("redis") is None:
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE needs a package that is missing; run: pip install redis"
        )
    from SocketIO_server.stores.redis import RedisStore

    try:
        return RedisStore(queue, settings.relay_keep)
    except ValueError as error:  # its text may repeat a password
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE is malformed; it must be like redis://127.0.0.1:6379/0."
        ) from error
