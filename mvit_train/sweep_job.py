"""A job of a sweep: one command line in a process of its own, so that a crash of one loses no other.

This file runs wherever Hydra's launcher takes it, on another machine too. It imports nothing that takes time: before
`run` listens, a signal of the cluster ends the job.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DONE = "done"
LEFT = "MVIT_TRAIN_LEFT"  # as in mvit_train.launch
FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
POLL_SEC = 0.2
REPEAT_SEC = 5.0  # a signal is repeated until the run has left: one that comes while it starts is lost
CLUSTER_ENDS_SEC = 900.0  # so long after a SIGTERM of Slurm the job waits for Slurm to end it


@dataclass(frozen=True)
class Job:
    """Args:
    number: from 0 on.
    swept: what tells it from the other jobs, such as ["optim.lr=1e-3", "seed=0"].
    overrides: the whole command line.
    run_dir: the run folder.
    """

    number: int
    swept: list[str]
    overrides: list[str]
    run_dir: Path


@dataclass
class Jobs:
    """All jobs of a sweep, called by Hydra's launcher with {"job": number}, once for each.

    Writes `outcome_file`, DONE if the run did what it was asked to. Where the launcher is submitit and the run has left
    to be started again, submitit queues the job again.
    """

    folder: Path
    jobs: list[Job]
    flags: list[str]
    stopped: bool = field(default=False, init=False)  # by a signal, all jobs of this process

    def __call__(self, cfg: Any) -> None:
        if self.stopped:
            return
        job = self.jobs[cfg.job]
        print(f"\njob {job.number + 1} of {len(self.jobs)}: {' '.join(job.swept) or 'nothing varies'}", flush=True)
        left = self.folder / f"job_{job.number}.left"
        if _rank() == 0:
            left.unlink(missing_ok=True)
        status, asked = run(["-m", "mvit_train", *self.flags, *job.overrides], {LEFT: str(left.resolve())})
        if _rank() != 0:
            return
        outcome = DONE if status == 0 else f"failed, exit status {status}"
        wish = left.read_text().strip() if left.exists() else ""
        left.unlink(missing_ok=True)
        if wish in ("SAVE", "REQUEUE"):
            outcome = f"saved and left{self._leave(wish)}"
        elif status != 0 and signal.SIGTERM in asked:
            outcome = f"ended by SIGTERM{self._leave('SAVE')}"
        outcome_file(self.folder, job).write_text(outcome + "\n", encoding="utf-8")

    def _leave(self, wish: str) -> str:
        """What follows when a signal has ended the run; if it comes to its end, what there is to say about it."""
        executor = os.environ.get("SUBMITIT_EXECUTOR")
        self.stopped = executor is None  # submitit would take it along into the next leg
        if executor and wish == "REQUEUE":
            return f"; {_requeue()}"
        if executor == "slurm":
            # Preempted or cancelled? Slurm alone knows, and queues the job again only if it has to end it.
            time.sleep(CLUSTER_ENDS_SEC)
        return ""


def run(arguments: list[str], variables: dict[str, str]) -> tuple[int, list[int]]:
    """Runs Python with these arguments and environment variables. Returns its exit status, or minus the number of a
    signal that has killed it, and the signals that were passed on to it."""
    asked: list[int] = []
    earlier = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in FORWARDED}
    try:
        command, environment = [sys.executable, *arguments], os.environ | variables
        with subprocess.Popen(command, env=environment, preexec_fn=_ignore_requests) as process:
            try:
                return _wait(process, asked), asked
            except KeyboardInterrupt:
                process.terminate()  # Ctrl-C in a terminal has reached it, kill -INT has not
                process.wait()
                raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _wait(process: subprocess.Popen, asked: list[int]) -> int:
    next_time = 0.0
    while process.poll() is None:
        if asked and time.monotonic() >= next_time:
            process.send_signal(asked[-1])
            next_time = time.monotonic() + REPEAT_SEC
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SEC)
    return process.returncode


def outcome_file(folder: Path, job: Job) -> Path:
    """How it ended, in words; missing while it has not."""
    return folder / f"job_{job.number}.txt"


def _ignore_requests() -> None:
    """In the child, until it has its own handlers: the cluster signals every process, and an interpreter that starts
    would be killed. SIGTERM ends it: there is nothing to save yet."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _requeue() -> str:
    """Has submitit queue the job again, which ends this process; or returns why it does not."""
    import submitit
    from submitit.core.utils import UncompletedJobError

    try:  # its handler, which `run` has put off until everything is saved
        signal.raise_signal(signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"])
    except UncompletedJobError as error:
        return str(error)
    return "submitit has no handler"


def _rank() -> int:
    """Of this process among those of its job."""
    names = ("SUBMITIT_LOCAL_GLOBALID", "SLURM_PROCID") if os.environ.get("SUBMITIT_EXECUTOR") else ()
    return int(next((os.environ[name] for name in names if name in os.environ), "0"))
