"""Self-critical training: drawn captions become likelier by how much better than others they score.

Source: Rennie et al., "Self-critical Sequence Training", 2017, with the baseline of Luo, "A Better
Variant of Self-Critical Sequence Training", 2020: the mean of the photo's other captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from captioner.tokenizer import Tokenizer
from captioner.training.network.model import CaptioningModel, Generator, mask_specials
from captioner.training.objectives.base import (
    Batch,
    Objective,
    negative_log_likelihood,
    shifted,
    weighted_mean,
)
from captioner.training.rewards import Reward, strip_after_end


class SelfCritical(Objective):
    """See the file.

    Args:
        model: what learns.
        reward: scores a caption of a training photo.
        max_words: the longest caption, its end included.
        samples_per_photo: captions that are drawn of each photo, two at least.
        seed: of the draws.
    """

    def __init__(
        self,
        model: CaptioningModel,
        reward: Reward,
        max_words: int,
        samples_per_photo: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.reward = reward
        self.generator = Generator(model, max_words, samples_per_photo, sample=True, seed=seed)
        self.mean_reward = 0.0

    def batch(
        self, photos: Sequence[int], inputs: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> Batch:
        words = self.generator.predict_on_batch(inputs["inputs"])
        scores = np.array(
            [
                [self.reward.score(photo, strip_after_end(line)) for line in own]
                for photo, own in zip(photos, words, strict=True)
            ],
            np.float32,
        )
        others = (scores.sum(1, keepdims=True) - scores) / (scores.shape[1] - 1)
        advantages = (words != Tokenizer.PAD) * (scores - others)[..., None]
        self.mean_reward = float(scores.mean())
        return {
            "inputs": inputs["inputs"],
            "words": shifted(words),
            "targets": words,
            "weights": advantages.astype(np.float32),
        }

    def call(self, batch: Any, training: bool = False) -> dict[str, Any]:
        # Specials are never drawn, so never punished. Unless they are masked here as in sampling,
        # all probability moves to them.
        logits = mask_specials(self.model(batch["inputs"], batch["words"], training=training))
        each = negative_log_likelihood(logits, batch["targets"])
        return {"policy": weighted_mean(each, batch["weights"])}
