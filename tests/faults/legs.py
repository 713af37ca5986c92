"""Runs in legs: each start of a run is forked from a process that has imported everything, and is watched.

A leg has a process group of its own: its processes, their reading workers and W&B's service. What it prints goes to a
file. A leg that has not ended in time is a hang: its stacks are printed into that file, and it is killed.
"""

import contextlib
import faulthandler
import io
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Trainer

import mvit_train.train
from mvit_train.__main__ import main
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.module import VideoClassifier
from mvit_train.resume import Checkpoints

BUSY = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # how much slower than a machine without other work
TIMEOUT_SEC, REAP_SEC = 120.0 * BUSY, 30.0 * BUSY
TINY = [
    *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "model.dropout=0.3", "model.drop_path_rate=0.2"),
    *("clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "views=1x1", "data.eval_batch_size=4"),
    *("augment.mixup.mixup_alpha=0.8", "module.ema_decay=0.5", "optim.lr=1e-3", "optim.lr_batch=4"),
    *("optim.warmup_epochs=1", "logger.wandb=off", "checkpoints.every_steps=1", "trainer.max_epochs=3"),
    *("trainer.log_every_n_steps=1", "trainer.accelerator=cpu"),
]
"""With the videos of the fixture `folder`: 3 epochs of 4 steps of 4 clips, over all processes."""


class HangError(AssertionError):
    """A leg did not end in time."""


class Config(NamedTuple):
    """What decides the course of a run, beside chance."""

    processes: int = 1
    workers: int = 0
    more: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        shares = [f"trainer.devices={self.processes}", f"data.batch_size={4 // self.processes}"]
        return [*TINY, *shares, f"data.num_workers={self.workers}", *self.more]


class Strike(NamedTuple):
    """Something that happens within a leg, at the `number`-th time that process `rank` comes to a place, if it does."""

    place: str
    number: int
    action: Callable[[], None]
    rank: int = 0


def kill_everything() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def signals(rng: random.Random) -> list[signal.Signals]:
    """What a storm consists of."""
    return rng.choices([signal.SIGUSR1, signal.SIGTERM], k=rng.randint(1, 12))


def storm(rng: random.Random) -> Callable[[], None]:
    """Sends signals to all processes of the group."""
    numbers = signals(rng)

    def send() -> None:
        for number in numbers:
            os.killpg(os.getpgrp(), number)

    return send


class Run:
    """A run folder, and the legs that write it.

    Args:
        notes: folder for what is recorded of the run; by default `runs`.
    """

    def __init__(self, videos: Path, runs: Path, run_id: str, config: Config, notes: Path | None = None) -> None:
        self.videos, self.runs, self.run_id, self.config, self.notes = videos, runs, run_id, config, notes or runs
        self.arguments = [*config.arguments(), f"data.root={videos}", f"runs={runs}", f"run_id={run_id}"]
        self.folder = runs / "motion" / run_id
        self.streams = [self.notes / f"{run_id}.rank{rank}.jsonl" for rank in range(config.processes)]
        self.logs: list[Path] = []
        self.settle: Callable[[int], None] | None = None
        """Called in each process of each leg before anything else, with its rank."""

    def continued(self, config: Config) -> "Run":
        """The same run, whose next legs are configured in another way."""
        other = Run(self.videos, self.runs, self.run_id, config, self.notes)
        other.logs, other.streams = list(self.logs), max(self.streams, other.streams, key=len)
        return other

    def start(self, strike: Strike | None = None, *more: str) -> "Leg":
        log = self.notes / f"{self.run_id}.leg{len(self.logs)}.log"
        self.logs.append(log)
        return Leg(self, strike, [*self.arguments, *more], log)

    def leg(self, strike: Strike | None = None, *more: str) -> list[int]:
        """Starts a leg, waits for its end, and returns the exit codes of its processes."""
        return self.start(strike, *more).wait()

    @property
    def struck(self) -> bool:
        """Whether the last leg has come to the place of its strike."""
        return self.logs[-1].with_suffix(".struck").exists()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def complete(self) -> bool:
        """Whether the evaluation that ends a run has been written."""
        return (self.folder / "metrics.json").exists()


class Leg:
    """The processes of one start of a run."""

    def __init__(self, run: Run, strike: Strike | None, arguments: list[str], log: Path) -> None:
        self.log, port = log, free_port()
        self.reaped = False
        self.processes: list[Any] = []
        for rank in range(run.config.processes):
            given = (run, strike, arguments, log, rank, port, self.processes[0].pid if rank else None)
            process = multiprocessing.get_context("fork").Process(target=work, args=given)
            process.start()
            self.processes.append(process)
        self.group = self.processes[0].pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, number)

    @property
    def running(self) -> bool:
        return any(process.exitcode is None for process in self.processes)

    def wait(self, timeout_sec: float = TIMEOUT_SEC) -> list[int]:
        """The exit codes, once all processes have ended; nothing of the leg is left then.

        When one has failed, the others have `REAP_SEC` to end by themselves, until they are killed as srun would do.
        """
        try:
            self._watch(time.monotonic() + timeout_sec)
            if hung := self.running and not self.reaped:
                for process in self.processes:
                    os.kill(process.pid, signal.SIGRTMIN)  # prints the stacks
                time.sleep(1)
        finally:
            self.kill()
            for process in self.processes:
                process.kill()
                process.join()
        if hung:
            raise HangError(f"no end within {timeout_sec:g} s: {self.log}\n{self.log.read_text()[-6000:]}")
        return [process.exitcode for process in self.processes]

    def _watch(self, end: float) -> None:
        """Until nothing runs any more, or that is not to be waited for."""
        while self.running and time.monotonic() < end and not self.reaped:
            time.sleep(0.02)
            if any(process.exitcode for process in self.processes):
                reap = time.monotonic() + REAP_SEC
                while self.running and time.monotonic() < reap:
                    time.sleep(0.02)
                self.reaped = self.running


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def work(
    run: Run, strike: Strike | None, arguments: list[str], log: Path, rank: int, port: int, group: int | None
) -> None:
    """One process of a leg, from its fork to its end."""
    try:
        os.setpgid(0, group or 0)
    except PermissionError:  # the first is gone already, and so is the group
        os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as `python -m mvit_train` does at once
    faulthandler.disable()
    faulthandler.register(signal.SIGRTMIN, file=2, all_threads=True)
    logging.getLogger().handlers.clear()
    if run.config.processes > 1:
        world = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": run.config.processes, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in world.items()} | {"MASTER_ADDR": "127.0.0.1"}
    record_steps(run.streams[rank])
    if run.settle is not None:
        run.settle(rank)
    if strike is not None and strike.rank == rank:
        PLACES[strike.place](strike._replace(action=lambda: (log.with_suffix(".struck").touch(), strike.action())))
    code = main(arguments)
    sys.stdout.flush()
    sys.exit(code)


def record_steps(file: Path) -> None:
    """Writes a line for each training step: its epoch and batch, the videos, the loss."""
    step = VideoClassifier.training_step

    def recorded(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        line = [f"{self.current_epoch}.{batch_idx}", batch["video_index"].tolist(), float(loss)]
        with file.open("a") as opened:
            opened.write(json.dumps(line) + "\n")
        return loss

    VideoClassifier.training_step = recorded


def find_children(name: str) -> list[int]:
    """Processes below this one whose command line holds a name."""
    found, parents = [], {os.getpid()}
    stats = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    for pid in stats:
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if parent in parents:
                parents.add(pid)
                found += [pid] * (name in Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:  # it has ended
            continue
    return found


def at(owner: Any, name: str, *, after: bool = False) -> Callable[[Strike], None]:
    """Makes a strike fall when a function is called, or when it is done."""

    def install(strike: Strike) -> None:
        function, count = getattr(owner, name), 0

        def struck(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == strike.number and not after:
                strike.action()
            result = function(*args, **kwargs)
            if count == strike.number and after:
                strike.action()
            return result

        setattr(owner, name, struck)

    return install


def within_a_save(strike: Strike) -> None:
    """The strike falls when half of a checkpoint is in the file."""
    save, count = torch.save, 0

    def struck(content: Any, file: Any, **arguments: Any) -> None:
        nonlocal count
        save(content, file, **arguments)
        count += isinstance(file, io.BufferedWriter)  # what processes tell each other is saved, too
        if count == strike.number and isinstance(file, io.BufferedWriter):
            count += 1
            file.flush()
            os.ftruncate(file.fileno(), file.tell() // 2)
            strike.action()
            file.truncate(0)
            file.seek(0)
            save(content, file)

    torch.save = struck


def at_steps(action: Callable[[Any, int], None]) -> None:
    """Calls `action(module, batch_idx)` before each training step."""
    step = VideoClassifier.training_step

    def acting(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        action(self, batch_idx)
        return step(self, batch, batch_idx)

    VideoClassifier.training_step = acting


PLACES: dict[str, Callable[[Strike], None]] = {
    "start": at(mvit_train.train, "run_folder"),
    "fit": at(Trainer, "fit"),
    "loaders": at(VideoDataModule, "train_dataloader"),
    "first": at(Checkpoints, "on_train_start"),
    "step": at(VideoClassifier, "training_step"),
    "stepped": at(Checkpoints, "on_train_batch_end", after=True),
    "validation": at(VideoClassifier, "validation_step"),
    "validated": at(VideoClassifier, "on_validation_epoch_end", after=True),
    "epoch": at(Checkpoints, "on_train_epoch_start"),
    "epoch end": at(Checkpoints, "on_train_epoch_end"),
    "save": within_a_save,
    "rename": at(os, "replace"),
    "renamed": at(os, "replace", after=True),
    "evaluation": at(VideoClassifier, "test_step"),
}
"""Where a strike may fall."""
ONCE = ("start", "fit", "loaders", "first", "evaluation")
"""Places that a leg comes to once."""
