"""Writes the README's table of results from the reports in the model's folder.

    python docs/results.py            # or: make results

A report is what `captioner evaluate --record NAME` wrote. The rows of other systems are published
figures, with where they were read.
"""

from __future__ import annotations

import json
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
    ("SCA-CNN on ResNet (Chen 2017)", "68.2 49.6 35.9 25.8 22.4 - -", "from memory"),
)  # fmt: skip
REPORTS = {
    "flickr8k-test": "**this project, as served, Flickr8k test**",
    "flickr8k-test-float": "the same in float32",
    "flickr8k-dev": "this project, as served, Flickr8k dev",
    "coco-aside": "this project, as served, 200 photos of MS COCO set aside",
}
START, END = "<!-- results: make results -->", "<!-- /results -->"


def table() -> str:
    """The table in Markdown."""
    lines = [f"| system | {' | '.join(COLUMNS)} | source |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, figures, source in OTHERS:
        cells = [figure.replace("-", "") if figure == "-" else figure for figure in figures.split()]
        lines.append(f"| {name} | {' | '.join(cells)} | {source} |")
    folder = ModelFolder.open().path
    for report, name in REPORTS.items():
        file = folder / f"{report}.json"
        if file.exists():
            scores: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["scores"]
            cells = [f"{scores[column]:.1f}" for column in COLUMNS.values()]
            place = file.relative_to(ROOT).as_posix()
            lines.append(f"| {name} | {' | '.join(cells)} | [{report}.json]({place}) |")
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    block = f"{START}\n{table()}\n{END}"
    pattern = re.escape(START) + ".*?" + re.escape(END)
    readme.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
