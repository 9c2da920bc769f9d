"""Who is in which room, so that a client leaves as fast with thousands of others as alone."""

from __future__ import annotations

from typing import Any

import socketio


class Rooms(socketio.Manager):
    """The library's manager for one process, which finds the rooms of a client at once.

    Each client has a room for itself, and the library looks into all rooms when one leaves. When
    thousands leave together, thousands times thousands.

    Args:
        shared: the names of the rooms that clients are put into, besides their own.
    """

    def __init__(self, *shared: str) -> None:
        super().__init__()
        self._shared = shared

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        """Take a client out of its rooms, and forget it."""
        for room in (None, sid, *self._shared):
            self.basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            if sid in pending.get(namespace, ()):
                pending[namespace].remove(sid)
                if not pending[namespace]:
                    del pending[namespace]
