"""Training on a handful of real photos: every kind of stage, resuming, what comes out."""

from __future__ import annotations

import json
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
from captioner.tokenizer import Tokenizer
from tests.kit import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    import tensorflow as tf
    from keras import ops

    from captioner.training import train as training
    from captioner.training.decoder import Decoder
    from captioner.training.encoder import (
        build_encoder,
        encoder_weights,
        folded_keras_weights,
        set_encoder_weights,
    )
    from captioner.training.model import (
        CaptioningModel,
        make_distillation,
        make_generator,
        make_steps,
        mean_of,
    )
    from captioner.training.pictures import Photos, digest_of, keras_encode, store_grids
    from captioner.training.plan import Plan, TrainingError
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
    sizes = {"units": 16, "heads": 2, "min_count": 1, "max_words": 9, "bfloat16": False}
    file.write_text(
        json.dumps({**sizes, "input_size": SIZE, "width": WIDTH, "stages": stages, **more})
    )
    return file


def stage(name, learns, **more):
    steps = {"epochs": 1, "learning_rate": 0.01, "photos_a_step": 4, "samples": 2,
             "warmup_steps": 1, "dropout": 0.1, "average": 0.5}  # fmt: skip
    return {"name": name, "learns": learns, **steps, **more}


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


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A small LiteRT classifier that ends in a softmax."""
    classifier = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 8, 8, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(6, activation="softmax"),
        ]
    )
    converter = tf.lite.TFLiteConverter.from_keras_model(classifier)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    rng = np.random.default_rng(0)
    converter.representative_dataset = lambda: (
        [rng.uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)] for _ in range(4)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    file = tmp_path_factory.mktemp("teacher") / "teacher.tflite"
    file.write_bytes(converter.convert())
    return file


def run(file, data, out, work, weights, teacher=None, start=None, gpu=False, learn_from=()):
    import argparse

    parser = argparse.ArgumentParser()
    training.add_arguments(parser)
    arguments = ["--data", data, "--config", file, "--out", out, "--work", work,
                 "--encoder-weights", weights, "--precision", "float32"]  # fmt: skip
    if start:
        arguments += ["--start-from", start]
    for model in learn_from:
        arguments += ["--learn-from", model]
    if teacher:
        arguments += ["--teacher", teacher]
    if gpu:
        arguments += ["--gpu"]
    return training.main(parser.parse_args([str(a) for a in arguments]))


def test_all_stages_make_a_model_that_serves(data, tmp_path, base_weights, teacher):
    reward = {"objective": "self_critical", "served": True, "temperature": 0.5}
    stages = [
        stage("top", "top", epochs=2),
        stage("all", "all"),
        stage("decoder", "decoder"),
        stage("reward", "decoder", **reward),
    ]
    file = plan(tmp_path, stages, distill_epochs=2)
    out, work = tmp_path / "out", tmp_path / "work"
    assert run(file, data, out, work, base_weights, teacher) == 0

    captioner = Captioner.load(out)
    caption = captioner.caption(data / "images" / "coffee_dev.jpg")
    assert caption.text
    known = {word for own in CAPTIONS.values() for c in own for word in Tokenizer.split(c)}
    assert {word.word for word in caption.words} <= known
    kept = json.loads((out / "training.json").read_text())
    assert [len(kept["history"][name]) for name in ("top", "all", "reward")] == [3, 2, 2]
    assert (work / "mixed10-int8.npy").exists()
    assert kept["plan"]["stages"][0]["name"] == "top"
    assert "reward" in kept["history"]["reward"][1]
    assert list((work / "top").glob("events*")), "no TensorBoard log"


def test_training_goes_on_from_a_model(data, tmp_path, base_weights, teacher):
    """With a reward, through an encoder whose first convolutions stay as they are."""
    first, out = tmp_path / "first", tmp_path / "out"
    file = plan(tmp_path, [stage("top", "top")], distill_epochs=1)
    run(file, data, first, tmp_path / "work", base_weights, teacher)
    reward = {"objective": "self_critical", "bleu": 0.5, "unigram": 0.5, "frozen": 30, "crop": 0.6}
    # Sizes come from the model, whatever the plan says.
    file = plan(tmp_path, [stage("reward", "all", **reward)], units=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training.StageRun, "evaluate", lambda self: 1.0 + float(self.optimizer.iterations)
        )
        run(file, data, out, tmp_path / "work2", "none", start=first)
    before, after = (dict(np.load(folder / "encoder.npz")) for folder in (first, out))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "conv93/kernel" in changed
    assert all(int(name[4:6]) >= 30 for name in changed)
    course = json.loads((out / "training.json").read_text())
    assert course["history"]["reward"][1]["dev_cider"] > 1
    assert [row["epoch"] for row in course["before"]["history"]["top"]] == [0, 1]
    assert Captioner.load(out).caption(data / "images" / "coffee_dev.jpg").text


@pytest.fixture(scope="module")
def two_models(data, tmp_path_factory, base_weights, teacher):
    """Folders of two models with the same words, trained apart."""
    folder = tmp_path_factory.mktemp("two")
    for seed in (1, 2):
        file = plan(folder, [stage("decoder", "decoder")], distill_epochs=1, seed=seed)
        run(file, data, folder / str(seed), folder / f"work{seed}", base_weights, teacher)
    return folder / "1", folder / "2"


DISTIL = {"objective": "distillation", "samples": 3, "label_smoothing": 0.0, "keep_last": True}


def test_a_decoder_learns_from_another_model(data, tmp_path, two_models):
    first, second = two_models
    file = plan(tmp_path, [stage("together", "decoder", epochs=2, **DISTIL)])
    out = tmp_path / "out"
    run(file, data, out, tmp_path / "work", "none", start=first, learn_from=[second])
    before, after = (dict(np.load(folder / "encoder.npz")) for folder in (first, out))
    assert all(np.array_equal(before[name], after[name]) for name in before)
    before, after = (dict(np.load(folder / "decoder.npz")) for folder in (first, out))
    assert not np.array_equal(before["decoder/out/kernel"], after["decoder/out/kernel"])
    course = json.loads((out / "training.json").read_text())
    assert [row["epoch"] for row in course["history"]["together"]] == [0, 1, 2]
    assert Captioner.load(out).caption(data / "images" / "coffee_dev.jpg").text


def test_distillation_ends_at_the_mean_of_its_teachers():
    """Each of two decoders sees a grid of its own in the channels, and no special word counts."""
    keras.utils.set_random_seed(4)
    rng = np.random.default_rng(4)
    student, teachers = Decoder(12, 6, 16, 2), [Decoder(12, 6, 16, 2) for _ in range(2)]
    for decoder in (student, *teachers):
        decoder.build()
        for variable in decoder.trainable_variables:
            variable.assign(rng.normal(0, 0.4, variable.shape))
    pictures = rng.normal(0, 1, (3, 2, 2, 12)).astype(np.float32)
    words = rng.integers(Tokenizer.UNK + 1, 12, (3, 2, 4)).astype(np.int32)
    words[..., 0] = Tokenizer.START
    wanted = mean_of([(teachers[0], slice(6)), (teachers[1], slice(6, 12))])(pictures, words)
    apart = [
        np.array(ops.softmax(teacher(pictures[..., own], words)))
        for teacher, own in zip(teachers, (slice(6), slice(6, 12)), strict=True)
    ]
    specials = [Tokenizer.PAD, Tokenizer.START, Tokenizer.UNK]
    for shares in apart:
        shares[..., specials] = 0
        shares /= shares.sum(-1, keepdims=True)
    wanted = np.asarray(wanted)
    assert wanted == pytest.approx(sum(apart) / 2, abs=1e-5)

    whole = keras.Input((2, 2, 12))
    model = CaptioningModel(keras.Model(whole, whole[..., :6]), student, train_encoder=False)
    optimizer = keras.optimizers.Adam(0.01)
    learn = make_distillation(model, lambda *_: wanted, optimizer)
    weight = np.ones(words.shape, np.float32)
    weight[0, 0, 2:] = 0
    losses = [float(learn(pictures, words, weight)) for _ in range(300)]
    least = -np.sum(wanted * np.log(np.maximum(wanted, 1e-12)), -1)
    assert losses[-1] == pytest.approx(np.sum(least * weight) / weight.sum(), abs=0.03)
    assert losses[0] > losses[-1] + 0.5


def test_what_cannot_be_learned_from_is_told(data, tmp_path, two_models, base_weights):
    first, second = two_models

    def told(stages, **arguments):
        with pytest.raises(TrainingError) as error:
            run(plan(tmp_path, stages), data, tmp_path / "out", tmp_path / "work", **arguments)
        return str(error.value)

    distil, other = stage("together", "decoder", **DISTIL), stage("decoder", "decoder")
    whole = stage("together", "all", **DISTIL)
    start = {"weights": "none", "start": first}
    assert "name them by --learn-from" in told([distil], **start)
    assert "--learn-from is for a plan with" in told([other], **start, learn_from=[second])
    assert "for the decoder alone" in told([whole], **start, learn_from=[second])
    assert "for the decoder alone" in told([distil], weights=base_weights, learn_from=[second])
    teachers = stage("teacher", "all", teachers=2)
    assert "trains several models" in told([teachers], weights=base_weights)
    write_model(tmp_path / "stranger")
    assert "has other words than" in told([distil], **start, learn_from=[tmp_path / "stranger"])
    assert not (tmp_path / "out").exists()


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    data, tmp_path, base_weights, teacher, wait_for
):
    """Three epochs in one go, and a process killed after the first and started again."""
    file = plan(tmp_path, [stage("top", "top", epochs=3, patience=9)], distill_epochs=1)

    def start(name):
        arguments = ["--data", data, "--config", file, "--out", tmp_path / name,
                     "--work", tmp_path / f"work_{name}", "--encoder-weights", base_weights,
                     "--teacher", teacher, "--precision", "float32"]  # fmt: skip
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
def test_a_stage_that_makes_it_worse_changes_nothing(
    data, tmp_path, base_weights, teacher, keep_last
):
    """With a rate that ruins everything, what was there before the stage is what remains.

    Unless the plan says that the last epoch counts.
    """
    ruin = stage("ruin", "top", learning_rate=1e3, keep_last=keep_last)
    file = plan(tmp_path, [ruin], distill_epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training.StageRun, "evaluate", lambda self: 1.0 - float(self.optimizer.iterations)
        )
        run(file, data, tmp_path / "out", tmp_path / "work", base_weights, teacher)
    history = json.loads((tmp_path / "out" / "training.json").read_text())["history"]["ruin"]
    assert [row["epoch"] for row in history] == [0, 1]
    assert history[0]["dev_cider"] > history[1]["dev_cider"]
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
    optimizer = keras.optimizers.Adam(5e-3)
    optimizer.build(model.trainable_variables)
    encode, learn = make_steps(model, optimizer)
    photos = Photos([data / "images" / f"{name}_whole.jpg" for name in captions], SIZE).read(
        range(4)
    )
    ids = [[tokenizer.encode(c)] for c in captions.values()]
    x, y, weight = training.word_arrays(ids, 1, 10, np.random.default_rng(0))
    # The start is not always the same: threads of earlier tests draw from Python's random, too.
    losses = [float(learn(photos, x, y, weight)) for _ in range(150)]
    assert losses[-1] < losses[0] / 4
    said = [tokenizer.decode(words[0]) for words in make_generator(model, 10)(encode(photos), 1)]
    assert (
        sum(a == " ".join(Tokenizer.split(b)) for a, b in zip(said, captions.values(), strict=True))
        >= 3
    )


def test_a_reward_moves_nothing_to_words_that_are_never_drawn():
    """Padding, start and unknown word are not drawn, so they may not take probability either."""
    encoder = build_encoder(input_size=SIZE, width=WIDTH)
    model = CaptioningModel(encoder, Decoder(9, encoder.output_shape[-1], 16, 2))
    logits = np.random.default_rng(0).normal(size=(1, 1, 3, 9)).astype(np.float32)
    higher = logits.copy()
    higher[..., [Tokenizer.PAD, Tokenizer.START, Tokenizer.UNK]] += 5
    words, advantage = np.array([[[4, 7, Tokenizer.END]]]), np.full((1, 1, 3), -0.5, np.float32)

    def loss(y_pred):
        return float(model.compute_loss(y=words, y_pred=y_pred, sample_weight=advantage))

    assert loss(higher) < loss(logits) - 1
    model.bar_specials = True
    assert loss(higher) == pytest.approx(loss(logits))


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
    behind = build_encoder(start="mixed8", input_size=SIZE, width=WIDTH)
    assert set_encoder_weights(mixed8, weights) == set_encoder_weights(behind, weights) == []
    np.testing.assert_allclose(behind(mixed8(x)), whole(x), rtol=1e-4, atol=1e-5)
    assert len([key for key in weights if key.endswith("kernel")]) == 94


def test_stored_grids_go_on_where_they_stopped(data, tmp_path):
    encoder = build_encoder(input_size=SIZE, width=WIDTH)
    photos = Photos(sorted((data / "images").glob("*.jpg")), SIZE)
    file = tmp_path / "grids.npy"

    def store(views=2):
        encode, shape = keras_encode(encoder), encoder.output_shape[1:]
        stored = store_grids(encode, digest_of(encoder), photos, shape, file, views, batch=4)
        return np.array(stored)

    grids = store()
    assert grids.shape == (12, 2, 3, 3, encoder.output_shape[-1])
    x = photos.read([5])
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
    photos = Photos(sorted((data / "images").glob("*.jpg"))[:3], SIZE)
    plain = photos.read([0, 1, 2])
    one, same, other = (photos.read([0, 1, 2], np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert not np.allclose(one, plain)
    assert np.abs(one).max() <= 1
    assert one.dtype == plain.dtype == np.float32


def test_photos_of_another_quality(data):
    """Sharpness and JPEG change what is in the pixels a little, and where things are not at all."""
    path = [data / "images" / f"{next(iter(CAPTIONS))}_whole.jpg"]
    rng = lambda: np.random.default_rng(3)  # noqa: E731
    plain = Photos(path, SIZE, crop=1.0, light=0.0).read([0], rng())
    other = Photos(path, SIZE, crop=1.0, light=0.0, quality=1.0).read([0], rng())
    assert 0 < np.abs(plain - other).mean() < 0.1


def test_words_become_arrays():
    captions = [[[5, 6], [7]], [[8, 9, 10, 11, 12]]]
    given, wanted, weight = training.word_arrays(captions, 2, 4, np.random.default_rng(0))
    start, end = Tokenizer.START, Tokenizer.END
    assert sorted(given[0].tolist()) == [[start, 5, 6, 0], [start, 7, 0, 0]]
    assert sorted(wanted[0].tolist()) == [[5, 6, end, 0], [7, end, 0, 0]]
    # One caption where two are wanted: twice, at half the weight; too long: cut, without an end.
    assert wanted[1].tolist() == [[8, 9, 10, 11]] * 2
    assert weight[1].tolist() == [[0.5] * 4] * 2


ONE = {"name": "x", "learns": "top", "epochs": 1, "learning_rate": 1}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"stages": []}, "names no stages"),
        ({"stages": [{**ONE, "speed": 9}]}, "speed"),
        ({"stages": [ONE], "unitz": 9}, "unitz"),
        ({"stages": [{**ONE, "learns": "tail"}]}, "tail"),
        ({"stages": [{"name": "x", "learns": "top"}]}, "epochs"),
        ({"stages": [{**ONE, "objective": "fun"}]}, "fun"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path, values, sentence):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(values))
    with pytest.raises(TrainingError, match=sentence):
        Plan.read(file)


def test_missing_kernels_want_a_teacher(data, tmp_path, base_weights):
    file = plan(tmp_path, [stage("top", "top")])
    with pytest.raises(TrainingError, match="--teacher"):
        run(file, data, tmp_path / "out", tmp_path / "work", base_weights)
    assert not (tmp_path / "out").exists()
