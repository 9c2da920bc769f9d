"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that the system gives this process, one at least.

    It counts the process's affinity (`taskset`) and, on Linux, the quotas of its control group and
    of those above it, as containers have them. A quota of one core and a half counts as two.

    Args:
        root: of the file system, for tests.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """The limits of all control groups around this process, in cores."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":  # version 2
            base, read = root / "sys/fs/cgroup", _quota_of_version_2
        elif "cpu" in controllers.split(","):
            base, read = root / "sys/fs/cgroup/cpu", _quota_of_version_1
        else:
            continue
        group = base / path.strip("/")
        while True:
            # In a container the path may be that of the host, and only the base is there.
            with contextlib.suppress(ValueError, IndexError, ZeroDivisionError):
                found.append(read(group))
            if group == base:
                break
            group = group.parent
    return [quota for quota in found if quota > 0]


def _quota_of_version_2(group: Path) -> float:
    quota, period = _text(group / "cpu.max").split()[:2]  # the quota may be "max"
    return int(quota) / int(period)


def _quota_of_version_1(group: Path) -> float:
    return int(_text(group / "cpu.cfs_quota_us")) / int(_text(group / "cpu.cfs_period_us"))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
