"""Recognition: an encoder learns what is where in a photo, while its decoder stays as it is.

In each cell of the grid it learns what a detector of objects finds there, and in the mean of the
grid which objects the photo holds and which words people used of it (binary cross-entropy). It can
learn features of pretrained classifiers, too. Only the words need captions. The grid is also held
near that of the encoder before, so that the decoder still reads it; a later stage teaches the
decoder to make more of it.

Sources: Fang et al., "From Captions to Visual Concepts and Back", 2015 (words); Li and Hoiem,
"Learning without Forgetting", 2016 (what was there before is kept by imitating it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from captioner.training.concepts import concept_shares
from captioner.training.network.model import CaptioningModel
from captioner.training.objectives.base import Batch, Captions, Objective
from captioner.training.objectives.cross_entropy import FeatureProjection

IMAGE_SHARE = 0.5  # weight of the photo's objects beside those of the cells
DROPOUT = 0.2  # of the grid's mean


class Recognition(Objective):
    """See the file.

    A batch has the input "objects", (photos, rows, columns, classes) in [0, 1].

    Args:
        model: its encoder learns.
        before: the encoder to stay near to.
        captions: of the training photos, by photo; none for a photo without.
        words: ids of the words to recognise.
        classes: indices of the objects' classes that count.
        object_weight: of the objects.
        word_weight: of the words.
        keep_weight: of the squared distance from the grid before, as a share of its variance.
        projection: from the encoder's grid to the features, the input "features"; None for none.
        feature_weight: of `FeatureProjection.loss`.
    """

    def __init__(
        self,
        model: CaptioningModel,
        before: keras.Model,
        captions: Captions,
        words: Sequence[int],
        classes: Sequence[int],
        object_weight: float = 1.0,
        word_weight: float = 0.3,
        keep_weight: float = 1.0,
        projection: FeatureProjection | None = None,
        feature_weight: float = 0.0,
    ) -> None:
        super().__init__(model)
        model.decoder.trainable = False
        before.trainable = False
        self.before, self.projection = before, projection
        self.object_weight, self.word_weight = object_weight, word_weight
        self.keep_weight, self.feature_weight = keep_weight, feature_weight
        self.classes = np.asarray(classes)
        self.shares = concept_shares(captions, words)
        self.captioned = np.array([bool(own) for own in captions], np.float32)
        channels = model.encoder.output_shape[-1]
        mean = self.shares[self.captioned > 0].mean(0)
        self.cell_objects = _head("cell_objects", channels, np.full(len(classes), 0.01))
        self.photo_objects = _head("photo_objects", channels, np.full(len(classes), 0.05))
        self.words = _head("words", channels, mean)
        self.drop = layers.Dropout(DROPOUT)

    def batch(
        self, photos: Sequence[int], inputs: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> Batch:
        chosen = np.asarray(photos)
        objects = inputs["objects"][..., self.classes].astype(np.float32)
        return {
            **inputs,
            "objects": objects,
            "shares": self.shares[chosen],
            "captioned": self.captioned[chosen],
        }

    def call(self, batch: Any, training: bool = False) -> dict[str, Any]:
        before = ops.stop_gradient(ops.cast(self.before(batch["inputs"]), "float32"))
        grid = ops.cast(self.model.encoder(batch["inputs"], training=training), "float32")
        seen = self.drop(ops.mean(grid, axis=(1, 2)), training=training)
        objects, captioned = batch["objects"], batch["captioned"]
        in_cells = ops.mean(_cross_entropy(self.cell_objects(grid), objects))
        in_photo = ops.mean(_cross_entropy(self.photo_objects(seen), ops.max(objects, (1, 2))))
        of_words = _cross_entropy(self.words(seen), batch["shares"]) * captioned
        moved = ops.mean(ops.square(grid - before)) / ops.mean(
            ops.square(before - ops.mean(before, axis=0, keepdims=True))
        )
        losses = {
            "objects": self.object_weight * (in_cells + IMAGE_SHARE * in_photo),
            "words": self.word_weight * ops.sum(of_words) / ops.maximum(ops.sum(captioned), 1.0),
            "moved": self.keep_weight * moved,
        }
        if self.projection:
            features = self.projection.loss(grid, batch["features"])
            losses["features"] = self.feature_weight * features
        return losses


def _head(name: str, channels: int, shares: np.ndarray) -> layers.Dense:
    """A layer of logits. At first it gives these shares, whatever the features."""
    head = layers.Dense(len(shares), kernel_initializer="zeros", dtype="float32", name=name)
    head.build((None, channels))
    shares = np.clip(shares, 1e-4, 1 - 1e-4)
    head.bias.assign(np.log(shares / (1 - shares)))
    return head


def _cross_entropy(logits: Any, wanted: Any) -> Any:
    """Binary cross-entropy, summed over the last axis, in nats."""
    return ops.sum(ops.softplus(logits) - logits * wanted, axis=-1)
