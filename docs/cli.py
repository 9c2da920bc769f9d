"""Writes docs/cli.md from the program's own help, and the settings into the README.

python docs/cli.py            # or: make docs
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from captioner import cli
from common.settings import table

README = Path(__file__).resolve().parent.parent / "README.md"
TABLE_HEAD = "| setting | default | meaning |\n|---|---|---|\n"
PAGE = Path(__file__).with_suffix(".md")
WIDTH = "100"  # columns of the help

HEAD = """\
# Command line

`make docs` writes this page from the program's own help. `python -m captioner` is the same program
as `captioner`, and also runs from the checkout without an installation.

Exit status: 0 for success, 1 for a failure (also when one of several pictures failed), 2 for wrong
arguments or settings. Errors go to standard error as one sentence.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for command in ("", *cli.COMMANDS):
        name = f"captioner {command}".strip()
        parts.append(f"## `{name}`\n\n```text\n{help_of(command)}```\n")
    return "\n".join(parts)


def help_of(command: str) -> str:
    """What `captioner COMMAND --help` prints; `command` may be empty."""
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([*command.split(), "--help"])
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return printed.getvalue()


def settings_table() -> str:
    """The README's table; where a server listens is one row."""
    rows = {name: (default or "empty", meaning) for name, default, meaning in table()}
    lines = []
    for name, (default, meaning) in rows.items():
        if name.endswith("_PORT"):
            continue
        if name.endswith("_HOST"):
            port = name.replace("_HOST", "_PORT")
            name = f"{name}`, `{port}"
            default = f"{default}, {rows[port][0]}"
            meaning = meaning.replace("address that", "where").replace("listens on", "listens")
        lines.append(f"| `{name}` | {default} | {meaning} |\n")
    return TABLE_HEAD + "".join(lines)


def write_settings() -> None:
    """Puts the table into the README, in place of the old one."""
    text = README.read_text(encoding="utf-8")
    before, _, after = text.partition(TABLE_HEAD)
    after = "\n" + after.partition("\n\n")[2]
    README.write_text(before + settings_table() + after, encoding="utf-8")


if __name__ == "__main__":
    write_settings()
    PAGE.write_text(page(), encoding="utf-8")
