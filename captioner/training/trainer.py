"""Runs one stage of training: epochs, moving average, checkpoints, the choice of the best epoch.

A loop of our own rather than `fit`, since self-critical training scores captions in Python between
drawing and learning. The step itself is Keras's `train_on_batch`, compiled on any backend.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from captioner.model_folder import write_text
from captioner.training.inputs import InputSource, batches
from captioner.training.network.model import load_variables, save_variables
from captioner.training.objectives import Objective
from captioner.training.plan import Stage

Scores = dict[str, float]


class EncoderScaledAdam(keras.optimizers.Adam):
    """Adam with a smaller rate for the encoder, whose variables are named "convNN".

    A pretrained encoder and a fresh decoder do not bear the same rate.
    """

    def __init__(self, *args: Any, encoder_rate: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoder_rate = encoder_rate

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # The backend hands over its own variable, which has no path; Keras's has the same index.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        if path.startswith("conv"):
            learning_rate = learning_rate * self.encoder_rate
        super().update_step(gradient, variable, learning_rate)


class Trainer:
    """Trains a captioning model by one stage.

    Args:
        stage: how.
        objective: what is minimised, around the model.
        source: inputs of the training photos.
        order: the training photos of an epoch in random order, given its number and a generator.
        score: the model as it is -> scores by name; "dev" chooses the best epoch.
        folder: of checkpoints and history. A run that was killed goes on from its last whole epoch.
        seed: of everything random.
    """

    def __init__(
        self,
        stage: Stage,
        objective: Objective,
        source: InputSource,
        order: Callable[[int, np.random.Generator], Sequence[int]],
        score: Callable[[], Scores],
        folder: Path,
        seed: int,
    ) -> None:
        self.stage, self.objective, self.model = stage, objective, objective.model
        self.source, self.order, self.score = source, order, score
        self.folder, self.seed = folder, seed
        self.history: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """Trains to the end; the model ends with the averaged weights of the best epoch, or of the
        last where the stage says so.

        Returns:
            A row an epoch: its losses and scores. Row 0 is the model before; it is the best where
            no epoch was better.
        """
        stage = self.stage
        self.folder.mkdir(parents=True, exist_ok=True)
        before = []
        if stage.start_share:
            before = [keras.ops.convert_to_numpy(v).copy() for v in self.model.weights]
        for layer in (self.model.decoder.drop_word, self.model.decoder.drop_out):
            layer.rate = stage.dropout
        self.model.decoder.drop_grid.rate = stage.dropout / 2
        optimizer = self._optimizer()
        self.objective.prepare_to_learn(optimizer)
        checkpoint, best = self.folder / "last.npz", self.folder / "best.npz"
        state = [*self.objective.variables, *optimizer.variables]
        if checkpoint.exists():
            self.history = json.loads(str(load_variables(checkpoint, state)["history"]))
        else:
            self.model.decoder.sharpen(stage.temperature)
            self.history = [{"epoch": 0, **self.score()}]
            save_variables(best, self.model.variables)
        for epoch in range(len(self.history) - 1, stage.epochs):
            scores = [row["dev"] for row in self.history]
            if len(scores) - 1 - int(np.argmax(scores)) >= stage.patience:
                break
            started = time.time()
            row = {"epoch": epoch + 1, **self._epoch(epoch)}
            raw = self._swap_in_average(optimizer)
            row |= self.score()
            row["seconds"] = round(time.time() - started)
            if stage.keep_last or row["dev"] > max(scores):
                save_variables(best, self.model.variables)
            for variable, own in raw:
                variable.assign(own)
            self.history.append(row)
            save_variables(checkpoint, state, history=json.dumps(self.history))
            write_text(self.folder / "history.json", json.dumps(self.history, indent=1))
            print(stage.name, row, flush=True)
        load_variables(best, self.model.variables)
        if before:
            self._average_with(before)
        return self.history

    def _average_with(self, before: Sequence[np.ndarray]) -> None:
        """Move the weights back towards those before the stage, by the share of the stage."""
        share = self.stage.start_share
        for variable, old in zip(self.model.weights, before, strict=True):
            new = keras.ops.convert_to_numpy(variable)
            variable.assign((1 - share) * new + share * old)
        row = {"epoch": "average", "start_share": share, **self.score()}
        self.history = [*self.history, row]
        print(self.stage.name, row, flush=True)

    def _optimizer(self) -> EncoderScaledAdam:
        stage = self.stage
        photos = len(self.order(0, np.random.default_rng(self.seed)))
        steps = max(1, photos // stage.batch_size) * stage.epochs
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - stage.warmup_steps), alpha=0.02,
            warmup_target=stage.learning_rate, warmup_steps=stage.warmup_steps,
        )  # fmt: skip
        return EncoderScaledAdam(
            rate, encoder_rate=stage.encoder_rate, global_clipnorm=stage.clip_norm,
            use_ema=True, ema_momentum=stage.ema_momentum,
        )  # fmt: skip

    def _epoch(self, epoch: int) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, epoch])
        size = self.stage.batch_size
        order = list(self.order(epoch, rng))
        order = order[: max(size, len(order) // size * size)]
        feed = batches(self.source, order, size, rng)
        bar = tqdm(
            feed, total=-(-len(order) // size), desc=f"{self.stage.name} {epoch + 1}", disable=None
        )
        rows = []
        for photos, inputs in bar:
            batch = self.objective.batch(photos, inputs, rng)
            losses = self.objective.train_on_batch(batch, return_dict=True)
            rows.append({name: float(value) for name, value in losses.items()})
            if reward := getattr(self.objective, "mean_reward", None):
                rows[-1]["reward"] = reward
            bar.set_postfix(loss=np.mean([row["loss"] for row in rows[-50:]]))
        return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}

    def _swap_in_average(self, optimizer: EncoderScaledAdam) -> list[tuple[Any, np.ndarray]]:
        learned = self.objective.trainable_variables
        raw = [(v, keras.ops.convert_to_numpy(v)) for v in learned]
        optimizer.finalize_variable_values(learned)
        for variable in learned:
            # A copy: JAX would share the buffer with the average, and the next call consumes it.
            variable.assign(keras.ops.convert_to_numpy(variable))
        return raw
