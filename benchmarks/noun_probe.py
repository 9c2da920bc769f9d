"""How well do an encoder's features name what is in a photo?

    python -m benchmarks.noun_probe --data COCO --data COCO2 \
        --leave-out benchmarks/coco_set_aside.json

Ridge regression predicts, from the mean of a photo's grid, which of 94 nouns its captions hold. It
learns from the photos that are not in `coco_dev.json` and is scored on those that are: mean average
precision of the nouns, times 100. The features come from the encoder as served. The strength of the
ridge is chosen by cross-validation on the photos that it learns from. Takes minutes and needs no
training of a network, so an encoder is judged by it before captions are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioner import Captioner
from captioner.tokenizer import Tokenizer
from captioner.training.datasets import Photo, combine, file_names, read_dataset

# Forms of one noun are one entry. The most frequent of COCO's captions, chosen by hand.
_NOUNS = """
man/men/guy person people woman/women/lady boy/boys girl/girls child/children/kid/kids baby
player/players street road sidewalk city building/buildings house tower sign/signs fence
bench/benches car/cars bus/buses truck/trucks train/trains
motorcycle/motorcycles bike/bicycle/bikes/bicycles
airplane/airplanes/plane/planes/jet boat/boats river ocean water beach wave mountain/mountains hill
field grass/grassy tree/trees park snow/snowy sky ski/skis/skier/skiers skateboard/skateboarder
surfboard/surfboards/surfer tennis court baseball bat ball game frisbee kite/kites dog/dogs cat/cats
horse/horses cow/cows sheep elephant/elephants giraffe/giraffes zebra/zebras bear/bears bird/birds
room kitchen bathroom bed/beds couch chair/chairs table/tables desk counter sink/sinks
toilet/toilets mirror window/windows door wall clock/clocks computer/computers laptop/laptops phone
food plate/plates bowl/bowls pizza/pizzas sandwich/sandwiches cake/cakes
fruit/fruits/banana/bananas vegetables/broccoli shirt suit tie hat glasses umbrella/umbrellas
luggage/suitcase
"""
NOUNS = _NOUNS.split()
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)  # times the number of features, per thousand
FOLDS = 5
LEAST = 3  # photos of the test that hold a noun, or it does not count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--leave-out", type=Path, help="JSON list of file names")
    parser.add_argument(
        "--test", type=Path, default=Path(__file__).with_name("coco_dev.json"),
        help="JSON list of the file names to score on",
    )  # fmt: skip
    parser.add_argument("--model", help="a name under models/, or a path")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    data = combine(read_dataset(path) for path in arguments.data)
    if arguments.leave_out:
        data = data.without(file_names(arguments.leave_out))
    names = file_names(arguments.test)
    captioner = Captioner.load(arguments.model)
    photos = data.photos
    features = np.array([features_of(captioner, photo) for photo in tqdm(photos, disable=None)])
    held = nouns_in([photo.captions for photo in photos])
    test = np.array([photo.path.name in names for photo in photos])
    ridge = choose_ridge(features[~test], held[~test])
    scores = predict(features[~test], held[~test], features[test], ridge)
    result = {
        "model": captioner.manifest.name,
        "learned_from": int((~test).sum()),
        "scored_on": int(test.sum()),
        "nouns": int((held[test].sum(0) >= LEAST).sum()),
        "ridge": ridge,
        "mean_average_precision": round(100 * mean_average_precision(held[test], scores), 2),
    }
    text = json.dumps(result, indent=1)
    arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


def features_of(captioner: Captioner, photo: Photo) -> np.ndarray:
    """The mean of the encoder's grid, (channels,)."""
    mean: np.ndarray = captioner.encode(captioner.preprocessor.load(photo.path)).mean((0, 1))
    return mean


def nouns_in(captions: Sequence[Sequence[str]]) -> np.ndarray:
    """Which nouns the captions of each photo hold, (photos, nouns) float."""
    number = {form: i for i, forms in enumerate(NOUNS) for form in forms.split("/")}
    held = np.zeros((len(captions), len(NOUNS)))
    for row, own in zip(held, captions, strict=True):
        for word in {word for caption in own for word in Tokenizer.split(caption)}:
            if word in number:
                row[number[word]] = 1
    return held


def predict(known: np.ndarray, held: np.ndarray, others: np.ndarray, ridge: float) -> np.ndarray:
    """Ridge regression: scores (others, nouns) from features (photos, features)."""
    mean, deviation = known.mean(0), known.std(0) + 1e-6
    x, z = (known - mean) / deviation, (others - mean) / deviation
    strength = ridge * x.shape[1] / 1000 * len(x)
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (held - held.mean(0)))
    scores: np.ndarray = z @ weights
    return scores


def choose_ridge(features: np.ndarray, held: np.ndarray) -> float:
    """The strength with the best mean average precision over the folds."""
    fold = np.arange(len(features)) % FOLDS

    def quality(ridge: float) -> float:
        return float(
            np.mean(
                [
                    mean_average_precision(
                        held[fold == f],
                        predict(features[fold != f], held[fold != f], features[fold == f], ridge),
                    )
                    for f in range(FOLDS)
                ]
            )
        )

    return max(RIDGES, key=quality)


def mean_average_precision(held: np.ndarray, scores: np.ndarray) -> float:
    """Over the nouns that `LEAST` photos hold.

    Args:
        held: (photos, nouns) 0 or 1.
        scores: (photos, nouns).
    """
    values = []
    for noun in np.flatnonzero(held.sum(0) >= LEAST):
        relevant = held[np.argsort(-scores[:, noun], kind="stable"), noun]
        precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
        values.append(float((precision * relevant).sum() / relevant.sum()))
    return float(np.mean(values))


if __name__ == "__main__":
    main()
