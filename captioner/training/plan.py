"""What a training is to do: a plan and its stages, as a JSON file holds them.

This file computes nothing, so that what runs the stages may be TensorFlow or PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from captioner.errors import CaptionerError

INPUT_SIZE = 299
# Of a random crop the least share of each side, and of light the greatest change, in training.
CROP, LIGHT = 0.8, 0.2


class TrainingError(CaptionerError):
    """A configuration or an argument of training makes no sense."""

    title = "The model cannot be trained"


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    `learns` is "decoder" (on stored grids of the whole encoder), "top" (mixed9 and mixed10 too, on
    stored grids of mixed8) or "all" (on augmented photos). `served` has a decoder learn on grids of
    the 8-bit encoder that will serve, so that it gets used to its rounding. `encoder_scale`
    multiplies the rate of the encoder, and its first `frozen` convolutions, counted from the
    picture, do not learn. `crop`, `light` and `quality` are those of `Photos`, and `views` that of
    `store_grids`. `bleu` and `unigram` weigh what a reward holds beside CIDEr-D. `temperature`
    divides the logits before the stage begins: cross-entropy with label smoothing ends in a model
    so flat that what it draws is far from what it would say, which is a bad place for a reward to
    start from. `average` is the momentum of the moving average of the weights, which is what a
    stage is judged by. It ends with that of its best epoch, or with `keep_last` of its last: in
    cross-entropy after a reward CIDEr of greedy captions falls at first, and what the weights are
    worth is seen after the next reward.

    A stage whose objective is "distillation" learns from the mean of several models' probabilities.
    On the CPU these are the model that training starts from and those of `--learn-from`; a decoder
    learns from them on two of people's captions, and on `samples` that it draws itself, so that
    they tell it what to say where its own words lead (Agarwal et al., "On-Policy Distillation of
    Language Models", 2024). On a GPU a stage may train several models apart, each with a decoder of
    its own: as many as `teachers` says. The first of them goes on, and a later distillation has it
    learn from all, on people's captions. `patience` and `views` mean nothing there.
    """

    name: str
    learns: str
    epochs: int
    learning_rate: float
    objective: str = "cross_entropy"
    encoder_scale: float = 0.1
    frozen: int = 0
    crop: float = CROP
    light: float = LIGHT
    quality: float = 0.0
    views: int = 2
    bleu: float = 0.0
    unigram: float = 0.0
    photos_a_step: int = 32
    samples: int = 5
    label_smoothing: float = 0.1
    dropout: float = 0.5
    temperature: float = 1.0
    average: float = 0.995
    warmup_steps: int = 100
    clip: float = 5.0
    patience: int = 3
    served: bool = False
    keep_last: bool = False
    teachers: int = 0

    def __post_init__(self) -> None:
        if self.learns not in ("decoder", "top", "all"):
            raise TrainingError(f'"learns" has to be decoder, top or all, not {self.learns!r}')
        if self.objective not in ("cross_entropy", "self_critical", "distillation"):
            raise TrainingError(
                '"objective" has to be cross_entropy, self_critical or distillation, '
                f"not {self.objective!r}"
            )


@dataclass(frozen=True)
class Plan:
    """A whole training: sizes of the model, and its stages. This is what a JSON file holds.

    `length_penalty`, `repeat_penalty` and `repeatable` (as words) are the search's when the model
    serves. `copies` are the `side` and `quality` of `picture.SmallCopies`, for collections of such
    copies: larger photos are made alike in training and in serving. `distill_epochs` is for
    kernels that the base weights lack; `width` and `input_size` make a smaller encoder, for tests.
    """

    stages: tuple[Stage, ...]
    cut: str = "mixed10"
    units: int = 512
    heads: int = 8
    min_count: int = 5
    max_words: int = 20
    length_penalty: float = 1.0
    repeat_penalty: float = 0.0
    repeatable: tuple[str, ...] = ()
    copies: dict[str, int] | None = None
    distill_epochs: int = 5
    bfloat16: bool = True
    seed: int = 7
    width: float = 1.0
    input_size: int = INPUT_SIZE

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Reads a JSON file.

        Raises:
            TrainingError: it is not JSON, or holds a name or a value that is not known.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{file} cannot be read as JSON ({error}).") from error
        stages = tuple(_known(Stage, stage, file) for stage in values.pop("stages", ()))
        if not stages:
            raise TrainingError(f"{file} names no stages; there has to be one at least.")
        return _known(cls, {**values, "stages": stages}, file)


def _known(kind: Any, values: Mapping[str, Any], file: Path) -> Any:
    names = {f.name for f in fields(kind)}
    if unknown := sorted(set(values) - names):
        raise TrainingError(
            f"{file} holds {', '.join(unknown)}, which {kind.__name__.lower()}s do not know; "
            f"they know {', '.join(sorted(names))}."
        )
    try:
        return kind(**values)
    except TypeError as error:
        raise TrainingError(f"{file}: {error}.") from error
