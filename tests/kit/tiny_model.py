"""Writes a model folder with a tiny network of random weights, the same each time.

    python -m tests.kit.tiny_model FOLDER

For tests: it captions any picture within a millisecond, with words that mean nothing. A program of
its own, since it needs TensorFlow, and those who use the folder must not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras

from captioner.manifest import CalibrationSpec, DecoderSpec, EncoderSpec, Manifest
from captioner.model_folder import ModelFolder
from captioner.tokenizer import Tokenizer
from captioner.training.export import SERVING, export_litert
from captioner.training.network.decoder import Decoder

SIZE, GRID, CHANNELS, UNITS, MAX_WORDS = 32, 4, 8, 16, 8
CAPTIONS = [
    "A brown dog runs on the green grass .",
    "Two children play with a red ball in the water .",
    "A man on a bike jumps over a hill .",
]


def main(folder: Path) -> None:
    keras.utils.set_random_seed(7)
    tokenizer = Tokenizer.fit(CAPTIONS, min_count=1)
    encoder = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(CHANNELS, 8, strides=SIZE // GRID, activation="relu"),
        ]
    )
    decoder = Decoder(len(tokenizer), CHANNELS, units=UNITS, heads=2)
    decoder.build()
    # as they are, random weights say the same sentence, hardly surer of one word than of another
    for variable in decoder.trainable_variables:
        if "kernel" in variable.path:
            variable.assign(variable * 3)
    decoder.embedding.embeddings.assign(decoder.embedding.embeddings * 20)
    serving = {
        f"{name}.tflite": content
        for name, content in export_litert(encoder, decoder, "float32").items()
    }
    ModelFolder.write(
        folder,
        Manifest(
            name="tiny",
            created="2026-01-01T00:00:00Z",
            encoder=EncoderSpec(
                architecture="tiny",
                output_layer="its only layer",
                input_size=SIZE,
                grid=(GRID, GRID),
                channels=CHANNELS,
            ),
            decoder=DecoderSpec(
                architecture="tiny",
                units=UNITS,
                vocabulary_size=len(tokenizer),
                max_words=MAX_WORDS,
            ),
            calibration=CalibrationSpec(threshold=0.5),
            serving=SERVING,
            tokenizer="tokenizer.p",
        ),
        {**serving, "tokenizer.p": tokenizer.to_bytes()},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
