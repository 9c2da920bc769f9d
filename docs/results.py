"""Writes the tables and the figure of results from the reports in the model's folder.

    python docs/results.py            # or: make results

A report is what `captioner evaluate --record NAME` wrote. The rows of other systems are published
figures, with where they were read.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from captioner.model_folder import ModelFolder

ROOT = Path(__file__).resolve().parent.parent

COLUMNS = {"B1": "BLEU-1", "B2": "BLEU-2", "B3": "BLEU-3", "B4": "BLEU-4",
           "M": "METEOR", "R": "ROUGE-L", "C": "CIDEr"}  # fmt: skip
# System, its figures as published (x100), and where they were read.
OTHERS = (
    ("Ordinary Keras caption apps", "51-61 26-37 18-25 9-14 - - -", "READMEs, mostly by NLTK"),
    ("Merge model (Tanti 2017)", "60.1 41.1 27.4 17.9 - - -", "second-hand"),
    ("Google NIC (Vinyals 2015)", "63 41 27 - - - -", "second-hand"),
    ("Log-bilinear (Kiros 2014)", "65.6 42.4 27.7 17.7 - - -", "second-hand"),
    ("keras-image-captioning, InceptionV3 + LSTM", "61.8 40.8 27.8 19.0 21.5 48.7 41.5",
     "its result file"),
    ("Show, Attend and Tell, soft (Xu 2015)", "67.0 44.8 29.9 19.5 18.9 - -", "second-hand"),
    ("Show, Attend and Tell, hard (Xu 2015)", "67.0 45.7 31.4 21.3 20.3 - -", "second-hand"),
    ("Adaptive attention on ResNet-152, beam 5 (sulabhkatiyar)", "65.9 - - 23.5 20.7 47.6 58.9",
     "its README"),
    ("SCA-CNN on ResNet (Chen 2017)", "68.2 49.6 35.9 25.8 22.4 - -", "from memory"),
)  # fmt: skip
REPORTS = {
    "flickr8k-test": "**this project, as served, Flickr8k test**",
    "flickr8k-test-float": "the same in float32",
    "flickr8k-dev": "this project, as served, Flickr8k dev",
    "coco-aside": "this project, as served, 200 photos of MS COCO set aside",
}
# The two models that the one that ships learned from, scored alike.
TEACHERS = ROOT / "docs" / "teachers"
TEACHERS_REPORTS = {
    "first/flickr8k-test": "the first of two models that it learned from, as served, Flickr8k test",
    "second/flickr8k-test": "the second, by the same plan",
}
SUMMARY = {
    "flickr8k-test": "Flickr8k test, 1,000 photos",
    "coco-aside": "MS COCO, 200 photos set aside",
}
CONFIDENCE = {
    "flickr8k-test": "Flickr8k test",
    "flickr8k-dev": "Flickr8k dev, each fifth of it by what the others teach",
    "coco-aside": "200 photos of MS COCO set aside",
}


def summary() -> str:
    """The README's table in Markdown."""
    lines = [
        "| | BLEU-4 | METEOR | CIDEr | correct when confident |",
        "|---" * 5 + "|",
        "| for comparison, Flickr8k test: adaptive attention on ResNet-152, beam 5, by its README "
        "| 23.5 | 20.7 | 58.9 | |",
    ]
    for report, name in SUMMARY.items():
        whole = _report(report)
        cells = [f"**{whole['scores'][score]:.1f}**" for score in ("BLEU-4", "METEOR", "CIDEr")]
        side = whole["reliability"]["confident"]
        cells.append(f"{side['correct']:.0%} of {side['photos']}".replace("%", " %"))
        place = (ModelFolder.open().path / f"{report}.json").relative_to(ROOT).as_posix()
        lines.append(f"| {name} ([report]({place})) | {' | '.join(cells)} |")
    return "\n".join(lines)


def table() -> str:
    """All systems in Markdown."""
    lines = [f"| system | {' | '.join(COLUMNS)} | source |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, figures, source in OTHERS:
        cells = [figure.replace("-", "") if figure == "-" else figure for figure in figures.split()]
        lines.append(f"| {name} | {' | '.join(cells)} | {source} |")
    for folder, reports in ((ModelFolder.open().path, REPORTS), (TEACHERS, TEACHERS_REPORTS)):
        for report, name in reports.items():
            file = folder / f"{report}.json"
            scores: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["scores"]
            cells = [f"{scores[column]:.1f}" for column in COLUMNS.values()]
            place = os.path.relpath(file, ROOT / "docs").replace(os.sep, "/")
            lines.append(f"| {name} | {' | '.join(cells)} | [{file.name}]({place}) |")
    return "\n".join(lines)


def confidence() -> str:
    """How well correct captions are separated from wrong ones, in Markdown."""
    lines = [
        "| | AUROC | by the probability alone | correct if fairly sure | correct if not sure |",
        "|---" * 5 + "|",
    ]
    # The confidence was fitted on dev, so its report there would be too good.
    fitted_on = _report("calibration")["flickr8k"]
    for report, name in CONFIDENCE.items():
        known = fitted_on if report == "flickr8k-dev" else _report(report)["reliability"]
        cells = [f"**{known['auroc']:.1%}**", f"{known['by_probability']['auroc']:.1%}"]
        sides = (known["confident"], known["not_confident"])
        cells += [f"{side['correct']:.0%} of {side['photos']}" for side in sides]
        lines.append(f"| {name} | {' | '.join(cells)} |".replace("%", " %"))
    return "\n".join(lines)


def _report(name: str) -> dict[str, Any]:
    file = ModelFolder.open().path / f"{name}.json"
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report


def figure() -> str:
    """BLEU-4 of all systems, and how often captions of each fifth are correct, as SVG."""
    reports = {name: _report(name) for name in REPORTS}
    bars = [(name, float(b4)) for name, figures, _ in OTHERS
            if re.fullmatch(r"[\d.]+", b4 := figures.split()[3])]  # fmt: skip
    bars.append(("this project, as served", reports["flickr8k-test"]["scores"]["BLEU-4"]))
    bars.sort(key=lambda bar: bar[1])
    drawn = [_text(20, 28, "BLEU-4, Flickr8k test", "bold")]
    for row, (name, value) in enumerate(bars):
        y, colour = 44 + 30 * row, "#0f6e56" if "project" in name else "#b4c7c0"
        drawn += [
            f'<rect x="315" y="{y}" width="{6.4 * value:.0f}" height="20" rx="3" fill="{colour}"/>',
            _text(307, y + 15, name, anchor="end"),
            _text(321 + 6.4 * value, y + 15, f"{value:.1f}"),
        ]
    drawn.append(_text(560, 28, "Correct captions, by confidence", "bold"))
    bottom = 44 + 30 * len(bars)
    for share in (0.0, 0.5, 1.0):
        line_y = bottom - 20 - share * (bottom - 70)
        drawn += [
            f'<path d="M610 {line_y:.0f} H900" stroke="#dddddd"/>',
            _text(602, line_y + 4, f"{share:.0%}", anchor="end"),
        ]
    for name, colour in (("flickr8k-test", "#0f6e56"), ("coco-aside", "#c05621")):
        places = [
            (640 + 58 * fifth, bottom - 20 - part["correct"] * (bottom - 70))
            for fifth, part in enumerate(reports[name]["reliability"]["curve"])
        ]
        line = " ".join(f"{x},{y:.0f}" for x, y in places)
        drawn += [
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>',
            *(f'<circle cx="{x}" cy="{y:.0f}" r="4" fill="{colour}"/>' for x, y in places),
        ]
    drawn += [
        _text(640, bottom + 2, "least confident fifth", anchor="middle"),
        _text(872, bottom + 2, "most confident fifth", anchor="middle"),
        _text(900, bottom + 26, "MS COCO, set aside", anchor="end", colour="#c05621"),
        _text(740, bottom + 26, "Flickr8k test", anchor="end", colour="#0f6e56"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 {bottom + 44}" '
        'font-family="system-ui, sans-serif" font-size="13">'
        f'<rect width="940" height="{bottom + 44}" rx="8" fill="white"/>{"".join(drawn)}</svg>\n'
    )


def _text(
    x: float, y: float, text: str, weight: str = "normal", anchor: str = "start",
    colour: str = "#222222",
) -> str:  # fmt: skip
    place = f'x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} fill="{colour}">{html.escape(text)}</text>'


# Where each generated block is.
PAGES = {
    ROOT / "README.md": {"summary": summary},
    ROOT / "docs" / "results.md": {"results": table, "confidence": confidence},
}


def block(mark: str, content: str) -> str:
    """A generated part of a page, between its marks."""
    return f"<!-- {mark}: make results -->\n{content}\n<!-- /{mark} -->"


def main() -> None:
    (ROOT / "docs" / "results.svg").write_text(figure(), encoding="utf-8")
    for page, blocks in PAGES.items():
        text = page.read_text(encoding="utf-8")
        for mark, content in blocks.items():
            old = re.compile(f"<!-- {mark}: .*?<!-- /{mark} -->", re.DOTALL)
            new = block(mark, content())
            text = new.join(old.split(text))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
