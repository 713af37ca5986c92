"""What happens to jobs on a cluster: conf/slurm/*.sbatch under a real Slurm. `make test-slurm` runs it.

The scenarios run at the same time, as far as the nodes have room. Where something has to happen in the middle of a
training, its processes are stopped (SIGSTOP) until it has.
"""

import csv
import hashlib
import json
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from threading import Lock

import pytest
from torch import Tensor

from mvit_train.checkpoint import read_checkpoint
from mvit_train.data.motion import MotionVideos

TINY = (
    *("experiment=motion", "data.built_in.num_train=40", "data.built_in.num_val=20", "data.num_workers=1"),
    *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "model.dropout=0.3", "model.drop_path_rate=0.2"),
    *("clip.num_frames=4", "clip.sampling_rate=2", "views=1x1", "data.batch_size=2", "data.eval_batch_size=10"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "checkpoints.every_steps=1", "logger.wandb=off"),
)
LONG = ("trainer.max_epochs=100", "trainer.check_val_every_n_epoch=20", "checkpoints.every_steps=null")
ONE_BY_TWO, TWO_BY_TWO = ("--nodes=1", "--ntasks-per-node=2"), ("--nodes=2", "--ntasks-per-node=2")
TIMEOUT_SEC = 900
POLL_SEC = 0.3


def weights(run: Path) -> dict[str, Tensor]:
    """The last of a run, by name."""
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def digest(run: Path) -> str:
    """sha256 of the last weights of a run."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights(run).values())).hexdigest()


class Stage:
    """The lab, the videos, and a folder for each scenario, where it submits its jobs."""

    def __init__(self, lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        cache = folder / "cache"
        built_in = MotionVideos(num_train=40, num_val=20)
        self.videos = cache / built_in.folder_name
        built_in(self.videos)
        lab.variables["MVIT_TRAIN_CACHE"] = str(cache)
        self._lock, self._undisturbed = Lock(), dict[tuple[str, ...], Future]()

    def train(self, name: str, *arguments: str, flags: tuple[str, ...] = ONE_BY_TWO, **variables: str):
        """Submits a training; its run folder is `run_of(job)`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return self.lab.submit(folder, "train.sbatch", *TINY, *arguments, flags=("--time=30", *flags), **variables)

    def undisturbed(self, *arguments: str, flags: tuple[str, ...] = ONE_BY_TWO):
        """The job of such a training that has been left alone; the first caller waits for it."""
        with self._lock:
            key = (*arguments, *flags)
            mine = key not in self._undisturbed
            future = self._undisturbed.setdefault(key, Future())
        if mine:
            try:
                job = self.train(f"undisturbed-{len(self._undisturbed)}", *arguments, flags=flags)
                job.until_end(timeout_sec=TIMEOUT_SEC)
                future.set_result(job)
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result(TIMEOUT_SEC)


def run_of(job) -> Path:
    """The run folder of a training: its id is the job's."""
    return job.folder / "runs" / "motion" / job.number


def stop_in_training(job, step: int = 3) -> None:
    """Holds a training's processes once they have saved such a step, or one soon after it."""
    files = run_of(job) / "checkpoints"
    job.until(f"step {step}", lambda: any(int(file.stem[5:]) >= step for file in files.glob("step_*.ckpt")))
    job.kill(signal.SIGSTOP)


def assert_ended_like(job, undisturbed, *, restarts: int, within: float = 0.0) -> None:
    """It has come back so often, and ended with the weights of a job that was left alone."""
    job.until_end()
    assert job.restarts == restarts, str(job)
    assert (run_of(job) / "metrics.json").exists()
    if within:
        found, expected = weights(run_of(job)), weights(run_of(undisturbed))
        assert max(float((found[name] - expected[name]).abs().max()) for name in expected) <= within
    else:
        assert digest(run_of(job)) == digest(run_of(undisturbed)), str(job)


SCENARIOS: dict[str, Callable[[Stage], object]] = {}


def scenario(what: str):
    def register(play: Callable[[Stage], object]):
        SCENARIOS[what] = play
        return play

    return register


@scenario("time limit, SIGUSR1 before it")
def _(stage: Stage) -> None:
    job = stage.train("limit", flags=(*ONE_BY_TWO, "--time=4", "--signal=USR1@60"))
    stop_in_training(job)
    job.until("a restart", lambda: job.restarts == 1, 240)  # Slurm sends SIGCONT, too
    assert_ended_like(job, stage.undisturbed(), restarts=1)
    assert "slurm: requeued" in job.log
    assert "DUE TO TIME LIMIT" not in job.log


@scenario("time limit, nothing before it")
def _(stage: Stage) -> None:
    job = stage.train("late", flags=(*ONE_BY_TWO, "--time=3", "--signal=URG@1"))
    stop_in_training(job)
    end = datetime.fromisoformat(job.facts["EndTime"])
    while datetime.now() < end:  # the signal before it comes with SIGCONT
        job.kill(signal.SIGSTOP)
        time.sleep(POLL_SEC)
    job.until("a restart", lambda: job.restarts == 1)
    assert "DUE TO TIME LIMIT" in job.log
    assert_ended_like(job, stage.undisturbed(), restarts=1)


@scenario("left alone, 1x2")
def _(stage: Stage) -> None:
    job = stage.undisturbed()
    assert_ended_like(job, job, restarts=0)
    assert "1 x 2 processes, the first at 127.0.0.1" in job.log
    assert "4 clips per step" in job.log


@scenario("SIGUSR1, 1x2, W&B")
def _(stage: Stage) -> None:
    job = stage.train("usr1", "logger.wandb=offline")
    stop_in_training(job)
    job.ask("USR1")
    job.kill(signal.SIGCONT)
    assert_ended_like(job, stage.undisturbed(), restarts=1)
    starts = [line.partition(":")[2] for line in job.log.splitlines() if ", start " in line]
    assert [re.search(r"start (\d)", line)[1] for line in starts] == ["1", "2"]  # in one file
    legs = list((run_of(job) / "wandb" / "wandb").glob("offline-run-*")) or list(run_of(job).rglob("offline-run-*"))
    assert {leg.name.split("-", 3)[3] for leg in legs if leg.is_dir()} == {f"motion-{job.number}"}
    assert len([leg for leg in legs if leg.is_dir()]) == 2


@scenario("left alone, 2x2")
def _(stage: Stage) -> None:
    job = stage.undisturbed(flags=TWO_BY_TWO)
    assert_ended_like(job, job, restarts=0)
    assert "8 clips per step" in job.log


@scenario("SIGUSR1, 2x2")
def _(stage: Stage) -> None:
    job = stage.train("usr1-2x2", flags=TWO_BY_TWO)
    stop_in_training(job)
    job.ask("USR1")
    job.kill(signal.SIGCONT)
    # Each start of DDP orders its buckets anew after its first step; sums of more than two numbers depend on it.
    assert_ended_like(job, stage.undisturbed(flags=TWO_BY_TWO), restarts=1, within=1e-4)


@scenario("preempted, 60 s of grace")
def _(stage: Stage) -> None:
    job = stage.train("preempted", flags=(*ONE_BY_TWO, "--partition=grace", "--nodelist=p1"))
    stop_in_training(job)
    preempt(stage, job)
    assert "slurm: requeued" in job.log  # for Slurm would not have: the job left by itself
    assert_ended_like(job, stage.undisturbed(), restarts=1)


def preempt(stage: Stage, job) -> None:
    """A job of higher priority takes the node."""
    node = job.facts["NodeList"]
    stage.lab.run("sbatch", "-p", "high", "-w", node, "-n", "2", "--wrap", "true", cwd=stage.folder)
    job.until("a restart", lambda: job.restarts == 1)


@scenario("preempted, no grace")
def _(stage: Stage) -> None:
    job = stage.train("abrupt", flags=(*ONE_BY_TWO, "--partition=abrupt", "--nodelist=p2"))
    stop_in_training(job)
    preempt(stage, job)
    assert_ended_like(job, stage.undisturbed(), restarts=1)
    assert "slurm: requeued" not in job.log  # Slurm has


@scenario("scontrol requeue")
def _(stage: Stage) -> None:
    job = stage.train("requeue")
    stop_in_training(job)
    stage.lab.run("scontrol", "requeue", job.number)
    assert_ended_like(job, stage.undisturbed(), restarts=1)
    assert "preempted at step " in job.log  # it has saved


@scenario("scancel, then submitted again")
def _(stage: Stage) -> None:
    job = stage.train("cancelled")
    stop_in_training(job)
    stage.lab.run("scancel", job.number)
    job.until_end("CANCELLED")
    job.until("its processes gone", lambda: not job.processes)
    assert "preempted at step " in job.log
    assert job.restarts == 0
    again = stage.train("cancelled", f"run_id={job.number}")
    again.until_end()
    assert f"resuming from runs/motion/{job.number}/checkpoints/step_" in again.log
    assert digest(run_of(job)) == digest(run_of(stage.undisturbed()))


@scenario("a cap of one restart")
def _(stage: Stage) -> None:
    job = stage.train("cap", MAX_RESTARTS="1")
    for start in (1, 2):
        job.until_printed("clips per step", start)
        left_at = [int(step) for step in re.findall(r"preempted at step (\d+)", job.log)]
        stop_in_training(job, 2 + max(left_at, default=1))
        job.ask("USR1")
        job.kill(signal.SIGCONT)
    job.until_end("FAILED")
    assert job.restarts == 1
    assert "slurm: MAX_RESTARTS=1 is reached, not requeued" in job.log
    assert job.log.count("preempted at step ") == 2


@scenario("a process is killed")
def _(stage: Stage) -> None:
    job = stage.train("killed")
    stop_in_training(job)
    job.kill(signal.SIGKILL, "SLURM_PROCID=1")
    job.kill(signal.SIGCONT)
    job.until_end("FAILED", timeout_sec=60)
    assert job.restarts == 0


@scenario("a mistake in the settings")
def _(stage: Stage) -> None:
    job = stage.train("mistake", "optim.lr=abc", 'data.root="/no where/it\'s [a] $HOME *"')
    job.until_end("FAILED")
    assert (job.restarts, job.facts["ExitCode"]) == (0, "2:0")
    assert "data.root = /no where/it's [a] $HOME *: " in job.log
    assert "optim.lr = abc: must be float" in job.log


@scenario("evaluation, staged, preempted")
def _(stage: Stage) -> None:
    trained = stage.undisturbed()
    local = stage.folder / "local"
    local.mkdir()
    job = stage.lab.submit(
        trained.folder,
        "eval.sbatch",
        *(f"ckpt={run_of(trained)}", "frame_order=forward", "views=2x1"),
        flags=(*ONE_BY_TWO, "--partition=grace", "--nodelist=p3"),
        STAGE=str(stage.videos),
        TMPDIR=str(local),
    )
    job.until_printed("slurm: .* is at ")
    preempt(stage, job)
    job.until_end()
    assert job.restarts == 1
    metrics = json.loads((run_of(trained) / "evaluate-2x1-forward" / "metrics.json").read_text())
    assert metrics["videos"]["evaluated"] == 20
    assert f" is at {local}/mvit_train-{job.number} on " in job.log
    assert not list(local.iterdir())


@scenario("an array prepares videos")
def _(stage: Stage) -> None:
    source = stage.folder / "array" / "source"
    shutil.copytree(stage.videos / "val", source)
    job = stage.lab.submit(
        source.parent,
        "prepare.sbatch",
        *("videos", "prepare", "--root", str(source), "--out", "many", "--psnr", "0"),
        flags=("--array=3-5", "--cpus-per-task=1"),
    )
    job.until("its end", lambda: len(re.findall("JobState=COMPLETED", job.shown)) == 3)
    alone = stage.lab.run(
        *("srun", "-n1", "python", "-m", "data_prep.videos", "prepare", "--root", str(source)),
        *("--out", "one", "--psnr", "0", "--workers", "1"),
        cwd=source.parent,
    )
    assert "20 files" in alone
    assert rows(source.parent / "many") == rows(source.parent / "one")


def rows(out: Path) -> list[dict[str, str]]:
    """videos.csv without what depends on the clock, and without sizes: x264 does not always find the same bits."""
    with (out / "videos.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name not in ("bytes", "encode_sec")}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="session")
def plays(request: pytest.FixtureRequest, lab, tmp_path_factory) -> Iterator[dict[str, Future]]:
    """All scenarios that were asked for, under way."""
    wanted = [item.callspec.params["what"] for item in request.session.items if item.name.startswith("test_scenario[")]
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        stage = Stage(lab, tmp_path_factory.mktemp("jobs"))
        yield {what: pool.submit(timed, SCENARIOS[what], stage) for what in wanted}
        lab.stop()


def timed(play: Callable[[Stage], object], stage: Stage) -> float:
    begin = time.monotonic()
    play(stage)
    return time.monotonic() - begin


@pytest.mark.parametrize("what", SCENARIOS)
def test_scenario(what: str, plays: dict[str, Future], record_time) -> None:
    record_time(what, plays[what].result(TIMEOUT_SEC))


def test_many_requeues_end_as_if_undisturbed(request: pytest.FixtureRequest, lab, tmp_path, record_time) -> None:
    """`make test-slurm ARGS="--requeues 50"`: one job, each start of which is asked to leave at a random moment."""
    count, rng, begin = request.config.getoption("requeues"), random.Random(0), time.monotonic()
    if not count:
        pytest.skip("asked for by --requeues N")
    stage = Stage(lab, tmp_path)
    job = stage.train("requeues", *LONG, flags=(*ONE_BY_TWO, "--time=300"), MAX_RESTARTS=str(count))
    for start in range(1, count + 1):
        job.until_printed("clips per step", start, timeout_sec=300)
        time.sleep(rng.uniform(0, 0.5))
        for _ in range(rng.randint(1, 3)):
            job.ask("USR1")
        job.until("a restart", lambda start=start: job.restarts == start)
    undisturbed = stage.undisturbed(*LONG)
    job.until_end(timeout_sec=TIMEOUT_SEC)
    steps = re.findall(r"preempted at step (\d+)", job.log)
    print(f"left at the steps {', '.join(steps)}; {digest(run_of(job))[:16]} {digest(run_of(undisturbed))[:16]}")
    assert job.log.count("slurm: requeued") == count
    assert_ended_like(job, undisturbed, restarts=count)
    record_time(f"{count} requeues of one job", time.monotonic() - begin)
