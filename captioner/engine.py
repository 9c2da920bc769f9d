"""Runs an exported encoder and decoder on LiteRT. No TensorFlow, no words, no search.

An interpreter is not thread-safe, and neither is an `Engine`: one thread owns it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from captioner.errors import ModelFolderError

SIGNATURE = "serve"


class Engine:
    """Encoder, decoder start and decoder step of one model.

    Args:
        encoder: LiteRT model, image (1, size, size, 3) float32 in [-1, 1] -> grid (1, rows,
            columns, channels) float32.
        decoder_init: grid -> keys, values, whole, state, as `captioner.training.decoder.Prepared`.
        decoder_step: those of one photo and the last words -> log probabilities, state, attention.
        threads: that one call may use.

    Raises:
        ModelFolderError: LiteRT cannot load one of them.
    """

    def __init__(
        self, encoder: bytes, decoder_init: bytes, decoder_step: bytes, threads: int = 2
    ) -> None:
        # A step is too small a piece of work to be shared by threads.
        self._encoder = _Model("encoder", encoder, threads)
        self._init = _Model("decoder_init", decoder_init, 1)
        self._step = _Model("decoder_step", decoder_step, 1)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """image (size, size, 3) float32 in [-1, 1] -> grid (rows, columns, channels) float32."""
        return self._encoder.run(image=image[None])["grid"][0]

    def read(self, grid: np.ndarray) -> PhotoSteps:
        """A decoder that reads this grid (rows, columns, channels), for a decoding strategy."""
        return PhotoSteps(self._step, self._init.run(grid=grid[None]))


class PhotoSteps:
    """`captioner.search.Steps` for one photo."""

    def __init__(self, step: _Model, prepared: dict[str, np.ndarray]) -> None:
        self._step = step
        self._start = prepared.pop("state")[0]
        self._prepared = prepared

    def start(self) -> np.ndarray:
        return self._start

    def step(
        self, words: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        out = self._step.run(words=words[None], state=state[None], **self._prepared)
        return out["log_probabilities"][0], out["state"][0], out["attention"][0]


class _Model:
    """One LiteRT model, called by the names of its signature."""

    def __init__(self, name: str, content: bytes, threads: int) -> None:
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            signature = self._interpreter.get_signature_list()[SIGNATURE]
            self._runner = self._interpreter.get_signature_runner(SIGNATURE)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ModelFolderError(
                f"LiteRT cannot load {name} ({error}); export the model again."
            ) from error
        self.inputs = set(signature["inputs"])

    def run(self, **inputs: Any) -> dict[str, np.ndarray]:
        """Resizes the inputs where their shape is another than last time."""
        return dict(self._runner(**inputs))
