"""A model folder: a manifest, and the files that it names with their sizes and SHA-256.

`models/<name>/manifest.json` says what the model is: its encoder, decoder and vocabulary, what it
was trained on, how it scored, and which files serve it. A folder that is incomplete, altered, or
not made for this program is refused with a sentence. Nothing here runs a model.

The hashes find damage and mix-ups. They do not say who made a folder: a person who can write the
folder can write its manifest, too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import ModelFolderError
from captioner.manifest import CalibrationSpec, FileEntry, Manifest, ManifestError, is_file_name
from captioner.tokenizer import Tokenizer

if TYPE_CHECKING:
    from captioner.confidence import ConfidenceEstimator

MODELS = Path(__file__).resolve().parent.parent / "models"

_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 4_000_000


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose manifest has been checked; its files are checked as they are read."""

    path: Path
    manifest: Manifest

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
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelFolderError(
                f"{_MANIFEST} of the model folder {str(path)!r} is not valid JSON ({error}); "
                "copy the folder again from where it came from."
            ) from None
        folder = cls(path, _read(path, content))
        for name, entry in folder.manifest.files.items():
            folder._check_size(name, _size_of(path / name), entry.bytes)
        return folder

    def read_bytes(self, name: str) -> bytes:
        """The content of a file that the manifest names.

        The bytes that are hashed are those that are returned: nobody can put another file in place
        between the two. Raises ModelFolderError when they are not those of the manifest.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ModelFolderError(
                f"The model folder {str(self.path)!r} has no file {name!r} in its {_MANIFEST}; "
                f"it has {', '.join(self.manifest.files)}."
            )
        try:
            with (self.path / name).open("rb") as file:
                data = file.read(entry.bytes + 1)
        except OSError as error:
            raise self._damaged(name, f"cannot be read ({error.strerror})") from None
        self._check_size(name, len(data), entry.bytes)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise self._damaged(name, f"is not the one that {_MANIFEST} describes (SHA-256)")
        return data

    def serving(self) -> tuple[bytes, bytes, bytes]:
        """The LiteRT files' contents: encoder, decoder init, decoder step; as `read_bytes`."""
        names = self.manifest.serving
        encoder, init, step = map(
            self.read_bytes, (names.encoder, names.decoder_init, names.decoder_step)
        )
        return encoder, init, step

    def tokenizer(self) -> Tokenizer:
        """The vocabulary; raises ModelFolderError when it does not fit the decoder."""
        name = self.manifest.tokenizer
        tokenizer = Tokenizer.from_bytes(self.read_bytes(name), str(self.path / name))
        expected = self.manifest.decoder.vocabulary_size
        if len(tokenizer) != expected:
            raise ModelFolderError(
                f"The tokenizer of the model folder {str(self.path)!r} has {len(tokenizer)} words "
                f"and its decoder {expected}; they are of two models, so export the model again."
            )
        return tokenizer

    @classmethod
    def write(
        cls, path: str | Path, manifest: Manifest, files: Mapping[str, bytes | Path]
    ) -> ModelFolder:
        """Write a folder, in place of one that is there; no reader ever finds half of it.

        Args:
            manifest: its `files` are made here.
            files: contents, or paths of files to copy.

        Raises:
            ModelFolderError: `open` would refuse the manifest, the tokenizer does not fit it, or
                something else is in the place.
        """
        path = Path(path).resolve()
        contents = {
            name: data if isinstance(data, bytes) else data.read_bytes()
            for name, data in files.items()
        }
        whole = replace(manifest, files={name: _entry_of(data) for name, data in contents.items()})
        _read(path, whole.to_json())
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
            (new / _MANIFEST).write_text(_text_of(whole), encoding="utf-8")
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
        from captioner.confidence import ConfidenceEstimator  # NumPy, which `--help` does not need

        name = self.manifest.calibration.estimator
        if name is None:
            return None
        content, place = self.read_bytes(name), str(self.path / name)
        return ConfidenceEstimator.from_bytes(content, place, self.manifest.encoder.channels)

    def with_confidence(
        self, threshold: float, confidence: ConfidenceEstimator | None
    ) -> ModelFolder:
        """Store a calibration in the folder, in place of the one there.

        Without `confidence` the threshold is one of a caption's probability.
        """
        old = self.manifest.calibration.estimator
        files = {name: entry for name, entry in self.manifest.files.items() if name != old}
        name = None
        if confidence is not None:
            content = confidence.to_bytes()
            entry = _entry_of(content)
            # Another name for another content, so that one write of the manifest changes it all.
            name = f"confidence-{entry.sha256[:8]}.npz"
            write_bytes(self.path / name, content)
            files[name] = entry
        calibration = CalibrationSpec(threshold=threshold, estimator=name)
        folder = self.amend(calibration=calibration, files=files)
        if old not in (None, name):
            (self.path / str(old)).unlink(missing_ok=True)
        return folder

    def amend(self, **changes: Any) -> ModelFolder:
        """Change entries of the manifest, such as the scores."""
        whole = replace(self.manifest, **changes)
        write_text(self.path / _MANIFEST, _text_of(whole))
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
    for path in [MODELS / model, Path(model)] if is_file_name(model) else [Path(model)]:
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


def _entry_of(content: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def _text_of(manifest: Manifest) -> str:
    return json.dumps(manifest.to_json(), indent=2, ensure_ascii=False) + "\n"


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _read(path: Path, content: Any) -> Manifest:
    """The manifest; raises ModelFolderError where this program cannot use what it describes."""
    try:
        return Manifest.from_json(content)
    except ManifestError as error:
        raise ModelFolderError(
            f"The model folder {str(path)!r} cannot be used: in its {_MANIFEST}, {error}; "
            "export the model again with this version of the program."
        ) from None
