"""Training on a handful of real photos: every kind of stage, resuming, what comes out."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import warnings
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from captioner import Captioner
from captioner.confidence import SIGNS, ConfidenceEstimator, WordDetectors
from captioner.matching import CaptionMatcher
from captioner.model_folder import ModelFolder
from captioner.pictures.preprocess import Preprocessor
from captioner.tokenizer import Tokenizer
from tests.kit import ROOT
from tests.kit.detector import write_detector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    from keras import ops

    from captioner.training import train as training
    from captioner.training.inputs import Photos, digest_of, keras_encode, store_grids
    from captioner.training.network.decoder import Decoder
    from captioner.training.network.encoder import (
        build_encoder,
        convolutions,
        encoder_weights,
        folded_keras_weights,
        set_encoder_weights,
        standardize,
    )
    from captioner.training.network.model import CaptioningModel, Generator
    from captioner.training.objectives import CrossEntropy, Distillation, SelfCritical
    from captioner.training.objectives.base import shifted, word_arrays
    from captioner.training.objectives.cross_entropy import (
        CaptionedTexts,
        FeatureProjection,
        FeatureTeachers,
    )
    from captioner.training.objects import CLASSES
    from captioner.training.plan import CrossEntropyStage, Plan, TrainingError
    from captioner.training.rewards import Reward
    from captioner.training.trainer import EncoderScaledAdam
    from tests.kit.tiny_inception import write_model

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]

CAPTIONS = {
    "astronaut": ["A woman in an orange suit smiles .", "An astronaut in front of a flag ."],
    "coffee": ["A cup of coffee on a saucer .", "A white cup with a spoon stands on a table ."],
    "chelsea": ["A cat looks at the camera .", "A brown cat is lying down ."],
    "rocket": ["A rocket is launched at night .", "A rocket stands on the pad ."],
}
SIZE, WIDTH = 139, 0.05


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Our layout: each photo as it is, cropped, and turned, for train and for dev."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    captions, split = {}, {}
    for name, own in CAPTIONS.items():
        photo = getattr(skimage.data, name)()[..., ::-1]
        for kind, variant in (("whole", photo), ("crop", photo[40:, 40:]), ("dev", photo[:-30])):
            file = f"{name}_{kind}.jpg"
            cv2.imwrite(str(folder / "images" / file), cv2.resize(variant, (160, 160)))
            captions[file], split[file] = own, "dev" if kind == "dev" else "train"
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def plan(tmp_path, stages, **more):
    file = tmp_path / "plan.json"
    sizes = {"units": 16, "heads": 2, "min_count": 1, "max_words": 6, "bfloat16": False}
    file.write_text(
        json.dumps({**sizes, "input_size": SIZE, "width": WIDTH, "stages": stages, **more})
    )
    return file


def stage(name, trainable="all", objective="cross_entropy", **more):
    steps = {"epochs": 1, "learning_rate": 0.01, "batch_size": 4, "warmup_steps": 1,
             "dropout": 0.1, "ema_momentum": 0.5}  # fmt: skip
    return {"name": name, "trainable": trainable, "objective": objective, **steps, **more}


@pytest.fixture(scope="module")
def base_weights(tmp_path_factory):
    """Weights to start from, without the two kernels that the published ones lack."""
    keras.utils.set_random_seed(5)
    weights: dict[str, Any] = encoder_weights(
        build_encoder(input_size=SIZE, width=WIDTH), "float32"
    )
    file = tmp_path_factory.mktemp("weights") / "base.npz"
    np.savez(
        file, **{k: v for k, v in weights.items() if k not in ("conv81/kernel", "conv90/kernel")}
    )
    return file


def tiny_teacher(size=48, channels=5, cells=4):
    """A network of one convolution: images -> a grid of that many cells a side."""
    keras.utils.set_random_seed(9)
    image = keras.Input((size, size, 3))
    cell = size // cells
    grid = keras.layers.Conv2D(channels, cell, cell, activation="relu")(image)
    return keras.Model(image, grid, trainable=False)


def run(file, data, out, work, weights, *more, start=None, learn_from=(), teachers=()):
    import argparse

    parser = argparse.ArgumentParser()
    training.add_arguments(parser)
    arguments = ["--data", data, "--config", file, "--out", out, "--work", work,
                 "--encoder-weights", weights, "--precision", "float32", *more]  # fmt: skip
    if start:
        arguments += ["--start-from", start]
    for model in learn_from:
        arguments += ["--learn-from", model]
    for number, _ in enumerate(teachers):
        arguments += ["--feature-teacher", f"{number}.pth"]
    with pytest.MonkeyPatch.context() as patch:
        # Their own file's test reads real files.
        load = "captioner.training.network.efficientnet_lite.load_efficientnet_lite"
        patch.setattr(load, lambda file, _: teachers[int(file.stem)])
        return training.main(parser.parse_args([str(a) for a in arguments]))


def constant_scores(values):
    """In place of the dev scores of each epoch."""
    left = iter(values)
    return lambda self, model, source: lambda: {"dev": float(next(left))}


def test_all_objectives_make_a_model_that_serves(data, tmp_path, base_weights):
    """Features, concepts, text and photos without captions in one stage; then a reward."""
    without = tmp_path / "without"
    without.mkdir()
    cv2.imwrite(str(without / "moon.jpg"), skimage.data.moon())
    text = tmp_path / "text.json"
    text.write_text(json.dumps({"1": ["A brown cat in a cup .", "A white rocket ."]}))
    more = tmp_path / "more.json"
    more.write_text(json.dumps({"rocket_whole.jpg": ["A tall rocket ."]}))
    helpers = {"concept_weight": 0.05, "feature_weight": 1.0, "text_weight": 0.4,
               "uncaptioned": 1.0, "quality": 0.5, "crop": 0.7, "first_trainable": 0}  # fmt: skip
    stages = [
        stage("top", "top", epochs=2, **helpers),
        stage("joint", **helpers),
        stage("decoder", "decoder"),
        stage(
            "reward", "decoder", "self_critical",
            quantized_encoder=True, temperature=0.5, samples_per_photo=2,
        ),
    ]  # fmt: skip
    file = plan(tmp_path, stages, concepts=6, bfloat16=True)
    out, work = tmp_path / "out", tmp_path / "work"
    flags = ["--uncaptioned", without, "--text", text, "--more-captions", more]
    assert run(file, data, out, work, base_weights, *flags, teachers=[tiny_teacher(cells=3)]) == 0

    captioner = Captioner.load(out)
    caption = captioner.caption(data / "images" / "coffee_dev.jpg")
    assert caption.text
    known = {word for own in CAPTIONS.values() for c in own for word in Tokenizer.split(c)}
    assert {word.word for word in caption.words} <= known | {"tall"}
    kept = json.loads((out / "training.json").read_text())
    history = kept["history"]
    assert [len(history[name]) for name in ("top", "joint", "reward")] == [3, 2, 2]
    for name in ("top", "joint"):
        assert {"captions", "concepts", "features", "text", "dev"} <= set(history[name][1])
    assert {"captions", "dev"} <= set(history["decoder"][1])
    assert {"policy", "reward", "dev"} <= set(history["reward"][1])
    assert (work / "mixed10-int8.npy").exists()
    assert kept["plan"]["stages"][0]["name"] == "top"
    weights = dict(np.load(out / "encoder.npz"))
    assert all(np.isfinite(array).all() for array in weights.values())
    with np.load(base_weights) as base:
        changed = [name for name in base if not np.allclose(base[name], weights[name], atol=1e-3)]
    assert "conv93/kernel" in changed
    # also of what the last stage did not train, such as the recognition of concepts
    best = [*np.load(work / "reward" / "best.npz").values()]
    for name, array in np.load(out / "decoder.npz").items():
        like = [own for own in best if own.shape == array.shape]
        assert any(np.allclose(own, array, atol=2e-3) for own in like), name


def test_objects_teach_the_encoder_alone(data, tmp_path, two_models, monkeypatch):
    """And the reward then teaches the decoder to read it."""
    helpers = {"feature_weight": 0.5, "words": 4, "first_trainable": 76, "uncaptioned": 1.0}
    stages = [
        stage("objects", "top", "recognition", epochs=2, keep_last=True, **helpers),
        stage("reward", "decoder", "self_critical", quantized_encoder=True, samples_per_photo=2),
    ]
    start, out, work = two_models[0], tmp_path / "out", tmp_path / "work"
    flags = ["--detector", *write_detector(tmp_path)]
    teachers = [tiny_teacher(cells=3)]
    file = plan(tmp_path, stages)
    with pytest.raises(TrainingError, match="too few objects"):
        run(file, data, out, work, "", *flags, start=start, teachers=teachers)
    monkeypatch.setattr("captioner.training.train._PHOTOS_OF_A_CLASS", 1)
    assert run(file, data, out, work, "", *flags, start=start, teachers=teachers) == 0
    history = json.loads((out / "training.json").read_text())["history"]
    assert {"objects", "words", "moved", "features", "dev"} <= set(history["objects"][1])
    assert {"policy", "reward", "dev"} <= set(history["reward"][1])
    objects = np.load(work / "objects.npy")
    assert objects.shape == (12, 2, 3, 3, CLASSES)
    assert np.array_equal(objects[:, 1], objects[:, 0, :, ::-1])
    before, after = (dict(np.load(folder / "encoder.npz")) for folder in (start, out))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.split("/")[0] for name in moved} <= {f"conv{i}" for i in range(76, 94)}
    assert "conv93/kernel" in moved
    assert Captioner.load(out).caption(data / "images" / "coffee_dev.jpg").text


@pytest.fixture(scope="module")
def two_models(data, tmp_path_factory, base_weights):
    """Folders of two models with the same words, trained apart."""
    folder = tmp_path_factory.mktemp("two")
    file = plan(folder, [stage("decoder", "decoder")])
    for seed in (1, 2):
        work = folder / f"work{seed}"
        run(file, data, folder / str(seed), work, base_weights, "--seed", seed)
    return folder / "1", folder / "2"


def test_training_goes_on_from_a_model(data, tmp_path, two_models):
    """With a reward, through an encoder whose first convolutions stay as they are."""
    first, out = two_models[0], tmp_path / "out"
    reward = {"bleu": 0.5, "unigram": 0.5, "first_trainable": 30, "crop": 0.6}
    # Sizes come from the model, whatever the plan says.
    file = plan(tmp_path, [stage("reward", "all", "self_critical", **reward)], units=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "_scorer", constant_scores([1, 2]))
        run(file, data, out, tmp_path / "work2", "none", start=first)
    before, after = (dict(np.load(folder / "encoder.npz")) for folder in (first, out))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "conv93/kernel" in changed
    assert all(int(name[4:6]) >= 30 for name in changed)
    course = json.loads((out / "training.json").read_text())
    assert course["history"]["reward"][1]["dev"] == 2
    assert [row["epoch"] for row in course["before"]["history"]["decoder"]] == [0, 1]
    assert Captioner.load(out).caption(data / "images" / "coffee_dev.jpg").text


def test_a_model_gets_new_words_and_concepts(data, tmp_path, two_models):
    """What the model has learned stays; new words come behind the old ones."""
    first, out = two_models[0], tmp_path / "out"
    more = tmp_path / "more.json"
    more.write_text(json.dumps({"coffee_whole.jpg": ["An espresso ."]}))
    still = stage("still", "decoder", epochs=0)
    file = plan(tmp_path, [still], concepts=4)
    flags = ["--more-captions", more]
    run(file, data, out, tmp_path / "work2", "none", *flags, start=first)
    before, after = (Captioner.load(folder) for folder in (first, out))
    words = Tokenizer.load(first / "tokenizer.p").words
    assert Tokenizer.load(out / "tokenizer.p").words == [*words, "espresso"]
    arrays = [dict(np.load(folder / "decoder.npz")) for folder in (first, out)]
    table = "decoder/embedding/embeddings"
    np.testing.assert_array_equal(arrays[0][table], arrays[1][table][:-1])
    assert arrays[1]["decoder/concept_logits/kernel"].shape[1] == 4
    photo = data / "images" / "coffee_dev.jpg"
    assert before.caption(photo).text
    assert after.caption(photo).text


def test_what_a_stage_learns_is_averaged_with_what_was_there(data, tmp_path, two_models):
    """Half of the way, in every weight that learns, and the calibration of before stays."""
    first = shutil.copytree(two_models[0], tmp_path / "first")
    folder = ModelFolder.open(first)
    channels = folder.manifest.encoder.channels
    detectors = WordDetectors.rounded(
        np.array([5]), np.ones((1, channels)), np.zeros(1), np.full(1, 0.1)
    )
    photo = np.zeros(1 + channels, np.float32)
    matcher = CaptionMatcher.rounded(np.zeros((2, channels)), np.zeros(2), np.zeros((6, 2)))
    confidence = ConfidenceEstimator(
        photo, detectors, matcher, np.zeros(SIGNS), np.zeros(1 + SIGNS)
    )
    folder = folder.with_confidence(0.5, confidence)
    learn = stage("learn", "decoder", epochs=1, keep_last=True)
    weights = []
    for number, share in enumerate((0.0, 0.5)):
        out = tmp_path / f"out{number}"
        file = plan(tmp_path, [{**learn, "start_share": share}])
        run(file, data, out, tmp_path / f"work{number}", "none", start=first)
        weights.append(dict(np.load(out / "decoder.npz")))
        manifest = ModelFolder.open(out).manifest
        assert manifest.calibration == folder.manifest.calibration
        assert manifest.trained_on == folder.manifest.trained_on  # the same data, named once
    before = dict(np.load(first / "decoder.npz"))
    moved = 0.0
    for name, old in before.items():
        whole, half = (found[name].astype(np.float32) - old for found in weights)
        np.testing.assert_allclose(half, whole / 2, atol=2e-3)
        moved += float(np.abs(whole).max())
    assert moved > 0.01


@pytest.mark.parametrize("share", [-0.1, 1])
def test_a_share_is_less_than_all(share):
    with pytest.raises(TrainingError, match="start_share"):
        CrossEntropyStage(name="x", epochs=1, learning_rate=1e-3, start_share=share)


@pytest.mark.parametrize("trainable", ["decoder", "all"])
def test_a_model_learns_from_two(data, tmp_path, two_models, trainable):
    first, _ = two_models
    more = {"samples_per_photo": 3, "keep_last": True, "first_trainable": 80}
    file = plan(tmp_path, [stage("together", trainable, "distillation", epochs=2, **more)])
    out = tmp_path / "out"
    run(file, data, out, tmp_path / "work", "none", start=first, learn_from=two_models)
    before, after = (dict(np.load(folder / "encoder.npz")) for folder in (first, out))
    same = all(np.array_equal(before[name], after[name]) for name in before)
    assert same == (trainable == "decoder")
    before, after = (dict(np.load(folder / "decoder.npz")) for folder in (first, out))
    assert not np.array_equal(before["decoder/out/kernel"], after["decoder/out/kernel"])
    course = json.loads((out / "training.json").read_text())
    assert [row["epoch"] for row in course["history"]["together"]] == [0, 1, 2]
    assert Captioner.load(out).caption(data / "images" / "coffee_dev.jpg").text


def identity(channels):
    grid = keras.Input((2, 2, channels))
    return keras.Model(grid, keras.layers.Identity()(grid))


def random_model(rng, channels=6, vocabulary=12):
    model = CaptioningModel(identity(channels), Decoder(vocabulary, channels, 16, 2, dropout=0.0))
    for variable in model.decoder.trainable_variables:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    return model


def test_distillation_ends_at_the_mean_of_its_teachers():
    """Each of two teachers reads a grid of its own, and no special word counts."""
    keras.utils.set_random_seed(4)
    rng = np.random.default_rng(4)
    student, *teachers = [random_model(rng) for _ in range(3)]
    grids = [rng.normal(0, 1, (3, 2, 2, 6)).astype(np.float32) for _ in range(3)]
    words = rng.integers(Tokenizer.UNK + 1, 12, (3, 2, 4)).astype(np.int32)
    words[..., 0] = Tokenizer.START
    apart = [np.array(ops.softmax(t(g, words))) for t, g in zip(teachers, grids[1:], strict=True)]
    specials = [Tokenizer.PAD, Tokenizer.START, Tokenizer.UNK]
    for shares in apart:
        shares[..., specials] = 0
        shares /= shares.sum(-1, keepdims=True)
    wanted = sum(apart) / 2

    weights = np.ones(words.shape, np.float32)
    weights[0, 0, 2:] = 0
    batch = {"inputs": grids[0], "teacher-0": grids[1], "teacher-1": grids[2], "words": words,
             "weights": weights}  # fmt: skip
    objective = Distillation(student, teachers, [], 4)
    objective.prepare_to_learn(keras.optimizers.Adam(0.01))
    losses = [float(objective.train_on_batch(batch, return_dict=True)["loss"]) for _ in range(300)]
    least = -np.sum(wanted * np.log(np.maximum(wanted, 1e-12)), -1)
    assert losses[-1] == pytest.approx(np.sum(least * weights) / weights.sum(), abs=0.03)
    assert losses[0] > losses[-1] + 0.5


def test_what_cannot_be_learned_from_is_refused(data, tmp_path, two_models, base_weights):
    first, _ = two_models

    def refusal(stages, *more, values=None, **arguments):
        file = plan(tmp_path, stages, **(values or {}))
        with pytest.raises(TrainingError) as error:
            run(file, data, tmp_path / "out", tmp_path / "work", base_weights, *more, **arguments)
        return str(error.value)

    distil = stage("together", "decoder", "distillation")
    assert "name them by --learn-from" in refusal([distil], start=first)
    features, text = stage("x", feature_weight=1.0), stage("x", text_weight=1.0)
    assert "--feature-teacher" in refusal([features])
    assert "--text" in refusal([text], values={"concepts": 3})
    assert '"concepts"' in refusal([stage("x", concept_weight=1.0)])
    objects = stage("x", "top", "recognition")
    assert "--detector" in refusal([objects])
    assert 'trains "top"' in refusal([{**objects, "trainable": "all"}])
    assert '"object_weight" above 0' in refusal([{**objects, "object_weight": 0}])
    assert "cannot be read" in refusal([objects], "--detector", "none.pb", "none.pbtxt")
    write_model(tmp_path / "stranger")
    stranger = refusal([distil], start=first, learn_from=[tmp_path / "stranger"])
    assert "has another vocabulary" in stranger
    broken = tmp_path / "text.json"
    broken.write_text("[1]")
    assert "is no JSON object of captions" in refusal([text], "--text", broken)
    assert not (tmp_path / "out").exists()


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    data, tmp_path, base_weights, wait_for
):
    """Three epochs in one go, and a process killed after the first and started again."""
    # Without dropout: its random numbers are not kept in a checkpoint.
    still = {"epochs": 3, "patience": 9, "dropout": 0.0, "first_trainable": 76}
    file = plan(tmp_path, [stage("top", **still)])

    def start(name):
        arguments = ["--data", data, "--config", file, "--out", tmp_path / name,
                     "--work", tmp_path / f"work_{name}", "--encoder-weights", base_weights,
                     "--precision", "float32"]  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-m", "captioner", "train"]
        return subprocess.Popen(
            [*command, *map(str, arguments)], cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    assert start("a").wait(250) == 0
    history = tmp_path / "work_b" / "top" / "history.json"
    killed = start("b")
    wait_for(lambda: history.exists() or killed.poll() is not None, seconds=250)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert len(json.loads(history.read_text())) < 4
    assert start("b").wait(250) == 0
    one, other = (
        json.loads((tmp_path / x / "training.json").read_text())["history"]["top"] for x in "ab"
    )
    assert [row["epoch"] for row in other] == [0, 1, 2, 3]
    assert [row["loss"] for row in other[1:]] == pytest.approx(
        [row["loss"] for row in one[1:]], rel=2e-3
    )
    # Not bit for bit: how a sum is rounded depends on where in memory its terms happen to lie, and
    # Adam turns the sign of next to nothing into a whole step.
    moved = apart = 0.0
    base, a, b = (
        dict(np.load(file))
        for file in (base_weights, tmp_path / "a" / "encoder.npz", tmp_path / "b" / "encoder.npz")
    )
    for name in ("conv80/kernel", "conv93/kernel", "conv93/bias"):
        moved += float(np.abs(a[name].astype(np.float32) - base[name]).sum())
        apart += float(np.abs(a[name].astype(np.float32) - b[name]).sum())
    assert moved > 0
    assert apart < moved / 2


@pytest.mark.parametrize("keep_last", [False, True])
def test_a_stage_that_makes_it_worse_changes_nothing(data, tmp_path, base_weights, keep_last):
    """With a rate that ruins everything, what was there before the stage is what remains.

    Unless the plan says that the last epoch counts.
    """
    ruin = stage("ruin", "decoder", learning_rate=1e3, keep_last=keep_last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "_scorer", constant_scores([2, 1]))
        run(plan(tmp_path, [ruin]), data, tmp_path / "out", tmp_path / "work", base_weights)
    history = json.loads((tmp_path / "out" / "training.json").read_text())["history"]["ruin"]
    assert [row["epoch"] for row in history] == [0, 1]
    assert history[0]["dev"] > history[1]["dev"]
    with np.load(tmp_path / "out" / "decoder.npz") as weights:
        sane = all(np.abs(weights[name]).max() < 10 for name in weights.files)
    assert sane != keep_last


def test_training_learns(data):
    """On four photos the loss falls, and the captions become those photos' own."""
    keras.utils.set_random_seed(1)
    encoder = build_encoder(input_size=SIZE, width=WIDTH)
    captions = {name: own[0] for name, own in CAPTIONS.items()}
    tokenizer = Tokenizer.fit(captions.values(), 1)
    model = CaptioningModel(encoder, Decoder(len(tokenizer), encoder.output_shape[-1], 32, 2, 0.0))
    photos = Photos(
        [data / "images" / f"{name}_whole.jpg" for name in captions], Preprocessor(SIZE)
    )
    ids = [[tokenizer.encode(c)] for c in captions.values()]
    objective = CrossEntropy(model, ids, max_words=10, captions_per_photo=1)
    objective.prepare_to_learn(keras.optimizers.Adam(5e-3))
    every = range(4)
    batch = objective.batch(every, photos.read(every), np.random.default_rng(0))
    # The start is not always the same: threads of earlier tests draw from Python's random, too.
    losses = [float(objective.train_on_batch(batch, return_dict=True)["loss"]) for _ in range(150)]
    assert losses[-1] < losses[0] / 4
    lines = Generator(model, 10).predict_on_batch(photos.images(every))[:, 0]
    written = [tokenizer.decode(line) for line in lines]
    references = [" ".join(Tokenizer.split(caption)) for caption in captions.values()]
    assert sum(a == b for a, b in zip(written, references, strict=True)) >= 3


def test_an_encoder_learns_the_features_of_its_teachers():
    """The loss begins where ridge regression from its own features ends, and falls far below."""
    keras.utils.set_random_seed(1)
    image = keras.Input((64, 64, 3))
    encoder = keras.Model(image, keras.layers.Conv2D(32, 16, 16, activation="relu")(image))
    images = np.random.default_rng(0).uniform(-1, 1, (16, 64, 64, 3)).astype(np.float32)
    teachers = FeatureTeachers([tiny_teacher(64), tiny_teacher(32, 3)])
    features = np.asarray(teachers(images))
    assert features.shape == (16, 2, 2, teachers.channels) == (16, 2, 2, 8)
    projection = FeatureProjection(np.asarray(encoder(images)), features)
    model = CaptioningModel(encoder, Decoder(8, 32, 16, 2, 0.0))
    none: list[list[list[int]]] = [[] for _ in images]
    for source in (teachers, None):  # computed in the step, or stored beside the inputs
        objective = CrossEntropy(
            model, none, 5, teachers=source, projection=projection, feature_weight=0.5
        )
        batch = objective.batch(
            range(16), {"inputs": images, "features": features}, np.random.default_rng(0)
        )
        losses = objective(batch)
        assert float(losses["captions"]) == 0
        assert 0.2 < float(losses["features"]) < 1  # 1 is what the mean of each feature scores
    objective.prepare_to_learn(keras.optimizers.Adam(3e-3))
    rows = [objective.train_on_batch(batch, return_dict=True) for _ in range(150)]
    assert float(rows[-1]["features"]) < 0.2 * float(rows[0]["features"])


def test_concepts_are_recognised_and_used(data):
    """A decoder learns to recognise words in grids, and to write texts from concepts alone."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    tokenizer = Tokenizer(["a", "dog", "cat", "runs", "sleeps"])
    captions = [[tokenizer.encode(c)] for c in ("a dog runs", "a cat sleeps")]
    concepts = [tokenizer.encode(word)[0] for word in ("dog", "cat", "runs", "sleeps")]
    model = CaptioningModel(identity(6), Decoder(len(tokenizer), 6, 16, 2, 0.0, concepts=4))
    texts = CaptionedTexts([[tokenizer.encode(c)] for c in ("a dog sleeps", "a cat runs")], 8)
    objective = CrossEntropy(
        model, captions, 5, 1, concepts=concepts, concept_weight=1.0, texts=texts, text_weight=1.0
    )
    objective.prepare_to_learn(keras.optimizers.Adam(1e-2))
    grids = rng.normal(0, 1, (2, 2, 2, 6)).astype(np.float32)
    rows = []
    for _ in range(400):
        batch = objective.batch([0, 1], {"inputs": grids}, rng)
        rows.append(objective.train_on_batch(batch, return_dict=True))
    seen = 1 / (1 + np.exp(-np.asarray(model.decoder.recognise(grids))[:, 0]))
    np.testing.assert_allclose(seen, [[1, 0, 1, 0], [0, 1, 0, 1]], atol=0.1)
    given = np.array([[[1, 0, 0, 1]], [[0, 1, 1, 0]]], np.float32)
    words = np.array([[tokenizer.encode("a dog sleeps")], [tokenizer.encode("a cat runs")]])
    logits = model.decoder(np.zeros_like(grids), shifted(words), concepts=given)
    np.testing.assert_array_equal(np.argmax(logits, -1), words)


def test_a_reward_moves_nothing_to_words_that_are_never_drawn():
    """Padding, start and unknown word are not drawn, so they must not gain probability either."""
    model = random_model(np.random.default_rng(0), vocabulary=9)
    objective = SelfCritical(model, Reward([[]]), 3)
    grid = np.random.default_rng(0).normal(size=(1, 2, 2, 6)).astype(np.float32)
    words = np.array([[[4, 7, Tokenizer.END]]], np.int32)
    batch = {"inputs": grid, "words": shifted(words), "targets": words,
             "weights": np.full((1, 1, 3), -0.5, np.float32)}  # fmt: skip
    before = float(objective(batch)["policy"])
    bias = np.array(ops.convert_to_numpy(model.decoder.output_bias))
    bias[[Tokenizer.PAD, Tokenizer.START, Tokenizer.UNK]] += 5
    model.decoder.output_bias.assign(bias)
    assert float(objective(batch)["policy"]) == pytest.approx(before, rel=1e-4)


def test_the_encoder_learns_more_slowly():
    """Adam's first step is the rate itself, so that it can be read off."""
    variables = [keras.Variable(np.ones(3), name=name, dtype="float32") for name in ("a", "b")]
    with keras.name_scope("conv07"):
        variables.append(keras.Variable(np.ones(3), name="kernel", dtype="float32"))
    optimizer = EncoderScaledAdam(0.1, encoder_rate=0.25)
    optimizer.apply([ops.ones(3)] * 3, variables)
    moved = [1 - float(np.asarray(v)[0]) for v in variables]
    assert moved == pytest.approx([0.1, 0.1, 0.025], rel=1e-3)


def test_fresh_kernels_are_standardized():
    keras.utils.set_random_seed(2)
    x = image = keras.Input((16, 16, 3))
    for number, filters in enumerate((8, 8, 6)):
        x = keras.layers.Conv2D(filters, 3, activation="relu", name=f"conv{number:02d}")(x)
    encoder = keras.Model(image, x)
    first = np.array(convolutions(encoder)["conv00"].kernel)
    images = np.random.default_rng(0).uniform(-1, 1, (6, 16, 16, 3)).astype(np.float32)
    standardize(encoder, ["conv02/kernel", "conv01/kernel"], images)
    np.testing.assert_array_equal(convolutions(encoder)["conv00"].kernel, first)
    for name in ("conv01", "conv02"):
        layer = convolutions(encoder)[name]
        before = keras.Model(encoder.input, layer.input)(images)
        out = np.asarray(ops.conv(before, layer.kernel) + layer.bias)
        np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-3)
        np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-2)


def test_the_folded_encoder_is_keras_own():
    """Same topology, same order: a folded `keras.applications` network gives the same features."""
    keras.utils.set_random_seed(2)
    reference = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(139, 139, 3)
    )
    rng = np.random.default_rng(0)
    for layer in reference.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
            layer.moving_mean.assign(rng.normal(0, 0.3, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    ours = build_encoder("mixed10", "average", input_size=139)
    assert set_encoder_weights(ours, folded_keras_weights(reference)) == []
    x = rng.uniform(-1, 1, (2, 139, 139, 3)).astype(np.float32)
    wanted, given = np.asarray(reference(x, training=False)), np.asarray(ours(x))
    np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_sharpening_divides_the_logits():
    decoder = Decoder(9, 4, 16, 2, dropout=0.0)
    decoder.build()
    rng = np.random.default_rng(0)
    grid, words = rng.normal(size=(1, 2, 2, 4)).astype(np.float32), np.array([[[1, 5, 6]]])
    before = np.asarray(decoder(grid, words))
    decoder.sharpen(0.5)
    np.testing.assert_allclose(decoder(grid, words), 2 * before, rtol=1e-4, atol=1e-6)


def test_the_part_behind_mixed8_continues_the_whole():
    keras.utils.set_random_seed(2)
    whole = build_encoder(input_size=SIZE, width=WIDTH)
    weights = encoder_weights(whole, "float32")
    x = np.random.default_rng(0).uniform(-1, 1, (1, SIZE, SIZE, 3)).astype(np.float32)
    mixed8 = build_encoder("mixed8", input_size=SIZE, width=WIDTH)
    behind = build_encoder(input_layer="mixed8", input_size=SIZE, width=WIDTH)
    assert set_encoder_weights(mixed8, weights) == set_encoder_weights(behind, weights) == []
    np.testing.assert_allclose(behind(mixed8(x)), whole(x), rtol=1e-4, atol=1e-5)
    assert len([key for key in weights if key.endswith("kernel")]) == 94


def test_stored_grids_go_on_where_they_stopped(data, tmp_path):
    encoder = build_encoder(input_size=SIZE, width=WIDTH)
    photos = Photos(sorted((data / "images").glob("*.jpg")), Preprocessor(SIZE))
    file = tmp_path / "grids.npy"

    def store(views=2):
        encode, shape = keras_encode(encoder), encoder.output_shape[1:]
        stored = store_grids(encode, digest_of(encoder), photos, shape, file, views, batch=4)
        return np.array(stored)

    grids = store()
    assert grids.shape == (12, 2, 3, 3, encoder.output_shape[-1])
    x = photos.images([5])
    np.testing.assert_allclose(grids[5, 0], encoder(x)[0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(grids[5, 1], encoder(x[:, :, ::-1])[0], rtol=2e-3, atol=2e-3)
    note = file.with_suffix(".json")
    state = json.loads(note.read_text())
    stored = np.load(file, mmap_mode="r+")
    stored[4:] = 0
    stored.flush()
    note.write_text(json.dumps({**state, "done": 4}))
    np.testing.assert_array_equal(store(), grids)
    # Views after the mirror image are augmented.
    four = store(views=4)
    np.testing.assert_array_equal(four[:, :2], grids)
    assert not any(np.array_equal(four[:, view], grids[:, 0]) for view in (2, 3))
    np.testing.assert_array_equal(four, store(views=4))
    # Of other weights they are all made again.
    encoder.layers[1].bias.assign(encoder.layers[1].bias + 1)
    assert not np.array_equal(store(), grids)


def test_augmented_photos_differ_and_follow_their_seed(data):
    photos = Photos(sorted((data / "images").glob("*.jpg"))[:3], Preprocessor(SIZE), 0.8, 0.2)
    plain = photos.images([0, 1, 2])
    one, same, other = (photos.images([0, 1, 2], np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert not np.allclose(one, plain)
    assert np.abs(one).max() <= 1
    assert one.dtype == plain.dtype == np.float32


def test_photos_of_another_quality(data):
    """Sharpness and JPEG change what is in the pixels a little, and where things are not at all."""
    path = [data / "images" / f"{next(iter(CAPTIONS))}_whole.jpg"]
    rng = lambda: np.random.default_rng(3)  # noqa: E731
    plain = Photos(path, Preprocessor(SIZE), crop=1.0).images([0], rng())
    other = Photos(path, Preprocessor(SIZE), crop=1.0, quality=1.0).images([0], rng())
    assert 0 < np.abs(plain - other).mean() < 0.1


def test_words_become_arrays():
    captions = [[[5, 6], [7]], [[8, 9, 10, 11, 12]], []]
    words, targets, weights = word_arrays(captions, 2, 4, np.random.default_rng(0))
    start, end = Tokenizer.START, Tokenizer.END
    assert sorted(words[0].tolist()) == [[start, 5, 6, 0], [start, 7, 0, 0]]
    assert sorted(targets[0].tolist()) == [[5, 6, end, 0], [7, end, 0, 0]]
    # One caption where two are wanted: twice, at half the weight; too long: cut, without an end.
    assert targets[1].tolist() == [[8, 9, 10, 11]] * 2
    assert weights[1].tolist() == [[0.5] * 4] * 2
    assert not weights[2].any()


ONE = {"name": "x", "objective": "cross_entropy", "epochs": 1, "learning_rate": 1}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"stages": []}, "has no stages"),
        ({"stages": [{**ONE, "speed": 9}]}, "speed"),
        ({"stages": [{**ONE, "bleu": 1}]}, "CrossEntropyStage has no field bleu"),
        ({"stages": [ONE], "unitz": 9}, "unitz"),
        ({"stages": [{**ONE, "trainable": "tail"}]}, "tail"),
        ({"stages": [{"name": "x", "objective": "cross_entropy"}]}, "epochs"),
        ({"stages": [{**ONE, "objective": "fun"}]}, "fun"),
        ({"stages": [{**ONE, "quantized_encoder": True}]}, "quantized_encoder"),
        ({"stages": [{**ONE, "uncaptioned": 1.0}]}, "uncaptioned"),
        ({"stages": [{**ONE, "objective": "self_critical", "samples_per_photo": 1}]}, "2 or more"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path, values, sentence):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(values))
    with pytest.raises(TrainingError, match=sentence):
        Plan.read(file)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "captioner" / "training" / "plans").glob("*.json")), ids=lambda f: f.stem
)
def test_the_plans_that_ship_can_be_read(file):
    names = [stage.name for stage in Plan.read(file).stages]
    assert len(names) == len({*names}) >= 1
