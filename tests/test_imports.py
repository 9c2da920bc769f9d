"""Tests of what importing a part of the captioner brings with it, each in a process of its own.

Serving must not load TensorFlow (nine seconds, hundreds of megabytes), the captioner must not know
the web, and `import captioner` must cost nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAINING = {"tensorflow", "keras"}
WEB = {"flask", "flask_socketio", "socketio", "eventlet", "waitress", "werkzeug"}
NATIVE = {"cv2", "numpy", "PIL", "ai_edge_litert"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in a fresh interpreter after `statement`."""
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import captioner", TRAINING | WEB | NATIVE),
        ("from captioner import CaptionerError, Settings", TRAINING | WEB | NATIVE),
        ("import captioner.tokenizer", TRAINING | WEB | NATIVE),
        ("import captioner.model_folder", TRAINING | WEB | NATIVE),
        ("import captioner.picture", TRAINING | WEB),
        ("from captioner import Captioner", TRAINING | WEB),
    ],
)
def test_what_an_import_brings(statement: str, forbidden: set[str]) -> None:
    assert not loaded_by(statement) & forbidden


def test_the_public_names() -> None:
    import captioner

    assert sorted(captioner.__all__) == ["Captioner", "CaptionerError", "Settings"]
    assert set(captioner.__all__) <= set(dir(captioner))
    for name in captioner.__all__:
        assert getattr(captioner, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'captionner'"):
        captioner.captionner  # noqa: B018
