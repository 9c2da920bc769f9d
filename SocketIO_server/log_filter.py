"""The log of the Socket.IO libraries, kept short."""

from __future__ import annotations

import logging
import time


def library_log() -> logging.Logger:
    """The logger for the libraries: errors only, each kind once a minute, a line each."""
    log = logging.getLogger("relay.socketio")
    log.setLevel(logging.ERROR)
    if not log.filters:
        log.addFilter(BriefFilter())
    return log


class BriefFilter(logging.Filter):
    """Shortens each error to one line without a traceback, and passes each kind once a minute.

    The libraries log every malformed message from a client as an error with a traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log `record`, which is shortened."""
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            record.msg = f"{record.getMessage()}: {type(error).__name__}: {str(error)[:200]}"
            record.args, record.exc_info, record.exc_text = (), None, None
        kind, now = str(record.msg)[:60], time.monotonic()
        if now - self._last.get(kind, -60.0) < 60:
            return False
        if len(self._last) > 1_000:
            self._last.clear()
        self._last[kind] = now
        return True
