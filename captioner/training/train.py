"""`captioner train`: from photos, captions and base weights to a trained model, in stages.

A stage says what learns (the decoder, the top of the encoder with it, or everything), on which
objective (cross-entropy, or CIDEr by self-critical training), and for how long. Stages and sizes
stand in a JSON file; unknown names in it are refused. Everything that a run leaves behind lies in
its work folder, and a run that was killed goes on from the last whole epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner.model_folder import ModelFolder
from captioner.picture import SmallCopies
from captioner.tokenizer import Tokenizer
from captioner.training.datasets import (
    Dataset,
    Photo,
    combine,
    file_names,
    hold_out,
    read_dataset,
)
from captioner.training.decoder import Decoder
from captioner.training.distill import relearn, teacher_logits
from captioner.training.encoder import (
    build_encoder,
    convolutions,
    encoder_weights,
    load_encoder_weights,
    set_encoder_weights,
)
from captioner.training.export import (
    DECODER,
    PRECISIONS,
    build_untrained,
    export_encoder,
    load_trained,
    write_folder,
)
from captioner.training.model import (
    CaptioningModel,
    ScaledAdam,
    load_variables,
    make_distillation,
    make_generator,
    make_steps,
    mean_of,
    save_variables,
)
from captioner.training.pictures import (
    Beside,
    Photos,
    PictureSource,
    StoredGrids,
    batches,
    digest_of,
    keras_encode,
    litert_encode,
    store_grids,
    stored_pixels,
)
from captioner.training.plan import Plan, Stage, TrainingError
from captioner.training.rewards import CiderD, Reward, upto_end


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
        teachers: Callable[[Any, Any], Any] | None = None,
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
        model.bar_specials = stage.objective != "cross_entropy"
        self.optimizer.build(model.trainable_variables)
        self.encode, self.learn = make_steps(model, self.optimizer)
        self.distil = make_distillation(model, teachers, self.optimizer) if teachers else None
        self.greedy = make_generator(model, max_words)
        self.sample = make_generator(model, max_words, sample=True)
        end = (Tokenizer.END,)
        corpus = [[(*c, *end) for c in e.captions] for e in self.examples]
        # The end is a word of its own in the reward, or captions learn to break off.
        self.reward = (
            Reward(corpus, stage.bleu, stage.unigram)
            if stage.objective == "self_critical"
            else None
        )
        self.dev_cider = CiderD([list(e.captions) for e in self.dev_examples])
        self.history: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """All epochs; the model ends with the averaged weights of the best one, or of the last.

        The best may be the weights it began with, as epoch 0, where no epoch was better.
        """
        checkpoint, best = self.folder / "last.npz", self.folder / "best.npz"
        variables = [*self.model.variables, *self.optimizer.variables]
        if checkpoint.exists():
            self.history = json.loads(str(load_variables(checkpoint, variables)["history"]))
        else:
            self.model.decoder.sharpen(self.stage.temperature)
            self.history = [{"epoch": 0, "dev_cider": round(self.evaluate(), 2)}]
            save_variables(best, self.model.variables)
        log = tf.summary.create_file_writer(str(self.folder))
        for epoch in range(len(self.history) - 1, self.stage.epochs):
            scores = [row["dev_cider"] for row in self.history]
            if len(scores) - 1 - int(np.argmax(scores)) >= self.stage.patience:
                break
            started = time.time()
            row = {"epoch": epoch + 1, **self._epoch(epoch)}
            raw = self._swap_in_average()
            row["dev_cider"] = round(self.evaluate(), 2)
            row["seconds"] = round(time.time() - started)
            if self.stage.keep_last or row["dev_cider"] > max(scores):
                save_variables(best, self.model.variables)
            for variable, own in raw:
                variable.assign(own)
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
        order = rng.permutation(len(self.examples)).tolist()
        whole = len(order) - len(order) % self.stage.photos_a_step
        feed = batches(self.source, order[:whole], self.stage.photos_a_step, rng)
        losses, rewards = [], []
        total = whole // self.stage.photos_a_step
        bar = tqdm(feed, total=total, desc=f"{self.stage.name} {epoch + 1}", disable=None)
        for indices, pictures in bar:
            captions = [self.examples[i].captions for i in indices]
            if self.distil:
                x, weight = self._drawn_and_told(captions, pictures, rng)
                loss = self.distil(pictures, x, weight)
            elif self.reward:
                x, y, weight, mean = self._samples(indices, pictures, self.reward)
                rewards.append(mean)
                loss = self.learn(pictures, x, y, weight)
            else:
                x, y, weight = word_arrays(captions, self.stage.samples, self.max_words, rng)
                loss = self.learn(pictures, x, y, weight)
            losses.append(float(loss))
            bar.set_postfix(loss=np.mean(losses[-50:]))
        row = {"loss": round(float(np.mean(losses)), 4)}
        if rewards:
            row["reward"] = round(float(np.mean(rewards)), 4)
        return row

    def _drawn(self, pictures: Any) -> tuple[np.ndarray, np.ndarray]:
        """Captions that it draws (photos, samples, time): what goes in, and what has come out."""
        words = self.sample(self.encode(pictures), self.stage.samples)
        start = np.full_like(words[..., :1], Tokenizer.START)
        return np.concatenate([start, words[..., :-1]], -1), words

    def _drawn_and_told(
        self, captions: Sequence[Sequence[Sequence[int]]], pictures: Any, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Captions that it draws, and two of people's a photo: what goes in, and what counts."""
        drawn, words = self._drawn(pictures)
        told, _, weight = word_arrays(captions, 2, self.max_words, rng)
        counts = np.concatenate([words != Tokenizer.PAD, weight > 0], axis=1)
        return np.concatenate([drawn, told], axis=1), counts.astype(np.float32)

    def _samples(
        self, indices: Sequence[int], pictures: Any, reward: Reward
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Sampled captions weighted by their advantage over the mean of the photo's other samples.

        Rennie et al., "Self-critical Sequence Training", 2017, with the baseline of Luo, "A Better
        Variant of Self-Critical Sequence Training", 2020.
        """
        given, words = self._drawn(pictures)
        scores = np.array(
            [
                [reward.score(i, upto_end(line)) for line in own]
                for i, own in zip(indices, words, strict=True)
            ],
            np.float32,
        )
        others = (scores.sum(1, keepdims=True) - scores) / (self.stage.samples - 1)
        weight = (words != Tokenizer.PAD) * (scores - others)[..., None]
        return given, words, weight.astype(np.float32), float(scores.mean())

    def evaluate(self) -> float:
        """CIDEr-D x 100 of greedy captions of the dev photos, by our own word splitting."""
        scores = []
        order = range(len(self.dev_examples))
        for indices, pictures in batches(self.dev_source, order, 50):
            words = self.greedy(self.encode(pictures), 1)[:, 0]
            for i, line in zip(indices, words, strict=True):
                scores.append(self.dev_cider.score(i, upto_end(line, keep_end=False)))
        return 100 * float(np.mean(scores))


class Training:
    """Runs a plan on photos, and keeps what is known in between in a work folder.

    `start` is a trained model to go on from; its sizes and its words then replace the plan's. From
    it and from `learn_from` a distillation learns. With `on_gpu` PyTorch runs the stages, and only
    a plan for that may train teachers of its own.
    """

    def __init__(
        self, plan: Plan, data: Dataset, work: Path, start: ModelFolder | None = None,
        on_gpu: bool = False, learn_from: Sequence[ModelFolder] = (),
    ) -> None:  # fmt: skip
        self.plan, self.work, self.start, self.on_gpu = plan, work, start, on_gpu
        self.learn_from = learn_from
        self._check_teachers()
        work.mkdir(parents=True, exist_ok=True)
        self.photos: list[Photo] = [*data.of("train"), *data.of("dev")]
        self.training = len(data.of("train"))
        if not 0 < self.training < len(self.photos):
            raise TrainingError(
                f"Photos for training and for dev are needed, and there are: {data}."
            )
        captions = (c for photo in self.photos[: self.training] for c in photo.captions)
        if start:
            self.plan = replace(plan, **_sizes(start))
            self.tokenizer = start.tokenizer()
        else:
            self.tokenizer = Tokenizer.fit(captions, plan.min_count)
        self.examples = [
            Example(photo.path, tuple(tuple(self.tokenizer.encode(c)) for c in photo.captions))
            for photo in self.photos
        ]
        self.paths = [photo.path for photo in self.photos]
        self.history: dict[str, list[dict[str, Any]]] = {}

    def _check_teachers(self) -> None:
        distils = [stage for stage in self.plan.stages if stage.objective == "distillation"]
        if self.on_gpu:
            if self.learn_from:
                raise TrainingError("--learn-from is for training without --gpu.")
            return
        for stage in self.plan.stages:
            if stage.teachers:
                raise TrainingError(
                    f"Stage {stage.name!r} trains several models, which only training on a GPU "
                    "does; add --gpu, or take another plan."
                )
        if bool(distils) != bool(self.learn_from):
            raise TrainingError(
                f"Stage {distils[0].name!r} learns from other models; name them by --learn-from, "
                "or add --gpu if the plan trains them."
                if distils
                else '--learn-from is for a plan with a stage of the objective "distillation".'
            )
        for stage in distils:
            if stage.learns != "decoder" or not self.start:
                raise TrainingError(
                    f"Stage {stage.name!r} is a distillation, which without --gpu is for the "
                    "decoder alone, of a model that --start-from names."
                )
        for folder in self.learn_from:
            if self.start and (
                folder.tokenizer().words != self.start.tokenizer().words
                or folder.manifest["encoder"]["input_size"]
                != self.start.manifest["encoder"]["input_size"]
            ):
                raise TrainingError(
                    f"{folder.path} has other words than {self.start.path}, or takes pictures of "
                    "another size, so that one cannot learn from the other."
                )

    def run(self, encoder_weights_from: str | Path, teacher: Path | None) -> None:
        """All stages, from base weights on; each that is already done is only read."""
        plan = self.plan
        keras.utils.set_random_seed(plan.seed)
        self.encoder_weights: dict[str, np.ndarray]
        if self.start:
            trained_encoder, trained_decoder = load_trained(self.start)
            self.encoder_weights = encoder_weights(trained_encoder, "float32")
            self.last_pooling = self.start.manifest["encoder"]["last_pooling"]
        else:
            base, self.last_pooling = load_encoder_weights(encoder_weights_from)
            self.encoder_weights = dict(base)
        keras.config.set_dtype_policy("mixed_bfloat16" if plan.bfloat16 else "float32")
        self._relearn(teacher)
        self.decoder = Decoder(
            len(self.tokenizer), self._encoder().output_shape[-1], plan.units, plan.heads
        )
        if self.start or self.on_gpu:
            self.decoder.build()
        if self.start:
            _copy_variables(trained_decoder, self.decoder)
        if self.on_gpu:
            self._run_on_gpu()
            return
        for stage in plan.stages:
            encoder, source = self._stage_input(stage)
            teachers = None
            if stage.objective == "distillation":
                encoder, source, teachers = self._beside_teachers(encoder, source, stage)
            model = CaptioningModel(encoder, self.decoder, train_encoder=stage.learns != "decoder")
            for name, layer in convolutions(encoder).items():
                layer.trainable = layer.trainable and int(name.removeprefix("conv")) >= stage.frozen
            train = _Part(source, 0), self.examples[: self.training]
            dev = _Part(source, self.training), self.examples[self.training :]
            run = StageRun(stage, model, train, dev, plan.max_words, self.work, plan.seed, teachers)
            self.history[stage.name] = run.run()
            self.encoder_weights.update(encoder_weights(encoder, "float32"))

    def _run_on_gpu(self) -> None:
        """All stages, in PyTorch; see `gpu.py`."""
        gpu, plan = _gpu(), self.plan
        captions = [example.captions for example in self.examples]
        # Of more than five captions a photo, five; the same ones in every epoch.
        words = word_arrays(
            captions[: self.training], 5, plan.max_words, np.random.default_rng(plan.seed)
        )
        own = {v.path: np.asarray(v) for v in self.decoder.trainable_variables}
        weights, self.history = gpu.run_plan(
            plan, self.encoder_weights, own if self.start else None,
            self.last_pooling,
            stored_pixels(self.paths, self._copies()), words, captions, len(self.tokenizer),
            self.decoder.channels, self.work,
        )  # fmt: skip
        self.encoder_weights = {k: w for k, w in weights.items() if k.startswith("conv")}
        for variable in self.decoder.trainable_variables:
            variable.assign(weights[variable.path])

    def _encoder(self, start: str = "image") -> keras.Model:
        plan = self.plan
        encoder = build_encoder(plan.cut, self.last_pooling, start, plan.input_size, plan.width)
        set_encoder_weights(encoder, self.encoder_weights)
        return encoder

    def _relearn(self, teacher: Path | None) -> None:
        """The kernels that the base weights lack, if there are any."""
        lacking = {
            name.split("/")[0]
            for name in encoder_weights(self._encoder())
            if name not in self.encoder_weights
        }
        if not lacking:
            return
        done = self.work / "relearned.npz"
        if not done.exists():
            if teacher is None:
                raise TrainingError(
                    f"The encoder weights lack {', '.join(sorted(lacking))}; name a classifier "
                    "with --teacher to learn them from, or cut the network before them."
                )
            logits = teacher_logits(teacher, self.paths, self.work / "teacher.npy")
            top = self._encoder("mixed8")
            relearn(
                top, sorted(lacking), self._grids("mixed8")[: self.training],
                logits[: self.training], self.plan.distill_epochs, seed=self.plan.seed,
            )  # fmt: skip
            learned: dict[str, Any] = encoder_weights(top, "float32")
            np.savez(done, **{k: v for k, v in learned.items() if k.split("/")[0] in lacking})
        with np.load(done) as file:
            self.encoder_weights.update({key: file[key] for key in file.files})

    def _photos(self, stage: Stage) -> Photos:
        size = self.plan.input_size
        return Photos(self.paths, size, stage.crop, stage.light, stage.quality, self._copies())

    def _copies(self) -> SmallCopies | None:
        plan = self.plan
        return SmallCopies(**plan.copies, above=plan.input_size) if plan.copies else None

    def _grids(self, cut: str, stage: Stage | None = None) -> np.ndarray:
        """Stored grids of the encoder as it is now, for a stage or for distillation."""
        plan, served = self.plan, bool(stage and stage.served)
        policy = keras.config.dtype_policy()
        if served:
            keras.config.set_dtype_policy("float32")
        encoder = build_encoder(cut, self.last_pooling, "image", plan.input_size, plan.width)
        keras.config.set_dtype_policy(policy)
        set_encoder_weights(encoder, self.encoder_weights)
        encode = litert_encode(export_encoder(encoder, "int8")) if served else keras_encode(encoder)
        name = f"{cut}-int8" if served else cut
        photos = (
            self._photos(stage)
            if stage
            else Photos(self.paths, plan.input_size, copies=self._copies())
        )
        return store_grids(
            encode, digest_of(encoder), photos, encoder.output_shape[1:],
            self.work / f"{name}.npy", stage.views if stage else 2,
        )  # fmt: skip

    def _stage_input(self, stage: Stage) -> tuple[keras.Model, PictureSource]:
        """The part of the encoder that a stage runs, and what is fed to it."""
        if stage.learns == "all":
            return self._encoder(), self._photos(stage)
        if stage.learns == "top":
            return self._encoder("mixed8"), StoredGrids(self._grids("mixed8", stage))
        grids = self._grids(self.plan.cut, stage)
        whole = keras.Input(grids.shape[2:])
        return keras.Model(whole, keras.layers.Identity()(whole)), StoredGrids(grids)

    def _beside_teachers(
        self, encoder: keras.Model, source: PictureSource, stage: Stage
    ) -> tuple[keras.Model, PictureSource, Callable[[Any, Any], Any]]:
        """A stage's input with the teachers' grids beside it, and what these make of both."""
        folders = [folder for folder in (self.start, *self.learn_from) if folder]
        decoders = [load_trained(folder)[1] for folder in folders]
        *sides, end = encoder.output_shape[1:]
        channels, sources = [slice(end)], [source]
        for number, folder in enumerate(self.learn_from, 1):
            about, file = folder.manifest["encoder"], folder.serving_files()[0]
            grid = (*about["grid"], about["channels"])
            grids = store_grids(
                litert_encode(folder.read_bytes(file)), folder.manifest["files"][file]["sha256"],
                self._photos(stage), grid, self.work / f"teacher-{number}.npy", stage.views,
            )  # fmt: skip
            sources.append(StoredGrids(grids))
            channels.append(slice(end, end + grid[-1]))
            end += grid[-1]
        whole = keras.Input((*sides, end))
        encoder = keras.Model(whole, keras.layers.Identity()(whole)[..., channels[0]])
        return encoder, Beside(sources), mean_of([*zip(decoders, channels, strict=True)])

    def write(self, folder: Path, trained_on: Sequence[str], precision: str) -> None:
        """The trained model as a model folder, with its plan and the course of its training."""
        plan = self.plan
        keras.config.set_dtype_policy("float32")
        shape = build_encoder(
            plan.cut, self.last_pooling, "image", plan.input_size, plan.width
        ).output_shape
        encoder_about = {
            "architecture": "inception_v3" if plan.width == 1.0 else "tiny",
            "cut": plan.cut, "last_pooling": self.last_pooling, "width": plan.width,
            "input_size": plan.input_size, "grid": list(shape[1:3]), "channels": shape[3],
            **({"copies": plan.copies} if plan.copies else {}),
        }  # fmt: skip
        manifest = {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "encoder": encoder_about,
            "decoder": {
                "architecture": DECODER, "units": plan.units, "heads": plan.heads,
                "vocabulary_size": len(self.tokenizer), "max_words": plan.max_words,
                "length_penalty": plan.length_penalty, "repeat_penalty": plan.repeat_penalty,
                "repeatable": list(plan.repeatable),
            },
            "confident_threshold": 0.0,
            "trained_on": list(trained_on),
            "scores": {},
        }  # fmt: skip
        encoder, decoder = build_untrained(manifest)
        set_encoder_weights(encoder, self.encoder_weights)
        _copy_variables(self.decoder, decoder)
        course: dict[str, Any] = {"plan": asdict(plan), "history": self.history}
        if self.start:
            before = self.start.path / "training.json"
            course["before"] = json.loads(before.read_text()) if before.exists() else None
        more = {"training.json": course}
        files = {name: json.dumps(value, indent=1).encode() for name, value in more.items()}
        write_folder(folder, encoder, decoder, self.tokenizer, manifest, precision, files)


def _gpu() -> Any:
    try:
        return import_module("captioner.training.gpu")
    except ImportError as error:
        raise TrainingError(
            f"--gpu needs PyTorch ({error}); install it with 'pip install torch'."
        ) from error


def _sizes(model: ModelFolder) -> dict[str, Any]:
    """What a plan says of a model's sizes, and of its search, of a trained model."""
    encoder, decoder = model.manifest["encoder"], model.manifest["decoder"]
    sizes = {name: encoder[name] for name in ("cut", "input_size", "copies") if name in encoder}
    sizes["width"] = encoder.get("width", 1.0)
    sizes |= {name: decoder[name] for name in ("units", "heads", "max_words")}
    search = ("length_penalty", "repeat_penalty", "repeatable")
    return sizes | {name: decoder[name] for name in search if name in decoder}


def _copy_variables(source: Decoder, target: Decoder) -> None:
    for old, new in zip(source.trainable_variables, target.trainable_variables, strict=True):
        new.assign(old)


class _Part:
    """The photos of a source from some index on, as a source of their own."""

    def __init__(self, source: PictureSource, first: int) -> None:
        self._source, self._first = source, first

    def read(self, indices: Sequence[int], rng: np.random.Generator | None = None) -> np.ndarray:
        return self._source.read([self._first + i for i in indices], rng)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, action="append", required=True,
        help="a collection of captioned photos; repeat it for several",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, required=True, help="the plan, a JSON file")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument(
        "--work", type=Path, required=True,
        help="folder for checkpoints, stored grids and logs; a killed run goes on from there",
    )  # fmt: skip
    parser.add_argument(
        "--encoder-weights", default="imagenet",
        help='"imagenet" (Keras downloads them) or an .npz file',
    )  # fmt: skip
    parser.add_argument(
        "--start-from", metavar="MODEL",
        help="go on from a trained model, by name or path, with its words and sizes",
    )  # fmt: skip
    parser.add_argument(
        "--learn-from", metavar="MODEL", action="append", default=[],
        help="a trained model that a distillation learns from, beside that of --start-from; repeat "
        "it for several",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", type=Path, help="a LiteRT classifier, to learn kernels from that weights lack"
    )
    parser.add_argument(
        "--leave-out", type=Path, help="JSON list of file names that are not trained on"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="run the stages on an NVIDIA GPU, with PyTorch"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="int8", help="of the LiteRT files"
    )


def main(arguments: argparse.Namespace) -> int:
    """Trains a model by a plan, from photos to a model folder."""
    plan = Plan.read(arguments.config)
    data = combine(read_dataset(path) for path in arguments.data)
    if arguments.leave_out:
        aside = file_names(arguments.leave_out)
        data = Dataset(tuple(p for p in data.photos if p.path.name not in aside), data.missing)
    if not data.of("dev"):
        data = hold_out(data)
    print(data)
    start = ModelFolder.open(arguments.start_from) if arguments.start_from else None
    if arguments.gpu:
        _gpu().check(plan)
    learn_from = [ModelFolder.open(name) for name in arguments.learn_from]
    training = Training(plan, data, arguments.work, start, arguments.gpu, learn_from)
    training.run(arguments.encoder_weights, arguments.teacher)
    names = [path.resolve().name for path in arguments.data]
    training.write(arguments.out, names, arguments.precision)
    print(f"{arguments.out} holds the model; score it with 'captioner evaluate'.")
    return 0
