"""Plain English: phrases that nobody says aloud stay out of code, pages and docs."""

from __future__ import annotations

import re
import subprocess

from tests.kit import ROOT

# Each with what to write instead. The words may stand on two lines.
PHRASES = {
    r"whoever": "name the person: a client, an uploader, everybody who",
    r"that\s+which": "what",
    r"be\s+it": "whether",
    r"for\s+ever": "forever, or without end",
    r"comes?\s+to\s+nothing": "fails",
    r"knows?\s+nothing": "has no, uses no",
    r"(nobody|every(body|body\s+else|one))\s+is\s+told": "say what happens: gets, is answered",
    r"one\s+of\s+which|of\s+which\s+one": "a second sentence",
    r"says?\s+of\s+(itself|himself|themselves)": "publishes, reports",
}
SUFFIXES = (".py", ".md", ".js", ".css", ".html", ".toml", ".conf")
OWN = "tests/product/test_prose.py"


def test_no_phrase_that_nobody_says() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = [f for f in listed.stdout.splitlines() if f.endswith(SUFFIXES) and f != OWN]
    if not files:  # an archive of the files alone
        files = [str(p.relative_to(ROOT)) for s in SUFFIXES for p in ROOT.glob(f"*/**/*{s}")]
    pattern = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
    found = []
    for file in files:
        if "experiments" in file or ".min." in file or not (ROOT / file).exists():
            continue
        text = (ROOT / file).read_text(encoding="utf-8")
        found += [f"{file}: {match[0]}" for match in pattern.finditer(text)]
    assert not found, "\n".join(found)
