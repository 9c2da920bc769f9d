"""The manifest of a model folder: what the model is, how it was made, and which files serve it.

Training writes it and serving reads it. Each class checks itself when it is made, so that a
`Manifest` is always one that this program can use. Nothing here reads files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

FORMAT = 2
# Channels of InceptionV3's grid by the layer at which the encoder ends.
_INCEPTION_CHANNELS = {"mixed8": 1280, "mixed10": 2048}
_MAX_FILE_BYTES = 4_000_000_000
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

_Part = TypeVar("_Part", bound="_Checked")


class ManifestError(ValueError):
    """A manifest cannot be used; the message says which entry is wrong."""


def is_file_name(name: object) -> bool:
    """Whether this is a plain file name, with no folder in it."""
    return isinstance(name, str) and _FILE_NAME.fullmatch(name) is not None


def _entry(expected: str, fits: Callable[[Any], bool], **options: Any) -> Any:
    """A field with what it has to be, in words and as a function."""
    return field(metadata={"expected": expected, "fits": fits}, **options)


def _is_count(value: object, least: int = 1, most: int = 10_000_000) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: object, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= most  # type: ignore[operator]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= 200


def _is_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(_is_text(text) for text in value)


def _text(**options: Any) -> Any:
    return _entry("text", _is_text, **options)


def _count(most: int = 10_000_000, **options: Any) -> Any:
    return _entry("a whole number above 0", lambda n: _is_count(n, most=most), **options)


def _share(**options: Any) -> Any:
    return _entry("a number from 0 to 1", lambda x: _is_number(x, 1), **options)


def _penalty(**options: Any) -> Any:
    return _entry("0 or more", lambda x: _is_number(x, 1000), **options)


def _file(**options: Any) -> Any:
    return _entry("a file name", _is_text, **options)


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A part of the manifest, at `path` in the JSON object; JSON's lists are tuples here."""

    path: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, expects = getattr(self, entry.name), entry.metadata
            if expects and not expects["fits"](value):
                raise ManifestError(
                    f"'{self.path}{entry.name}' has to be {expects['expected']} and is "
                    f"{_as_json(value)!r:.80}"
                )

    @classmethod
    def from_json(cls: type[_Part], value: Any) -> _Part:
        """Reads a JSON object.

        Raises:
            ManifestError: an entry is missing, unknown, or not what it has to be.
        """
        if not isinstance(value, dict):
            value = {}  # then the first required entry is missing
        known = {entry.name: entry for entry in fields(cls)}
        if unknown := sorted(value.keys() - known.keys()):
            raise ManifestError(f"'{cls.path}{unknown[0]:.80}' is not an entry of a manifest")
        given = {name: cls._read(name, own) for name, own in value.items()}
        # An entry that is missing fails its check as None.
        needed = {n: None for n, e in known.items() if e.init and not _has_default(e)}
        return cls(**{**needed, **given})

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        return {entry.name: _as_json(getattr(self, entry.name)) for entry in fields(self)}


def _has_default(entry: Any) -> bool:
    return entry.default is not MISSING or entry.default_factory is not MISSING


def _as_json(value: Any) -> Any:
    if isinstance(value, _Checked):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _as_json(own) for key, own in value.items()}
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class JpegNormalizationSpec(_Checked):
    """The small JPEG that a large photo is made first: see `Preprocessor`."""

    path: ClassVar[str] = "encoder.jpeg_normalization."

    side: int = _count(4096)
    quality: int = _entry("a whole number from 1 to 100", lambda n: _is_count(n, most=100))


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(_Checked):
    """An encoder.

    Attributes:
        architecture: "inception_v3", or "tiny" in tests.
        output_layer: where the network ends, "mixed8" or "mixed10".
        input_size: pixels of a side.
        grid: rows and columns of its output.
        channels: of its output.
        last_pooling: of mixed10's pooling branch, "max" or "avg".
        width: share of InceptionV3's filters, below 1 in tests.
        jpeg_normalization: None to take photos as they are.
    """

    path: ClassVar[str] = "encoder."

    architecture: str = _text()
    output_layer: str = _text()
    input_size: int = _count(4096)
    grid: tuple[int, int] = _entry(
        "[rows, columns]",
        lambda g: isinstance(g, tuple) and len(g) == 2 and all(_is_count(n, 1, 1000) for n in g),
    )
    channels: int = _count()
    last_pooling: str = _entry("max or avg", lambda p: p in ("max", "avg"), default="max")
    width: float = _share(default=1.0)
    jpeg_normalization: JpegNormalizationSpec | None = None

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name == "jpeg_normalization" and value is not None:
            return JpegNormalizationSpec.from_json(value)
        return super()._read(name, value)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture == "tiny":  # the tests' own, of any size
            return
        # The original names InceptionV3 and runs Xception: both give 2048 channels, and one's
        # captions on the other's features are nonsense without any error.
        if self.architecture != "inception_v3":
            raise ManifestError(
                f"the encoder {self.architecture!r:.40} is not one that this program has "
                "(inception_v3)"
            )
        if self.output_layer not in _INCEPTION_CHANNELS:
            raise ManifestError(
                f"the encoder ends at {self.output_layer!r:.40}, not at "
                f"{' or '.join(_INCEPTION_CHANNELS)}"
            )
        side, channels = (
            inception_grid_side(self.input_size),
            _INCEPTION_CHANNELS[self.output_layer],
        )
        if (self.grid, self.channels) != ((side, side), channels):
            raise ManifestError(
                f"the encoder's grid {list(self.grid)} of {self.channels} channels is not what "
                f"inception_v3 gives at {self.output_layer} for {self.input_size} pixels "
                f"([{side}, {side}] of {channels})"
            )


def inception_grid_side(side: int) -> int:
    """Positions along a side of InceptionV3's grid, from pixels along a side of the input."""
    # What 3x3 convolutions without padding take before each halving.
    for unpadded in (0, 2, 2, 0, 0):
        side = (side - unpadded - 3) // 2 + 1
    return side


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(_Checked):
    """A decoder, and the settings of its search.

    Attributes:
        architecture: "up_down_lstm", or "tiny" in tests.
        units, heads: of the LSTMs and of the attention.
        concepts: words that it recognises in a photo first; 0 for none.
        vocabulary_size: words, special ones included.
        max_words: of a caption, its end included.
        length_penalty, repeat_penalty, repeatable: see `BeamSearch`; `repeatable` are words.
    """

    path: ClassVar[str] = "decoder."

    architecture: str = _text()
    units: int = _count()
    heads: int = _count(default=8)
    concepts: int = _entry("0 or more", lambda n: _is_count(n, 0), default=0)
    vocabulary_size: int = _count()
    max_words: int = _count(1000)
    length_penalty: float = _penalty(default=1.0)
    repeat_penalty: float = _penalty(default=0.0)
    repeatable: tuple[str, ...] = _entry("a list of words", _is_texts, default=())


@dataclass(frozen=True, kw_only=True)
class CalibrationSpec(_Checked):
    """When a caption is confident.

    Attributes:
        threshold: least confidence, in [0, 1]; least probability where there is no estimator.
        estimator: the file of a `ConfidenceEstimator`.
    """

    path: ClassVar[str] = "calibration."

    threshold: float = _share()
    estimator: str | None = _entry("a file name", lambda f: f is None or _is_text(f), default=None)


@dataclass(frozen=True, kw_only=True)
class ServingFiles(_Checked):
    """The LiteRT files: see `Engine`."""

    path: ClassVar[str] = "serving."

    encoder: str = _file()
    decoder_init: str = _file()
    decoder_step: str = _file()


@dataclass(frozen=True, kw_only=True)
class FileEntry(_Checked):
    """A file's SHA-256, in hexadecimal digits, and its size."""

    sha256: str = _entry("64 digits", lambda s: bool(re.fullmatch(r"[0-9a-f]{64}", str(s))))
    bytes: int = _entry("a size", lambda n: _is_count(n, 0, _MAX_FILE_BYTES))


def _is_names(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value.values())


@dataclass(frozen=True, kw_only=True)
class Manifest(_Checked):
    """All that a model folder says of its model.

    Attributes:
        created: ISO 8601.
        trained_on: names of the data sets.
        scores: by report and name, times 100.
        precision: of the LiteRT files.
        weights: the files of "encoder" and "decoder" for further training.
        tokenizer: the file of the vocabulary.
        files: all files by name.
    """

    name: str = _text()
    encoder: EncoderSpec
    decoder: DecoderSpec
    calibration: CalibrationSpec = CalibrationSpec(threshold=0.0)
    serving: ServingFiles
    tokenizer: str = _file()
    weights: Mapping[str, str] = _entry("file names", _is_names, default_factory=dict)
    precision: str = _text(default="float32")
    created: str = ""
    trained_on: tuple[str, ...] = _entry("a list of texts", _is_texts, default=())
    scores: Mapping[str, Any] = _entry(
        "scores by name", lambda s: isinstance(s, dict), default_factory=dict
    )
    files: Mapping[str, FileEntry] = _entry(
        "the files by name", lambda f: isinstance(f, dict), default_factory=dict
    )
    format: int = _entry(f"{FORMAT}", lambda n: n == FORMAT, default=FORMAT)

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Reads the JSON object of `manifest.json`.

        Raises:
            ManifestError: this program cannot use what it describes.
        """
        given = value.get("format") if isinstance(value, dict) else None
        if given != FORMAT:
            raise ManifestError(f"'format' has to be {FORMAT} and is {given!r:.40}")
        parts = dict.fromkeys(_PARTS)  # a part that is missing lacks its first entry
        manifest = super().from_json({**parts, **value})
        used = [manifest.tokenizer, *manifest.serving.to_json().values()]
        used += manifest.weights.values()
        used += [manifest.calibration.estimator] if manifest.calibration.estimator else []
        for name in used:
            if name not in manifest.files:
                raise ManifestError(f"{name!r:.80} is used but not among the 'files'")
        return manifest

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name in _PARTS:
            return _PARTS[name].from_json(value)
        if name == "files" and isinstance(value, dict):
            return {own: _file_entry(own, entry) for own, entry in value.items()}
        return super()._read(name, value)


_PARTS: dict[str, type[_Checked]] = {
    "encoder": EncoderSpec,
    "decoder": DecoderSpec,
    "calibration": CalibrationSpec,
    "serving": ServingFiles,
}


def _file_entry(name: str, value: Any) -> FileEntry:
    if not is_file_name(name) or name == "manifest.json":
        raise ManifestError(f"'files' names {name!r:.80}, which is not a plain file name")
    try:
        return FileEntry.from_json(value)
    except ManifestError:
        raise ManifestError(f"'files' has no valid 'bytes' and 'sha256' for {name!r:.80}") from None
