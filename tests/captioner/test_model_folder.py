"""Tests of model folders: what is written, what is found, and what is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner import model_folder
from captioner.errors import ModelFolderError
from captioner.manifest import (
    CalibrationSpec,
    DecoderSpec,
    EncoderSpec,
    FileEntry,
    Manifest,
    ManifestError,
    ServingFiles,
)
from captioner.model_folder import ModelFolder
from captioner.tokenizer import Tokenizer

TOKENIZER = Tokenizer(["a", "dog", "runs"])
FILES: dict[str, bytes | Path] = {
    "encoder.tflite": b"an encoder",
    "decoder_init.tflite": b"where the decoder starts",
    "decoder_step.tflite": b"one step of it",
    "weights.npz": b"weights",
    "metrics.json": b"{}",
    "tokenizer.p": TOKENIZER.to_bytes(),
}


def manifest(**changes: Any) -> Manifest:
    whole = Manifest(
        name="first",
        created="2026-01-01T00:00:00Z",
        encoder=EncoderSpec(
            architecture="inception_v3", output_layer="mixed10", input_size=299, grid=(8, 8),
            channels=2048,
        ),
        decoder=DecoderSpec(
            architecture="two LSTMs", units=512, vocabulary_size=len(TOKENIZER), max_words=20,
            length_penalty=0.7,
        ),
        calibration=CalibrationSpec(threshold=0.4),
        trained_on=("Flickr8k train",),
        scores={"CIDEr": 60.5},
        serving=ServingFiles(
            encoder="encoder.tflite", decoder_init="decoder_init.tflite",
            decoder_step="decoder_step.tflite",
        ),
        weights={"encoder": "weights.npz"},
        tokenizer="tokenizer.p",
    )  # fmt: skip
    return replace(whole, **changes)


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models/ in place of the checkout's."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(model_folder, "MODELS", folder)
    return folder


@pytest.fixture
def folder(models: Path) -> ModelFolder:
    return ModelFolder.write(models / "first", manifest(), FILES)


def change(folder: ModelFolder, **values: Any) -> None:
    """Set values of the manifest on disk: `encoder__grid=...` for one within another."""
    path = folder.path / "manifest.json"
    content = json.loads(path.read_text())
    for keys, value in values.items():
        *outer, last = keys.split("__")
        place = content
        for key in outer:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    path.write_text(json.dumps(content))


# --- Written, found, read -------------------------------------------------------------------------


def test_what_is_written_is_read_again(folder: ModelFolder) -> None:
    opened = ModelFolder.open(folder.path)
    assert opened == folder
    assert opened.manifest.format == 2
    assert opened.manifest.name == "first"
    assert opened.manifest.decoder.length_penalty == 0.7
    assert opened.manifest.files["weights.npz"] == FileEntry(
        sha256=hashlib.sha256(b"weights").hexdigest(), bytes=7
    )
    assert opened.serving() == (b"an encoder", b"where the decoder starts", b"one step of it")
    assert opened.tokenizer().words == TOKENIZER.words


def test_files_are_copied_from_paths(models: Path, tmp_path: Path) -> None:
    (tmp_path / "large.npz").write_bytes(b"large weights")
    folder = ModelFolder.write(
        models / "a", manifest(), {**FILES, "weights.npz": tmp_path / "large.npz"}
    )
    assert folder.read_bytes("weights.npz") == b"large weights"


def test_a_folder_is_replaced_whole(folder: ModelFolder, models: Path) -> None:
    (folder.path / "left over").touch()
    ModelFolder.write(folder.path, manifest(), {**FILES, "weights.npz": b"better weights"})
    assert ModelFolder.open("first").read_bytes("weights.npz") == b"better weights"
    assert not (folder.path / "left over").exists()
    assert [path.name for path in models.iterdir()] == ["first"]


@pytest.mark.parametrize(
    "spoil",
    [
        {"../evil": b""},
        {"manifest.json": b""},
        {"tokenizer.p": b"no tokenizer"},
        {"tokenizer.p": Tokenizer(["a"]).to_bytes()},
        {"encoder.tflite": None},
    ],
)
def test_what_would_be_refused_is_not_written(
    folder: ModelFolder, models: Path, spoil: dict[str, bytes | None]
) -> None:
    files = {name: data for name, data in {**FILES, **spoil}.items() if data is not None}
    for name in ("first", "second"):
        with pytest.raises(ModelFolderError):
            ModelFolder.write(models / name, manifest(), files)
    assert [path.name for path in models.iterdir()] == ["first"]
    assert ModelFolder.open("first") == folder


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    ModelFolder.write(home, manifest(), FILES)  # an empty one is welcome
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    for path in (tmp_path / "photos", tmp_path / "photos" / "holiday.jpg"):
        with pytest.raises(ModelFolderError, match="is not a model folder; it was left alone"):
            ModelFolder.write(path, manifest(), FILES)
    assert (tmp_path / "photos" / "holiday.jpg").exists()


def test_the_old_folder_returns_when_the_new_one_cannot_come(
    folder: ModelFolder, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        ModelFolder.write(folder.path, manifest(), {**FILES, "weights.npz": b"better"})
    assert ModelFolder.open("first").read_bytes("weights.npz") == b"weights"
    assert [path.name for path in models.iterdir()] == ["first"]


def test_names_and_paths(
    folder: ModelFolder, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", str(models / "first"), models / "first"):
        assert ModelFolder.open(name) == folder
    monkeypatch.chdir(models.parent)
    assert ModelFolder.open("models/first") == folder
    ModelFolder.write(models.parent / "here", manifest(name="elsewhere"), FILES)
    assert ModelFolder.open("here").manifest.name == "elsewhere"
    assert ModelFolder.open(Path("here")).path == models.parent / "here"


def test_the_default_model(folder: ModelFolder, models: Path) -> None:
    assert ModelFolder.open() == folder  # the only one
    ModelFolder.write(models / "second", manifest(name="second"), FILES)
    with pytest.raises(ModelFolderError, match="name one of first, second"):
        ModelFolder.open()
    (models / "default").write_text("second\n")
    assert ModelFolder.open().manifest.name == "second"
    (models / "default").write_text("third\n")
    with pytest.raises(ModelFolderError, match=r"no model folder 'third'.*first, second"):
        ModelFolder.open()


def test_no_model_at_all() -> None:
    with pytest.raises(ModelFolderError, match=r"no default model in .*train one"):
        ModelFolder.open()


@pytest.mark.parametrize("name", ["none", "", ".", "..", "/none/such", "a/b"])
def test_a_folder_that_is_not_there(folder: ModelFolder, name: str) -> None:
    with pytest.raises(ModelFolderError, match=r"no model folder|no readable manifest"):
        ModelFolder.open(name)


# --- Refused --------------------------------------------------------------------------------------


def test_a_folder_without_manifest(models: Path) -> None:
    (models / "empty").mkdir()
    with pytest.raises(ModelFolderError, match=r"no readable manifest\.json"):
        ModelFolder.open("empty")


@pytest.mark.parametrize("text", ["", "{", "nonsense", "\xff", "[" * 100_000, '{"format": 1'])
def test_a_manifest_that_is_no_json(folder: ModelFolder, text: str) -> None:
    (folder.path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFolderError, match="not valid JSON"):
        ModelFolder.open("first")


def test_a_manifest_without_end(folder: ModelFolder) -> None:
    with (folder.path / "manifest.json").open("ab") as file:
        file.truncate(2**40)  # sparse: takes no space
    with pytest.raises(ModelFolderError, match="more than 4000000 bytes"):
        ModelFolder.open("first")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"format": 1}, "'format' has to be 2 and is 1"),
        ({"format": ...}, "'format' has to be 2 and is None"),
        ({"name": ""}, "'name' has to be text"),
        ({"encoder": None}, "'encoder.architecture' has to be text and is None"),
        ({"encoder__architecture": "xception"}, "encoder 'xception' is not one .*inception_v3"),
        ({"encoder__output_layer": "mixed9"}, "ends at 'mixed9', not at mixed8 or mixed10"),
        ({"encoder__output_layer": "mixed8"}, "of 2048 channels is not what .* of 1280"),
        ({"encoder__channels": 1280}, "of 1280 channels is not what .* of 2048"),
        ({"encoder__grid": [10, 10]}, "not what inception_v3 gives at mixed10 for 299"),
        ({"encoder__grid": [64]}, "'encoder.grid' has to be .rows, columns."),
        ({"encoder__grid": 8}, "'encoder.grid' has to be .rows, columns."),
        ({"encoder__input_size": 224}, "for 224 pixels .*5, 5"),
        ({"encoder__input_size": "299"}, "'encoder.input_size' has to be a whole number"),
        ({"encoder__input_size": 10**9}, "'encoder.input_size' has to be a whole number"),
        ({"decoder__units": 0}, "'decoder.units' has to be a whole number above 0"),
        ({"decoder__max_words": True}, "'decoder.max_words' has to be a whole number"),
        ({"decoder__vocabulary_size": 7.0}, "'decoder.vocabulary_size' has to be a whole number"),
        ({"calibration__estimator": "none.npz"}, "'none.npz' is used but not among the 'files'"),
        ({"calibration__estimator": 7}, "'calibration.estimator' has to be a file name"),
        ({"calibration__threshold": 1.5}, "'calibration.threshold' has to be a number from 0 to 1"),
        ({"calibration": None}, "'calibration.threshold' has to be a number .* is None"),
        ({"calibration__threshold": float("nan")}, "'calibration.threshold' has to be a number"),
        ({"decoder__wings": 2}, "'decoder.wings' is not an entry of a manifest"),
        ({"decoder__repeatable": "a"}, "'decoder.repeatable' has to be a list of words"),
        ({"decoder__repeat_penalty": -1}, "'decoder.repeat_penalty' has to be 0 or more"),
        ({"serving__decoder_step": ...}, "'serving.decoder_step' has to be a file name"),
        ({"serving__encoder": "other.tflite"}, "'other.tflite' is used but not among the 'files'"),
        ({"weights": {"encoder": "other.npz"}}, "'other.npz' is used but not among"),
        ({"weights": {"encoder": 7}}, "'weights' has to be file names"),
        ({"tokenizer": "../../secret"}, "'../../secret' is used but not among"),
        ({"files": []}, "'files' has to be the files by name"),
        ({"files__weights.npz": None}, "no valid 'bytes' and 'sha256' for 'weights.npz'"),
        ({"files__weights.npz__sha256": "abc"}, "no valid 'bytes' and 'sha256'"),
        ({"files__weights.npz__bytes": -1}, "no valid 'bytes' and 'sha256'"),
        ({"files__weights.npz__bytes": 10**15}, "no valid 'bytes' and 'sha256'"),
        *(
            ({f"files__{name}": {"sha256": "0" * 64, "bytes": 1}}, "is not a plain file name")
            for name in (
                "../evil",
                "/etc/passwd",
                "a/b",
                "..",
                ".hidden",
                "",
                "a\\b",
                "a\0b",
                "C:x",
            )
        ),
        ({"files__manifest.json": {"sha256": "0" * 64, "bytes": 1}}, "is not a plain file name"),
    ],
)
def test_a_manifest_that_does_not_fit(
    folder: ModelFolder, values: dict[str, Any], sentence: str
) -> None:
    change(folder, **values)
    with pytest.raises(ModelFolderError, match=sentence) as caught:
        ModelFolder.open("first")
    assert re.search(r"; .*\.$", str(caught.value))  # and what to do next
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["null", "[]", '"text"', "7"])
def test_a_manifest_that_is_no_object(folder: ModelFolder, text: str) -> None:
    (folder.path / "manifest.json").write_text(text)
    with pytest.raises(ModelFolderError, match="'format' has to be 2"):
        ModelFolder.open("first")


def test_inception_cut_at_mixed8_and_other_sizes(models: Path) -> None:
    sizes: list[dict[str, Any]] = [
        {"output_layer": "mixed8", "channels": 1280},
        {"input_size": 75, "grid": (1, 1)},
        {"architecture": "tiny", "input_size": 16, "grid": (2, 2), "channels": 3},
    ]
    for changes in sizes:
        encoder = replace(manifest().encoder, **changes)
        ModelFolder.write(models / "a", manifest(encoder=encoder), FILES)
        assert ModelFolder.open("a").manifest.encoder == encoder


def test_a_file_is_missing(folder: ModelFolder) -> None:
    (folder.path / "weights.npz").unlink()
    with pytest.raises(ModelFolderError, match=r"'weights\.npz' .* is missing; copy the folder"):
        ModelFolder.open("first")


def test_a_file_has_another_size(folder: ModelFolder) -> None:
    (folder.path / "weights.npz").write_bytes(b"weights and more")
    with pytest.raises(ModelFolderError, match="does not have the 7 bytes"):
        ModelFolder.open("first")
    with pytest.raises(ModelFolderError, match="does not have the 7 bytes"):
        folder.read_bytes("weights.npz")


@pytest.mark.parametrize("name", ["encoder.tflite", "tokenizer.p"])
def test_a_file_is_altered(folder: ModelFolder, name: str) -> None:
    data = bytearray((folder.path / name).read_bytes())
    data[-1] ^= 1
    (folder.path / name).write_bytes(data)
    opened = ModelFolder.open("first")
    with pytest.raises(ModelFolderError, match=r"is not the one that manifest\.json describes"):
        opened.read_bytes(name)
    if name == "tokenizer.p":
        with pytest.raises(ModelFolderError, match="is not the one"):
            opened.tokenizer()


def test_a_file_goes_away_after_opening(folder: ModelFolder) -> None:
    (folder.path / "weights.npz").unlink()
    with pytest.raises(ModelFolderError, match="cannot be read"):
        folder.read_bytes("weights.npz")


def test_a_file_that_the_manifest_does_not_name(folder: ModelFolder) -> None:
    (folder.path / "other").touch()
    for name in ("other", "manifest.json", "../first/weights.npz"):
        with pytest.raises(ModelFolderError, match=r"has no file .* in its manifest\.json"):
            folder.read_bytes(name)


def test_a_tokenizer_of_another_model(folder: ModelFolder) -> None:
    change(folder, decoder__vocabulary_size=8)
    with pytest.raises(ModelFolderError, match="has 7 words and its decoder 8"):
        ModelFolder.open("first").tokenizer()


def test_what_is_said_about_a_model_can_be_amended(folder: ModelFolder) -> None:
    changed = folder.amend(scores={"CIDEr": 61.0}, calibration=CalibrationSpec(threshold=0.3))
    assert ModelFolder.open(folder.path).manifest == changed.manifest
    assert changed.manifest.scores == {"CIDEr": 61.0}
    assert changed.manifest.files == folder.manifest.files
    with pytest.raises(ManifestError, match=r"calibration\.threshold"):
        CalibrationSpec(threshold=7)
