"""Does a sharp photo get as good a caption as its small, squashed copy?

    python -m benchmarks.full_size --small FLICKR8K --full FOLDER_OF_FULL_SIZE_PHOTOS

Captions the photos that both have, and writes CIDEr-D x 100 of either (document frequencies from
the dev references), their difference, and its paired bootstrap interval to `full_size.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from captioner import Captioner
from captioner.tokenizer import Tokenizer
from captioner.training.datasets import read_dataset
from captioner.training.rewards import CiderD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=Path, required=True, help="a collection with a dev split")
    parser.add_argument("--full", type=Path, required=True, help="a collection of full-size photos")
    parser.add_argument("--model", help="a name under models/, or a path")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    dev = {photo.path.name: photo for photo in read_dataset(arguments.small).of("dev")}
    full = {photo.path.name: photo for photo in read_dataset(arguments.full).of("all")}
    names = sorted(dev.keys() & full.keys())
    words = {name: [Tokenizer.split(c) for c in photo.captions] for name, photo in dev.items()}
    scorer = CiderD([words[name] for name in names], corpus=[*words.values()])
    captioner = Captioner.load(arguments.model)
    small_scores, full_scores = (
        100
        * np.array(
            [
                scorer.score(i, Tokenizer.split(captioner.caption(photos[name].path).text))
                for i, name in enumerate(names)
            ]
        )
        for photos in (dev, full)
    )
    difference = full_scores - small_scores
    draws = np.random.default_rng(0).choice(difference, (10_000, len(names))).mean(axis=1)
    result = {
        "model": captioner.manifest.name,
        "photos": len(names),
        "small": round(float(small_scores.mean()), 2),
        "full": round(float(full_scores.mean()), 2),
        "difference": round(float(difference.mean()), 2),
        "interval_95": [round(float(x), 2) for x in np.percentile(draws, [2.5, 97.5])],
    }
    text = json.dumps(result, indent=1)
    arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
