"""Distillation: a model learns the mean of several models' word probabilities.

It learns them along captions that it draws itself, so that the teachers correct it where its own
words lead (Agarwal et al., "On-Policy Distillation of Language Models", 2024), and along people's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from captioner.tokenizer import Tokenizer
from captioner.training.network.model import CaptioningModel, Generator, mask_specials
from captioner.training.objectives.base import Batch, Captions, Objective, shifted, word_arrays


class Distillation(Objective):
    """See the file.

    Args:
        model: what learns.
        teachers: models with the same vocabulary. Teacher number n reads the input "teacher-n" of a
            batch, or "inputs" where there is none of that name.
        captions: of the training photos, by photo.
        max_words: the longest caption, its end included.
        samples_per_photo: captions that the model draws of each photo.
        captions_per_photo: of people, in one step.
        seed: of the draws.
    """

    def __init__(
        self,
        model: CaptioningModel,
        teachers: Sequence[CaptioningModel],
        captions: Captions,
        max_words: int,
        samples_per_photo: int = 4,
        captions_per_photo: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        for teacher in teachers:
            teacher.trainable = False
        self.teachers = list(teachers)
        self.captions, self.max_words = captions, max_words
        self.captions_per_photo = captions_per_photo
        self.generator = Generator(model, max_words, samples_per_photo, sample=True, seed=seed)

    def batch(
        self, photos: Sequence[int], inputs: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> Batch:
        drawn = self.generator.predict_on_batch(inputs["inputs"])
        own = [self.captions[photo] for photo in photos]
        words, _, weights = word_arrays(own, self.captions_per_photo, self.max_words, rng)
        counted = np.concatenate([drawn != Tokenizer.PAD, weights > 0], axis=1)
        return {
            **inputs,
            "words": np.concatenate([shifted(drawn), words], axis=1),
            "weights": counted.astype(np.float32),
        }

    def call(self, batch: Any, training: bool = False) -> dict[str, Any]:
        words = batch["words"]
        each = [
            ops.softmax(mask_specials(teacher(batch.get(f"teacher-{n}", batch["inputs"]), words)))
            for n, teacher in enumerate(self.teachers)
        ]
        wanted = ops.stop_gradient(sum(each) / len(each))
        logits = mask_specials(self.model(batch["inputs"], words, training=training))
        entropy = -ops.sum(wanted * ops.log_softmax(logits), axis=-1)
        weights = batch["weights"]
        return {"teachers": ops.sum(entropy * weights) / ops.maximum(ops.sum(weights), 1.0)}
