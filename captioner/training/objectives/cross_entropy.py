"""Cross-entropy on people's captions, and what can be learned beside it in the same step.

Three helpers, each with a weight that may be 0. `features`: the encoder learns to give the features
of pretrained classifiers for the same view of a photo, which needs no captions (Romero et al.,
"FitNets", 2015). `concepts`: the decoder recognises the words of the captions in the photo (binary
cross-entropy). `text`: the decoder writes captions without photos, from their concepts alone, and
so learns sentences that the captioned photos do not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from captioner.training.concepts import as_if_recognised, concept_shares
from captioner.training.network.model import CaptioningModel
from captioner.training.objectives.base import (
    Batch,
    Captions,
    Objective,
    negative_log_likelihood,
    weighted_mean,
    word_arrays,
)

TEXT_CAPTIONS = 3  # of one text in a step


@dataclass(frozen=True)
class CaptionedTexts:
    """Captions without photos, and how many texts a step takes."""

    captions: Captions
    batch_size: int = 24


class FeatureTeachers:
    """Pretrained classifiers whose features an encoder learns to give, pooled to cells of 2 x 2.

    Args:
        networks: images in [-1, 1] -> a feature grid of the encoder's rows and columns.
    """

    def __init__(self, networks: Sequence[keras.Model]) -> None:
        self.networks = list(networks)
        self.channels = sum(network.output_shape[-1] for network in networks)

    def __call__(self, images: Any) -> Any:
        """Images (photos, size, size, 3) -> (photos, rows / 2, columns / 2, channels) float32."""
        images = ops.cast(images, "float32")
        grids = [
            network(ops.image.resize(images, network.input_shape[1:3]), training=False)
            for network in self.networks
        ]
        whole = ops.concatenate([ops.cast(grid, "float32") for grid in grids], axis=-1)
        return ops.stop_gradient(pooled(whole))


def pooled(grid: Any) -> Any:
    """(photos, rows, columns, channels) -> cells of 2 x 2, the odd last row and column left out."""
    return ops.average_pool(grid, 2, strides=2, padding="valid")


class FeatureProjection(layers.Layer):
    """Predicts the teachers' features, standardised, from a cell of the encoder's grid.

    It is fitted by ridge regression before training. From random weights the encoder would first
    learn to please a projection that means nothing.

    Args:
        grids: of the encoder for a sample of photos, (photos, rows, columns, channels).
        features: of the teachers for the same photos, as `FeatureTeachers` gives them.
    """

    def __init__(self, grids: np.ndarray, features: np.ndarray) -> None:
        super().__init__(name="projection")
        means = features.mean((1, 2))
        # Features that are nearly always 0 would count for more than others.
        self.mean, self.deviation = features.mean((0, 1, 2)), features.std((0, 1, 2)) + 0.02
        self.deviation_of_means = means.std(0) + 0.01
        x, wanted = grids.astype(np.float32).mean((1, 2)), (means - self.mean) / self.deviation
        x_mean, wanted_mean = x.mean(0), wanted.mean(0)
        x = x - x_mean
        ridge = 0.1 * np.square(x).sum() / x.shape[1]
        kernel = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (wanted - wanted_mean))
        self.dense = layers.Dense(features.shape[-1], name="dense")
        self.dense.build((None, None, None, x.shape[1]))
        self.dense.kernel.assign(kernel)
        self.dense.bias.assign(wanted_mean - x_mean @ kernel)
        self.built = True

    def loss(self, grid: Any, features: Any) -> Any:
        """Mean squared error of standardised features, in the cells plus in their means."""
        features = ops.cast(features, "float32")
        given = pooled(ops.cast(self.dense(grid), "float32"))
        error = given - (features - self.mean) / self.deviation
        of_means = ops.mean(error, axis=(1, 2)) * (self.deviation / self.deviation_of_means)
        return ops.mean(ops.square(error)) + ops.mean(ops.square(of_means))


class CrossEntropy(Objective):
    """See the file.

    Args:
        model: what learns.
        captions: of the training photos, by photo; none for a photo without.
        max_words: the longest caption, its end included.
        captions_per_photo: in one step.
        label_smoothing: see `negative_log_likelihood`.
        concepts: ids of the concepts, as many as the decoder has; empty for a decoder without.
        concept_weight: of their binary cross-entropy, summed over the concepts.
        teachers: of features; None where they are in the inputs, as "features".
        projection: from the encoder's grid to their features; None for no feature loss.
        feature_weight: of `FeatureProjection.loss`.
        texts: captions without photos; None for none.
        text_weight: of their cross-entropy.
    """

    def __init__(
        self,
        model: CaptioningModel,
        captions: Captions,
        max_words: int,
        captions_per_photo: int = 5,
        label_smoothing: float = 0.0,
        concepts: Sequence[int] = (),
        concept_weight: float = 0.0,
        teachers: FeatureTeachers | None = None,
        projection: FeatureProjection | None = None,
        feature_weight: float = 0.0,
        texts: CaptionedTexts | None = None,
        text_weight: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.captions, self.max_words = captions, max_words
        self.captions_per_photo, self.label_smoothing = captions_per_photo, label_smoothing
        self.concepts, self.concept_weight = list(concepts), concept_weight
        self.teachers, self.projection = teachers, projection
        self.feature_weight = feature_weight
        self.texts, self.text_weight = texts, text_weight
        self.shares = concept_shares(captions, concepts) if concept_weight else None

    def batch(
        self, photos: Sequence[int], inputs: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> Batch:
        own = [self.captions[photo] for photo in photos]
        words, targets, weights = word_arrays(own, self.captions_per_photo, self.max_words, rng)
        batch = {**inputs, "words": words, "targets": targets, "weights": weights}
        if self.shares is not None:
            batch["shares"] = self.shares[np.asarray(photos)]
            batch["captioned"] = np.array([bool(captions) for captions in own], np.float32)
        if self.texts:
            every = self.texts.captions
            chosen = [every[i] for i in rng.integers(0, len(every), self.texts.batch_size)]
            arrays = word_arrays(chosen, TEXT_CAPTIONS, self.max_words, rng)
            names = ("text_words", "text_targets", "text_weights")
            batch |= dict(zip(names, arrays, strict=True))
            shares = concept_shares(chosen, self.concepts)
            batch["text_concepts"] = as_if_recognised(shares, rng)
        return batch

    def call(self, batch: Any, training: bool = False) -> dict[str, Any]:
        encoder, decoder = self.model.encoder, self.model.decoder
        grid = encoder(batch["inputs"], training=training)
        logits = decoder(grid, batch["words"], training=training)
        losses = {"captions": self._loss(logits, batch["targets"], batch["weights"])}
        if self.shares is not None:
            losses["concepts"] = self.concept_weight * self._concept_loss(grid, batch, training)
        if self.projection:
            features = self.teachers(batch["inputs"]) if self.teachers else batch["features"]
            losses["features"] = self.feature_weight * self.projection.loss(grid, features)
        if self.texts:
            # In place of a photo: a grid of zeros.
            nothing = ops.zeros((self.texts.batch_size, *grid.shape[1:]), grid.dtype)
            concepts = ops.cast(ops.expand_dims(batch["text_concepts"], 1), grid.dtype)
            logits = decoder(nothing, batch["text_words"], training=training, concepts=concepts)
            loss = self._loss(logits, batch["text_targets"], batch["text_weights"])
            losses["text"] = self.text_weight * loss
        return losses

    def _loss(self, logits: Any, targets: Any, weights: Any) -> Any:
        return weighted_mean(
            negative_log_likelihood(logits, targets, self.label_smoothing), weights
        )

    def _concept_loss(self, grid: Any, batch: Any, training: bool) -> Any:
        logits = self.model.decoder.recognise(grid, training=training)[:, 0]
        logits = ops.cast(logits, "float32")
        each = ops.softplus(logits) - logits * batch["shares"]
        captioned = batch["captioned"]
        return ops.sum(ops.sum(each, axis=-1) * captioned) / ops.maximum(ops.sum(captioned), 1.0)
