"""Encoder and decoder as one Keras model, and the generation of captions with it.

Nothing here names a backend: on a CPU Keras runs on TensorFlow, on a GPU on JAX (or PyTorch).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from captioner.tokenizer import Tokenizer
from captioner.training.network.decoder import Decoder


class CaptioningModel(keras.Model):
    """Images and words in, logits of the next words out.

    Args:
        encoder: (photos, ...) images, or stored grids, -> (photos, rows, columns, channels).
        decoder: over that grid.
    """

    def __init__(self, encoder: keras.Model, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        if not decoder.built:
            decoder.build()
        self.built = True

    def call(self, inputs: Any, words: Any, training: bool = False) -> Any:
        """Inputs, words (photos, captions, time) -> logits (photos, captions, time, vocabulary)."""
        return self.decoder(self.encoder(inputs, training=training), words, training=training)


class Generator(keras.Model):
    """Captions of a model, compiled: `predict_on_batch(inputs)` -> words (photos, captions, time).

    Args:
        model: the captioning model.
        max_words: the time axis. A finished caption is filled up with padding.
        captions: of each photo; 1 where the likeliest word is taken each time.
        sample: whether words are drawn by their probability instead.
        seed: of the draws.
    """

    def __init__(
        self,
        model: CaptioningModel,
        max_words: int,
        captions: int = 1,
        sample: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(dtype="float32")
        self.model, self.max_words, self.captions, self.sample = model, max_words, captions, sample
        self.seeds = keras.random.SeedGenerator(seed)
        self.built = True
        self.compile(jit_compile=compiled_by_xla())

    def call(self, inputs: Any) -> Any:
        decoder = self.model.decoder
        prepared = decoder.prepare(self.model.encoder(inputs, training=False))
        state = ops.repeat(prepared.state, self.captions, axis=1)
        word = ops.full(ops.shape(state)[:2], Tokenizer.START, dtype="int32")
        done = ops.zeros_like(word, dtype="bool")
        words = []
        for _ in range(self.max_words):
            hidden, state, _ = decoder.step(decoder.read_words(word), state, prepared)
            logits = mask_specials(decoder.predict(hidden))
            if self.sample:
                uniform = keras.random.uniform(ops.shape(logits), 1e-9, 1.0, seed=self.seeds)
                logits = logits - ops.log(-ops.log(uniform))  # the Gumbel-max trick
            word = ops.cast(ops.argmax(logits, axis=-1), "int32")
            word = ops.where(done, Tokenizer.PAD, word)
            done = ops.logical_or(done, ops.equal(word, Tokenizer.END))
            words.append(word)
        return ops.stack(words, axis=-1)


def mask_specials(logits: Any) -> Any:
    """Logits (..., vocabulary) without padding, start and unknown word, which no caption holds."""
    specials = ops.array([Tokenizer.PAD, Tokenizer.START, Tokenizer.UNK])
    return logits - 1e9 * ops.sum(ops.one_hot(specials, logits.shape[-1]), axis=0)


def compiled_by_xla() -> bool:
    """Whether steps go through XLA: always on JAX, never on TensorFlow.

    TensorFlow's convolutions on a CPU are oneDNN's, which XLA does not call.
    """
    return bool(keras.backend.backend() == "jax")


def save_variables(path: Path, variables: Sequence[Any], **more: Any) -> None:
    """Writes variables, in their order, and a few scalars as .npz, or leaves the old file whole."""
    arrays = {f"v{i:04d}": ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays, **more)
    os.replace(temporary, path)


def load_variables(path: Path, variables: Sequence[Any]) -> dict[str, Any]:
    """Reads what `save_variables` wrote; returns the scalars."""
    with np.load(path) as file:
        for i, variable in enumerate(variables):
            variable.assign(file[f"v{i:04d}"])
        return {key: file[key] for key in file.files if not key.startswith("v")}
