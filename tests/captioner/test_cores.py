"""How many cores there are: affinity, and quotas of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from captioner.cores import usable_cores

VERSION_2 = "0::/user.slice/box\n"
VERSION_1 = "4:cpuset:/\n3:cpu,cpuacct:/box\n"


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (VERSION_2, {}, 8),
        (VERSION_2, {"sys/fs/cgroup/user.slice/box/cpu.max": "max 100000\n"}, 8),
        (VERSION_2, {"sys/fs/cgroup/user.slice/box/cpu.max": "150000 100000\n"}, 2),
        (VERSION_2, {"sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n"}, 3),
        (VERSION_2, {"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),  # as in a container
        (VERSION_2, {"sys/fs/cgroup/cpu.max": "900000 100000\n"}, 8),
        (VERSION_2, {"sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        (VERSION_1, {"sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "-1\n",
                     "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n"}, 8),
        (VERSION_1, {"sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "250000\n",
                     "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n"}, 3),
        ("", {}, 8),
        ("nonsense\n", {}, 8),
    ],
)  # fmt: skip
def test_quotas(tmp_path: Path, groups: str, files: dict[str, str], cores: int) -> None:
    assert usable_cores(system(tmp_path, groups, files)) == cores


def test_without_control_groups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


def test_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(tmp_path) == 1


def test_here() -> None:
    assert usable_cores() >= 1
