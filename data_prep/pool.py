"""Work over processes; a file that ends its process, or keeps it too long, is lost, and the run goes on."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from data_prep.probe import Probe, Task, probe

CRASHED = "its decoder crashed, or ran out of memory"
TIMEOUT_SEC = 120.0
READY = "ready"  # what a process sends first
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

T = TypeVar("T")
R = TypeVar("R")


def probe_all(tasks: Iterable[Task], workers: int, *, timeout_sec: float = TIMEOUT_SEC) -> Iterator[Probe]:
    """Results as they come. `workers` 0: in this process, where a crash of FFmpeg ends the run."""
    return run_all(probe, tasks, workers, timeout_sec=timeout_sec, lost=lost_probe)


def run_all(
    work: Callable[[T], R], tasks: Iterable[T], workers: int, *, timeout_sec: float, lost: Callable[[T, str], R]
) -> Generator[R, None, None]:
    """`work(task)` of every task, as they come; `lost(task, reason)` where the process of a task ended before it.

    A process ends at a crash, and where `timeout_sec` pass (0: any time may) since its task began or last called
    `still_working`. When nobody wants more results, tasks at work are lost too. What `work` raises is raised.
    `workers` 0: in this process, without a limit.
    """
    if workers == 0:
        yield from map(work, tasks)
        return
    waiting, idle, running = deque(tasks), [], dict[Connection, _Worker[T, R]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                worker = idle.pop() if idle else _Worker(work, timeout_sec)
                running[worker.connection] = worker
                worker.start(waiting.popleft())
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                worker = running[connection]
                outcome = worker.outcome()
                if outcome is None:
                    continue
                del running[connection]
                if isinstance(outcome, Ended):
                    yield lost(worker.task, outcome.reason)
                    continue
                idle.append(worker)
                yield outcome
    finally:
        for worker in [*idle, *running.values()]:
            worker.kill()
        for worker in running.values():
            worker.join()
            lost(worker.task, "interrupted")


def still_working() -> None:
    """Called by long tasks for every frame: the time limit is one of standing still."""
    if _limit_sec:
        signal.setitimer(signal.ITIMER_REAL, _limit_sec)


class Ended:
    """What is left of a process that did not finish its task."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Worker(Generic[T, R]):
    """A process that works on one task at a time, so that the one that ended it is known."""

    task: T

    def __init__(self, work: Callable[[T], R], timeout_sec: float) -> None:
        context = get_context("spawn")  # forking beside FFmpeg's threads can hang
        self._timeout_sec = timeout_sec
        self._is_ready = False
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work, timeout_sec), daemon=True)
        self._process.start()
        theirs.close()  # or the end of the process would not close the pipe

    def start(self, task: T) -> None:
        self.task = task
        with suppress(BrokenPipeError):  # it has ended meanwhile, which `outcome` will see
            self.connection.send(task)

    def outcome(self) -> "R | Ended | None":
        """What the process has sent, or what its end means; None: not done yet. Raises what `work` has raised."""
        try:
            found = self.connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            if not self._is_ready:
                raise RuntimeError(f"a process could not be started: exit code {self._process.exitcode}") from None
            timed_out = self._process.exitcode == -signal.SIGALRM
            return Ended(f"given up after {self._timeout_sec:g} s at a standstill" if timed_out else CRASHED)
        if isinstance(found, BaseException):
            raise found
        if not self._is_ready:
            assert found == READY
            self._is_ready = True
            return None
        return found

    def kill(self) -> None:
        self._process.kill()

    def join(self) -> None:
        self._process.join()


_limit_sec = 0.0  # of this process, if it is a worker


def _serve(connection: Connection, work: Callable[[T], R], timeout_sec: float) -> None:
    """What a process does until its parent is gone. Being interrupted is for the parent: it ends the children."""
    global _limit_sec
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is in
    _limit_sec = timeout_sec
    connection.send(READY)
    try:
        while True:
            task = connection.recv()
            still_working()
            try:
                outcome = work(task)
            except Exception as error:
                outcome = error
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(outcome)
    except (EOFError, ConnectionError):
        return


def lost_probe(task: Task, reason: str) -> Probe:
    return Probe(task.path, task.size, task.mtime_ns, task.verify, reason=reason)
