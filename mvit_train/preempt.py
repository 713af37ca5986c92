"""Preemption: a cluster asks by a signal, the processes of a run agree at a step, save and leave.

A handler only remembers the signal. A collective inside a handler runs at whatever point each process happens to be,
and deadlocks.
"""

import os
import signal
import threading
from collections.abc import Sequence
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed

from mvit_train.launch import tell_batch_script

REQUEUE = "REQUEUE"
"""The file in the run folder that asks the batch script to queue the job again; the next start removes it."""


class Preempted(Exception):  # noqa: N818 - no error
    """The run has been asked to leave, and everything that it needs to go on is on the disk."""


class Wish(IntEnum):
    """What the signals so far ask for."""

    NOTHING = 0
    SAVE = 1  # and leave
    REQUEUE = 2  # save, leave, and be started again


class Listener:
    """Remembers the signals that arrive while it is entered. Afterwards the earlier handlers are back; but if one has
    arrived, further ones are ignored, for the process is about to end.

    Args:
        save_on, requeue_on: names of signals, such as SIGTERM. ValueError for one that this system does not have.
    """

    def __init__(self, save_on: Sequence[str], requeue_on: Sequence[str]) -> None:
        names = dict.fromkeys(save_on, Wish.SAVE) | dict.fromkeys(requeue_on, Wish.REQUEUE)
        if unknown := [name for name in names if name not in signal.Signals.__members__ or name in UNCATCHABLE]:
            raise ValueError(f"checkpoints: {unknown[0]} is no signal that can be caught; such are SIGUSR1 and SIGTERM")
        self._wishes = {signal.Signals[name]: wish for name, wish in names.items()}
        self._earlier: dict[signal.Signals, Any] = {}
        self.wish = Wish.NOTHING

    def __enter__(self) -> Self:
        self._process = os.getpid()
        self._earlier = {number: signal.getsignal(number) for number in self._wishes}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            if threading.current_thread() is threading.main_thread():
                signal.signal(number, signal.SIG_IGN if self.wish else handler)

    def install(self) -> None:
        """Puts the handlers in place, over those that others have installed since."""
        if threading.current_thread() is threading.main_thread():  # others may not
            for number in self._wishes:
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: Any) -> None:
        if os.getpid() == self._process:  # not in a forked worker that has not yet set its own
            self.wish = max(self.wish, self._wishes[signal.Signals(number)])


UNCATCHABLE = ("SIGKILL", "SIGSTOP")


class Votes:
    """The largest of what the processes of a run say, by an all-reduce on the CPU.

    The answer to a vote is read at the next one, a step later, so that nobody waits for it and no GPU is involved.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None

    def open(self, timeout: timedelta | None = None) -> None:
        """Collective: a group of its own, whose calls cannot mix with those of the gradients.

        timeout: the longest wait for the others; None: PyTorch's.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    @property
    def group(self) -> Any:
        """The process group on the CPU; None for a run of one process."""
        return self._group

    def next(self, values: Sequence[int]) -> list[int]:
        """Collective: hands in values and returns the largest of the last time; of one process, its own of now."""
        if self._group is None:
            return list(values)
        answer = self.settle() or [0] * len(values)
        self._hand_in(values)
        return answer

    def now(self, values: Sequence[int]) -> list[int]:
        """Collective: the largest of these values and of those that are still under way."""
        if self._group is None:
            return list(values)
        earlier = self.settle() or [0] * len(values)
        self._hand_in(values)
        return [max(pair) for pair in zip(earlier, self.settle(), strict=True)]

    def settle(self) -> list[int]:
        """Waits for the vote under way; empty if there is none."""
        if self._pending is None:
            return []
        work, values = self._pending
        self._pending = None
        work.wait()
        return values.tolist()

    def _hand_in(self, values: Sequence[int]) -> None:
        tensor = torch.tensor(values, dtype=torch.int64)
        work = torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = work, tensor


def say_farewell(run_dir: Path, wish: int, sentence: str) -> None:
    """Tells the batch script that the run leaves unfinished, and whether it is to be started again."""
    if wish == Wish.REQUEUE:
        (run_dir / REQUEUE).write_text(f"{sentence}\n", encoding="utf-8")
    tell_batch_script(Wish(wish).name)
