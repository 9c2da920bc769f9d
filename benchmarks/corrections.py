"""Do corrections teach? People's captions of photos of one subject stand in for corrections.

    python -m benchmarks.corrections --data COCO2 --rest FLICKR8K

The subject is streets and vehicles. The model is trained on one caption each of some photos of it,
as an owner of photos would do it, with the plan captioner/training/plans/corrections.json. CIDEr
before and after, of the other photos of the subject and of the rest: photos of COCO without the
subject, and Flickr8k's dev split. No model here was trained on photos of the folder COCO2.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import write
from captioner.training.datasets import Photo, read_dataset

SUBJECT = re.compile(
    r"\b(trains?|bus|buses|motorcycles?|airplanes?|planes?|jets?|trucks?|cars?|boats?|traffic|"
    r"street)\b"
)
PLAN = Path(__file__).resolve().parent.parent / "captioner/training/plans/corrections.json"
COUNTS = (100, 250)  # corrections
ELSEWHERE = 500  # photos of COCO without the subject


def is_of_subject(photo: Photo) -> bool:
    """Whether half of its captions name the subject."""
    named = sum(bool(SUBJECT.search(caption.lower())) for caption in photo.captions)
    return 2 * named >= len(photo.captions)


def captioner(*arguments: object) -> str:
    """Runs the command `captioner`; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "captioner", *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def cider(model: object, data: Path, photos: Sequence[Photo], folder: Path) -> float:
    """CIDEr of a model's captions of photos."""
    names = folder / "names.json"
    names.write_text(json.dumps([photo.path.name for photo in photos]))
    out = folder / "scores.json"
    captioner(
        *("evaluate", "--model", model, "--data", data, "--split", "all"),
        *("--only", names, "--output", out),
    )
    return float(json.loads(out.read_text())["scores"]["CIDEr"])


def corrections_of(photos: Sequence[Photo]) -> dict[str, Any]:
    """One caption of each photo, in the form of app1's `GET /api/corrections`."""
    return {
        "captions": {photo.path.name: [photo.captions[0]] for photo in photos},
        "images": {
            photo.path.name: base64.b64encode(photo.path.read_bytes()).decode() for photo in photos
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="photos with the subject")
    parser.add_argument("--rest", type=Path, required=True, help="another data set, for its dev")
    parser.add_argument("--model", default="inception-v3-lstm")
    parser.add_argument(
        "--corrections", type=int, action="append", help=f"how many {COUNTS}; may be repeated"
    )
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    counts = arguments.corrections or COUNTS
    photos = list(read_dataset(arguments.data).photos)
    random.Random(7).shuffle(photos)  # noqa: S311
    subject = [photo for photo in photos if is_of_subject(photo)]
    learned, others = subject[: max(counts)], subject[max(counts) :]
    elsewhere = [photo for photo in photos if not is_of_subject(photo)][:ELSEWHERE]
    rest = read_dataset(arguments.rest).of("dev")
    sets = {
        "subject": (arguments.data, others),
        "coco_without_subject": (arguments.data, elsewhere),
        "flickr8k_dev": (arguments.rest, rest),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def scores(model: object) -> dict[str, float]:
            return {key: cider(model, *where, folder) for key, where in sets.items()}

        rows: list[dict[str, Any]] = [{"corrections": 0, "cider": scores(arguments.model)}]
        print(rows[-1], flush=True)
        for count in counts:
            file = folder / f"corrections-{count}.json"
            file.write_text(json.dumps(corrections_of(learned[:count])))
            started = time.perf_counter()
            captioner(
                *("train", "--start-from", arguments.model, "--corrections", file),
                *("--config", arguments.plan, "--work", folder / f"work{count}"),
                *("--out", folder / f"model{count}"),
            )
            minutes = round((time.perf_counter() - started) / 60, 2)
            row = {"corrections": len(learned[:count]), "minutes": minutes}
            rows.append({**row, "cider": scores(folder / f"model{count}")})
            print(rows[-1], flush=True)
    sizes = {key: len(where[1]) for key, where in sets.items()}
    write(
        arguments.output,
        "python -m benchmarks.corrections --data COCO2 --rest FLICKR8K",
        [],
        {"photos": sizes, "rows": rows},
    )


if __name__ == "__main__":
    main()
