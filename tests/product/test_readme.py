"""README and docs: settings, commands, results, links and length are as they should be."""

from __future__ import annotations

import re

import pytest

from captioner.cli import COMMANDS
from common.settings import table
from docs import cli, results
from tests.kit import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_programs_own() -> None:
    assert f"\n{cli.settings_table()}\n" in README, "run make docs"
    named = {*re.findall(r"`([A-Z0-9]+_[A-Z0-9_]+)`", cli.settings_table())}
    assert named == {name for name, _, _ in table()}


def test_the_table_of_contents_leads_somewhere() -> None:
    def anchor(heading: str) -> str:
        return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")

    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    assert {*re.findall(r"\]\(#([^)]+)\)", README)} <= anchors


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in DOCS)])
def test_every_link_leads_to_a_file(page: str) -> None:
    file = ROOT / page
    for place in re.findall(r"\]\(((?!https?:|#)[^)#]+)", file.read_text(encoding="utf-8")):
        assert (file.parent / place).exists(), place


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_its_results_are_those_of_the_reports() -> None:
    for page, blocks in results.PAGES.items():
        text = page.read_text(encoding="utf-8")
        for mark, content in blocks.items():
            assert results.block(mark, content()) in text, "run make results"


def test_its_commands_are_commands() -> None:
    assert {*re.findall(r"^captioner (\w+)", README, re.MULTILINE)} <= {*COMMANDS}
