"""A model folder: a manifest, and the files that it names with their sizes and SHA-256.

`models/<name>/manifest.json` says what the model is: its encoder, decoder and vocabulary, what it
was trained on, how it scored, and which files serve it. A folder that is incomplete, altered, or
not made for this program is refused with a sentence. Nothing here runs a model.

The hashes find damage and mix-ups. They do not say who made a folder: whoever can write the folder
can write its manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import ModelFolderError
from captioner.tokenizer import Tokenizer

if TYPE_CHECKING:
    from captioner.confidence import ConfidenceEstimator

MODELS = Path(__file__).resolve().parent.parent / "models"
FORMAT = 1

_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 4_000_000
_MAX_FILE_BYTES = 4_000_000_000
_SERVING = ("encoder", "decoder_init", "decoder_step")
# Channels of the feature grid by the layer at which the network is cut.
_INCEPTION_CHANNELS = {"mixed8": 1280, "mixed10": 2048}


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose manifest has been checked; its files are checked as they are read."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, model: str | Path | None = None) -> ModelFolder:
        """Open a folder by its path or by its name under `models/`.

        Without `model` it is the one that the file `models/default` names, or else the only one
        there. Raises ModelFolderError when there is no such folder, its manifest is damaged or not
        one of ours, or a file is missing or has another size. Contents are checked when read.
        """
        path = _find(model)
        try:
            with (path / _MANIFEST).open("rb") as file:
                text = file.read(_MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise ModelFolderError(
                f"The model folder {str(path)!r} has no readable {_MANIFEST} ({error.strerror}); "
                "name a folder that 'captioner train' wrote."
            ) from None
        try:
            if len(text) > _MAX_MANIFEST_BYTES:
                raise ValueError(f"more than {_MAX_MANIFEST_BYTES} bytes")
            manifest = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelFolderError(
                f"{_MANIFEST} of the model folder {str(path)!r} is not valid JSON ({error}); "
                "copy the folder again from where it came from."
            ) from None
        _check_manifest(path, manifest)
        folder = cls(path, manifest)
        for name, entry in manifest["files"].items():
            folder._check_size(name, _size_of(path / name), entry["bytes"])
        return folder

    def read_bytes(self, name: str) -> bytes:
        """The content of a file that the manifest names.

        The bytes that are hashed are those that are returned: nobody can put another file in place
        between the two. Raises ModelFolderError when they are not those of the manifest.
        """
        if name not in self.manifest["files"]:
            raise ModelFolderError(
                f"The model folder {str(self.path)!r} has no file {name!r} in its {_MANIFEST}; "
                f"it has {', '.join(self.manifest['files'])}."
            )
        entry = self.manifest["files"][name]
        try:
            with (self.path / name).open("rb") as file:
                data = file.read(entry["bytes"] + 1)
        except OSError as error:
            raise self._damaged(name, f"cannot be read ({error.strerror})") from None
        self._check_size(name, len(data), entry["bytes"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise self._damaged(name, f"is not the one that {_MANIFEST} describes (SHA-256)")
        return data

    def serving_files(self) -> tuple[str, str, str]:
        """The names of the files that serve: encoder, decoder start, decoder step."""
        encoder, decoder_init, decoder_step = (self.manifest["serving"][part] for part in _SERVING)
        return encoder, decoder_init, decoder_step

    def tokenizer(self) -> Tokenizer:
        """The vocabulary; raises ModelFolderError when it does not fit the decoder."""
        name = self.manifest["tokenizer"]
        tokenizer = Tokenizer.from_bytes(self.read_bytes(name), str(self.path / name))
        expected = self.manifest["decoder"]["vocabulary_size"]
        if len(tokenizer) != expected:
            raise ModelFolderError(
                f"The tokenizer of the model folder {str(self.path)!r} has {len(tokenizer)} words "
                f"and its decoder {expected}; they are of two models, so export the model again."
            )
        return tokenizer

    @classmethod
    def write(
        cls, path: str | Path, manifest: Mapping[str, Any], files: Mapping[str, bytes | Path]
    ) -> ModelFolder:
        """Write a folder, in place of one that is there; nobody ever finds half of it.

        `manifest` comes without `format` and `files`, which are made here, and `name` may be left
        out; `files` are contents, or paths of files to copy. Raises ModelFolderError when `open`
        would refuse the manifest, the tokenizer does not fit it, or something else is in the place.
        """
        path = Path(path).resolve()
        contents = {
            name: data if isinstance(data, bytes) else data.read_bytes()
            for name, data in files.items()
        }
        whole = {
            "format": FORMAT,
            "name": path.name,
            **manifest,
            "files": {
                name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                for name, data in contents.items()
            },
        }
        _check_manifest(path, whole)
        if (
            path.exists()
            and not (path / _MANIFEST).is_file()
            and (not path.is_dir() or any(path.iterdir()))
        ):
            raise ModelFolderError(
                f"{str(path)!r} exists and is not a model folder; it was left alone, "
                "so give another place for the model."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, since a rename works only within one file system.
        mark = uuid.uuid4().hex
        new, old = (path.with_name(f".{path.name}.{state}-{mark}") for state in ("new", "old"))
        try:
            new.mkdir()
            for name, data in contents.items():
                (new / name).write_bytes(data)
            text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
            (new / _MANIFEST).write_text(text, encoding="utf-8")
            cls(new, whole).tokenizer()
            if path.exists():
                path.rename(old)
            try:
                new.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        return cls(path, whole)

    def confidence(self) -> ConfidenceEstimator | None:
        """The estimator of confidence; None where the folder has only a threshold."""
        from captioner.confidence import (
            ConfidenceEstimator,  # NumPy, which no `--help` has to wait for
        )

        name = self.manifest.get("confidence")
        if name is None:
            return None
        channels = self.manifest["encoder"]["channels"]
        return ConfidenceEstimator.from_bytes(
            self.read_bytes(name), str(self.path / name), channels
        )

    def with_confidence(
        self, threshold: float, confidence: ConfidenceEstimator | None
    ) -> ModelFolder:
        """Store a calibration in the folder, in place of the one there.

        Without `confidence` the threshold is one of a caption's probability.
        """
        old = self.manifest.get("confidence")
        files = {key: entry for key, entry in self.manifest["files"].items() if key != old}
        name = None
        if confidence is not None:
            content = confidence.to_bytes()
            digest = hashlib.sha256(content).hexdigest()
            # Another name for another content, so that one write of the manifest changes it all.
            name = f"confidence-{digest[:8]}.npz"
            write_bytes(self.path / name, content)
            files[name] = {"sha256": digest, "bytes": len(content)}
        folder = self.amend(confident_threshold=threshold, confidence=name, files=files)
        if old not in (None, name):
            (self.path / str(old)).unlink(missing_ok=True)
        return folder

    def amend(self, **changes: Any) -> ModelFolder:
        """Change entries of the manifest that say something about the model, such as its scores.

        Raises ModelFolderError when `open` would refuse the changed manifest.
        """
        whole = {**self.manifest, **changes}
        _check_manifest(self.path, whole)
        write_text(self.path / _MANIFEST, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        return replace(self, manifest=whole)

    def _check_size(self, name: str, size: int | None, expected: int) -> None:
        if size is None:
            raise self._damaged(name, "is missing")
        if size != expected:
            raise self._damaged(name, f"does not have the {expected} bytes of {_MANIFEST}")

    def _damaged(self, name: str, what: str) -> ModelFolderError:
        return ModelFolderError(
            f"The file {name!r} of the model folder {str(self.path)!r} {what}; "
            "copy the folder again from where it came from."
        )


def _find(model: str | Path | None) -> Path:
    names = sorted(p.parent.name for p in MODELS.glob(f"*/{_MANIFEST}"))
    if model is None:
        try:
            model = (MODELS / "default").read_text(encoding="utf-8").strip()
        except OSError:
            if len(names) != 1:
                raise ModelFolderError(
                    f"There is no default model in {str(MODELS)!r}: "
                    + (f"name one of {', '.join(names)}" if names else "train one")
                    + ", or give the path of a model folder."
                ) from None
            model = names[0]
    # A name is looked up under models/ first, a path (something with a slash) never.
    is_name = isinstance(model, str) and _FILE_NAME.fullmatch(model)
    for path in [MODELS / model, Path(model)] if is_name else [Path(model)]:
        if model and path.is_dir():
            return path.resolve()
    raise ModelFolderError(
        f"There is no model folder {str(model)!r}; give the path of one"
        + (f", or a name in models/: {', '.join(names)}." if names else ".")
    )


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _check_manifest(path: Path, manifest: object) -> None:
    """Raise ModelFolderError unless this program can use what the manifest describes."""
    problem = _problem(manifest)
    if problem:
        raise ModelFolderError(
            f"The model folder {str(path)!r} cannot be used: in its {_MANIFEST}, {problem}; "
            "export the model again with this version of the program."
        )


def _problem(manifest: Any) -> str | None:
    """What is wrong with a manifest, in words; None if nothing is."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        given = manifest.get("format") if isinstance(manifest, dict) else None
        return f"'format' has to be {FORMAT} and is {given!r:.40}"
    for keys, fits, wanted in _SCHEMA:
        value: Any = manifest
        for key in keys.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not fits(value):
            return f"'{keys}' has to be {wanted} and is {value!r:.80}"
    for name, entry in manifest["files"].items():
        if not _FILE_NAME.fullmatch(name) or name == _MANIFEST:
            return f"'files' names {name!r:.80}, which is not a plain file name"
        if (
            not isinstance(entry, dict)
            or not _is_count(entry.get("bytes"), least=0, most=_MAX_FILE_BYTES)
            or not re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256")))
        ):
            return f"'files' has no valid 'bytes' and 'sha256' for {name!r:.80}"
    used = [manifest["tokenizer"], *(manifest["serving"][part] for part in _SERVING)]
    used += (manifest.get("weights") or {}).values()
    used += [manifest["confidence"]] if manifest.get("confidence") else []
    for name in used:
        if name not in manifest["files"]:
            return f"{name!r:.80} is used but not among the 'files'"
    return _encoder_problem(**{key: manifest["encoder"][key] for key in _ENCODER_KEYS})


def _encoder_problem(
    architecture: str, cut: str, input_size: int, grid: list[int], channels: int
) -> str | None:
    if architecture == "tiny":  # the tests' own, of any size
        return None
    # The original says InceptionV3 and runs Xception: both give 2048 channels, and captions of one
    # on features of the other are nonsense without any error.
    if architecture != "inception_v3":
        return f"the encoder {architecture!r:.40} is not one that this program knows (inception_v3)"
    if cut not in _INCEPTION_CHANNELS:
        return f"the encoder is cut at {cut!r:.40}, not at {' or '.join(_INCEPTION_CHANNELS)}"
    side = _inception_grid_side(input_size)
    if (grid, channels) != ([side, side], _INCEPTION_CHANNELS[cut]):
        return (
            f"the encoder's grid {grid} of {channels} channels is not what inception_v3 cut at "
            f"{cut} gives for {input_size} pixels ([{side}, {side}] of {_INCEPTION_CHANNELS[cut]})"
        )
    return None


def _inception_grid_side(side: int) -> int:
    """Positions along a side of the grid, from pixels along a side of the input."""
    for unpadded in (
        0,
        2,
        2,
        0,
        0,
    ):  # what 3x3 convolutions without padding take before each halving
        side = (side - unpadded - 3) // 2 + 1
    return side


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= 200


def _is_count(value: object, least: int = 1, most: int = 10_000_000) -> bool:
    return type(value) is int and least <= value <= most


def _is_share(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]


def _is_penalty(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1000  # type: ignore[operator]


def _is_copies(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"side", "quality"}
        and _is_count(value["side"], 1, 4096)
        and _is_count(value["quality"], 1, 100)
    )


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(_is_text(word) for word in value)


def _is_grid(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_count(n, 1, 1000) for n in value)


def _is_names(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value.values())


_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_ENCODER_KEYS = ("architecture", "cut", "input_size", "grid", "channels")
_COUNT = "a whole number above 0"
_NAME = "text"
_SCHEMA: list[tuple[str, Callable[[object], bool], str]] = [
    ("name", _is_text, _NAME),
    ("encoder.architecture", _is_text, _NAME),
    ("encoder.cut", _is_text, _NAME),
    ("encoder.input_size", lambda value: _is_count(value, 1, 4096), _COUNT),
    ("encoder.grid", _is_grid, "[rows, columns]"),
    ("encoder.channels", _is_count, _COUNT),
    ("encoder.copies", lambda value: value is None or _is_copies(value), '{"side", "quality"}'),
    ("decoder.architecture", _is_text, _NAME),
    ("decoder.units", _is_count, _COUNT),
    ("decoder.vocabulary_size", _is_count, _COUNT),
    ("decoder.max_words", lambda value: _is_count(value, 1, 1000), _COUNT),
    ("decoder.repeat_penalty", lambda value: value is None or _is_penalty(value), "0 or more"),
    ("decoder.repeatable", lambda value: value is None or _is_words(value), "a list of words"),
    ("confident_threshold", _is_share, "a number from 0 to 1"),
    ("confidence", lambda value: value is None or _is_text(value), "a file name"),
    ("tokenizer", _is_text, "a file name"),
    *((f"serving.{part}", _is_text, "a file name") for part in _SERVING),
    ("weights", lambda value: value is None or _is_names(value), "file names"),
    ("files", lambda value: isinstance(value, dict), "the files by name"),
]
