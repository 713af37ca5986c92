"""Several processes on this machine, one for each device: started, watched, and ended together.

`start` is the parent, which trains nothing: whatever befalls one of the processes, it ends the others. Under torchrun
or srun, which do this themselves, it is not used. `leave` is how each process says what has befallen it.
"""

import ctypes
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from mvit_train.redaction import clean

PARENT = "MVIT_TRAIN_PARENT"
"""The environment variable with the process id of `start`, for the processes that it has started."""
LEFT = "MVIT_TRAIN_LEFT"
"""The environment variable by which a batch script names a file, where it finds what the run left for."""

GRACE_SEC = 10.0  # for the others to end by themselves once one has failed: to print, and to close W&B
POLL_SEC = 0.1
AGAIN_SEC = 1.0  # a request that a process was still too young to hear is heard again
POLITE_SEC = 2.0  # for the process that all others depend on to be the first to speak
PASSED_ON = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def num_to_start(trainer: Mapping[str, Any]) -> int:
    """Processes that this one has to start here for the trainer of a configuration; 0: it is the only one, or was
    started together with the others by torchrun, srun or `start`."""
    from lightning import Trainer

    keys = ("accelerator", "devices", "num_nodes")
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    found = Trainer(**{key: trainer[key] for key in keys if key in trainer}, **quiet)
    if found.num_devices * found.num_nodes == 1:
        return 0
    environment = found._accelerator_connector.cluster_environment
    return 0 if environment.creates_processes_externally else found.num_devices


def start(command: Sequence[str], num_processes: int, signals: Sequence[str] = PASSED_ON) -> int:
    """Runs the command in so many processes and returns the status of the first that failed, 0 if none did.

    Once one has failed, the others have `GRACE_SEC` to end, then they are killed. Signals, named, are passed on. The
    processes learn their place as from `torchrun`, and are killed if this one is.
    """
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    environment = place | os.environ | {PARENT: str(os.getpid())}
    earlier = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, signals)}
    for number in earlier:
        signal.signal(number, signal.SIG_IGN)  # which the processes inherit until they have handlers of their own
    try:
        ranks = [
            subprocess.Popen(command, env=environment | {"LOCAL_RANK": str(rank)}) for rank in range(num_processes)
        ]
        return _Watched(ranks, earlier).status()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Watched:
    """The processes, by rank on this machine."""

    def __init__(self, ranks: Sequence[subprocess.Popen], signals: Iterable[signal.Signals]) -> None:
        self.ranks = ranks
        self.asked: set[int] = set()
        for number in signals:
            signal.signal(number, lambda number, frame: self.asked.add(number))

    def status(self) -> int:
        """Waits until all have ended."""
        failed, last_asked = None, 0.0
        while any(rank.poll() is None for rank in self.ranks):
            try:
                time.sleep(POLL_SEC)
                if self.asked and time.monotonic() - last_asked > AGAIN_SEC:
                    last_asked = time.monotonic()
                    self._send(*self.asked)
                failed = failed or self._first_to_fail()
                if failed and time.monotonic() > failed[1] + GRACE_SEC:
                    self._kill()
            except KeyboardInterrupt:  # from a terminal the others have it too; from elsewhere they hear it now
                self._send(*([] if sys.stdin and sys.stdin.isatty() else [signal.SIGINT]))
                failed = failed or (130, time.monotonic())
        return (failed or self._first_to_fail() or (0,))[0]

    def _first_to_fail(self) -> tuple[int, float] | None:
        for rank, process in enumerate(self.ranks):
            if process.poll():
                code = process.returncode
                if code < 0:
                    name, size = signal.Signals(-code).name, len(self.ranks)
                    print(f"mvit_train: process {rank} of {size} was killed by {name}", file=sys.stderr, flush=True)
                return (128 - code if code < 0 else code), time.monotonic()
        return None

    def _kill(self) -> None:
        for rank, process in enumerate(self.ranks):
            if process.poll() is None:
                print(f"mvit_train: process {rank} of {len(self.ranks)} did not end and is killed", file=sys.stderr)
                process.kill()
                process.wait()

    def _send(self, *numbers: int) -> None:
        for process in self.ranks:
            for number in numbers:
                with suppress(ProcessLookupError):
                    process.send_signal(number)


def follow_parent() -> None:
    """In a process of `start`: from now on the end of the parent is its end, too (on Linux)."""
    parent = int(os.environ.get(PARENT, 0))
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def one_of_several() -> bool:
    """Whether this process was started together with others, or has met them."""
    return PARENT in os.environ or place() is not None


def place() -> tuple[int, int] | None:
    """(rank, number) of this process among those that train together; None: it is alone, or they have not met."""
    distributed = sys.modules.get("torch.distributed")  # not imported here: those who have met have done it
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    found = distributed.get_rank(), distributed.get_world_size()
    return found if found[1] > 1 else None


def tell_batch_script(word: str) -> None:
    """Says to the batch script, if there is one, what this run leaves for: SAVE or REQUEUE, as a `preempt.Wish` is
    named, or MISTAKE for one in the settings, whose exit status srun may hide behind that of a process it has ended."""
    if file := os.environ.get(LEFT):
        Path(file).write_text(f"{word}\n", encoding="utf-8")


def leave(error: Exception, *, brief: bool) -> NoReturn:
    """Ends one process of several because of an error, at once and without waiting for the others.

    The process in which something is wrong speaks first, with its traceback, or the sentence alone where that is meant
    for the user (`brief`). Those that have only lost the others say so in one line.
    """
    faulthandler.cancel_dump_traceback_later()
    rank, size = place() or (int(os.environ.get("LOCAL_RANK", 0)), None)
    name = f"mvit_train: process {rank} of {size}" if size else f"mvit_train: process {rank}"
    if lost_the_others(error):
        time.sleep(POLITE_SEC)
        why = str(error).splitlines()[0].partition(" This is typically")[0].rpartition("/")[2]
        print(f"{name} has lost the others: {why}", file=sys.stderr)
    else:
        if rank and (brief or not size):  # what every process has found in the same way is for the first to say
            time.sleep(POLITE_SEC)
        trace = "" if brief else "".join(traceback.format_exception(error))
        print(clean(f"{trace}{name}: {error if brief else 'failed, see above'}"), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # a normal exit would wait for collectives and threads


def lost_the_others(error: BaseException) -> bool:
    """Whether an error tells of other processes, and not of this one: a connection that was closed, a timeout."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo/", "[Gloo]", "NCCL"))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]
