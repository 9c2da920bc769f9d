"""What a training is to do: the sizes of a model and its stages, as a JSON file holds them.

Each objective has a stage class of its own, with the fields that it needs and no others; unknown
fields are refused. This file computes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from captioner.errors import CaptionerError

INPUT_SIZE = 299
PRECISIONS = ("int8", "float16", "float32")  # of the LiteRT files


class TrainingError(CaptionerError):
    """A plan or an argument of training makes no sense."""

    title = "The model cannot be trained"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of training; a subclass for each objective.

    Attributes:
        name: of its folder, its checkpoints and its history.
        epochs: over the training photos.
        learning_rate: of all but the encoder, the peak of a cosine schedule.
        trainable: "decoder", on stored grids of the encoder; "top", mixed9 and mixed10 too, on
            stored grids of mixed8 (alone, in recognition); or "all", on augmented photos.
        encoder_rate: multiplies the learning rate of the encoder.
        first_trainable: convolutions before this one, counted from the image, do not learn; 76 is
            the first of mixed9.
        crop: a random crop keeps at least this share of each side.
        brightness: greatest random change of brightness and contrast, as a share.
        quality: share of photos that get another sharpness and JPEG quality.
        views: stored views of a photo: plain, mirrored, and then augmented ones.
        quantized_encoder: whether a decoder learns on grids of the 8-bit encoder that will serve.
        batch_size: photos a step.
        dropout: of embeddings and outputs; that of the grid is half of it.
        temperature: divides the logits before the stage begins. Cross-entropy leaves a flat
            distribution, so samples are far from the greedy caption; a temperature below 1 sharpens
            it before self-critical training.
        ema_momentum: of the moving average of the weights. A stage is scored by the average, and
            the model ends with it.
        warmup_steps: from rate 0 to `learning_rate`.
        clip_norm: greatest norm of all gradients together.
        patience: epochs without a better score before the stage ends early.
        keep_last: whether the last epoch counts in place of the best. In cross-entropy after a
            reward the score of greedy captions falls at first; the next reward shows its worth.
        start_share: what the stage learns is averaged with what there was before it, weight by
            weight: this is the share of the latter. The average learns nearly as much, and forgets
            little (Wortsman et al., "Robust Fine-tuning of Zero-shot Models", 2022).
    """

    objective: ClassVar[str]

    name: str
    epochs: int
    learning_rate: float
    trainable: str = "all"
    encoder_rate: float = 0.25
    first_trainable: int = 26
    crop: float = 0.8
    brightness: float = 0.2
    quality: float = 0.0
    views: int = 2
    quantized_encoder: bool = False
    batch_size: int = 32
    dropout: float = 0.3
    temperature: float = 1.0
    ema_momentum: float = 0.99
    warmup_steps: int = 100
    clip_norm: float = 5.0
    patience: int = 3
    keep_last: bool = False
    start_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start_share < 1:
            raise TrainingError(f'"start_share" has to be in [0, 1), not {self.start_share!r}.')
        if self.trainable not in ("decoder", "top", "all"):
            raise TrainingError(
                f'"trainable" has to be decoder, top or all, not {self.trainable!r}.'
            )
        if self.quantized_encoder and self.trainable != "decoder":
            raise TrainingError('"quantized_encoder" is for a stage that trains the decoder alone.')


@dataclass(frozen=True, kw_only=True)
class CrossEntropyStage(Stage):
    """People's captions, word by word; see `objectives/cross_entropy.py`.

    Attributes:
        captions_per_photo: in one step.
        label_smoothing: probability mass spread over the vocabulary.
        concept_weight: of recognising the captions' words in the photo.
        feature_weight: of giving the feature teachers' features; needs `--feature-teacher`.
        text_weight: of captions without photos; needs `--text` and concepts.
        uncaptioned: share of the photos without captions that an epoch takes. They only teach
            features.
    """

    objective: ClassVar[str] = "cross_entropy"

    captions_per_photo: int = 5
    label_smoothing: float = 0.0
    concept_weight: float = 0.0
    feature_weight: float = 0.0
    text_weight: float = 0.0
    uncaptioned: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_weight and self.trainable == "decoder":
            raise TrainingError('"feature_weight" is for a stage that trains the encoder too.')
        if self.uncaptioned and not self.feature_weight:
            raise TrainingError('"uncaptioned" photos teach nothing without a "feature_weight".')


@dataclass(frozen=True, kw_only=True)
class SelfCriticalStage(Stage):
    """CIDEr-D of drawn captions as a reward; see `objectives/self_critical.py`.

    Attributes:
        samples_per_photo: captions drawn of each photo.
        bleu: weight of smoothed BLEU-4 in the reward.
        unigram: weight of the unigram F-score in the reward.
    """

    objective: ClassVar[str] = "self_critical"

    samples_per_photo: int = 5
    bleu: float = 0.0
    unigram: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_photo < 2:
            raise TrainingError(
                '"samples_per_photo" has to be 2 or more in self-critical training.'
            )


@dataclass(frozen=True, kw_only=True)
class DistillationStage(Stage):
    """Word probabilities of the models of `--learn-from`; see `objectives/distillation.py`.

    Attributes:
        samples_per_photo: captions that the model draws of each photo.
        captions_per_photo: of people.
    """

    objective: ClassVar[str] = "distillation"

    samples_per_photo: int = 4
    captions_per_photo: int = 2


@dataclass(frozen=True, kw_only=True)
class RecognitionStage(Stage):
    """Objects and words in the photo, by the encoder alone; see `objectives/recognition.py`.

    `learning_rate` is that of the heads, which start from nothing.

    Attributes:
        object_weight: of what the detector finds; needs `--detector`.
        word_weight: of the captions' words.
        words: how many words, the most frequent ones.
        feature_weight: of giving the feature teachers' features; needs `--feature-teacher`.
        keep_weight: of staying near the grid of the encoder before.
        uncaptioned: share of the photos without captions that an epoch takes.
    """

    objective: ClassVar[str] = "recognition"

    trainable: str = "top"
    object_weight: float = 1.0
    word_weight: float = 0.3
    words: int = 1000
    feature_weight: float = 0.0
    keep_weight: float = 1.0
    uncaptioned: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainable != "top":
            raise TrainingError('A stage of "recognition" trains "top".')
        if self.object_weight <= 0:
            raise TrainingError('A stage of "recognition" needs an "object_weight" above 0.')


_STAGES = {
    kind.objective: kind
    for kind in (CrossEntropyStage, SelfCriticalStage, DistillationStage, RecognitionStage)
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole training: sizes of the model, and its stages. This is what a JSON file holds.

    Attributes:
        stages: in their order.
        output_layer: where the encoder ends, "mixed8" or "mixed10".
        units, heads: of the decoder.
        concepts: words that the decoder recognises in a photo first; 0 for none.
        min_count: how often a word has to occur in the captions of photos to be in the vocabulary.
        min_text_count: how often in captions without photos, which is enough, too.
        max_words: of a caption, its end included.
        length_penalty, repeat_penalty, repeatable: of the search when the model serves.
        jpeg_normalization: the `side` and `quality` of the small JPEG that a large photo is made
            first, for collections of such JPEGs; None to take photos as they are.
        bfloat16: whether products are computed in bfloat16; weights are always float32.
        seed: of everything random.
        width, input_size: of a smaller encoder, for tests.
    """

    stages: tuple[Stage, ...]
    output_layer: str = "mixed10"
    units: int = 512
    heads: int = 8
    concepts: int = 0
    min_count: int = 5
    min_text_count: int = 40
    max_words: int = 20
    length_penalty: float = 1.0
    repeat_penalty: float = 0.0
    repeatable: tuple[str, ...] = ()
    jpeg_normalization: dict[str, int] | None = None
    bfloat16: bool = True
    seed: int = 7
    width: float = 1.0
    input_size: int = INPUT_SIZE

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Reads a JSON file.

        Raises:
            TrainingError: it is not JSON, or holds an unknown name or a value that makes no sense.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{file} cannot be read as JSON ({error}).") from error
        stages = tuple(_stage(stage, file) for stage in values.pop("stages", ()))
        if not stages:
            raise TrainingError(f"{file} has no stages; a plan needs one at least.")
        return _checked(cls, {**values, "stages": stages}, file)


def _stage(values: Mapping[str, Any], file: Path) -> Stage:
    values = dict(values)
    objective = values.pop("objective", None)
    if objective not in _STAGES:
        raise TrainingError(
            f'{file}: "objective" of a stage has to be {", ".join(_STAGES)}, not {objective!r}.'
        )
    stage: Stage = _checked(_STAGES[objective], values, file)
    return stage


def _checked(kind: Any, values: Mapping[str, Any], file: Path) -> Any:
    names = {f.name for f in fields(kind)}
    if unknown := sorted(set(values) - names):
        raise TrainingError(
            f"{file}: {kind.__name__} has no field {', '.join(unknown)}; "
            f"its fields are {', '.join(sorted(names))}."
        )
    try:
        return kind(**values)
    except TypeError as error:
        raise TrainingError(f"{file}: {error}.") from error
