"""Image captioning: a picture in, an English sentence out.

The two public names are `Captioner` and `CaptionerError`. They are loaded when first used (PEP
562), so that `import captioner` costs nothing: no NumPy, no OpenCV, no model runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captioner.captioner import Captioner
    from captioner.errors import CaptionerError

__all__ = ["Captioner", "CaptionerError"]

_HOMES = {
    "Captioner": "captioner.captioner",
    "CaptionerError": "captioner.errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
