"""A corpus of what a hostile or broken client may send, made from real photos, the same each time.

    python -m tests.hostile [FOLDER]

counts it, and writes it to a folder, a file a case, for use with other tools. `pictures` are
files to upload, `web` are whole HTTP requests as bytes, `frames` are WebSocket and Socket.IO
messages. Everything is made when it is asked for, since some of it is large.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One thing to send, and how it may be answered.

    Attributes:
        kind: what is wrong with it, in a word or two.
        name: which of its kind it is.
        data: a picture file, or a whole HTTP request.
        statuses: the HTTP statuses that are right; 0 for a connection that is closed without one.
    """

    kind: str
    name: str
    data: bytes
    statuses: frozenset[int]
