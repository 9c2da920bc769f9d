"""`captioner export`: a trained model -> a model folder with the LiteRT files that serve it.

Float32 files answer as Keras does; "int8" ones hold weights of 8 bits with a scale a channel, and
quantise activations on the way (dynamic range). The batch is one photo; the decoder step takes as
many hypotheses as it is given.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from captioner.engine import SIGNATURE
from captioner.manifest import DecoderSpec, EncoderSpec, Manifest, ServingFiles
from captioner.model_folder import ModelFolder
from captioner.tokenizer import Tokenizer
from captioner.training.network.decoder import Decoder, Prepared
from captioner.training.network.encoder import (
    build_encoder,
    encoder_weights,
    set_encoder_weights,
)
from captioner.training.plan import PRECISIONS

DECODER = "up_down_lstm"
SERVING = ServingFiles(
    encoder="encoder.tflite", decoder_init="decoder_init.tflite", decoder_step="decoder_step.tflite"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="model: a name under models/, or a path (default: the default model)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="int8",
        help="of the LiteRT files (default: int8)",
    )
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")


def main(arguments: argparse.Namespace) -> int:
    """Writes a model folder again with LiteRT files of another precision."""
    folder = ModelFolder.open(arguments.model)
    encoder, decoder = load_trained(folder)
    # Those that are written anew come after these, and replace them.
    others = {name: folder.read_bytes(name) for name in folder.manifest.files}
    write_folder(
        arguments.out, encoder, decoder, folder.tokenizer(), folder.manifest, arguments.precision,
        others,
    )  # fmt: skip
    print(f"{arguments.out}: {arguments.precision}, from {folder.path}")
    return 0


def build_untrained(about: EncoderSpec, words: DecoderSpec) -> tuple[keras.Model, Decoder]:
    """Encoder and decoder as a manifest describes them, with fresh weights, in float32."""
    keras.config.set_dtype_policy("float32")
    encoder = build_encoder(
        about.output_layer, about.last_pooling, input_size=about.input_size, width=about.width
    )
    decoder = Decoder(
        words.vocabulary_size, about.channels, words.units, words.heads, concepts=words.concepts
    )
    decoder.build()
    return encoder, decoder


def load_trained(folder: ModelFolder) -> tuple[keras.Model, Decoder]:
    """Encoder and decoder with the weights of a model folder, in float32.

    Raises:
        ModelFolderError: the files are damaged.
        ValueError: the weights are not those of the model that the manifest describes.
    """
    encoder, decoder = build_untrained(folder.manifest.encoder, folder.manifest.decoder)
    weights = folder.manifest.weights
    lacking = set_encoder_weights(encoder, _arrays(folder.read_bytes(weights["encoder"])))
    arrays = _arrays(folder.read_bytes(weights["decoder"]))
    for variable in decoder.weights:
        if variable.path not in arrays:
            lacking.append(variable.path)
        else:
            variable.assign(arrays[variable.path])
    if lacking:
        raise ValueError(f"the weights of {folder.path} lack {', '.join(lacking)}")
    return encoder, decoder


def write_folder(
    path: Path,
    encoder: keras.Model,
    decoder: Decoder,
    tokenizer: Tokenizer,
    manifest: Manifest,
    precision: str = "int8",
    more: Mapping[str, bytes] | None = None,
) -> ModelFolder:
    """Writes a model folder: float16 weights, LiteRT files, tokenizer, and what `more` holds.

    Args:
        encoder, decoder: in float32; their weights are rounded to float16.
        manifest: its name, and the names of these files, are set here.
    """
    # What serves is made of the weights as the folder holds them, not of finer ones.
    for variable in (*encoder.weights, *decoder.weights):
        variable.assign(np.asarray(ops.convert_to_numpy(variable), np.float16))
    litert = export_litert(encoder, decoder, precision)
    decoder_arrays = {
        variable.path: np.asarray(ops.convert_to_numpy(variable), np.float16)
        for variable in decoder.weights
    }
    files = {
        **(more or {}),
        "encoder.npz": _npz(encoder_weights(encoder)),
        "decoder.npz": _npz(decoder_arrays),
        "tokenizer.p": tokenizer.to_bytes(),
        **{name: litert[part] for part, name in SERVING.to_json().items()},
    }
    whole = replace(
        manifest,
        name=path.resolve().name,
        serving=SERVING,
        precision=precision,
        weights={"encoder": "encoder.npz", "decoder": "decoder.npz"},
        tokenizer="tokenizer.p",
    )
    return ModelFolder.write(path, whole, files)


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _arrays(npz: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(npz), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def export_litert(encoder: keras.Model, decoder: Decoder, precision: str) -> dict[str, bytes]:
    """LiteRT models by their names in a manifest's `serving`.

    Args:
        encoder: (1, size, size, 3) in [-1, 1] -> (1, rows, columns, channels); float32 policy.
        decoder: over that grid; float32 policy.
        precision: of the weights, one of PRECISIONS.

    Returns:
        encoder: image -> grid. decoder_init: grid -> keys, values, whole, state. decoder_step:
        words (1, hypotheses) int32, state (1, hypotheses, size), keys, values, whole ->
        log_probabilities (1, hypotheses, vocabulary), state, attention (1, hypotheses, positions).
    """
    grid = tf.TensorSpec((1, *encoder.output_shape[1:]), tf.float32, "grid")

    def prepare(grid: Any) -> dict[str, Any]:
        return decoder.prepare(grid)._asdict()

    prepared = {
        name: tf.TensorSpec(spec.shape, tf.float32, name)
        for name, spec in tf.function(prepare)
        .get_concrete_function(grid)
        .structured_outputs.items()
    }
    state = tf.TensorSpec((1, None, prepared.pop("state").shape[-1]), tf.float32, "state")
    words = tf.TensorSpec((1, None), tf.int32, "words")

    def step(words: Any, state: Any, keys: Any, values: Any, whole: Any) -> dict[str, Any]:
        gates = decoder.read_words(words)
        hidden, state, attention = decoder.step(gates, state, Prepared(keys, values, whole, None))
        logits = decoder.predict(hidden)
        return {
            "log_probabilities": ops.log_softmax(logits, axis=-1),
            "state": state,
            "attention": attention,
        }

    return {
        "encoder": export_encoder(encoder, precision),
        "decoder_init": _convert(decoder, prepare, [grid], precision),
        "decoder_step": _convert(decoder, step, [words, state, *prepared.values()], precision),
    }


def export_encoder(encoder: keras.Model, precision: str) -> bytes:
    """A LiteRT model: image (1, size, size, 3) -> grid (1, rows, columns, channels)."""
    image = tf.TensorSpec((1, *encoder.input_shape[1:]), tf.float32, "image")
    return _convert(encoder, lambda image: {"grid": encoder(image)}, [image], precision)


def _convert(owner: Any, function: Any, specs: list[tf.TensorSpec], precision: str) -> bytes:
    """The function of these inputs, with `owner`'s variables, as a LiteRT model."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision has to be one of {', '.join(PRECISIONS)}, not {precision!r}")
    archive = keras.export.ExportArchive()
    archive.track(owner)
    archive.add_endpoint(SIGNATURE, function, input_signature=specs)
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()
