"""A folder of photos by the command line: what sidecars cost, and what HEIC and AVIF cost.

    python -m benchmarks.collection

The program runs as a person runs it, once a turn, on a folder of its own: captions to a JSON-lines
file alone, and to sidecars (`--write xmp`) as well. What it takes to start is in both. Then single
photos of 12 megapixels in each format, from bytes to a caption, in one process.
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.machine import Goal, Way, in_turns, summary, use_cores, write
from benchmarks.photos import photo_of_12_megapixels, photos
from captioner import Captioner

CORES = 2
GOAL = 1.15
FORMATS = {"JPEG": 90, "HEIF": 80, "AVIF": 70}  # and their quality


def caption_folder(source: Path, *options: str) -> None:
    """Runs the program once on a new copy of a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(source, Path(name) / "photos")
        output = ["--output", str(Path(name) / "captions.jsonl")]
        command = [sys.executable, "-m", "captioner", "caption", str(folder), *output, *options]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def large_photos() -> dict[str, bytes]:
    """The same photo of 12 megapixels in each format."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    picture = Image.open(io.BytesIO(photo_of_12_megapixels())).convert("RGB")
    found = {}
    for kind, quality in FORMATS.items():
        file = io.BytesIO()
        picture.save(file, kind, quality=quality)
        found[kind] = file.getvalue()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    use_cores(CORES)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        for number, photo in enumerate(photos(arguments.photos)):
            (source / f"{number:05}.jpg").write_bytes(photo)
        ways = {
            "captions alone": Way(partial(caption_folder, source)),
            "with sidecars": Way(partial(caption_folder, source, "--write", "xmp")),
        }
        folders = in_turns(ways, arguments.turns)
    captioner = Captioner.load()
    large = {
        kind: Way(partial(captioner.caption, content), 2)
        for kind, content in large_photos().items()
    }
    single = in_turns(large, arguments.turns)
    alone, with_sidecars = (statistics.median(values) for values in folders.values())
    goal = Goal(
        f"a folder of {arguments.photos} photos with --write xmp, beside captions alone",
        f"at most {GOAL} times",
        f"{with_sidecars / alone:.2f} times",
        with_sidecars <= GOAL * alone,
        f"{alone / 1000:.1f} s and {with_sidecars / 1000:.1f} s",
    )
    write(
        arguments.output,
        "python -m benchmarks.collection",
        [goal],
        {
            "folder_ms": {way: summary(values, 0) for way, values in folders.items()},
            "photo_of_12_megapixels_ms": {kind: summary(v, 1) for kind, v in single.items()},
        },
    )


if __name__ == "__main__":
    main()
