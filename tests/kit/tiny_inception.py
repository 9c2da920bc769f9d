"""Writes a model folder by configuration: InceptionV3's 94 layers with few filters, random weights.

    python -m tests.kit.tiny_inception FOLDER

Where `tiny_model.py` is for tests of what serves, this one is for tests of training and export:
it has the real topology, and weights that can be loaded again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

WORDS = ("a", "in", "the", "on", "is", "dog", "man", "with", "two", "boy", "red", "runs", "water")


def write_model(path: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    from captioner.manifest import CalibrationSpec, DecoderSpec, EncoderSpec, Manifest
    from captioner.tokenizer import Tokenizer
    from captioner.training.export import DECODER, SERVING, build_untrained, write_folder

    keras.utils.set_random_seed(3)
    tokenizer = Tokenizer(WORDS)
    size, width = 139, 0.05
    manifest = Manifest(
        name="tiny",
        created="2026-01-01T00:00:00Z",
        encoder=EncoderSpec(
            architecture="tiny", output_layer="mixed10", input_size=size, grid=(3, 3), channels=102,
            width=width,
        ),
        decoder=DecoderSpec(
            architecture=DECODER, units=16, heads=2, vocabulary_size=len(tokenizer), max_words=8
        ),
        calibration=CalibrationSpec(threshold=0.5),
        serving=SERVING,
        tokenizer="tokenizer.p",
        trained_on=("nothing",),
    )  # fmt: skip
    encoder, decoder = build_untrained(manifest.encoder, manifest.decoder)
    # Fresh embeddings are nearly equal; larger ones make captions differ from picture to picture.
    decoder.embedding.embeddings.assign(decoder.embedding.embeddings * 20)
    write_folder(path, encoder, decoder, tokenizer, manifest, precision="float32")


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
