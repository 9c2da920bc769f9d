"""How long a caption takes, where the time goes, and how that compares.

    python -m benchmarks.captions --output benchmarks/captions.json

In turns, on two cores: a whole caption (JPEG bytes -> three candidates by beam search) of an
ordinary photo and of one with 12 megapixels, the LiteRT encoder alone (nothing of this project
around it), and the original's way (`benchmarks.original`, greedy, in a process of its own).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.machine import Goal, Way, in_turns, summary, use_cores, write
from benchmarks.original import WORDS, Original
from benchmarks.photos import HEIGHT, WIDTH, photo_of_12_megapixels, photos
from captioner import Captioner
from captioner.engine import SIGNATURE, Engine, PhotoSteps
from captioner.model_folder import ModelFolder

CORES = 2
BEAM_SIZE = 3
CALLS = 10  # of what is fast, in one turn; the original's way has one
T = TypeVar("T")


class Clock:
    """Milliseconds by name, one entry for each photo."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, part: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = part()
        self.milliseconds[name].append(1000 * (time.perf_counter() - started))
        return result

    def last(self, *names: str) -> float:
        """The sum of what these took for the last photo."""
        return sum(self.milliseconds[name][-1] for name in names)


class TimedEngine(Engine):
    """An engine that reports the time of its parts to the clock."""

    clock: Clock

    def encode(self, image: np.ndarray) -> np.ndarray:
        return self.clock.time("encoder", lambda: super(TimedEngine, self).encode(image))

    @contextmanager
    def read(self, grid: np.ndarray) -> Iterator[PhotoSteps]:
        with ExitStack() as stack:
            reading = super().read(grid)
            steps = self.clock.time("decoder start", lambda: stack.enter_context(reading))
            yield TimedSteps(steps, self.clock)


class TimedSteps(PhotoSteps):
    """The steps of one photo, as one part."""

    def __init__(self, steps: PhotoSteps, clock: Clock) -> None:
        self._steps, self._clock = steps, clock
        clock.milliseconds["decoder steps"].append(0)
        clock.milliseconds["number of steps"].append(0)

    def start(self) -> np.ndarray:
        return self._steps.start()

    def step(
        self, words: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        started = time.perf_counter()
        result = self._steps.step(words, state)
        self._clock.milliseconds["decoder steps"][-1] += 1000 * (time.perf_counter() - started)
        self._clock.milliseconds["number of steps"][-1] += 1
        return result


def staged(captioner: Captioner, clock: Clock, jpeg: bytes) -> None:
    """Caption a photo with a `TimedEngine`, and put down what each part takes."""
    rgb = clock.time("read and decode", lambda: captioner.preprocessor.load(jpeg))
    clock.time(
        "resize", lambda: captioner.preprocessor.tensor(rgb)
    )  # once more than needed, to time it
    started = time.perf_counter()
    captioner.caption_rgb(rgb, BEAM_SIZE)
    rest = 1000 * (time.perf_counter() - started) - clock.last(
        "resize", "encoder", "decoder start", "decoder steps"
    )
    clock.milliseconds["search and words"].append(rest)


def measure(turns: int, model: str | None) -> tuple[list[Goal], dict[str, Any]]:
    """Goals and results, for the result file."""
    folder = ModelFolder.open(model)
    encoder_file, init_file, step_file = folder.serving()
    captioner = Captioner.load(model, threads=CORES)
    engine = TimedEngine(encoder_file, init_file, step_file, threads=CORES)
    engine.clock = clock = Clock()
    timed = Captioner(engine, folder.tokenizer(), folder.manifest, folder.confidence())
    bare = Interpreter(model_content=encoder_file, num_threads=CORES).get_signature_runner(
        SIGNATURE
    )
    ordinary, large = photos(CALLS), photo_of_12_megapixels()
    image = captioner.preprocessor.tensor(captioner.preprocessor.load(ordinary[0]))[None]

    def each_in_turn(caption: Callable[[bytes], Any]) -> Callable[[], Any]:
        """Another of the ordinary photos with each call."""
        calls = iter(range(10**9))
        return lambda: caption(ordinary[next(calls) % len(ordinary)])

    with tempfile.TemporaryDirectory() as folder_name:
        photo = Path(folder_name) / "photo.jpg"
        photo.write_bytes(ordinary[0])
        original = Original(photo)
        try:
            ways = {
                "caption": Way(
                    each_in_turn(lambda jpeg: captioner.caption(jpeg, BEAM_SIZE)), CALLS
                ),
                "caption, 12 megapixels": Way(lambda: captioner.caption(large, BEAM_SIZE), CALLS),
                "caption, greedy": Way(
                    each_in_turn(lambda jpeg: captioner.caption(jpeg, 1)), CALLS
                ),
                "bare encoder": Way(lambda: bare(image=image), CALLS),
                "caption, by parts": Way(
                    each_in_turn(lambda jpeg: staged(timed, clock, jpeg)), CALLS
                ),
                "original": Way(original.caption),
            }
            milliseconds = in_turns(ways, turns)
        finally:
            original.close()
    del milliseconds["caption, by parts"]
    middle = {name: statistics.median(values) for name, values in milliseconds.items()}
    milliseconds["original, Xception alone"] = original.encoder[1:]
    parts = {name: values[CALLS:] for name, values in clock.milliseconds.items()}  # warm ones
    steps = parts.pop("number of steps")
    faster = middle["original"] / middle["caption"]
    times = middle["caption"] / middle["bare encoder"]
    more = middle["caption, 12 megapixels"] - middle["caption"]
    goals = [
        Goal(
            f"whole caption, beam {BEAM_SIZE}, p50: how many times faster than the original's way",
            "25 or more",
            f"{faster:.1f}",
            faster >= 25,
            f"the original's way, {WORDS} words: {middle['original']:.0f} ms",
        ),
        Goal(
            f"whole caption, beam {BEAM_SIZE}, p50: how many times the bare encoder",
            "1.4 or less",
            f"{times:.2f}",
            times <= 1.4,
            f"the encoder alone: {middle['bare encoder']:.1f} ms; "
            f"a caption: {middle['caption']:.1f} ms",
        ),
        Goal(
            "a JPEG of 12 megapixels, p50: how much more than an ordinary one",
            "40 ms or less",
            f"{more:.1f} ms",
            more <= 40,
            f"an ordinary one: {middle['caption']:.1f} ms",
        ),
    ]
    results = {
        "model": folder.manifest.name,
        "photos": {
            "ordinary": f"{WIDTH} x {HEIGHT}, {statistics.mean(map(len, ordinary)) / 1000:.0f} kB",
            "12 megapixels": f"4000 x 3000, {len(large) / 1000:.0f} kB",
        },
        "milliseconds": {name: summary(values) for name, values in milliseconds.items()},
        "where a caption's time goes": {
            **{name: round(statistics.median(values), 2) for name, values in parts.items()},
            "number of steps": round(statistics.mean(steps), 1),
        },
    }
    return goals, results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the result file, JSON")
    parser.add_argument("--turns", type=int, default=30, help="of all ways (default: 30)")
    parser.add_argument("--model", help="name or path of a model folder (default: the default one)")
    arguments = parser.parse_args()
    if (cores := use_cores(CORES)) != CORES:
        print(f"This runs on {cores} core(s), not on {CORES} as it is meant to.")
    goals, results = measure(arguments.turns, arguments.model)
    command = "python -m benchmarks.captions --output benchmarks/captions.json"
    write(arguments.output, f"{command} --turns {arguments.turns}", goals, results)


if __name__ == "__main__":
    main()
