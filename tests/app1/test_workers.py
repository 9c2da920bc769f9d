"""The workers: a captioner each, a short line, and an orderly end. Jobs here take no pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from app1.problems import BusyError
from app1.workers import CaptionWorkers
from captioner.errors import CaptionerError, ModelFolderError

MODEL: Any = SimpleNamespace(manifest={"name": "tiny"})


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.fixture
def outcomes() -> list[CaptionerError | None]:
    return []


@pytest.fixture
def three(outcomes: list[CaptionerError | None]) -> Iterator[CaptionWorkers]:
    models: Any = [SimpleNamespace(manifest={"name": str(number)}) for number in range(3)]
    workers = CaptionWorkers(lambda: models, 3, 2, outcomes.append)
    workers.start()
    yield workers
    workers.stop()
    assert not any(thread.is_alive() for thread in workers._threads)


@pytest.fixture
def worker(outcomes: list[CaptionerError | None]) -> Iterator[CaptionWorkers]:
    worker = CaptionWorkers(lambda: [MODEL], 1, 2, outcomes.append)
    worker.start()
    yield worker
    worker.stop()


def upload(worker: CaptionWorkers, job: Callable[[Any], Any]) -> Any:
    with worker.admit():
        return worker.submit(job).result()


def test_a_job_gets_the_captioner_and_gives_its_result(worker: CaptionWorkers) -> None:
    assert upload(worker, lambda captioner: captioner.manifest["name"]) == "tiny"


def test_what_a_job_raises_reaches_its_uploader_and_nobody_else(worker: CaptionWorkers) -> None:
    with pytest.raises(ZeroDivisionError):
        upload(worker, lambda captioner: 1 / 0)
    assert upload(worker, lambda captioner: "fine") == "fine"


def test_jobs_run_one_at_a_time_in_one_thread(
    worker: CaptionWorkers, pool: ThreadPoolExecutor
) -> None:
    at_work, seen = [], []

    def job(captioner: Any) -> int:
        at_work.append(1)
        seen.append(len(at_work))
        at_work.pop()
        return threading.get_ident()

    threads = [pool.submit(upload, worker, job) for _ in range(3)]
    assert len({thread.result() for thread in threads}) == 1
    assert seen == [1, 1, 1]


def test_the_upload_too_many_is_told_at_once(
    worker: CaptionWorkers, pool: ThreadPoolExecutor, wait_for: Callable[..., None]
) -> None:
    go_on = threading.Event()
    waiting = [pool.submit(upload, worker, lambda captioner: go_on.wait(10)) for _ in range(3)]
    wait_for(lambda: worker.taken == 3)
    with pytest.raises(BusyError, match="try again") as error:
        upload(worker, lambda captioner: None)
    assert error.value.status == 503
    assert error.value.retry_after >= 1
    go_on.set()
    assert all(future.result() for future in waiting)
    assert upload(worker, lambda captioner: "room again") == "room again"
    assert worker.taken == 0


def test_an_upload_of_many_does_not_keep_others_from_their_turn(
    worker: CaptionWorkers, pool: ThreadPoolExecutor, wait_for: Callable[..., None]
) -> None:
    order: list[str] = []
    at_work, go_on = threading.Event(), threading.Event()

    def first(captioner: Any) -> None:
        at_work.set()
        go_on.wait(10)

    def many() -> None:
        with worker.admit():
            for result in worker.run_all([first, *3 * [lambda captioner: order.append("many")]]):
                result()

    batch = pool.submit(many)
    assert at_work.wait(10)
    single = pool.submit(upload, worker, lambda captioner: order.append("one"))
    wait_for(lambda: worker.taken == 2 and not worker._jobs.empty())
    go_on.set()
    batch.result()
    single.result()
    assert order.index("one") == 0


def test_while_it_loads_uploads_wait(
    pool: ThreadPoolExecutor, outcomes: list[CaptionerError | None], wait_for: Callable[..., None]
) -> None:
    loading = threading.Event()
    worker = CaptionWorkers(lambda: (loading.wait(10), [MODEL])[1], 1, 2, outcomes.append)
    worker.start()
    early = pool.submit(upload, worker, lambda captioner: "early")
    wait_for(lambda: worker.taken)
    assert not worker.ready
    assert worker.model is None
    assert outcomes == []
    loading.set()
    assert early.result() == "early"
    assert worker.ready
    assert worker.model == {"name": "tiny"}
    assert outcomes == [None]
    worker.stop()


@pytest.mark.parametrize("error", [ModelFolderError("No such folder."), RuntimeError("a bug")])
def test_without_a_model_uploads_are_refused_and_the_reason_is_told(
    pool: ThreadPoolExecutor,
    outcomes: list[CaptionerError | None],
    wait_for: Callable[..., None],
    error: Exception,
) -> None:
    loading = threading.Event()

    def load() -> Any:
        loading.wait(10)
        raise error

    worker = CaptionWorkers(load, 1, 2, outcomes.append)
    worker.start()
    early = pool.submit(upload, worker, lambda captioner: "early")
    wait_for(lambda: not worker._jobs.empty())
    loading.set()
    with pytest.raises(BusyError):
        early.result()
    wait_for(lambda: outcomes)
    assert str(error) in str(outcomes[0])
    with pytest.raises(BusyError):
        upload(worker, lambda captioner: "late")
    assert not worker.ready
    worker.stop()


def test_draining_serves_who_was_admitted_and_nobody_else(
    worker: CaptionWorkers, pool: ThreadPoolExecutor, wait_for: Callable[..., None]
) -> None:
    go_on = threading.Event()

    def two_pictures() -> list[Any]:
        with worker.admit():
            jobs = [lambda captioner: go_on.wait(10), lambda captioner: "second"]
            return [result() for result in worker.run_all(jobs)]

    wait_for(lambda: worker.ready)
    accepted = pool.submit(two_pictures)
    wait_for(lambda: worker.taken)
    worker.drain()
    assert not worker.ready
    with pytest.raises(BusyError, match="being stopped"):
        upload(worker, lambda captioner: None)
    go_on.set()
    assert accepted.result() == [True, "second"]


def test_several_workers_work_at_the_same_time_each_with_its_own_captioner(
    three: CaptionWorkers,
) -> None:
    together = threading.Barrier(3, timeout=10)

    def job(captioner: Any) -> str:
        together.wait()
        return str(captioner.manifest["name"])

    with three.admit():
        found = [result() for result in three.run_all(6 * [job])]
    assert sorted(found) == ["0", "0", "1", "1", "2", "2"]


def test_results_are_in_order_and_errors_in_their_place(three: CaptionWorkers) -> None:
    ends = [threading.Event() for _ in range(9)]

    def job(number: int, captioner: Any) -> int:
        if number % 3 != 2:  # of each three, the last one ends first
            assert ends[number + 1].wait(10)
        ends[number].set()
        return 60 // (number - 4)

    found: list[Any] = []
    with three.admit():
        for result in three.run_all([partial(job, number) for number in range(9)]):
            try:
                found.append(result())
            except ZeroDivisionError:
                found.append("error")
    assert found == [60 // (n - 4) if n != 4 else "error" for n in range(9)]


def test_the_line_is_as_much_longer_as_there_are_workers(
    three: CaptionWorkers, pool: ThreadPoolExecutor, wait_for: Callable[..., None]
) -> None:
    go_on = threading.Event()
    waiting = [pool.submit(upload, three, lambda captioner: go_on.wait(10)) for _ in range(5)]
    wait_for(lambda: three.taken == 5)
    with pytest.raises(BusyError):
        upload(three, lambda captioner: None)
    go_on.set()
    assert all(future.result() for future in waiting)


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt(), MemoryError()])
def test_a_worker_outlives_what_a_job_raises(three: CaptionWorkers, error: BaseException) -> None:
    def job(captioner: Any) -> None:
        raise error

    for _ in range(6):
        with pytest.raises(type(error)):
            upload(three, job)
    assert upload(three, lambda captioner: "fine") == "fine"
