"""One training step of the whole network on each backend of Keras, in turns.

    python -m benchmarks.training --backend tensorflow --backend jax --backend torch

Writes to `training.json` the seconds a step takes and the losses of the first steps, which differ
between backends by rounding alone: weights, photos and words are the same, and nothing is dropped.
Backends other than TensorFlow have to be installed (`pip install jax torch`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine

PHOTOS, CAPTIONS, WORDS, VOCABULARY, STEPS = 16, 5, 20, 3000, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", action="append", default=[])
    parser.add_argument(
        "--measure", action="store_true", help="the backend of this process alone, to stdout"
    )
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure()))
        return
    runs: dict[str, list[dict[str, Any]]] = {backend: [] for backend in arguments.backend}
    for _ in range(arguments.turns):
        for backend, own in runs.items():
            environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.training", "--measure"],
                env=environment, check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            own.append(json.loads(done.stdout.splitlines()[-1]))
    results = {
        backend: {
            "seconds_a_step": round(min(run["seconds_a_step"] for run in own), 3),
            "seconds_to_compile": round(min(run["seconds_to_compile"] for run in own), 1),
            "losses": own[0]["losses"],
        }
        for backend, own in runs.items()
    }
    result = {"machine": machine.describe(), "photos_a_step": PHOTOS, "backends": results}
    text = json.dumps(result, indent=1)
    arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


def measure() -> dict[str, Any]:
    """In a process of its own, whose environment names the backend."""
    import keras

    from captioner.training.network.decoder import Decoder
    from captioner.training.network.encoder import build_encoder
    from captioner.training.network.model import CaptioningModel
    from captioner.training.objectives import CrossEntropy

    keras.config.set_dtype_policy("mixed_bfloat16")
    rng = np.random.default_rng(1)
    encoder = build_encoder()
    model = CaptioningModel(encoder, Decoder(VOCABULARY, encoder.output_shape[-1], dropout=0.0))
    for variable in model.trainable_variables:
        scale = np.sqrt(2 / max(1, np.prod(variable.shape[:-1]))) if len(variable.shape) > 1 else 0
        variable.assign(scale * rng.standard_normal(variable.shape))
    captions = [[rng.integers(4, VOCABULARY, WORDS).tolist()] * CAPTIONS for _ in range(PHOTOS)]
    objective = CrossEntropy(model, captions, WORDS)
    objective.prepare_to_learn(keras.optimizers.Adam(1e-5))
    images = rng.uniform(-1, 1, (PHOTOS, *encoder.input_shape[1:])).astype(np.float32)
    batch = objective.batch(range(PHOTOS), {"inputs": images}, rng)
    seconds, losses = [], []
    for _ in range(1 + STEPS):
        started = time.perf_counter()
        losses.append(float(objective.train_on_batch(batch, return_dict=True)["loss"]))
        seconds.append(time.perf_counter() - started)
    return {
        "seconds_a_step": min(seconds[1:]),
        "seconds_to_compile": seconds[0] - min(seconds[1:]),
        "losses": [round(loss, 4) for loss in losses],
    }


if __name__ == "__main__":
    main()
