"""The original's way to caption a photo, for comparison: a child of the other benchmarks.

    python -m benchmarks.original PHOTO

Xception by `model.predict` gives one vector of 2,048 numbers; then, for each word, a merge model
(Tanti et al. 2017: the vector to 256 units, the words so far by an LSTM to 256 units, their sum to
the next word) is asked by `model.predict` again, over the whole sentence so far, padded to 32
words. Here the weights are random, since the time does not depend on them, and so a sentence has
WORDS words rather than an end.

Captions the photo once for each line on stdin, and answers each with a line of JSON: milliseconds
of the whole and of Xception alone. TensorFlow, its threads and its memory keep to this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, cast

VOCABULARY = 8_000
LONGEST = 32
WORDS = 11


class Original:
    """The child, started and warm.

    Attributes:
        encoder: milliseconds of Xception in each call so far.
    """

    def __init__(self, photo: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.original", str(photo)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid
        self._questions = cast(IO[str], self._process.stdin)
        self._answers = cast(IO[str], self._process.stdout)
        self.encoder: list[float] = []

    def caption(self) -> None:
        """Caption the photo once."""
        self._questions.write("\n")
        self._questions.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError("The original's way broke down; run benchmarks.original alone.")
        self.encoder.append(json.loads(line)["encoder"])

    def close(self) -> None:
        self._process.communicate()  # closes stdin, which ends it


def main(photo: str) -> None:
    import keras
    import numpy as np
    from keras import layers

    encoder = keras.applications.Xception(weights=None, include_top=False, pooling="avg")
    vector = keras.Input((2048,))
    words = keras.Input((LONGEST,))
    seen = layers.Dense(256, activation="relu")(layers.Dropout(0.5)(vector))
    read = layers.Dropout(0.5)(layers.Embedding(VOCABULARY, 256, mask_zero=True)(words))
    merged = layers.Dense(256, activation="relu")(layers.add([seen, layers.LSTM(256)(read)]))
    decoder = keras.Model([vector, words], layers.Dense(VOCABULARY, activation="softmax")(merged))

    def caption() -> dict[str, Any]:
        started = time.perf_counter()
        picture = keras.utils.load_img(photo, target_size=(299, 299))
        pixels = keras.utils.img_to_array(picture)[None] / 127.5 - 1  # (1, 299, 299, 3)
        grid = encoder.predict(pixels, verbose=0)  # (1, 2048)
        encoded = time.perf_counter()
        sentence = [1]
        for _ in range(WORDS):
            padded = keras.utils.pad_sequences([sentence], maxlen=LONGEST)
            sentence.append(int(np.argmax(decoder.predict([grid, padded], verbose=0))) or 1)
        return {
            "whole": 1000 * (time.perf_counter() - started),
            "encoder": 1000 * (encoded - started),
        }

    for _ in sys.stdin:
        print(json.dumps(caption()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
