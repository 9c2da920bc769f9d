"""`Captioner` on a tiny real model: LiteRT against Keras, one picture against many, refusals."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from captioner import Captioner
from captioner.captioner import sentence
from captioner.engine import Engine, WideEngine
from captioner.errors import BrokenPictureError, ModelFolderError
from captioner.model_folder import ModelFolder
from captioner.pictures.preprocess import JpegNormalization
from captioner.search import Sampling
from tests.kit import ROOT


@pytest.fixture(scope="module")
def captioner(tiny_model):
    return Captioner.load(tiny_model)


@pytest.fixture(scope="module")
def photo():
    return skimage.data.astronaut()


def test_a_caption_has_all_that_the_contract_names(captioner, photo):
    caption = captioner.caption(photo, beam_size=3)
    assert caption.text.endswith(".")
    assert caption.text[0].isupper()
    assert 1 <= len(caption.candidates) <= 3
    assert caption.candidates[0].text == caption.text
    logs = [math.log(word.probability) for word in caption.words]
    assert caption.probability == pytest.approx(math.exp(sum(logs) / len(logs)))
    for word in caption.words:
        assert word.attention.shape == (4, 4)
        assert word.attention.sum() == pytest.approx(1, abs=1e-4)
        assert 0 < word.probability <= 1
    assert caption.confidence is None
    assert caption.confident == (caption.probability >= 0.5)


def test_its_json_form(captioner, photo):
    caption = captioner.caption(photo)
    plain = json.loads(json.dumps(caption.to_dict()))
    assert set(plain) == {"caption", "candidates", "words", "confidence", "confident", "photo"}
    assert set(plain["words"][0]) == {"word", "probability"}
    word = caption.to_dict(attention=True)["words"][0]
    assert np.sum(word["attention"]) == pytest.approx(1, abs=1e-4)


def test_path_bytes_and_array_give_the_same_caption(captioner, photo, tmp_path):
    import cv2

    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), photo[..., ::-1])
    captions = captioner.caption_batch([path, path.read_bytes(), photo])
    assert len(set(captions)) == 1


def test_captions_differ_from_picture_to_picture_and_do_not_depend_on_the_last(captioner, photo):
    """A preprocessing mistake gives every picture the same caption; state that leaks, another."""
    pictures = [photo, skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    first = [captioner.caption(picture) for picture in pictures]
    assert len({caption.probability for caption in first}) == len(pictures)
    again = [captioner.caption(picture) for picture in reversed(pictures)]
    assert first == again[::-1]


@pytest.mark.parametrize("beam_size", [1, 2, 10])
def test_any_beam_size_and_number_of_candidates(captioner, photo, beam_size):
    caption = captioner.caption(photo, beam_size=beam_size)
    assert len(caption.candidates) <= beam_size
    assert len(captioner.caption(photo, beam_size, max_candidates=1).candidates) == 1


def test_sampling_is_a_strategy_too(captioner, photo):
    strategy = Sampling(3, max_words=8, seed=5)
    drawn = captioner.caption(photo, strategy=strategy, max_candidates=3)
    assert len(drawn.candidates) == 3
    assert drawn == captioner.caption(photo, strategy=strategy, max_candidates=3)


def test_limits_and_broken_pictures_are_the_readers(captioner):
    with pytest.raises(BrokenPictureError):
        captioner.caption(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)


@pytest.mark.parametrize(
    ("part", "key", "value", "sentence"),
    [
        ("encoder", "input_size", 99, "encoder"),
        ("encoder", "grid", [5, 5], "encoder"),
        ("encoder", "channels", 7, "encoder"),
        ("decoder", "units", 32, "decoder"),
        ("encoder", "jpeg_normalization", {"side": 24}, "encoder.jpeg_normalization.quality"),
        (
            "encoder",
            "jpeg_normalization",
            {"side": 24, "quality": 101},
            "encoder.jpeg_normalization.quality",
        ),
        ("decoder", "repeat_penalty", -1, "decoder.repeat_penalty"),
        ("decoder", "repeatable", "a", "decoder.repeatable"),
    ],
)
def test_a_manifest_that_does_not_fit_its_files_is_refused(
    tiny_model, tmp_path, part, key, value, sentence
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[part][key] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFolderError, match=sentence):
        Captioner.load(folder)


def test_the_folder_says_what_a_repeated_word_costs(tiny_model, tmp_path):
    """At a price that nothing is worth, no word but the free ones comes twice."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (20, 30, 3), np.uint8) for _ in range(20)]
    before = [[w.word for w in Captioner.load(folder).caption(p).words] for p in pictures]
    assert any(len(words) != len(set(words)) for words in before)
    free = next(w for words in before for w in words if words.count(w) > 1)
    manifest["decoder"] |= {"repeat_penalty": 900.0, "repeatable": [free]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    after = [[w.word for w in Captioner.load(folder).caption(p).words] for p in pictures]
    assert all(len(words) - len(set(words)) == max(0, words.count(free) - 1) for words in after)


def test_the_folder_says_how_large_photos_are_normalised(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    photo = skimage.data.astronaut()
    plain = Captioner.load(folder).encode(photo)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["encoder"]["jpeg_normalization"] = {"side": 24, "quality": 50}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    captioner = Captioner.load(folder)
    normalization = JpegNormalization(side=24, quality=50, above=manifest["encoder"]["input_size"])
    grid = captioner.encode(photo)
    assert not np.array_equal(grid, plain)
    assert np.array_equal(grid, Captioner.load(tiny_model).encode(normalization.apply(photo)))
    small = photo[:10, :10]
    assert np.array_equal(captioner.encode(small), Captioner.load(tiny_model).encode(small))


def test_serving_loads_no_tensorflow(tiny_model):
    script = (
        "import sys; from captioner import Captioner; import numpy as np;"
        f"c = Captioner.load({str(tiny_model)!r}); c.caption(np.zeros((20, 30, 3), np.uint8));"
        "print(sorted({'tensorflow', 'keras', 'flask', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def run_module(*arguments):
    """In a process of its own, since it needs TensorFlow; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *arguments], capture_output=True, text=True,
        cwd=ROOT, timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_litert_answers_as_keras_does(tmp_path):
    """Float features within 1e-4 of Keras's, and the same captions; in a process of its own."""
    folder = str(tmp_path / "inception")
    run_module("tests.kit.tiny_inception", folder)
    found = json.loads(run_module("tests.training.compare_with_keras", folder).splitlines()[-1])
    assert found["photos"] >= 4
    assert found["largest_difference"] < 1e-4
    assert found["same_captions"] == found["photos"]
    assert found["teacher_forcing_difference"] < 1e-4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a", "dog", "'s", "bowl"], "A dog's bowl."),
        (["people", "do", "n't", "run"], "People don't run."),
        ([], ""),
    ],
)
def test_words_become_a_sentence(words, text):
    assert sentence(words) == text


@pytest.mark.model
def test_every_interpreter_of_a_step_gives_the_same_numbers_again_and_again() -> None:
    """Where LiteRT has to compute a step's shapes while it runs, half of them do not."""
    folder = ModelFolder.open()
    encoder, init, step = folder.serving()
    rows, columns = folder.manifest.encoder.grid
    grid = np.random.default_rng(0).normal(size=(rows, columns, folder.manifest.encoder.channels))
    words = np.array([4, 5, 6], np.int32)
    engines, answers = [], set()
    for number in range(12):
        # Kept, so that each has memory of its own.
        engines.append(Engine(encoder, init, step, threads=1 + number % 2))
        with engines[-1].read(grid.astype(np.float32)) as steps:
            state = np.repeat(steps.start(), len(words), axis=0)
            answers |= {steps.step(words, state)[0].tobytes() for _ in range(5)}
    assert len(answers) == 1


def test_the_wide_networks_are_for_a_photo_that_is_alone(tiny_model: Path) -> None:
    files = ModelFolder.open(tiny_model).serving()
    wide = WideEngine(*files, threads=2)
    first, second = (Engine(*files, threads=1, wide=wide) for _ in range(2))

    def are_lent() -> bool:
        with wide.lent() as networks:
            return networks is not None

    with first.at_work(), first.at_work():  # nested, it counts once
        assert are_lent()
        with second.at_work():
            assert not are_lent()
        with wide.lent() as networks:
            assert networks is not None
            assert not are_lent()  # they have one owner at a time
        assert are_lent()
