"""`captioner export`: a trained model -> the LiteRT files that serve it.

Float32 files answer as Keras does; "int8" ones hold weights of 8 bits with a scale a channel, and
quantise activations on the way (dynamic range). The batch is one photo; the decoder step takes as
many hypotheses as it is given.
"""

from __future__ import annotations

import tempfile
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from captioner.engine import SIGNATURE
from captioner.training.decoder import Decoder, Prepared

PRECISIONS = ("int8", "float16", "float32")


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
    image = tf.TensorSpec((1, *encoder.input_shape[1:]), tf.float32, "image")

    def encode(image: Any) -> dict[str, Any]:
        return {"grid": encoder(image)}

    def prepare(grid: Any) -> dict[str, Any]:
        return decoder.prepare(grid)._asdict()

    prepared = {
        name: tf.TensorSpec(spec.shape, tf.float32, name)
        for name, spec in tf.function(prepare).get_concrete_function(grid).structured_outputs.items()
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
        "encoder": _convert(encoder, encode, [image], precision),
        "decoder_init": _convert(decoder, prepare, [grid], precision),
        "decoder_step": _convert(decoder, step, [words, state, *prepared.values()], precision),
    }


def _convert(
    owner: Any, function: Any, specs: list[tf.TensorSpec], precision: str
) -> bytes:
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
