"""The one thread that owns the Captioner, and the bounded queue in front of it.

The captioner is not safe to share between threads, and several pictures decoded at once would cost
several times the memory; so one thread does all work on pictures, one after the other, and uploads
wait in line. The line is short on purpose: an upload that finds it full gets 503 at once.

This file contains no HTTP: jobs are functions that take the captioner.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from app1.problems import BusyError
from common.errors import CaptionerError

if TYPE_CHECKING:
    from captioner import Captioner
    from captioner.manifest import Manifest

log = logging.getLogger(__name__)
T = TypeVar("T")

_STOP = object()


class CaptionWorker:
    """Runs jobs with the captioner, one at a time, first come first served.

    Args:
        load: makes the captioner; called in the worker's own thread, so that a server can answer
            `/healthz` while the model loads. Jobs that come meanwhile wait.
        queue_size: uploads that may wait besides the one being worked on.
        loaded: called, in the worker's thread, with None when the captioner is there, or with the
            error; nothing can be captioned after that.
    """

    def __init__(
        self,
        load: Callable[[], Captioner],
        queue_size: int,
        loaded: Callable[[CaptionerError | None], None],
    ) -> None:
        self._load = load
        self._loaded = loaded
        self._places = queue_size + 1
        self._taken = 0
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._draining = False
        self._seconds = 0.1  # of an upload, a running mean
        # not bounded itself: `admit` is what keeps it short
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="captioner", daemon=True)
        self._warm = False
        self.model: Manifest | None = None

    def start(self) -> None:
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether uploads are accepted: the model is warm, and the server is not being stopped."""
        return self._warm and not self._draining

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def taken(self) -> int:
        """Uploads that were admitted and are not done: one is worked on, the others wait."""
        return self._taken

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Take a place in the line for one upload, however many pictures it has.

        The pictures of one upload go to the queue one by one, so that an upload of many does not
        keep the others from their turn, and none of them is refused half way.

        Raises:
            BusyError: the line is full, or the server is being stopped.
        """
        with self._lock:
            if self._draining:
                raise BusyError("The server is being stopped; try again in a moment.", 5)
            if self._taken >= self._places:
                raise BusyError(
                    "Too many pictures are waiting already; try again in a moment.",
                    self._taken * self._seconds,
                )
            self._taken += 1
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                # With n uploads in progress, each waits about n turns; divide by n to estimate one.
                turn = (time.monotonic() - started) / self._taken
                self._seconds += 0.1 * (turn - self._seconds)
                self._taken -= 1
                self._done.notify_all()

    def run(self, job: Callable[[Captioner], T]) -> T:
        """What `job` returns or raises; waits for its turn. Only within `admit`."""
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return future.result()

    def drain(self) -> None:
        """Admit nobody from now on; those admitted are still served."""
        with self._lock:
            self._draining = True

    def stop(self) -> None:
        """End the thread when all admitted uploads are done, however many jobs they still have."""
        self.drain()
        with self._done:
            self._done.wait_for(lambda: self._taken == 0)
        if self._thread.is_alive():
            self._jobs.put(_STOP)
            self._thread.join()

    def _work(self) -> None:
        captioner: Captioner | None = None
        try:
            captioner = self._load()
            self.model = captioner.manifest
            self._warm = True
            self._loaded(None)
        except Exception as error:
            if not isinstance(error, CaptionerError):
                log.exception("the model could not be loaded")
                error = CaptionerError(f"The model could not be loaded: {error}")
            self.drain()
            self._loaded(error)
        while (item := self._jobs.get()) is not _STOP:
            job, future = item
            try:
                if captioner is None:
                    raise BusyError("There is no model to caption with.", 30)
                future.set_result(job(captioner))
            except Exception as error:
                future.set_exception(error)
            # or a picture of 150 MB would stay alive until the next one comes
            del item, job, future
