"""Training in PyTorch: the same network as in Keras, and a plan with teachers from end to end.

PyTorch is no requirement of ours, so most of this is skipped where it is not installed; it needs no
GPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from captioner import Captioner
from captioner.training import train as training
from captioner.training.decoder import Decoder
from captioner.training.encoder import build_encoder, encoder_weights
from captioner.training.pictures import stored_pixels
from captioner.training.plan import Plan, TrainingError
from tests.training.test_training import (  # noqa: F401 (fixtures)
    CAPTIONS,
    SIZE,
    WIDTH,
    base_weights,
    data,
    plan,
    run,
    stage,
    teacher,
)  # fmt: skip

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def gpu():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from captioner.training import gpu

    return gpu


@pytest.fixture(scope="module")
def networks():
    """An encoder and a decoder of Keras, and what they make of three pictures and ten captions."""
    rng = np.random.default_rng(3)
    encoder = build_encoder(input_size=SIZE, width=WIDTH)
    decoder = Decoder(30, encoder.output_shape[-1], units=16, heads=2)
    decoder.build()
    for variable in decoder.trainable_variables:  # none is zero, so that none can be left out
        variable.assign(rng.normal(0, 0.3, variable.shape))
    pictures = rng.uniform(-1, 1, (3, SIZE, SIZE, 3)).astype(np.float32)
    words = rng.integers(0, 30, (3, 4, 7))
    grid = np.asarray(encoder(pictures))
    weights = {
        **encoder_weights(encoder, "float32"),
        **{v.path: np.asarray(v) for v in decoder.trainable_variables},
    }
    return weights, pictures, words, grid, np.asarray(decoder(grid, words))


def test_the_network_is_that_of_keras(gpu, networks):
    import torch

    weights, pictures, words, grid, logits = networks
    w = gpu.to_torch(weights, torch.device("cpu"))
    own = gpu.encode(w, torch.from_numpy(pictures).permute(0, 3, 1, 2), "max")
    flat = grid.reshape(3, -1, grid.shape[-1])
    assert own.numpy() == pytest.approx(flat, rel=1e-3, abs=1e-4 * float(np.abs(flat).max()))
    decoder = gpu.Decoder(w, 2)
    assert decoder.logits(own, torch.from_numpy(words)).numpy() == pytest.approx(logits, abs=1e-3)


def test_weights_go_there_and_back_unchanged(gpu, networks):
    import torch

    back = gpu.to_numpy(gpu.to_torch(networks[0], torch.device("cpu")))
    assert back.keys() == networks[0].keys()
    assert all(np.array_equal(back[name], networks[0][name]) for name in back)


def test_a_fresh_decoder_has_the_arrays_of_keras(gpu, networks):
    fresh = gpu.fresh_decoder(30, networks[3].shape[-1], 16, np.random.default_rng(0))
    shapes = {k: w.shape for k, w in networks[0].items() if k.startswith("decoder")}
    assert {name: array.shape for name, array in fresh.items()} == shapes


def test_a_plain_picture_is_what_serving_gives_the_encoder(gpu, data):  # noqa: F811
    import torch

    from captioner.picture import encoder_input, read_picture

    paths = sorted((data / "images").glob("*.jpg"))
    pixels = stored_pixels(paths)
    assert pixels.shape == (len(paths), 3, 224, 224)
    views = gpu.plain(torch.from_numpy(pixels), 299).permute(0, 2, 3, 1).numpy()
    served = np.stack([encoder_input(read_picture(path), 299) for path in paths])
    # These photos are 160 x 160, so drawn out twice: not the same, but nearly.
    assert np.abs(views - served).mean() < 0.02
    few = torch.from_numpy(pixels[:1]).repeat(40, 1, 1, 1)
    random = gpu.augmented(few, 299, crop=0.6, light=0.2, quality=0.5).numpy()
    assert random.shape == (40, 3, 299, 299)
    assert np.abs(random).max() <= 1
    assert len({view.tobytes() for view in random}) == 40
    still = gpu.augmented(few, 299, crop=1.0, light=0.0, quality=0.0).permute(0, 2, 3, 1).numpy()
    mirrored = views[0][:, ::-1]
    kinds = {min((np.abs(v - views[0]).max(), 0), (np.abs(v - mirrored).max(), 1)) for v in still}
    assert {kind for _, kind in kinds} == {0, 1}
    assert max(apart for apart, _ in kinds) < 1e-3


def test_teachers_distillation_and_reward_make_a_model_that_serves(
    gpu, data, tmp_path, base_weights, teacher, monkeypatch  # noqa: F811
):  # fmt: skip
    stages = [
        stage("teacher", "all", teachers=2, epochs=2, keep_last=True),
        stage("distil", "all", objective="distillation", keep_last=True),
        stage("reward", "decoder", objective="self_critical", keep_last=True),
        stage("whole", "all", objective="self_critical", frozen=30, crop=0.7, quality=0.5),
    ]
    file = plan(tmp_path, stages, distill_epochs=1)
    out, work = tmp_path / "out", tmp_path / "work"
    assert run(file, data, out, work, base_weights, teacher, gpu=True) == 0
    assert Captioner.load(out).caption(data / "images" / "coffee_dev.jpg").text
    course = json.loads((out / "training.json").read_text())["history"]
    assert list(course) == ["teacher 1", "teacher 2", "distil", "reward", "whole"]
    assert [row["epoch"] for row in course["teacher 2"]] == [0, 1, 2]
    assert course["teacher 1"][2]["loss"] < course["teacher 1"][1]["loss"]
    assert course["teacher 1"][1]["loss"] != course["teacher 2"][1]["loss"]
    assert "reward" in course["whole"][1]
    # A trained model goes on where it was.
    on = tmp_path / "on"
    on.mkdir()
    file_on = plan(on, [stage("on", "decoder", objective="self_critical")])
    on = on / "out"
    assert run(file_on, data, on, tmp_path / "work-on", "none", start=out, gpu=True) == 0
    later = json.loads((on / "training.json").read_text())
    assert later["before"]["history"] == course
    best = max(row["dev_cider"] for row in course["whole"])
    assert later["history"]["on"][0]["dev_cider"] == pytest.approx(best, rel=0.2)
    # What is done is read, not done again.
    monkeypatch.setattr(gpu, "run_stage", None)
    assert run(file, data, tmp_path / "again", work, base_weights, teacher, gpu=True) == 0
    one, other = (np.load(folder / "decoder.npz") for folder in (out, tmp_path / "again"))
    assert all(np.array_equal(one[name], other[name]) for name in one.files)


def test_a_model_overfits_a_handful_of_photos(gpu, data, tmp_path, base_weights, teacher):  # noqa: F811
    """It learns: after enough epochs it says of photos it has seen what it was told of them."""
    stages = [stage("all", "all", epochs=60, keep_last=True, average=0.9, label_smoothing=0.0)]
    file = plan(tmp_path, stages, distill_epochs=1)
    out = tmp_path / "out"
    assert run(file, data, out, tmp_path / "work", base_weights, teacher, gpu=True) == 0
    course = json.loads((out / "training.json").read_text())["history"]["all"]
    assert course[-1]["loss"] < 0.6 * course[1]["loss"]


@pytest.mark.parametrize(
    ("stages", "more", "sentence"),
    [
        ([stage("x", "top")], {}, "'x'.*on the CPU"),
        ([stage("x", "decoder", served=True)], {}, "'x'.*on the CPU"),
        ([stage("x", "all", objective="distillation")], {}, "no stage before it"),
        ([stage("x", "all", objective="self_critical", bleu=0.5)], {}, "more than CIDEr-D"),
        ([stage("x", "all")], {"cut": "mixed8"}, "mixed10"),
    ],
)
def test_what_only_the_cpu_does_is_refused(gpu, data, tmp_path, stages, more, sentence):  # noqa: F811
    file = plan(tmp_path, stages, **more)
    with pytest.raises(TrainingError, match=sentence):
        run(file, data, tmp_path / "out", tmp_path / "work", "none", gpu=True)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("more", [{"teachers": 2}, {"objective": "distillation"}])
def test_what_only_a_gpu_does_is_refused_without(data, tmp_path, more):  # noqa: F811
    file = plan(tmp_path, [stage("x", "all", **more)])
    with pytest.raises(TrainingError, match="--gpu"):
        run(file, data, tmp_path / "out", tmp_path / "work", "none")


def test_without_pytorch_a_sentence_says_what_to_install(data, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "captioner.training.gpu", raising=False)
    file = plan(tmp_path, [stage("x", "all")])
    with pytest.raises(TrainingError, match="pip install torch"):
        run(file, data, tmp_path / "out", tmp_path / "work", "none", gpu=True)


def test_the_committed_plan_is_one_for_a_gpu(gpu):
    gpu.check(Plan.read(Path(training.__file__).with_name("flickr8k-gpu.json")))
