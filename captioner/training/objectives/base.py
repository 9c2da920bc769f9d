"""What all objectives share: the captioning model, the sum of losses, captions as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from captioner.tokenizer import Tokenizer
from captioner.training.network.model import CaptioningModel, compiled_by_xla

Batch = dict[str, np.ndarray]
Captions = Sequence[Sequence[Sequence[int]]]  # of each photo its captions, as word ids


class Objective(keras.Model):
    """The losses of a captioning model, to be minimised by `train_on_batch(batch)`.

    Args:
        model: what learns; what in it is not trainable does not.
    """

    def __init__(self, model: CaptioningModel) -> None:
        # The networks within choose their own precision. In bfloat16 Keras would also round the
        # weights of words and the images of feature teachers.
        super().__init__(dtype="float32")
        self.model = model
        self.built = True

    def batch(
        self, photos: Sequence[int], inputs: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> Batch:
        """The arrays of one step.

        Args:
            photos: their indices among the training photos.
            inputs: what the source of the stage read for them; "inputs" is the encoder's.
        """
        raise NotImplementedError

    def prepare_to_learn(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Compiles the step."""
        self.compile(optimizer, jit_compile=compiled_by_xla())
        optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        return sum(y_pred.values())

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return {"loss": sum(y_pred.values()), **y_pred}


def negative_log_likelihood(logits: Any, targets: Any, label_smoothing: float = 0.0) -> Any:
    """Of each word, in nats.

    Args:
        logits: (..., vocabulary) float32.
        targets: (...) int.
        label_smoothing: probability mass that is spread over the vocabulary.

    Returns:
        (...) float32.
    """
    log = ops.log_softmax(logits, axis=-1)
    loss = -ops.squeeze(ops.take_along_axis(log, ops.expand_dims(targets, -1), axis=-1), -1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * ops.mean(log, axis=-1)
    return loss


def weighted_mean(values: Any, weights: Any) -> Any:
    """The sum of `values * weights` for each weight that is not 0."""
    count = ops.sum(ops.cast(ops.not_equal(weights, 0), "float32"))
    return ops.sum(values * weights) / ops.maximum(count, 1.0)


def word_arrays(
    captions: Captions, count: int, time: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Captions as input words, target words and weights, each (photos, count, time).

    A photo with fewer captions has some of them twice, at a smaller weight; one with more has a
    random choice of them; one without has weight 0. A caption that does not fit is cut, and then
    has no end.
    """
    words = np.full((len(captions), count, time), Tokenizer.PAD, np.int32)
    targets, weights = words.copy(), np.zeros(words.shape, np.float32)
    for photo, own in enumerate(captions):
        chosen = rng.permutation(len(own))[:count]
        for row in range(count if len(own) else 0):
            line = [*own[chosen[row % len(chosen)]], Tokenizer.END][:time]
            words[photo, row, : len(line)] = [Tokenizer.START, *line[:-1]]
            targets[photo, row, : len(line)] = line
            weights[photo, row, : len(line)] = min(1.0, len(chosen) / count)
    return words, targets, weights


def shifted(words: np.ndarray) -> np.ndarray:
    """Generated words (..., time) as the input words that led to them."""
    start = np.full_like(words[..., :1], Tokenizer.START)
    return np.concatenate([start, words[..., :-1]], axis=-1)
