"""Holds a model folder's LiteRT files against Keras with the same weights; prints JSON.

    python -m tests.training.compare_with_keras FOLDER

The Keras side goes through the same search, with a decoder step of Keras in LiteRT's place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import skimage.data
from keras import ops

from captioner.engine import Engine
from captioner.model_folder import ModelFolder
from captioner.pictures.preprocess import Preprocessor
from captioner.search import BeamSearch
from captioner.training.export import load_trained


class KerasSteps:
    def __init__(self, decoder, grid):
        self.decoder, self.prepared = decoder, decoder.prepare(grid)

    def start(self):
        return np.asarray(self.prepared.state)[0]

    def step(self, words, state):
        gates = self.decoder.read_words(words[None])
        prepared = self.prepared._replace(state=None)
        hidden, state, attention = self.decoder.step(gates, state[None], prepared)
        log = ops.log_softmax(self.decoder.predict(hidden))
        return np.asarray(log)[0], np.asarray(state)[0], np.asarray(attention)[0]


def main(folder: Path) -> None:
    model = ModelFolder.open(folder)
    encoder, decoder = load_trained(model)
    encoder_file, init_file, step_file = model.serving()
    engine = Engine(encoder_file, init_file, step_file)
    search = BeamSearch(3, model.manifest.decoder.max_words)
    size = model.manifest.encoder.input_size
    pictures = [
        getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")
    ]
    largest, same, forced = 0.0, 0, 0.0
    for picture in pictures:
        image = Preprocessor(size).tensor(picture)
        grid = np.asarray(encoder(image[None]))
        lite = engine.encode(image)
        largest = max(largest, float(np.abs(lite - grid[0]).max()))
        with engine.read(lite) as steps:
            ours, keras_own = search.search(steps), search.search(KerasSteps(decoder, grid))
        same += [h.words for h in ours] == [h.words for h in keras_own]
        # What training sees in one go is what the steps give one by one.
        best = keras_own[0]
        given = np.array([[[1, *best.words][: len(best.log_probabilities)]]])
        wanted = [*best.words, 2][: len(best.log_probabilities)]
        log = np.asarray(ops.log_softmax(decoder(grid, given)))[0, 0]
        stepwise = np.array(best.log_probabilities)
        forced = max(forced, float(np.abs(log[range(len(wanted)), wanted] - stepwise).max()))
    print(
        json.dumps(
            {
                "photos": len(pictures),
                "largest_difference": largest,
                "same_captions": same,
                "teacher_forcing_difference": forced,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
