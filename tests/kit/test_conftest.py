"""What tests/conftest.py makes of pytest."""

from __future__ import annotations

import pytest


def test_a_failure_is_explained_as_briefly_in_ci_as_elsewhere(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = [[{"seq": number + first} for number in range(50)] for first in (0, 1_000)]
    explained = []
    for value in ("", "true"):
        monkeypatch.setenv("CI", value)
        explained += pytestconfig.hook.pytest_assertrepr_compare(
            config=pytestconfig, op="==", left=sides[0], right=sides[1]
        )
    elsewhere, in_ci = explained
    assert in_ci == elsewhere
    assert "At index 0 diff: {'seq': 0} != {'seq': 1000}" in in_ci
