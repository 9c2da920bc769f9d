"""The threads that own a captioner each, and the bounded line in front of them.

A captioner is not safe to share between threads, and each picture that is decoded takes memory; so
these few threads do all work on pictures, and uploads wait in line. The line is short on purpose:
an upload that finds it full gets 503 at once.

This file contains no HTTP: jobs are functions that take a captioner.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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


class CaptionWorkers:
    """Runs jobs with captioners, first come first served.

    Args:
        load: makes the captioners, one for each worker; called in a thread of its own, so that a
            server can answer `/healthz` while the model loads. Jobs that come meanwhile wait.
        count: of workers.
        queue_size: uploads that may wait besides those being worked on.
        loaded: called, in that thread, with None when the captioners are there, or with the error;
            nothing can be captioned after that.
    """

    def __init__(
        self,
        load: Callable[[], Sequence[Captioner]],
        count: int,
        queue_size: int,
        loaded: Callable[[CaptionerError | None], None],
    ) -> None:
        self._load = load
        self._loaded = loaded
        self.count = count
        self._places = queue_size + count
        self._taken = 0
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._draining = False
        self._seconds = 0.1  # of an upload, a running mean
        # not bounded itself: `admit` is what keeps it short
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._begin, name="loading", daemon=True)]
        self._warm = False
        self.model: Manifest | None = None

    def start(self) -> None:
        self._threads[0].start()

    @property
    def ready(self) -> bool:
        """Whether uploads are accepted: the model is warm, and the server is not being stopped."""
        return self._warm and not self._draining

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def taken(self) -> int:
        """Uploads that were admitted and are not done: they are worked on, or wait."""
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
                    self._taken * self._seconds / self.count,
                )
            self._taken += 1
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                # With n uploads in progress, each waits about n turns of all workers together.
                turn = (time.monotonic() - started) * min(self.count, self._taken) / self._taken
                self._seconds += 0.1 * (turn - self._seconds)
                self._taken -= 1
                self._done.notify_all()

    def submit(self, job: Callable[[Captioner], T]) -> Future[T]:
        """What `job` will return or raise, when it has had its turn. Only within `admit`."""
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return future

    def run_all(self, jobs: Sequence[Callable[[Captioner], T]]) -> Iterator[Callable[[], T]]:
        """For each job, in order, what gives its result or raises its error.

        No more of them are in line at a time than there are workers, so that the jobs of one upload
        use all cores and still leave others their turn. Only within `admit`.
        """
        waiting: deque[Future[T]] = deque()
        for job in jobs:
            waiting.append(self.submit(job))
            if len(waiting) == self.count:
                yield waiting.popleft().result
        while waiting:
            yield waiting.popleft().result

    def drain(self) -> None:
        """Admit nobody from now on; those admitted are still served."""
        with self._lock:
            self._draining = True

    def stop(self) -> None:
        """End the thread when all admitted uploads are done, however many jobs they still have."""
        self.drain()
        with self._done:
            self._done.wait_for(lambda: self._taken == 0)
        for _ in range(self.count):
            self._jobs.put(_STOP)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _begin(self) -> None:
        """Load the captioners, start the other workers, and become the first of them."""
        captioners: Sequence[Captioner | None] = [None]
        try:
            captioners = self._load()
            self.model = captioners[0].manifest
        except Exception as error:
            if not isinstance(error, CaptionerError):
                log.exception("the model could not be loaded")
                error = CaptionerError(f"The model could not be loaded: {error}")
            self.drain()
            self._loaded(error)
        else:
            self._warm = True
            self._loaded(None)
        for number, captioner in enumerate(captioners[1:], start=2):
            name = f"captioner {number}"
            thread = threading.Thread(target=self._work, args=(captioner,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._work(captioners[0])

    def _work(self, captioner: Captioner | None) -> None:
        while (item := self._jobs.get()) is not _STOP:
            job, future = item
            try:
                if captioner is None:
                    raise BusyError("There is no model to caption with.", 30)
                future.set_result(job(captioner))
            except BaseException as error:  # whatever it is, the worker stays for the next one
                future.set_exception(error)
            # or a picture of 150 MB would stay alive until the next one comes
            del item, job, future
