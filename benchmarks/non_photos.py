"""Which pictures the model calls no photo: a hundred pages and drawings, and ordinary photos.

    python -m benchmarks.non_photos --photos FOLDER --names benchmarks/coco_set_aside.json

Chromium draws the hundred: ten kinds of page, each with ten texts, colours and sizes of the window.
The texts and the code are this repository's own. `captioner calibrate` learns from pictures that
Pillow draws. So these are of the same kinds as those, and drawn by another program.
"""

from __future__ import annotations

import argparse
import html
import itertools
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.machine import Goal, write
from captioner import Captioner
from tests.kit import ROOT
from tests.kit.chromium import Chromium

EACH = 10  # of a kind
LEAST_FOUND, MOST_WRONG = 0.98, 0.05


def paragraphs() -> list[str]:
    """Of the documentation, as plain text."""
    text = "\n\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    found = (re.sub(r"[`*|\[\]]|\(.*?\)", "", part) for part in text.split("\n\n"))
    return [part.strip() for part in found if 120 < len(part) < 900 and "---" not in part]


def sources() -> list[str]:
    return [path.read_text("utf-8") for path in sorted((ROOT / "captioner").rglob("*.py"))]


class Pages:
    """Makes pages at random, each as HTML."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._paragraphs, self._sources = paragraphs(), sources()

    def _colour(self, light: bool | None = None) -> str:
        low, high = {None: (10, 90), True: (88, 100), False: (5, 28)}[light]
        chance = self._random
        return f"hsl({chance.randrange(360)},{chance.randrange(100)}%,{chance.randint(low, high)}%)"

    def _text(self, count: int = 1) -> list[str]:
        return [html.escape(text) for text in self._random.sample(self._paragraphs, count)]

    def _words(self, count: int) -> str:
        words = self._text()[0].split()
        start = self._random.randrange(max(1, len(words) - count))
        return " ".join(words[start : start + count])

    def article(self) -> str:
        size, columns = self._random.randint(12, 24), self._random.randint(1, 3)
        body = "".join(f"<p>{text}</p>" for text in self._text(8))
        return (
            f"<div style='font:{size}px serif;margin:5%;columns:{columns}'>"
            f"<h1>{self._words(5)}</h1>{body}</div>"
        )

    def code(self) -> str:
        lines = self._random.choice(self._sources).splitlines()
        start = self._random.randrange(max(1, len(lines) - 40))
        shown = html.escape("\n".join(lines[start : start + 45]))
        dark = self._random.random() < 0.6
        for word in ("def", "return", "class", "import", "for", "if", "self"):
            shown = re.sub(
                rf"\b{word}\b", f"<b style='color:{self._colour(not dark)}'>{word}</b>", shown
            )
        size, back, ink = self._random.randint(11, 20), self._colour(not dark), self._colour(dark)
        style = f"margin:0;padding:1em;min-height:100vh;font-size:{size}px"
        return f"<pre style='{style};background:{back};color:{ink}'>{shown}</pre>"

    def table(self) -> str:
        chance = self._random
        columns = chance.randint(3, 9)
        rows = "".join(
            "<tr>"
            + "".join(f"<td>{chance.uniform(-9e3, 9e3):,.2f}</td>" for _ in range(columns))
            + "</tr>"
            for _ in range(chance.randint(6, 30))
        )
        head = "".join(f"<th>{self._words(1)}</th>" for _ in range(columns))
        return (
            f"<table border=1 style='border-collapse:collapse;width:100%;font:15px sans-serif'>"
            f"<tr style='background:{self._colour(True)}'>{head}</tr>{rows}</table>"
        )

    def form(self) -> str:
        fields = "".join(
            f"<p><label>{self._words(2)}<br><input value='{self._words(3)}' size=50></label>"
            for _ in range(self._random.randint(3, 8))
        )
        return (
            f"<div style='background:{self._colour()};padding:1em;font:bold 22px sans-serif'>"
            f"{self._words(3)}</div><form style='margin:2em;font:16px sans-serif'>{fields}"
            f"<p><button>{self._words(1)}</button>"
            f"<p><input type=checkbox checked> {self._words(4)}</form>"
        )

    def chat(self) -> str:
        style = "div div{border-radius:12px;padding:.6em;width:55%;margin:.6em}"
        bubbles = "".join(
            f"<div style='background:{self._colour(True)};"
            f"margin-left:{self._random.choice(['.6em', 'auto'])}'>"
            f"{self._words(self._random.randint(2, 25))}</div>"
            for _ in range(9)
        )
        return f"<style>{style}</style><div style='font:17px sans-serif'>{bubbles}</div>"

    def bars(self) -> str:
        chance = self._random
        count, colour = chance.randint(3, 14), self._colour()
        step = 800 / count
        bars = "".join(
            f"<rect x={60 + i * step:.0f} y={460 - high:.0f} width={0.7 * step:.0f} "
            f"height={high:.0f} fill='{colour}'/>"
            f"<text x={60 + i * step:.0f} y=485 font-size=14>{self._words(1)[:8]}</text>"
            for i, high in enumerate(chance.uniform(10, 400) for _ in range(count))
        )
        return self._drawn(f"<path d='M50 40V460H880' stroke=black fill=none />{bars}")

    def curves(self) -> str:
        chance = self._random
        lines = ""
        for _ in range(chance.randint(1, 5)):
            y, points = chance.uniform(100, 400), []
            for x in range(50, 880, 15):
                y = min(450.0, max(40.0, y + chance.gauss(0, 18)))
                points.append(f"{x},{y:.0f}")
            lines += (
                f"<polyline points='{' '.join(points)}' fill=none stroke='{self._colour()}' "
                f"stroke-width={chance.randint(1, 4)} />"
            )
        grid = "".join(f"<path d='M50 {y}H880' stroke='#ccc'/>" for y in range(60, 460, 80))
        return self._drawn(f"{grid}<path d='M50 40V460H880' stroke=black fill=none />{lines}")

    def diagram(self) -> str:
        chance = self._random
        places = [
            (chance.randint(30, 720), chance.randint(50, 430)) for _ in range(chance.randint(4, 9))
        ]
        arrows = "".join(
            f"<path d='M{a[0] + 70} {a[1] + 25}L{b[0] + 70} {b[1] + 25}' stroke=black />"
            for a, b in itertools.pairwise(places)
        )
        boxes = "".join(
            f"<rect x={x} y={y} width=140 height=50 fill='{self._colour(True)}' stroke=black />"
            f"<text x={x + 8} y={y + 30} font-size=15>{self._words(2)[:16]}</text>"
            for x, y in places
        )
        return self._drawn(arrows + boxes)

    def cartoon(self) -> str:
        """A house, a sun, a tree and people of few lines, as children draw them."""
        chance = self._random
        person = (
            "<circle r=18 /><path d='M0 18V70M0 40L{} {}M0 40L{} {}M0 70L-18 110M0 70L18 110'/>"
        )
        people = "".join(
            self._at(
                chance.randint(50, 800),
                chance.randint(250, 380),
                person.format(-25, chance.randint(20, 60), 25, chance.randint(20, 60)),
                "stroke=black stroke-width=4 fill=none",
            )
            for _ in range(chance.randint(1, 4))
        )
        walls = f"<path d='M0 110h200v160h-200z' fill='{self._colour()}'/>"
        roof = f"<path d='M-20 110l120 -110l120 110z' fill='{self._colour()}'/>"
        door = f"<rect x=80 y=180 width=45 height=90 fill='{self._colour()}'/>"
        house = self._at(
            chance.randint(100, 600), 140, walls + roof + door, "stroke=black stroke-width=4"
        )
        sun = f"<circle cx={chance.randint(60, 840)} cy=80 r={chance.randint(25, 60)} fill=gold />"
        crown = f"<circle cx=10 cy=-10 r=55 fill='{self._colour()}' stroke=black />"
        trunk = "<rect width=20 height=110 fill=saddlebrown />"
        tree = self._at(chance.randint(50, 800), 300, trunk + crown)
        ground = f"<rect y=405 width=900 height=95 fill='{self._colour()}'/>"
        return self._drawn(ground + sun + (house if chance.random() < 0.7 else "") + tree + people)

    @staticmethod
    def _at(x: int, y: int, shapes: str, style: str = "") -> str:
        return f"<g transform='translate({x} {y})' {style}>{shapes}</g>"

    def slide(self) -> str:
        points = "".join(f"<li>{self._words(6)}" for _ in range(self._random.randint(0, 5)))
        dark = self._random.random() < 0.5
        size = self._random.randint(24, 44)
        return (
            f"<div style='background:{self._colour(not dark)};color:{self._colour(dark)};"
            f"min-height:100vh;padding:6vw;font:{size}px sans-serif'>"
            f"<h1>{self._words(4)}</h1><ul>{points}</ul></div>"
        )

    def _drawn(self, shapes: str) -> str:
        back = self._colour(True) if self._random.random() < 0.5 else "white"
        style = f"width:100%;background:{back};font-family:sans-serif"
        return f"<svg viewBox='0 0 900 500' style='{style}'>{shapes}</svg>"

    def all(self) -> Iterator[tuple[str, str, tuple[int, int]]]:
        """Kind, HTML, and width and height of the window, of each page."""
        kinds: tuple[Callable[[], str], ...] = (
            self.article, self.code, self.table, self.form, self.chat, self.bars, self.curves,
            self.diagram, self.cartoon, self.slide,
        )  # fmt: skip
        for kind in kinds:
            for _ in range(EACH):
                window = (self._random.randint(500, 1400), self._random.randint(500, 1000))
                page = f"<!doctype html><meta charset=utf-8><body style='margin:0'>{kind()}"
                yield kind.__name__, page, window


def screenshots(profile: Path, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Kind and PNG file of each page, as Chromium shows it."""
    browser = Chromium(profile)
    try:
        for kind, page, (width, height) in Pages(seed).all():
            browser.driver.set_window_size(width, height)
            browser.open("data:text/html;charset=utf-8," + quote(page))
            yield kind, browser.driver.get_screenshot_as_png()
    finally:
        browser.quit()


def found(captioner: Captioner) -> dict[str, int]:
    """How many pages of each kind are called no photo."""
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as profile:
        for kind, png in screenshots(Path(profile)):
            counts[kind] = counts.get(kind, 0) + (not captioner.caption(png).photo)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    parser.add_argument("--names", type=Path, required=True, help="JSON list of their file names")
    parser.add_argument("--model", help="name or path of a model folder (default: the default one)")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    captioner = Captioner.load(arguments.model)
    counts = found(captioner)
    names = set(json.loads(arguments.names.read_text()))
    paths = [path for path in sorted(arguments.photos.rglob("*")) if path.name in names]
    wrong = [path.name for path in paths if not captioner.caption(path).photo]
    pages, number = EACH * len(counts), sum(counts.values())
    goals = [
        Goal(
            f"{pages} pages and drawings: called no photo",
            f"{100 * LEAST_FOUND:.0f} % or more",
            f"{100 * number / pages:.0f} %",
            number >= LEAST_FOUND * pages,
        ),
        Goal(
            f"{len(paths)} photos of MS COCO that were set aside: called no photo",
            f"{100 * MOST_WRONG:.0f} % or less",
            f"{100 * len(wrong) / len(paths):.1f} %",
            len(wrong) <= MOST_WRONG * len(paths),
        ),
    ]
    results: dict[str, Any] = {"called no photo": counts, "photos called none": wrong}
    command = "python -m benchmarks.non_photos --photos COCO --names benchmarks/coco_set_aside.json"
    write(arguments.output, command, goals, results)


if __name__ == "__main__":
    main()
