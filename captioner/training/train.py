"""`captioner train`: from photos, captions and base weights to a trained model, in stages.

A stage says what learns (the decoder, the top of the encoder with it, or everything), on which
objective (cross-entropy, or CIDEr by self-critical training), and for how long. Stages and sizes
stand in a JSON file; unknown names in it are refused. Everything that a run leaves behind lies in
its work folder, and a run that was killed goes on from the last whole epoch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner.tokenizer import Tokenizer
from captioner.training.cider import CiderD
from captioner.training.decoder import Decoder
from captioner.training.encoder import (
    CHANNELS,
    INPUT_SIZE,
    build_encoder,
    encoder_weights,
    set_encoder_weights,
)
from captioner.training.model import (
    CaptioningModel,
    ScaledAdam,
    load_variables,
    make_generator,
    save_variables,
)
from captioner.training.pictures import Photos, PictureSource, StoredGrids, batches, store_grids


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    `learns`: "decoder" (on stored grids of the whole encoder), "top" (mixed9 and mixed10 too, on
    stored grids of mixed8) or "all" (on augmented photos). `encoder_scale` multiplies the rate of
    the encoder. `average` is the momentum of the moving average of the weights, which is what a
    stage is judged by and ends with.
    """

    name: str
    learns: str
    epochs: int
    learning_rate: float
    objective: str = "cross_entropy"
    encoder_scale: float = 0.1
    photos_a_step: int = 32
    samples: int = 5
    label_smoothing: float = 0.1
    dropout: float = 0.5
    average: float = 0.995
    warmup_steps: int = 100
    clip: float = 5.0
    patience: int = 3

    def __post_init__(self) -> None:
        if self.learns not in ("decoder", "top", "all"):
            raise ValueError(f'"learns" has to be decoder, top or all, not {self.learns!r}')
        if self.objective not in ("cross_entropy", "self_critical"):
            raise ValueError(
                f'"objective" has to be cross_entropy or self_critical, not {self.objective!r}'
            )


@dataclass(frozen=True)
class Example:
    """A photo and the ids of its captions, without start and end."""

    path: Path
    captions: tuple[tuple[int, ...], ...]


def word_arrays(
    captions: Sequence[Sequence[Sequence[int]]], count: int, time: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Captions as what goes in, what has to come out, and its weight, each (photos, count, time).

    A photo with fewer captions has some of them twice, at a smaller weight; one with more has a
    random choice of them. A caption that does not fit is cut, and then has no end.
    """
    given = np.full((len(captions), count, time), Tokenizer.PAD, np.int32)
    wanted, weight = given.copy(), np.zeros(given.shape, np.float32)
    for photo, own in enumerate(captions):
        chosen = rng.permutation(len(own))[:count]
        for row in range(count):
            words = own[chosen[row % len(chosen)]]
            line = [*words, Tokenizer.END][:time]
            given[photo, row, : len(line)] = [Tokenizer.START, *line[:-1]]
            wanted[photo, row, : len(line)] = line
            weight[photo, row, : len(line)] = min(1.0, len(chosen) / count)
    return given, wanted, weight


class StageRun:
    """Runs one stage over a model, epoch by epoch, from a checkpoint where there is one."""

    def __init__(
        self,
        stage: Stage,
        model: CaptioningModel,
        train: tuple[PictureSource, Sequence[Example]],
        dev: tuple[PictureSource, Sequence[Example]],
        max_words: int,
        work: Path,
        seed: int,
    ) -> None:
        self.stage, self.model, self.max_words, self.seed = stage, model, max_words, seed
        self.source, self.examples = train
        self.dev_source, self.dev_examples = dev
        self.folder = work / stage.name
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = max(1, len(self.examples) // stage.photos_a_step) * stage.epochs
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - stage.warmup_steps), alpha=0.02,
            warmup_target=stage.learning_rate, warmup_steps=stage.warmup_steps,
        )  # fmt: skip
        self.optimizer = ScaledAdam(
            rate, scale=stage.encoder_scale, global_clipnorm=stage.clip,
            use_ema=True, ema_momentum=stage.average,
        )  # fmt: skip
        for layer in (model.decoder.drop_word, model.decoder.drop_out):
            layer.rate = stage.dropout
        model.decoder.drop_grid.rate = stage.dropout / 2
        model.label_smoothing = stage.label_smoothing
        # XLA brought nothing for these convolutions on a CPU.
        model.compile(optimizer=self.optimizer, jit_compile=False)
        self.optimizer.build(model.trainable_variables)
        self.greedy = make_generator(model, max_words)
        self.sample = make_generator(model, max_words, sample=True)
        end = (Tokenizer.END,)
        corpus = [[(*c, *end) for c in e.captions] for e in self.examples]
        # The end is a word of its own in the reward, or captions learn to break off.
        self.reward = CiderD(corpus) if stage.objective == "self_critical" else None
        self.dev_cider = CiderD([list(e.captions) for e in self.dev_examples])
        self.history: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """All epochs; the model ends with the averaged weights of the best one."""
        checkpoint, best = self.folder / "last.npz", self.folder / "best.npz"
        variables = [*self.model.variables, *self.optimizer.variables]
        if checkpoint.exists():
            self.history = json.loads(str(load_variables(checkpoint, variables)["history"]))
        log = tf.summary.create_file_writer(str(self.folder))
        for epoch in range(len(self.history), self.stage.epochs):
            scores = [row["dev_cider"] for row in self.history]
            if scores and len(scores) - 1 - int(np.argmax(scores)) >= self.stage.patience:
                break
            started = time.time()
            row = {"epoch": epoch + 1, **self._epoch(epoch)}
            raw = self._swap_in_average()
            row["dev_cider"] = round(self.evaluate(), 2)
            row["seconds"] = round(time.time() - started)
            if not scores or row["dev_cider"] > max(scores):
                save_variables(best, self.model.variables)
            for variable, value in raw:
                variable.assign(value)
            self.history.append(row)
            with log.as_default(step=epoch + 1):
                for key, value in row.items():
                    tf.summary.scalar(key, value)
            save_variables(checkpoint, variables, history=json.dumps(self.history))
            (self.folder / "history.json").write_text(json.dumps(self.history, indent=1))
            print(self.stage.name, row, flush=True)
        load_variables(best, self.model.variables)
        return self.history

    def _swap_in_average(self) -> list[tuple[Any, np.ndarray]]:
        raw = [(v, v.numpy()) for v in self.model.trainable_variables]
        self.optimizer.finalize_variable_values(self.model.trainable_variables)
        return raw

    def _epoch(self, epoch: int) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, epoch])
        keras.utils.set_random_seed(int(rng.integers(2**31)))
        order = rng.permutation(len(self.examples))
        whole = len(order) - len(order) % self.stage.photos_a_step
        feed = batches(self.source, order[:whole], self.stage.photos_a_step, rng)
        losses, rewards = [], []
        total = whole // self.stage.photos_a_step
        bar = tqdm(feed, total=total, desc=f"{self.stage.name} {epoch + 1}", disable=None)
        for indices, pictures in bar:
            if self.reward is not None:
                x, y, weight, reward = self._samples(indices, pictures)
                rewards.append(reward)
            else:
                captions = [self.examples[i].captions for i in indices]
                x, y, weight = word_arrays(captions, self.stage.samples, self.max_words, rng)
            loss = self.model.train_on_batch([pictures, x], y, sample_weight=weight)
            losses.append(float(loss))
            bar.set_postfix(loss=np.mean(losses[-50:]))
        row = {"loss": round(float(np.mean(losses)), 4)}
        if rewards:
            row["reward"] = round(float(np.mean(rewards)), 4)
        return row

    def _samples(
        self, indices: Sequence[int], pictures: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Sampled captions weighted by their advantage over the mean of the photo's other samples.

        Rennie et al., "Self-critical Sequence Training", 2017, with the baseline of Luo, "A Better
        Variant of Self-Critical Sequence Training", 2020.
        """
        words = self.sample(pictures, self.stage.samples)  # (photos, samples, time)
        assert self.reward is not None
        rewards = np.array(
            [
                [self.reward.score(i, _upto_end(line)) for line in own]
                for i, own in zip(indices, words, strict=True)
            ],
            np.float32,
        )
        others = (rewards.sum(1, keepdims=True) - rewards) / (self.stage.samples - 1)
        given = np.concatenate([np.full_like(words[..., :1], Tokenizer.START), words[..., :-1]], -1)
        weight = (words != Tokenizer.PAD) * (rewards - others)[..., None]
        return given, words, weight.astype(np.float32), float(rewards.mean())

    def evaluate(self) -> float:
        """CIDEr-D x 100 of greedy captions of the dev photos, by our own word splitting."""
        scores = []
        order = range(len(self.dev_examples))
        for indices, pictures in batches(self.dev_source, order, 50):
            for i, line in zip(indices, self.greedy(pictures, 1)[:, 0], strict=True):
                scores.append(self.dev_cider.score(i, _upto_end(line, keep_end=False)))
        return 100 * float(np.mean(scores))


def _upto_end(line: np.ndarray, keep_end: bool = True) -> tuple[int, ...]:
    words = tuple(int(word) for word in line)
    if Tokenizer.END in words:
        return words[: words.index(Tokenizer.END) + keep_end]
    return words
