"""docs/cli.md is what the program's own help prints."""

from __future__ import annotations

import subprocess
import sys

import pytest

from captioner import cli
from tests.kit import ROOT

PAGE = ROOT / "docs" / "cli.md"


@pytest.mark.skipif(
    sys.version_info[:2] not in ((3, 11), (3, 12)), reason="argparse wraps help differently"
)
def test_the_page_is_not_stale():
    # A process of its own, since the help of `train` imports TensorFlow.
    made = subprocess.run(
        [sys.executable, "-c", "from docs import cli; print(cli.page(), end='')"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    assert made.stdout == PAGE.read_text(encoding="utf-8"), "run make docs"


def test_every_command_has_its_help_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    missing = [name for name in cli.COMMANDS if f"## `captioner {name}`" not in page]
    assert missing == []
