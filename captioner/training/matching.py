"""Learns a `CaptionMatcher` from photos with captions, by contrast.

In each batch every photo has one of its captions, and the others' captions are wrong for it: the
cross-entropy of the right one, by rows and by columns, is minimised.

Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018
(InfoNCE), in both directions as Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from tqdm import tqdm

from captioner.matching import CaptionMatcher
from captioner.tokenizer import Tokenizer

SIZE = 320  # of the space
MOST_WORDS = 20  # of a caption that are read
EPOCHS, BATCH, RATE = 20, 256, 4e-3
PICTURE_DROPOUT, WORD_DROPOUT = 0.3, 0.2
SCALE = 30.0  # of the cosines, in the softmax


def fit_matcher(
    pooled: np.ndarray,
    captions: Sequence[Sequence[Sequence[int]]],
    vocabulary: int,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> CaptionMatcher:
    """A matcher for a vocabulary.

    Args:
        pooled: features of photos, (photos, channels).
        captions: of each photo, one or more, as ids of words.
        epochs: each shows every photo once, with one of its captions.
    """
    keras.utils.set_random_seed(seed)
    mean, deviation = pooled.mean(0), pooled.std(0) + 0.05
    scale = 1 / (deviation * np.sqrt(pooled.shape[1]))
    inputs = ((pooled - mean) * scale).astype(np.float32)
    batch = min(BATCH, len(inputs))
    model = Pairs(vocabulary)
    rate = keras.optimizers.schedules.CosineDecay(RATE, len(inputs) // batch * epochs)
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=False)
    rng = np.random.default_rng(seed)
    for _ in tqdm(range(epochs), desc="matcher", unit="epoch", disable=None):
        order = rng.permutation(len(inputs))
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            drawn = [captions[i][int(rng.integers(len(captions[i])))] for i in chosen.tolist()]
            model.train_on_batch((inputs[chosen], _rows(drawn)))
    kernel, bias = model.picture.get_weights()
    picture = kernel.T * scale
    (words,) = model.words.get_weights()
    return CaptionMatcher.rounded(picture, bias - picture @ mean, words)


def _rows(captions: Sequence[Sequence[int]]) -> np.ndarray:
    """(captions, MOST_WORDS) int32, with 0 after the last word."""
    rows = np.zeros((len(captions), MOST_WORDS), np.int32)
    for row, caption in zip(rows, captions, strict=True):
        words = [word for word in caption if word >= len(Tokenizer.SPECIALS)][:MOST_WORDS]
        row[: len(words)] = words
    return rows


class Pairs(keras.Model):
    """Photos and captions -> the loss."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.picture = layers.Dense(SIZE)
        self.words = layers.Embedding(vocabulary, SIZE)
        self.drop_picture, self.drop_words = (
            layers.Dropout(rate) for rate in (PICTURE_DROPOUT, WORD_DROPOUT)
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        pooled, words = inputs
        seen = self.picture(self.drop_picture(pooled, training=training))
        own = self.drop_words(self.words(words), training=training)
        said = ops.sum(own * ops.cast(words != 0, own.dtype)[..., None], axis=1)
        cosines = ops.matmul(ops.normalize(seen), ops.transpose(ops.normalize(said)))
        return SCALE * cosines

    def compute_loss(self, x: Any, y: Any, y_pred: Any, *_: Any, **__: Any) -> Any:
        right = ops.arange(ops.shape(y_pred)[0])
        return sum(
            ops.mean(keras.losses.sparse_categorical_crossentropy(right, logits, from_logits=True))
            for logits in (y_pred, ops.transpose(y_pred))
        )
