"""What the README says of settings, commands and files is so."""

from __future__ import annotations

import re

import pytest

from captioner.cli import COMMANDS
from common.settings import table
from docs import results
from tests.kit import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_programs_own() -> None:
    rows = [
        f"| `{name}` | {default or 'empty'} | {meaning} |" for name, default, meaning in table()
    ]
    assert "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows, ""]) in README


def test_the_table_of_contents_leads_somewhere() -> None:
    def anchor(heading: str) -> str:
        return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")

    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    assert {*re.findall(r"\]\(#([^)]+)\)", README)} <= anchors


@pytest.mark.parametrize("place", re.findall(r"\]\(((?!https?:|#)[^)]+)\)", README))
def test_what_it_points_to_is_there(place: str) -> None:
    assert (ROOT / place).exists()


def test_its_results_are_those_of_the_reports() -> None:
    assert results.block("results", results.table()) in README
    assert results.block("confidence", results.confidence()) in README


def test_its_commands_are_commands() -> None:
    assert {*re.findall(r"^captioner (\w+)", README, re.MULTILINE)} <= {*COMMANDS}
