"""One reading process: its pipe, its tasks, and what it is reading."""

import contextlib
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, Protocol

import torch

CHECK_SEC = 1.0
NO_VIDEO = -1


class Place:
    """What a worker is reading and since when, in memory that its parent sees too."""

    def __init__(self, context: Any) -> None:
        self._shared = context.RawArray("d", [NO_VIDEO, 0.0])  # video index, time or 0 while there is nothing to do

    def begin(self, video: int = NO_VIDEO) -> None:
        self._shared[1] = time.monotonic()  # first: a new video with the old time could look overdue
        self._shared[0] = video

    def rest(self) -> None:
        self._shared[:] = NO_VIDEO, 0.0

    @property
    def video(self) -> int:
        return int(self._shared[0])

    @property
    def seconds(self) -> float:
        """Time spent on it so far."""
        since = self._shared[1]
        return time.monotonic() - since if since else 0.0


class WatchedDataset(Protocol):
    """A dataset that says which video it reads and reports those in `condemned` as unreadable instead."""

    condemned: dict[int, str]  # video index -> reason
    place: Place | None

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> Any: ...
    def name(self, video: int) -> str: ...


class Raised:
    """An exception on its way from a worker."""

    def __init__(self, error: Exception) -> None:
        self.error, self.trace = error, traceback.format_exc()


class Worker:
    """A process with its own pipe, so that its death cannot hold up others; `tasks` are those not yet answered."""

    def __init__(self, context: Any, dataset: WatchedDataset, collate: Callable) -> None:
        self.tasks: deque[tuple[int, Any]] = deque()
        self.place = Place(context)
        self.connection, remote = context.Pipe()
        self._parent = os.getpid()
        arguments = (remote, self.place, dataset, collate, self._parent)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        Finalize(self, self.process.kill, exitpriority=0)  # at its exit, Python would send SIGTERM and wait for ever
        remote.close()

    def give(self, task: tuple[int, Any], condemned: dict[int, str]) -> None:
        self.tasks.append(task)
        with contextlib.suppress(OSError):  # it died; whoever waits for the answer will notice
            self.connection.send((*task, condemned))

    def take(self) -> tuple[int, list[int], Any]:
        """The number of a task, the videos asked for, and their batch. EOFError or OSError: the process has died."""
        if not self.connection.poll():
            raise EOFError
        number, result = self.connection.recv()
        _, indices = self.tasks.popleft()
        return number, [index[1] if isinstance(index, tuple) else index for index in indices], result

    def cause_of_death(self) -> str:
        self.process.join(CHECK_SEC)
        code = self.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def end(self) -> None:
        if os.getpid() == self._parent:  # a forked worker holds copies of its parent's objects
            self.process.kill()
            self.process.join(CHECK_SEC)
            self.connection.close()


def work(connection: Connection, place: Place, dataset: WatchedDataset, collate: Callable, parent: int) -> None:
    """Answers tasks (number, indices, condemned videos) with (number, batch) until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # meant for the parent, which may
        signal.signal(number, signal.SIG_IGN)  # have to finish a step and save before it leaves
    torch.set_num_threads(1)
    dataset.place = place
    while True:
        while not connection.poll(CHECK_SEC):
            if os.getppid() != parent:
                return
        number, indices, dataset.condemned = connection.recv()
        result: Any
        try:
            items = []
            for index in indices:
                place.begin()
                items.append(dataset[index])
            place.begin()
            result = collate(items)
        except Exception as error:
            result = Raised(error)
        place.rest()
        connection.send((number, result))
