"""`captioner train`: from photos, captions and base weights to a trained model, in stages.

A plan, a JSON file, says what is trained on which objective and for how long. Everything that a run
leaves behind is in its work folder, and a run that was killed goes on from its last whole epoch.
Keras chooses the backend: TensorFlow on a CPU, `KERAS_BACKEND=jax` on a GPU.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras
import numpy as np

from captioner.manifest import DecoderSpec, EncoderSpec, JpegNormalizationSpec, Manifest
from captioner.model_folder import ModelFolder
from captioner.pictures.preprocess import JpegNormalization, Preprocessor
from captioner.tokenizer import Tokenizer
from captioner.training.concepts import concept_ids, content_words
from captioner.training.datasets import (
    Dataset,
    Photo,
    add_data_arguments,
    file_names,
    read_corrections,
    read_data,
    uncaptioned_photos,
)
from captioner.training.inputs import (
    InputSource,
    Photos,
    StoredGrids,
    Subset,
    batches,
    digest_of,
    keras_encode,
    litert_encode,
    store_grids,
)
from captioner.training.network.decoder import Decoder
from captioner.training.network.encoder import (
    build_encoder,
    convolutions,
    encoder_weights,
    load_encoder_weights,
    set_encoder_weights,
    standardize,
)
from captioner.training.network.model import CaptioningModel, Generator
from captioner.training.objectives import (
    CrossEntropy,
    Distillation,
    Objective,
    Recognition,
    SelfCritical,
)
from captioner.training.objectives.cross_entropy import (
    CaptionedTexts,
    FeatureProjection,
    FeatureTeachers,
)
from captioner.training.objects import CLASSES, ObjectDetector
from captioner.training.plan import (
    PRECISIONS,
    CrossEntropyStage,
    DistillationStage,
    Plan,
    RecognitionStage,
    SelfCriticalStage,
    Stage,
    TrainingError,
)
from captioner.training.rewards import CiderD, Reward, strip_after_end
from captioner.training.trainer import Scores, Trainer

TEACHER_INPUT_SIZE = 256  # of feature teachers: a grid of 8 x 8, as InceptionV3's at 299
_TEACHER_SAMPLE = 3000  # photos from which the projection to their features is fitted
# A class of objects is learned if the detector sees it with this score in so many photos.
_SEEN, _PHOTOS_OF_A_CLASS = 0.3, 10


@dataclass(frozen=True)
class Material:
    """What is learned from.

    Attributes:
        photos: for training those with captions first, then those without; for dev.
        captioned, training: how many of them are for training with captions, and in all.
        texts: captions without photos, each the captions of one photo.
    """

    photos: tuple[Photo, ...]
    captioned: int
    training: int
    texts: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, data: Dataset, uncaptioned: Sequence[Photo], texts: Any = ()) -> Material:
        """Sorts the photos of a collection by what they are for.

        Raises:
            TrainingError: there are none for training or none for dev.
        """
        train, dev = data.of("train"), data.of("dev")
        if not train or not dev:
            raise TrainingError(f"Training needs photos for training and for dev, but has: {data}.")
        captioned, training = len(train), len(train) + len(uncaptioned)
        return cls((*train, *uncaptioned, *dev), captioned, training, tuple(texts))


class Training:
    """Runs a plan, and keeps its checkpoints and stored grids in a work folder.

    Args:
        plan: what to do.
        material: what to learn from.
        work: the folder.
        start: a trained model to go on from. Its sizes and the settings of its search replace the
            plan's, but for `concepts`; its words are kept and new ones added where the plan's
            counts ask for them.
        learn_from: models that a distillation learns from.
        feature_teachers: of features, for stages with a `feature_weight`.
        detector: of objects, for stages of recognition.
    """

    def __init__(
        self,
        plan: Plan,
        material: Material,
        work: Path,
        start: ModelFolder | None = None,
        learn_from: Sequence[ModelFolder] = (),
        feature_teachers: Sequence[keras.Model] = (),
        detector: ObjectDetector | None = None,
    ) -> None:
        self.plan, self.material, self.work, self.start = plan, material, work, start
        self.learn_from, self.feature_teachers = learn_from, feature_teachers
        self.detector = detector
        if start:
            self.plan = replace(plan, **_sizes(start))
        self.tokenizer = self._vocabulary()
        self._check()
        work.mkdir(parents=True, exist_ok=True)
        self.captions = [self._encoded(photo.captions) for photo in material.photos]
        self.history: dict[str, list[dict[str, Any]]] = {}

    def _encoded(self, captions: Sequence[str]) -> list[tuple[int, ...]]:
        return [tuple(self.tokenizer.encode(caption)) for caption in captions]

    def _vocabulary(self) -> Tokenizer:
        photos = self.material.photos[: self.material.captioned]
        captions = (caption for photo in photos for caption in photo.captions)
        texts = (caption for own in self.material.texts for caption in own)
        fitted = Tokenizer.fit(captions, self.plan.min_count, texts, self.plan.min_text_count)
        return self.start.tokenizer().extended(fitted.words) if self.start else fitted

    def _check(self) -> None:
        plan = self.plan
        for stage in plan.stages:
            if isinstance(stage, DistillationStage) and not self.learn_from:
                raise TrainingError(
                    f"Stage {stage.name!r} learns from other models; name them by --learn-from."
                )
            if isinstance(stage, RecognitionStage) and self.detector is None:
                raise TrainingError(
                    f"Stage {stage.name!r} learns objects; name their detector by --detector."
                )
            if getattr(stage, "feature_weight", 0.0) and not self.feature_teachers:
                raise TrainingError(
                    f"Stage {stage.name!r} learns features; name their teachers by "
                    "--feature-teacher."
                )
            if isinstance(stage, CrossEntropyStage):
                if stage.text_weight and not (self.material.texts and plan.concepts):
                    raise TrainingError(
                        f"Stage {stage.name!r} learns from text; name it by --text, and give the "
                        'plan "concepts".'
                    )
                if stage.concept_weight and not plan.concepts:
                    raise TrainingError(f'Stage {stage.name!r} needs "concepts" in the plan.')
        for folder in self.learn_from:
            if folder.tokenizer().words != self.tokenizer.words:
                raise TrainingError(
                    f"{folder.path} has another vocabulary than the model that is trained, so that "
                    "this one cannot learn its word probabilities."
                )
            if folder.manifest.encoder.input_size != plan.input_size:
                raise TrainingError(f"{folder.path} takes images of another size.")

    def run(self, encoder_weights_from: str | Path) -> None:
        """All stages; each that is already done is only read."""
        plan = self.plan
        keras.utils.set_random_seed(plan.seed)
        trained = self._begin(encoder_weights_from)
        keras.config.set_dtype_policy("mixed_bfloat16" if plan.bfloat16 else "float32")
        channels = self._encoder().output_shape[-1]
        self.decoder = Decoder(
            len(self.tokenizer), channels, plan.units, plan.heads, concepts=plan.concepts
        )
        self.decoder.build()
        if trained:
            _copy_decoder(trained, self.decoder)
        for stage in plan.stages:
            self.history[stage.name] = self._run(stage)

    def _begin(self, encoder_weights_from: str | Path) -> Decoder | None:
        """The encoder's weights to begin with; returns the trained decoder, if there is one."""
        self.encoder_weights: dict[str, np.ndarray]
        if self.start:
            from captioner.training.export import load_trained

            encoder, decoder = load_trained(self.start)
            self.encoder_weights = encoder_weights(encoder, "float32")
            self.last_pooling = self.start.manifest.encoder.last_pooling
            return decoder
        base, self.last_pooling = load_encoder_weights(encoder_weights_from)
        encoder = self._encoder(base)
        if lacking := set_encoder_weights(encoder, base):
            print(f"The encoder weights lack {', '.join(lacking)}; they are learned from nothing.")
            sample = range(0, self.material.training, max(1, self.material.training // 64))
            standardize(encoder, lacking, self._photos().images(sample[:64]))
        self.encoder_weights = encoder_weights(encoder, "float32")
        return None

    def _encoder(
        self,
        weights: Mapping[str, np.ndarray] | None = None,
        input_layer: str = "image",
        output_layer: str = "",
    ) -> keras.Model:
        plan = self.plan
        encoder = build_encoder(
            output_layer or plan.output_layer, self.last_pooling, input_layer, plan.input_size,
            plan.width,
        )  # fmt: skip
        set_encoder_weights(encoder, weights or self.encoder_weights)
        return encoder

    def _run(self, stage: Stage) -> list[dict[str, Any]]:
        plan, material = self.plan, self.material
        encoder, source, teachers = self._inputs(stage)
        encoder.trainable = stage.trainable != "decoder"
        for name, layer in convolutions(encoder).items():
            layer.trainable = int(name.removeprefix("conv")) >= stage.first_trainable
        self.decoder.trainable = not isinstance(stage, RecognitionStage)
        if self.plan.concepts:
            learns_concepts = bool(getattr(stage, "concept_weight", 0.0))
            self.decoder.concept_logits.trainable = learns_concepts
        model = CaptioningModel(encoder, self.decoder)
        objective = self._objective(stage, model, source, teachers)

        def order(epoch: int, rng: np.random.Generator) -> Sequence[int]:
            without = np.arange(material.captioned, material.training)
            share = getattr(stage, "uncaptioned", 0.0)
            chosen = rng.permutation(without)[: round(share * len(without))]
            photos: list[int] = rng.permutation([*range(material.captioned), *chosen]).tolist()
            return photos

        score = self._scorer(model, Subset(source, material.training))
        trainer = Trainer(stage, objective, source, order, score, self.work / stage.name, plan.seed)
        history = trainer.run()
        self.encoder_weights.update(encoder_weights(encoder, "float32"))
        return history

    def _objective(
        self,
        stage: Stage,
        model: CaptioningModel,
        source: InputSource,
        teachers: Sequence[CaptioningModel],
    ) -> Objective:
        plan, material = self.plan, self.material
        captions = self.captions[: material.training]
        if isinstance(stage, CrossEntropyStage):
            online = stage.feature_weight and stage.trainable == "all"
            return CrossEntropy(
                model, captions, plan.max_words, stage.captions_per_photo, stage.label_smoothing,
                concept_ids(self.tokenizer, plan.concepts), stage.concept_weight,
                FeatureTeachers(self.feature_teachers) if online else None,
                self._projection(stage, model, source) if stage.feature_weight else None,
                stage.feature_weight, self._texts() if stage.text_weight else None,
                stage.text_weight,
            )  # fmt: skip
        if isinstance(stage, RecognitionStage):
            return Recognition(
                model, self._encoder(input_layer="mixed8"), captions,
                content_words(self.tokenizer)[: stage.words],
                _frequent(self._objects(stage)[: material.training, 0]),
                stage.object_weight, stage.word_weight, stage.keep_weight,
                self._projection(stage, model, source) if stage.feature_weight else None,
                stage.feature_weight,
            )  # fmt: skip
        if isinstance(stage, SelfCriticalStage):
            # The end is a word of its own in the reward, or captions learn to break off.
            ended = [[(*words, Tokenizer.END) for words in own] for own in captions]
            reward = Reward(ended, stage.bleu, stage.unigram)
            return SelfCritical(model, reward, plan.max_words, stage.samples_per_photo, plan.seed)
        if isinstance(stage, DistillationStage):
            return Distillation(
                model, teachers, captions, plan.max_words, stage.samples_per_photo,
                stage.captions_per_photo, plan.seed,
            )  # fmt: skip
        raise TypeError(f"no objective for {type(stage).__name__}")

    def _texts(self) -> CaptionedTexts:
        """Texts whose words are all in the vocabulary and that are short enough."""
        kept = []
        for own in self.material.texts:
            captions = [
                words
                for words in self._encoded(own)
                if words and Tokenizer.UNK not in words and len(words) < self.plan.max_words
            ]
            if captions:
                kept.append(captions)
        return CaptionedTexts(kept)

    def _projection(
        self, stage: Stage, model: CaptioningModel, source: InputSource
    ) -> FeatureProjection:
        """Fitted on a sample of the training photos, from the encoder as it is now."""
        rng = np.random.default_rng(self.plan.seed)
        sample = np.sort(rng.permutation(self.material.training)[:_TEACHER_SAMPLE]).tolist()
        teachers = FeatureTeachers(self.feature_teachers)
        means, features = [], []
        for _, inputs in batches(source, sample, stage.batch_size):
            grids = np.asarray(model.encoder.predict_on_batch(inputs["inputs"]), np.float32)
            means.append(grids.mean((1, 2), keepdims=True))
            if "features" not in inputs:
                inputs["features"] = np.asarray(teachers(inputs["inputs"]))
            features.append(np.asarray(inputs["features"], np.float32))
        return FeatureProjection(np.concatenate(means), np.concatenate(features))

    def _photos(self, stage: Stage | None = None) -> Photos:
        paths, size = [photo.path for photo in self.material.photos], self.plan.input_size
        jpeg = self.plan.jpeg_normalization
        normalization = JpegNormalization(**jpeg, above=size) if jpeg else None
        preprocessor = Preprocessor(size, normalization)
        if stage is None:
            return Photos(paths, preprocessor)
        return Photos(paths, preprocessor, stage.crop, stage.brightness, stage.quality)

    def _inputs(self, stage: Stage) -> tuple[keras.Model, InputSource, list[CaptioningModel]]:
        """The encoder that a stage runs, what it reads, and the teachers that read beside it."""
        folders = self.learn_from if isinstance(stage, DistillationStage) else ()
        if stage.trainable == "all":
            return self._encoder(), self._photos(stage), [_teacher(folder) for folder in folders]
        if stage.trainable == "top":
            grids = {"inputs": self._grids(stage, "mixed8")}
            if getattr(stage, "feature_weight", 0.0):
                grids["features"] = self._feature_grids(stage)
            if isinstance(stage, RecognitionStage):
                grids["objects"] = self._objects(stage)
            return self._encoder(input_layer="mixed8"), StoredGrids(grids), []
        grids, teachers = {"inputs": self._grids(stage, self.plan.output_layer)}, []
        for number, folder in enumerate(folders):
            grids[f"teacher-{number}"] = self._teacher_grids(stage, folder, number)
            teachers.append(_teacher(folder, grids[f"teacher-{number}"].shape[2:]))
        return _identity(grids["inputs"].shape[2:]), StoredGrids(grids), teachers

    def _grids(self, stage: Stage, output_layer: str) -> np.ndarray:
        """Stored grids of the encoder as it is now, up to a layer."""
        policy = keras.config.dtype_policy()
        if stage.quantized_encoder:
            keras.config.set_dtype_policy("float32")
        encoder, name = self._encoder(output_layer=output_layer), output_layer
        keras.config.set_dtype_policy(policy)
        if stage.quantized_encoder:
            from captioner.training.export import export_encoder

            encode, name = litert_encode(export_encoder(encoder, "int8")), f"{name}-int8"
        else:
            encode = keras_encode(encoder)
        return store_grids(
            encode, digest_of(encoder), self._photos(stage), encoder.output_shape[1:],
            self.work / f"{name}.npy", stage.views,
        )  # fmt: skip

    def _feature_grids(self, stage: Stage) -> np.ndarray:
        """Stored features of the feature teachers."""
        teachers = FeatureTeachers(self.feature_teachers)
        image = keras.Input((self.plan.input_size,) * 2 + (3,))
        network = keras.Model(image, keras.layers.Lambda(teachers)(image))
        return store_grids(
            keras_encode(network), "".join(map(digest_of, self.feature_teachers)),
            self._photos(stage), network.output_shape[1:], self.work / "features.npy", stage.views,
        )  # fmt: skip

    def _objects(self, stage: Stage) -> np.ndarray:
        """What the detector finds in the cells of the encoder's grid, stored."""
        detector = self.detector
        if detector is None:
            raise TrainingError("A stage of recognition needs a detector.")
        rows, columns = self._encoder().output_shape[1:3]
        return store_grids(
            lambda images: detector.cells(images, rows, columns), detector.digest,
            self._photos(stage), (rows, columns, CLASSES), self.work / "objects.npy", stage.views,
        )  # fmt: skip

    def _teacher_grids(self, stage: Stage, folder: ModelFolder, number: int) -> np.ndarray:
        """Stored grids of another model's encoder, as it serves."""
        about, file = folder.manifest.encoder, folder.manifest.serving.encoder
        return store_grids(
            litert_encode(folder.read_bytes(file)), folder.manifest.files[file].sha256,
            self._photos(stage), (*about.grid, about.channels),
            self.work / f"teacher-{number}.npy", stage.views,
        )  # fmt: skip

    def _scorer(self, model: CaptioningModel, source: InputSource) -> Callable[[], Scores]:
        """CIDEr-D x 100 of greedy captions of the dev photos, for each collection and as a mean.

        Words are split by our own tokenizer.
        """
        photos = self.material.photos[self.material.training :]
        captions = self.captions[self.material.training :]
        collections: dict[str, list[int]] = {}
        for index, photo in enumerate(photos):
            collections.setdefault(photo.collection or "dev", []).append(index)
        scorers = {name: CiderD([captions[i] for i in own]) for name, own in collections.items()}
        greedy = Generator(model, self.plan.max_words)

        def score() -> Scores:
            words: dict[int, tuple[int, ...]] = {}
            for indices, inputs in batches(source, range(len(photos)), 50):
                lines = greedy.predict_on_batch(inputs["inputs"])[:, 0]
                ended = (strip_after_end(line, keep_end=False) for line in lines)
                words.update(zip(indices, ended, strict=True))
            scores = {
                f"dev_{name}": round(
                    100
                    * float(np.mean([scorers[name].score(k, words[i]) for k, i in enumerate(own)])),
                    2,
                )
                for name, own in collections.items()
            }
            return {**scores, "dev": round(float(np.mean([*scores.values()])), 2)}

        return score

    def write(self, folder: Path, trained_on: Iterable[str], precision: str) -> None:
        """The trained model as a model folder, with its plan and the course of its training.

        Where only the decoder learned, the calibration of the model before stays: what is familiar
        depends on the encoder.
        """
        from captioner.training.export import DECODER, SERVING, build_untrained, write_folder

        plan = self.plan
        keras.config.set_dtype_policy("float32")
        shape = self._encoder().output_shape
        jpeg = plan.jpeg_normalization
        about = EncoderSpec(
            architecture="inception_v3" if plan.width == 1.0 else "tiny",
            output_layer=plan.output_layer, last_pooling=self.last_pooling, width=plan.width,
            input_size=plan.input_size, grid=shape[1:3], channels=shape[3],
            jpeg_normalization=JpegNormalizationSpec(**jpeg) if jpeg else None,
        )  # fmt: skip
        words = DecoderSpec(
            architecture=DECODER, units=plan.units, heads=plan.heads, concepts=plan.concepts,
            vocabulary_size=len(self.tokenizer), max_words=plan.max_words,
            length_penalty=plan.length_penalty, repeat_penalty=plan.repeat_penalty,
            repeatable=tuple(plan.repeatable),
        )  # fmt: skip
        encoder, decoder = build_untrained(about, words)
        set_encoder_weights(encoder, self.encoder_weights)
        _copy_decoder(self.decoder, decoder)
        course: dict[str, Any] = {"plan": _as_json(plan), "history": self.history}
        if self.start:
            before = self.start.path / "training.json"
            course["before"] = json.loads(before.read_text()) if before.exists() else None
        files = {"training.json": json.dumps(course, indent=1).encode()}
        manifest = Manifest(
            name=folder.resolve().name, encoder=about, decoder=words, serving=SERVING,
            tokenizer="tokenizer.p", trained_on=tuple(trained_on),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )  # fmt: skip
        written = write_folder(folder, encoder, decoder, self.tokenizer, manifest, precision, files)
        is_decoder_only = all(stage.trainable == "decoder" for stage in plan.stages)
        if self.start and is_decoder_only and (confidence := self.start.confidence()):
            written.with_confidence(self.start.manifest.calibration.threshold, confidence)


def _as_json(plan: Plan) -> dict[str, Any]:
    stages = [{"objective": stage.objective, **asdict(stage)} for stage in plan.stages]
    return {**asdict(plan), "stages": stages}


def _frequent(objects: np.ndarray) -> list[int]:
    """The classes that enough photos hold, of objects (photos, rows, columns, CLASSES).

    Raises:
        TrainingError: there are none.
    """
    held = np.zeros(CLASSES, int)
    for start in range(0, len(objects), 500):
        held += (objects[start : start + 500].max((1, 2)) > _SEEN).sum(0)
    if held.max() < _PHOTOS_OF_A_CLASS:
        raise TrainingError("The detector finds too few objects in these photos to learn from.")
    return np.flatnonzero(held >= _PHOTOS_OF_A_CLASS).tolist()


def _identity(shape: Sequence[int]) -> keras.Model:
    """In place of an encoder where its grids are stored."""
    grid = keras.Input(tuple(shape))
    return keras.Model(grid, keras.layers.Identity()(grid))


def _teacher(folder: ModelFolder, grid: Sequence[int] = ()) -> CaptioningModel:
    """A trained model; over its own encoder, or over stored grids of that shape."""
    from captioner.training.export import load_trained

    policy = keras.config.dtype_policy()
    encoder, decoder = load_trained(folder)
    keras.config.set_dtype_policy(policy)
    return CaptioningModel(_identity(grid) if grid else encoder, decoder)


def _sizes(model: ModelFolder) -> dict[str, Any]:
    """What a plan says of a model's sizes and of its search, of a trained model."""
    encoder, decoder = model.manifest.encoder, model.manifest.decoder
    sizes = ("units", "heads", "max_words", "length_penalty", "repeat_penalty", "repeatable")
    return {
        **{name: getattr(encoder, name) for name in ("input_size", "output_layer", "width")},
        **{name: getattr(decoder, name) for name in sizes},
    }


def _copy_decoder(source: Decoder, target: Decoder) -> None:
    """Weights by name. Rows of words and layers that `source` has not stay as they are, fresh."""
    given = {variable.path: variable for variable in source.weights}
    for variable in target.weights:
        if variable.path not in given:
            continue
        own = keras.ops.convert_to_numpy(given[variable.path])
        if own.shape != tuple(variable.shape):  # a longer vocabulary: its words come last
            whole = np.array(keras.ops.convert_to_numpy(variable))
            if variable.path.endswith("output_bias"):
                whole[:] = own.min()
            whole[: len(own)] = own
            own = whole
        variable.assign(own)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser, required=False)
    parser.add_argument(
        "--corrections", type=Path, action="append", default=[], metavar="FILE",
        help="what people corrected, as app1's GET /api/corrections gives it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--uncaptioned", type=Path, action="append", default=[], metavar="FOLDER",
        help="folder of photos without captions, which teach features and objects; photos of "
        "--data in it are skipped",
    )  # fmt: skip
    parser.add_argument(
        "--text", type=Path, action="append", default=[], metavar="FILE",
        help="JSON object (or .json.gz) of captions without photos: a list of captions per name",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, required=True, help="training plan, a JSON file")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument(
        "--work", type=Path, required=True,
        help="folder for checkpoints and stored grids; an interrupted run resumes from it",
    )  # fmt: skip
    parser.add_argument(
        "--encoder-weights", default="imagenet",
        help='"imagenet" (Keras downloads them) or an .npz file',
    )  # fmt: skip
    parser.add_argument(
        "--start-from", metavar="MODEL",
        help="fine-tune this model (name or path), with its vocabulary and sizes",
    )  # fmt: skip
    parser.add_argument(
        "--learn-from", metavar="MODEL", action="append", default=[],
        help="teacher model of a distillation stage (name or path); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--feature-teacher", type=Path, metavar="FILE", action="append", default=[],
        help="EfficientNet-Lite weights (.pth) whose features the encoder learns to predict; may "
        "be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--detector", type=Path, nargs=2, metavar=("NETWORK", "CONFIG"),
        help="a detector of COCO's objects that OpenCV reads, such as ssd_mobilenet_v2_coco's "
        "frozen_inference_graph.pb and its .pbtxt; the encoder learns what it finds",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="random seed (default: that of the plan)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="int8",
        help="of the LiteRT files (default: int8)",
    )
    parser.add_argument(
        "--stages-only", action="store_true",
        help="stop before the model folder is written, which needs TensorFlow; run the same "
        "command without this flag to write it from the work folder",
    )  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Trains a model by a plan, from photos to a model folder."""
    plan = Plan.read(arguments.config)
    if arguments.seed is not None:
        plan = replace(plan, seed=arguments.seed)
    material = read_material(arguments)
    start = ModelFolder.open(arguments.start_from) if arguments.start_from else None
    learn_from = [ModelFolder.open(name) for name in arguments.learn_from]
    from captioner.training.network.efficientnet_lite import load_efficientnet_lite

    teachers = [load_efficientnet_lite(f, TEACHER_INPUT_SIZE) for f in arguments.feature_teacher]
    detector = ObjectDetector(*arguments.detector) if arguments.detector else None
    training = Training(plan, material, arguments.work, start, learn_from, teachers, detector)
    training.run(arguments.encoder_weights)
    if arguments.stages_only:
        print(f"{arguments.work} holds the trained stages.")
        return 0
    names = [path.resolve().name for path in (*arguments.data, *arguments.corrections)]
    before = start.manifest.trained_on if start else ()
    training.write(arguments.out, dict.fromkeys((*before, *names)), arguments.precision)
    print(f"{arguments.out} holds the model; score it with 'captioner evaluate'.")
    return 0


def read_material(arguments: argparse.Namespace) -> Material:
    """Photos, captions and texts as the arguments name them.

    Raises:
        CaptionerError: one cannot be read, or there is nothing to train or to score on.
    """
    if not arguments.data and not arguments.corrections:
        raise TrainingError("There is nothing to learn from; name --data or --corrections.")
    corrected = [
        read_corrections(file, arguments.work / "corrections" / str(number))
        for number, file in enumerate(arguments.corrections)
    ]
    data = read_data(arguments, corrected)
    named = {photo.path.name for photo in data.photos}
    if arguments.leave_out:
        named |= file_names(arguments.leave_out)
    uncaptioned = uncaptioned_photos(arguments.uncaptioned, named)
    texts = [own for file in arguments.text for own in _texts_of(file)]
    print(data, f"{len(uncaptioned)} photos without captions, {len(texts)} texts", sep="; ")
    return Material.of(data, uncaptioned, texts)


def _texts_of(file: Path) -> list[tuple[str, ...]]:
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as stream:
            return [tuple(captions) for captions in json.load(stream).values()]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise TrainingError(f"{file} is no JSON object of captions ({error}).") from error
