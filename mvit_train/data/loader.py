"""Reading in worker processes that may hang or die: a DataLoader whose stream of batches survives them.

torch's own DataLoader ends the training when a worker is lost, in the middle of whatever the main process does, and
waits for ever for one that hangs. FFmpeg is C code fed with files from the internet: both happen.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.util import get_temp_dir
from typing import Any, cast

import torch
import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset, Sampler

from mvit_train.data.sampler import EpochShuffle
from mvit_train.data.worker import CHECK_SEC, NO_VIDEO, Raised, WatchedDataset, Worker

log = logging.getLogger(__name__)

MAX_UNEXPLAINED = 3  # losses in a row, none of them at a video


class ResilientLoader(DataLoader):
    """A DataLoader whose worker processes may be lost.

    A worker that spends more than `timeout_sec` on a video is killed, and the video condemned: from then on the dataset
    treats it as unreadable. If a worker dies, its batches are read again by a new one, for the cause may lie elsewhere;
    a video at which two workers in a row died is condemned. The batches are those of a run without losses in the same
    order, but for condemned videos. Without workers nothing is watched.

    Its state says which batch of which epoch comes next. Lightning keeps it in checkpoints; the next iteration after it
    was loaded begins there, without reading what lies before. With an `EpochShuffle` it may come from another number of
    processes or another batch size: the epoch goes on with the videos that were not taken.
    """

    def __init__(
        self,
        dataset: WatchedDataset,
        *,
        batch_size: int,
        sampler: Sampler,
        collate_fn: Callable,
        num_workers: int,
        timeout_sec: float,
        pin_memory: bool = False,
        persistent_workers: bool = False,
    ) -> None:
        super().__init__(
            cast(Dataset, dataset),
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate_fn,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
        )
        self.timeout_sec = timeout_sec
        self._watched = dataset
        self.num_lost = 0  # workers
        self.waited_sec = 0.0  # in all, by whoever iterates, for the next batch
        self._given = 0  # batches of the present epoch that were handed out
        self._resume: dict[str, Any] | None = None
        self._workers: list[Worker] = []
        self._deaths: Counter[int] = Counter()  # by video

    def __iter__(self) -> Any:
        return self._counted()

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the batches of it that were handed out, and what makes them the same batches again."""
        return {**self._identity(), "batches": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resume = state

    def _identity(self) -> dict[str, Any]:
        epoch, step_size = getattr(self.sampler, "epoch", 0), getattr(self.sampler, "step_size", self.batch_size)
        return {"epoch": epoch, "of": len(self), "videos": len(self._watched), "step_size": step_size}

    def _counted(self) -> Iterator[Any]:
        first = self._first_batch()
        batches = self._batches(first) if self.num_workers else self._read_here(first)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited_sec += time.perf_counter() - began
            if batch is None:
                return
            self._given = first = first + 1
            yield batch

    def _first_batch(self) -> int:
        """Where to begin: 0 but for the first iteration after a state was loaded."""
        state, self._resume = self._resume, None
        here = self._identity()
        if state is None or state["epoch"] != here["epoch"] or state["batches"] >= state["of"]:
            return 0
        if state["videos"] != here["videos"]:
            raise ValueError(
                f"the checkpoint was written {state['batches']} batches into an epoch of {state['of']}, with "
                f"{state['videos']} videos; here an epoch has {here['videos']}. Go on with the same data, or start "
                "anew from the weights: weights=FILE"
            )
        if isinstance(self.sampler, EpochShuffle):
            return self.sampler.go_on(state["epoch"], state["batches"] * state["step_size"])
        return state["batches"]

    def _read_here(self, first: int) -> Iterator[Any]:
        for indices in islice(self.batch_sampler or (), first, None):
            yield self._pinned(self.collate_fn([self._watched[index] for index in indices]))

    def __del__(self) -> None:
        self._stop()

    def _batches(self, first: int) -> Iterator[Any]:
        self._stop(unless_idle=True)
        get_temp_dir()  # known before the workers start, it is theirs, too, and goes with this process
        while len(self._workers) < self.num_workers:
            self._workers.append(self._start())
        tasks = islice(enumerate(self.batch_sampler or ()), first, None)
        done: dict[int, Any] = {}
        try:
            for number in range(first, len(self)):
                waiting = len(done) + sum(len(worker.tasks) for worker in self._workers)
                room = self.num_workers * (self.prefetch_factor or 2) - waiting
                for _, task in zip(range(room), tasks, strict=False):
                    min(self._workers, key=lambda worker: len(worker.tasks)).give(task, self._watched.condemned)
                while number not in done:
                    done |= self._receive()
                yield self._unpack(done.pop(number))
        finally:
            if not self.persistent_workers:
                self._stop()

    def _start(self) -> Worker:
        context: Any = self.multiprocessing_context or torch.multiprocessing.get_context()
        return Worker(context, self._watched, self.collate_fn)

    def _stop(self, *, unless_idle: bool = False) -> None:
        """Ends the workers; with `unless_idle` only those that an abandoned iteration left at work."""
        for worker in list(getattr(self, "_workers", ())):
            if not unless_idle or worker.tasks or not worker.process.is_alive():
                worker.end()
                self._workers.remove(worker)

    def _receive(self) -> dict[int, Any]:
        """Batches that have come in, none if nothing has happened for a while. Replaces lost workers."""
        busy = [worker for worker in self._workers if worker.tasks]
        ready = wait([worker.connection for worker in busy] + [worker.process.sentinel for worker in busy], CHECK_SEC)
        done = {}
        for worker in busy:
            if worker.connection in ready or worker.process.sentinel in ready:
                try:
                    number, videos, batch = worker.take()
                    done[number] = batch
                    for video in (NO_VIDEO, *videos):
                        del self._deaths[video]
                except (EOFError, OSError):  # it died, before or while handing over
                    self._replace(worker, f"the process that read it died ({worker.cause_of_death()})", hung=False)
            elif worker.place.seconds > self.timeout_sec:
                self._replace(worker, f"could not be read within {self.timeout_sec:g} s", hung=True)
        return done

    def _replace(self, worker: Worker, reason: str, *, hung: bool) -> None:
        video = worker.place.video
        worker.end()
        self.num_lost += 1
        self._deaths[video] += 1
        if video == NO_VIDEO:
            log.warning("a reading process was lost while it read no video: %s", reason)
            if self._deaths[video] > MAX_UNEXPLAINED:
                raise RuntimeError(
                    f"{self._deaths[video]} reading processes were lost while they read no video: {reason}. Too little "
                    "memory, or shared memory (/dev/shm), would explain it; try a smaller data.num_workers"
                )
        elif hung or self._deaths[video] > 1:
            self._watched.condemned[video] = reason
        else:
            log.warning("%s: %s; reading it again", self._watched.name(video), reason)
        new = self._workers[self._workers.index(worker)] = self._start()
        for task in worker.tasks:
            new.give(task, self._watched.condemned)

    def _unpack(self, result: Any) -> Any:
        if isinstance(result, Raised):
            result.error.add_note(f"raised in a reading process:\n{result.trace}")
            raise result.error
        return self._pinned(result)

    def _pinned(self, batch: Any) -> Any:
        if not self.pin_memory:
            return batch
        if isinstance(batch, torch.Tensor):
            return batch.pin_memory()
        if isinstance(batch, dict):
            return {key: self._pinned(value) for key, value in batch.items()}
        return [self._pinned(value) for value in batch] if isinstance(batch, list) else batch
