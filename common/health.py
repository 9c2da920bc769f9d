"""Whether servers of this machine are ready, for the health checks of containers.

    python -m common.health relay
    python -m common.health              # all three

It reads the same settings as the servers. Exit status 0: ready; 1: not, with the reason.
"""

from __future__ import annotations

import argparse
import sys

from common.errors import SettingsError
from common.settings import Settings
from common.supervisor import SERVERS

PATIENCE = 4.0  # seconds for an answer; less than the time limit in Containerfile and compose.yaml


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m common.health", description="Are the servers ready?"
    )
    names = [server.name for server in SERVERS]
    parser.add_argument("server", nargs="*", help=f"{', '.join(names)} (default: all)")
    wanted = parser.parse_args().server or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"there is no server {unknown[0]!r}")
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    reasons = {s.name: s.why_not_ready(settings, PATIENCE) for s in SERVERS if s.name in wanted}
    for name, reason in reasons.items():
        if reason:
            print(f"{name} is not ready: {reason}", file=sys.stderr)
    return 1 if any(reasons.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
