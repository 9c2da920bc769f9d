"""docs/scaling.md: its table is made from the result files, and what it points to is there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from common import settings
from docs import scaling

PAGE = (scaling.FOLDER / "scaling.md").read_text(encoding="utf-8")
MACHINE = {
    "processor": "Z80", "cores_used": 2, "memory_gb": 25.3, "system": "Linux x86_64",
    "python": "3.11.7",
}  # fmt: skip
SERVING: dict[str, Any] = {
    "machine": MACHINE,
    "milliseconds, one at a time": {"upload to viewer": {"p50": 61.2, "p95": 80.7}},
    "crowd": {
        "seconds": 120,
        "captions in time": 3_000,
        "milliseconds to an answer": {"p50": 1_240, "p99": 1_310},
        "processor milliseconds a caption": {"app1": 66.1, "relay": 2.25},
    },
    "app1's memory": {"peak, MB": 251.6},
}
RELAY: dict[str, Any] = {
    "machine": MACHINE,
    "viewers": 500,
    "bytes of a prediction": 8192,
    "medians of the rounds, ms and MB": {
        "eventlet": {
            "p50": 6.4, "p99": 14.1, "storing": 1.2, "processor, server": 12.5, "memory": 100.2,
        },
        "node": {"p50": 6.9, "p99": 14.9},
    },
}  # fmt: skip


SIZES = {"1000": {"kB a connection": 50.4}, "5000": {"kB a connection": 49.6}}
CROWD = {
    "machine": MACHINE,
    "medians of the rounds, by viewers": {
        "node": {"1000": {"kB a connection": 40}, "5000": {"kB a connection": 20}},
        "eventlet": SIZES,
    },
}
STORM = {
    "machine": MACHINE,
    "viewers": 2000,
    "storms": {"relay, killed": {"all have everything, seconds after the start": 3.14}},
}
DROPS = {
    "machine": MACHINE,
    "seconds from cut to cut of a viewer, on average": 6,
    "servers": {
        "relay": {"share of the captions, all viewers": 1},
        "Node.js socket.io": {"share of the captions, all viewers": 0.8568},
    },
}
PART = {
    "minutes": 30.2, "kills": {"relay": 5, "app1": 4}, "uploads answered with a caption": 6000,
    "lost": 0, "twice": 1,
}  # fmt: skip
SOAK = {"machine": MACHINE, "parts": {"sqlite": PART, "redis": PART}}


def test_the_table_says_what_the_files_say() -> None:
    results = {"serving": SERVING, "relay": RELAY, "crowd": CROWD, "storm": STORM, "drops": DROPS}
    made = scaling.table({**results, "soak": SOAK})
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \| \[", made, re.MULTILINE))
    assert rows == {
        "captions a second, new photos": "25.0",
        "upload to the viewer's screen, one at a time, p50 / p95": "61 / 81 ms",
        "32 people who upload without pause: a caption after, p50 / p99": "1.2 / 1.3 s",
        "processor time a caption, app1": "66 ms",
        "processor time a caption, relay, one viewer": "2.2 ms",
        "memory, app1, peak": "252 MB",
        "a caption of 8 KB to 500 viewers, p50 / p99 (Node.js socket.io beside it)": (
            "6 / 14 ms (7 / 15 ms)"
        ),
        "of that, waiting for the disk": "1.2 ms",
        "processor time for one such caption, relay, 500 viewers": "12 ms",
        "such captions a second to 500 viewers that would fill a core": "80",
        "memory, relay, 500 viewers, peak": "100 MB",
        "memory, relay, each of 1,000 viewers (Node.js)": "50 kB (40 kB)",
        "memory, relay, each of 5,000 viewers (Node.js)": "50 kB (20 kB)",
        "the relay is killed with 2,000 viewers and started again: all have everything": (
            "after 3.1 s"
        ),
        "each viewer's connection is cut every 6 s: captions that arrive (Node.js)": (
            "100.0 % (85.7 %)"
        ),
        "60 minutes with 18 kills, a full disk and Redis away: captions lost, and shown twice": (
            "0 and 2 of 12,000"
        ),
    }
    assert made.endswith("on 2 cores of Z80, which the clients of the benchmark share, "
                         "25.3 GB, Linux x86_64, Python 3.11.7.")  # fmt: skip


CLUSTER: dict[str, Any] = {
    "machine": MACHINE,
    "captions a second": {"caption": 22.0, "ray": 20.0},
    "seconds to start and end": {"caption": 0.6, "ray": 8.04},
}
CAPTIONS: dict[str, Any] = {
    "milliseconds": {"caption": {"p50": 30.0}, "caption, 12 megapixels": {"p50": 74.0}}
}


def test_what_a_collection_costs_is_computed_from_the_files() -> None:
    made = scaling.cluster_table(CLUSTER, CAPTIONS)
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \| \[", made, re.MULTILINE))
    assert rows == {
        "captions a second and node of 2 cores, `captioner ray` (`captioner caption` beside it)": (
            "20.0 (22.0)"
        ),
        "seconds to start and end, likewise": "8.0 (0.6)",
        # 100 and 144 ms of a core a photo
        "core hours, a million / a billion ordinary photos": "27.8 / 27,778",
        "core hours, a million / a billion photos of 12 megapixels": "40.0 / 40,000",
    }
    assert made.endswith("on 2 cores of Z80, 25.3 GB, Linux x86_64, Python 3.11.7.")


@pytest.mark.skipif(
    not all(
        (scaling.BENCHMARKS / f"{name}.json").exists()
        for name in (*scaling.ROWS, "cluster", "captions")
    ),
    reason="not all of the benchmarks have been run",
)
def test_the_table_is_that_of_the_result_files() -> None:
    results = {
        name: json.loads((scaling.BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))
        for name in (*scaling.ROWS, "cluster", "captions")
    }
    made = scaling.cluster_table(results["cluster"], results["captions"])
    assert f"{scaling.CLUSTER_START}\n{made}\n{scaling.CLUSTER_END}" in PAGE
    assert f"{scaling.START}\n{scaling.table(results)}\n{scaling.END}" in PAGE


def test_what_it_points_to_is_there() -> None:
    for place in re.findall(r"\]\(((?!https?:|#|\.\./benchmarks/\w+\.json)[^)]+)\)", PAGE):
        assert (scaling.FOLDER / place.partition("#")[0]).exists()
    titles = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {title.lower().replace(",", "").replace(" ", "-") for title in titles}
    assert {*re.findall(r"\]\(#([^)]+)\)", PAGE)} <= anchors


def test_its_settings_are_settings() -> None:
    named = {*re.findall(r"\b(?:RELAY|APP1|APP2|CAPTIONER)_[A-Z_]+", PAGE)}
    assert named <= {name for name, _, _ in settings.table()}


def test_nginx_lets_the_largest_upload_through() -> None:
    """As it stands; app1 then refuses in its own words what is too large for it."""
    from app1.uploads import REQUEST_SIZE_FACTOR

    conf = (scaling.FOLDER / "nginx.conf").read_text(encoding="utf-8")
    megabytes = int(re.search(r"client_max_body_size (\d+)m;", conf)[1])  # type: ignore[index]
    default = settings.Settings.from_environment({}).captioner_max_upload_mb
    assert megabytes >= REQUEST_SIZE_FACTOR * default
