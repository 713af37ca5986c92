"""Probing over processes; a file that kills its process is a broken file, not the end of the run."""

import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from data_prep.probe import Probe, Task, probe

CRASHED = "its decoder crashed, or ran out of memory"


def probe_all(tasks: Iterable[Task], workers: int) -> Iterator[Probe]:
    """Results as they come. `workers` 0: in this process, where a crash of FFmpeg ends the run."""
    if workers == 0:
        yield from map(probe, tasks)
        return
    waiting = deque(tasks)
    while waiting:
        running: dict[Future[Probe], Task] = {}
        with _executor(min(workers, len(waiting))) as executor:
            try:
                while waiting or running:
                    while waiting and len(running) < 4 * workers:
                        running[executor.submit(probe, waiting[0])] = waiting[0]
                        waiting.popleft()
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        result = future.result()
                        del running[future]
                        yield result
                running.clear()
            except BrokenProcessPool:
                pass  # those at work then, one of which is to blame
            except BaseException:  # an interruption, or nobody wants more: what waits is left to the next run
                executor.shutdown(wait=False, cancel_futures=True)
                raise
        for task in running.values():
            yield _probe_alone(task)


def _probe_alone(task: Task) -> Probe:
    with _executor(1) as executor:
        try:
            return executor.submit(probe, task).result()
        except BrokenProcessPool:
            return Probe(task.path, task.size, task.mtime_ns, task.verify, reason=CRASHED)


def _executor(workers: int) -> ProcessPoolExecutor:
    # Forking beside FFmpeg's threads can hang. Ctrl-C is for the parent: it ends the children.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=signal.signal, initargs=ignore)
