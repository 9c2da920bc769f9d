"""Encoder and decoder as one Keras model: its losses, its words one by one, and its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from captioner.tokenizer import Tokenizer
from captioner.training.decoder import Decoder


class CaptioningModel(keras.Model):
    """Pictures and words in, logits of the next words out.

    Args:
        encoder: (photos, ...) pictures or stored grids -> (photos, rows, columns, channels).
        decoder: over that grid.
        label_smoothing: probability mass spread over the vocabulary in `compute_loss`.
        bar_specials: whether `compute_loss` leaves out what a caption never holds, as sampling
            does. Without it a policy gradient moves probability to words that are never drawn, and
            so never punished, until nothing else is left.
        train_encoder: whether the encoder learns too.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: Decoder,
        label_smoothing: float = 0.0,
        train_encoder: bool = True,
        bar_specials: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.label_smoothing, self.bar_specials = label_smoothing, bar_specials
        encoder.trainable = train_encoder
        if not decoder.built:
            decoder.build()

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, inputs: Sequence[Any], training: bool = False) -> Any:
        """(pictures, words (photos, captions, time)) -> logits (photos, captions, time, words)."""
        pictures, words = inputs
        return self.decoder(self.encoder(pictures, training=training), words, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        """Cross-entropy a word, weighted.

        Args:
            y: (photos, captions, time) int, the words to predict.
            y_pred: logits.
            sample_weight: (photos, captions, time): 1 for a word and 0 for padding in
                cross-entropy training, the advantage of the caption in self-critical training.
        """
        if self.bar_specials:
            y_pred = _without_specials(y_pred)
        log = ops.log_softmax(y_pred, axis=-1)
        nll = -ops.squeeze(ops.take_along_axis(log, ops.expand_dims(y, -1), axis=-1), -1)
        if self.label_smoothing:
            smooth = -ops.mean(log, axis=-1)
            nll = (1 - self.label_smoothing) * nll + self.label_smoothing * smooth
        words = ops.sum(ops.cast(ops.not_equal(sample_weight, 0), "float32"))
        return ops.sum(nll * sample_weight) / ops.maximum(words, 1.0)


class ScaledAdam(keras.optimizers.Adam):
    """Adam with a smaller rate for the variables whose path begins with a prefix.

    A pretrained encoder and a decoder that starts from nothing do not bear the same rate.
    """

    def __init__(self, *args: Any, scale: float = 1.0, prefix: str = "conv", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale, self.prefix = scale, prefix

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # The backend hands over its own variable, which knows no path; Keras's has the same index.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        if path.startswith(self.prefix):
            learning_rate = learning_rate * self.scale
        super().update_step(gradient, variable, learning_rate)


def make_steps(
    model: CaptioningModel, optimizer: keras.optimizers.Optimizer
) -> tuple[Callable[[Any], Any], Callable[[Any, Any, Any, Any], Any]]:
    """What one step of training is made of, compiled.

    A step is one function, encoder, loss, gradients and all: cut into several, TensorFlow keeps and
    hands over everything in between, and an epoch of the whole network takes 1.4 times as long on
    two CPU cores (docs/experiments.md). Where captions are drawn first, the encoder therefore runs
    twice.

    Returns:
        encode: pictures -> grid; learn: pictures, words, words to predict, weights -> loss, after
        which the model's trainable variables have moved.
    """

    def learn(pictures: Any, words: Any, wanted: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model((pictures, words), training=True)
            loss = model.compute_loss(y=wanted, y_pred=logits, sample_weight=weight)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return tf.function(lambda pictures: model.encoder(pictures, training=True)), tf.function(learn)


def make_distillation(
    model: CaptioningModel,
    teachers: Callable[[Any, Any], Any],
    optimizer: keras.optimizers.Optimizer,
) -> Callable[[Any, Any, Any], Any]:
    """A compiled step of learning what teachers think of the next word, whatever came before it.

    Args:
        teachers: pictures, words -> probabilities (photos, captions, time, words).

    Returns:
        pictures, words, weights -> cross-entropy with the teachers' probabilities, after which the
        model's trainable variables have moved.
    """

    def learn(pictures: Any, words: Any, weight: Any) -> Any:
        wanted = teachers(pictures, words)
        with tf.GradientTape() as tape:
            log = ops.log_softmax(_without_specials(model((pictures, words), training=True)))
            loss = -ops.sum(ops.sum(wanted * log, axis=-1) * weight) / ops.sum(weight)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return tf.function(learn)


def mean_of(decoders: Sequence[tuple[Decoder, slice]]) -> Callable[[Any, Any], Any]:
    """The mean of decoders' probabilities, as `make_distillation` takes it.

    Args:
        decoders: each with the channels of the pictures that are its own grid.
    """

    def probabilities(pictures: Any, words: Any) -> Any:
        each = [
            ops.softmax(_without_specials(decoder(pictures[..., own], words)))
            for decoder, own in decoders
        ]
        return sum(each) / len(each)

    return probabilities


def make_generator(
    model: CaptioningModel, max_words: int, sample: bool = False
) -> Callable[[Any, int], np.ndarray]:
    """A compiled function: grid, captions a photo -> words (photos, captions, max_words) int32.

    It takes the likeliest word each time, or draws one where `sample` is set. A finished caption is
    filled up with padding.
    """
    decoder = model.decoder

    def generate(grid: Any, captions: int) -> Any:
        prepared = decoder.prepare(grid)
        photos = ops.shape(grid)[0]
        state = ops.repeat(prepared.state, captions, axis=1)
        word = ops.full((photos, captions), Tokenizer.START, dtype="int32")
        done = ops.zeros((photos, captions), dtype="bool")
        words = []
        for _ in range(max_words):
            hidden, state, _ = decoder.step(decoder.read_words(word), state, prepared)
            logits = _without_specials(decoder.predict(hidden))
            if sample:
                noise = keras.random.uniform(ops.shape(logits), 1e-9, 1.0)
                logits = logits - ops.log(-ops.log(noise))  # the Gumbel-max trick
            word = ops.cast(ops.argmax(logits, axis=-1), "int32")
            word = ops.where(done, Tokenizer.PAD, word)
            done = ops.logical_or(done, ops.equal(word, Tokenizer.END))
            words.append(word)
        return ops.stack(words, axis=-1)

    compiled = tf.function(generate, reduce_retracing=True)
    return lambda grid, captions: compiled(grid, captions).numpy()


def _without_specials(logits: Any) -> Any:
    """Logits (..., words) with padding, start and unknown word out of the question."""
    specials = ops.array([Tokenizer.PAD, Tokenizer.START, Tokenizer.UNK])
    return logits - 1e9 * ops.sum(ops.one_hot(specials, logits.shape[-1]), axis=0)


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
