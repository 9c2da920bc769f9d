"""The version of the viewer page. The relay sends it, and an open page of another one reloads."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PARTS = ("app2/templates", "app2/static", "common/pages/templates", "common/pages/static")


@functools.cache
def page_version() -> str:
    """A digest of the page's files, as they were when this process first asked."""
    digest = hashlib.sha256()
    for part in _PARTS:
        for path in sorted((_ROOT / part).rglob("*.*")):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
