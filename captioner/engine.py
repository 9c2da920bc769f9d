"""Runs an exported encoder and decoder on LiteRT. No TensorFlow, no words, no search.

An interpreter is not thread-safe, and neither is an `Engine`: one thread owns it. Engines of one
model may share a `WideEngine`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from captioner.errors import ModelFolderError

SIGNATURE = "serve"
START_THREADS = 2  # at most, for the decoder's start


class Networks:
    """Encoder, decoder start and decoder step of one model in LiteRT.

    Args:
        encoder: LiteRT model, image (1, size, size, 3) float32 in [-1, 1] -> grid (1, rows,
            columns, channels) float32.
        decoder_init: grid -> keys, values, whole, state, as
            `captioner.training.network.decoder.Prepared`.
        decoder_step: those of one photo and the last words -> log probabilities, state, attention.
        threads: that one call may use.

    Raises:
        ModelFolderError: LiteRT cannot load one of them.
    """

    def __init__(
        self, encoder: bytes, decoder_init: bytes, decoder_step: bytes, threads: int
    ) -> None:
        self.encoder = Network("encoder", encoder, threads)
        self.init = Network("decoder_init", decoder_init, min(threads, START_THREADS))
        # A step is too small a piece of work to be shared: between steps the other threads fall
        # asleep.
        self.step = Network("decoder_step", decoder_step, 1)


class Engine:
    """The networks of one model, for one photo at a time.

    Args:
        encoder, decoder_init, decoder_step, threads: as of `Networks`.
        wide: shared with other engines.

    Raises:
        ModelFolderError: LiteRT cannot load one of them.
    """

    def __init__(
        self,
        encoder: bytes,
        decoder_init: bytes,
        decoder_step: bytes,
        threads: int = 2,
        wide: WideEngine | None = None,
    ) -> None:
        self._own = Networks(encoder, decoder_init, decoder_step, threads)
        self._wide = wide
        self._is_at_work = False

    def check(self, input_size: int, grid: tuple[int, int, int], units: int, words: int) -> None:
        """Raises ModelFolderError unless the files have these sizes.

        Args:
            grid: rows, columns, channels.
            units: of each of the two LSTMs.
            words: of the vocabulary.
        """
        encoder, init, step = self._own.encoder, self._own.init, self._own.step
        for name, found, wanted in (
            ("encoder's image", encoder.inputs["image"], (input_size, input_size, 3)),
            ("encoder's grid", encoder.outputs["grid"], grid),
            ("decoder's grid", init.inputs["grid"], grid),
            ("decoder's state", init.outputs["state"], (1, 4 * units)),
            ("decoder's vocabulary", step.outputs["log_probabilities"][-1:], (words,)),
        ):
            if found != wanted:
                raise ModelFolderError(
                    f"The {name} is {found} in the LiteRT file and {wanted} in the manifest; "
                    "export the model again."
                )

    def encode(self, image: np.ndarray) -> np.ndarray:
        """image (size, size, 3) float32 in [-1, 1] -> grid (rows, columns, channels) float32."""
        with self._networks() as networks:
            return networks.encoder.run(image=image[None])["grid"][0]

    @contextlib.contextmanager
    def read(self, grid: np.ndarray) -> Iterator[PhotoSteps]:
        """A decoder that reads this grid (rows, columns, channels), for a decoding strategy."""
        with self._networks() as networks:
            yield PhotoSteps(networks.step, networks.init.run(grid=grid[None]))

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """For as long as this engine has a photo, so that others leave it its core; it nests."""
        if self._wide is None or self._is_at_work:
            yield
            return
        self._is_at_work = True
        try:
            with self._wide.at_work():
                yield
        finally:
            self._is_at_work = False

    @contextlib.contextmanager
    def _networks(self) -> Iterator[Networks]:
        """The wide ones, if no other engine is at work."""
        with self._wide.lent() if self._wide else contextlib.nullcontext() as wide:
            yield wide or self._own


class WideEngine:
    """Networks with several threads, for the one photo that has the machine for itself.

    Several engines with a thread each do most captions a second; one photo alone is done sooner
    with several threads.

    Args:
        encoder, decoder_init, decoder_step, threads: as of `Networks`.
    """

    def __init__(
        self, encoder: bytes, decoder_init: bytes, decoder_step: bytes, threads: int
    ) -> None:
        self._networks = Networks(encoder, decoder_init, decoder_step, threads)
        self._free = threading.Lock()  # an interpreter has one owner at a time
        self._counting = threading.Lock()
        self._at_work = 0  # engines

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """See `Engine.at_work`."""
        with self._counting:
            self._at_work += 1
        try:
            yield
        finally:
            with self._counting:
                self._at_work -= 1

    @contextlib.contextmanager
    def lent(self) -> Iterator[Networks | None]:
        """The networks, if no other engine is at work or has them."""
        if self._at_work <= 1 and self._free.acquire(blocking=False):
            try:
                yield self._networks
            finally:
                self._free.release()
        else:
            yield None


class PhotoSteps:
    """`captioner.search.Steps` for one photo."""

    def __init__(self, step: Network, prepared: dict[str, np.ndarray]) -> None:
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


class Network:
    """One LiteRT model, called by the names of its signature."""

    def __init__(self, name: str, content: bytes, threads: int) -> None:
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._runner = self._interpreter.get_signature_runner(SIGNATURE)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ModelFolderError(
                f"LiteRT cannot load {name} ({error}); export the model again."
            ) from error
        # Shapes without the photo's axis, by name.
        self.inputs, self.outputs = (
            {key: tuple(int(side) for side in value["shape"][1:]) for key, value in details.items()}
            for details in (self._runner.get_input_details(), self._runner.get_output_details())
        )

    def run(self, **inputs: Any) -> dict[str, np.ndarray]:
        """Resizes the inputs where their shape is another than last time."""
        return dict(self._runner(**inputs))
