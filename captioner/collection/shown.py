"""Paths in output for people."""

from __future__ import annotations

import json
import os
import re

# Line breaks of any kind, what controls a terminal or turns the direction of a line, bad bytes.
_MISLEADING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(path: str | os.PathLike[str]) -> str:
    """A path as it is, or in JSON's quotes where it would break a line or look like another one."""
    name = os.fspath(path)
    return json.dumps(name) if _MISLEADING.search(name) else name
