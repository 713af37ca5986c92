"""`-m`: a run for each combination of values, wherever Hydra's launcher starts it."""

import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from tiny import TINY

from mvit_train import launch, preempt, sweep, sweep_job
from mvit_train.__main__ import main
from mvit_train.checkpoint import read_checkpoint
from mvit_train.sweep import combinations, parse, plan, reserve, run_name
from mvit_train.sweep_job import Job, Jobs, outcome_file

SETTINGS = [*TINY, "trainer.max_epochs=1"]

pytestmark = pytest.mark.usefixtures("own_environment")


def command_line(*arguments, cwd):
    """A sweep in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "mvit_train", "-m", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


def last_weights(run_dir):
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("optim.lr=1e-3,5e-4", ["optim.lr=0.001", "optim.lr=0.0005"]),
        ("seed=range(3)", ["seed=0", "seed=1", "seed=2"]),
        ("model.kv_stride=[1,4,4],[1,8,8]", ["model.kv_stride=[1,4,4]", "model.kv_stride=[1,8,8]"]),
        ("weights=null,'a b.pth'", ["weights=null", "weights='a b.pth'"]),
        ("experiment=glob(k400_mvit_b*)", [f"experiment=k400_mvit_b{size}" for size in ("", "_32x3", "_64x3")]),
        ("model.kv_stride=[1,4,4]", ["model.kv_stride=[1,4,4]"]),
        ("not an override", ["not an override"]),
    ],
)
def test_an_override_with_several_values_becomes_one_for_each(line, values):
    _, found, mistakes = parse([line])
    assert ([text for text, _ in found[0]], mistakes) == (values, [])
    assert all(varies == (len(values) > 1) for _, varies in found[0])


def test_every_combination_is_a_job_with_a_run_folder_that_tells_its_values():
    _, values, _ = parse(["experiment=motion", "optim.lr=1e-3,5e-4", "seed=0,1"])
    cfgs = [SimpleNamespace(runs="runs", name="motion", logger={"group": None})] * 4
    jobs = list(plan(values, cfgs, "pilot"))
    assert [job.run_dir.as_posix() for job in jobs] == [
        f"runs/motion/pilot-lr_{lr}-seed_{seed}" for lr in ("0.001", "0.0005") for seed in (0, 1)
    ]
    own = ["run_id=pilot-lr_0.0005-seed_0", "logger.group=pilot"]
    assert jobs[2].overrides == ["experiment=motion", "optim.lr=0.0005", "seed=0", *own]
    assert len(combinations(values)) == 4


def test_a_group_that_was_asked_for_is_kept():
    cfg = SimpleNamespace(runs="runs", name="motion", logger={"group": "mine"})
    assert next(plan([[("seed=0", False)]], [cfg], "pilot")).overrides == ["seed=0", "run_id=pilot"]


@pytest.mark.parametrize(
    ("swept", "name"),
    [
        ([], "s"),
        (["optim.lr=0.001", "seed=1"], "s-lr_0.001-seed_1"),
        (["model.kv_stride=[1,4,4]"], "s-kv_stride_1_4_4"),
        (["a.lr=1", "b.lr=2"], "s-a.lr_1-b.lr_2"),
        (["+model.pool=max"], "s-pool_max"),
        (["weights='../a b/c=d.pth'"], "s-weights_.._a_b_c_d.pth"),
    ],
)
def test_a_run_id_is_a_word_that_any_shell_and_override_takes_as_it_is(swept, name):
    assert run_name("s", swept) == name
    assert shlex.quote(name) == name
    assert parse([f"run_id={name}"])[1] == [[(f"run_id={name}", False)]]


def test_run_ids_that_look_alike_are_numbered_and_long_ones_cut():
    values = [[(f"notes={'x' * 300} {c}", True) for c in "abc"]]
    jobs = list(plan(values, [SimpleNamespace(runs="r", name="n", logger={"group": ""})] * 3, "s"))
    names = [job.run_dir.name for job in jobs]
    assert len(set(names)) == 3
    assert max(map(len, names)) < 128 - len("k400_mvit_v2_s-")


def test_sweeps_that_start_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "20261123-120000")
    folders = [reserve(tmp_path / "sweeps", None) for _ in range(3)]
    assert [folder.name for folder in folders] == ["20261123-120000", "20261123-120000-2", "20261123-120000-3"]
    assert reserve(tmp_path / "sweeps", "pilot") == reserve(tmp_path / "sweeps", "pilot")


def test_every_mistake_of_every_job_is_told_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mistakes = ["optim.lr=1e-3,abc", "model.foo=1", "run_id=a/b", "hydra.launcher.bar=1", "module.seed=interval(0,3)"]
    assert main(["-m", "seed=0,1", *mistakes]) == 2
    told = capsys.readouterr().err
    assert "5 mistakes" in told
    for text in ("optim.lr = abc: must be float", "no argument foo", "run_id = a/b: names a sweep", "Key 'bar'"):
        assert told.count(text) == 1
    assert "module.seed=interval(0,3): name the values" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "text"), [(["--cfg", "job"], "one run"), (["run_id=a,b"], "names a sweep")])
def test_what_makes_no_sense_for_several_runs_is_refused(arguments, text, capsys):
    assert main(["--multirun", "seed=0,1", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_a_launcher_that_is_not_installed_is_named_with_what_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: None)
    assert main(["-m", "seed=0,1", "hydra/launcher=submitit_slurm"]) == 2
    assert "pip install 'mvit_train[slurm]'" in capsys.readouterr().err


def test_a_job_that_fails_loses_no_other_and_the_others_are_ordinary_runs(folder, tmp_path):
    (tmp_path / "broken.pth").write_text("no weights")
    arguments = [*SETTINGS, f"data.root={folder}", "run_id=pilot", "logger.wandb=offline"]
    done = command_line(*arguments, "weights=broken.pth,null", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    head, failed, score = done.stdout.splitlines()[-3:]
    run_dir = tmp_path / "runs" / "motion" / "pilot-weights_null"
    metrics = json.loads((run_dir / "metrics.json").read_text())
    low, high = metrics["intervals"]["forward"]["top1"]
    assert head == "sweep pilot: 1 of 2 jobs done"
    assert failed.split()[:5] == ["weights=broken.pth", "failed,", "exit", "status", "1"]
    assert score.split()[0] == "weights=null"
    assert f"top-1 {metrics['orders']['forward']['top1']:5.1f} % [{low:.1f}, {high:.1f}]" in score
    assert score.endswith("  runs/motion/pilot-weights_null")
    assert "compare:" not in done.stdout  # there is one
    assert "group: pilot" in (run_dir / "config.yaml").read_text()
    assert main([*SETTINGS, f"data.root={folder}", f"runs={tmp_path}", "run_id=alone"]) == 0
    alone = last_weights(tmp_path / "motion" / "alone")
    assert all(torch.equal(alone[key], value) for key, value in last_weights(run_dir).items())


def test_jobs_run_side_by_side_and_the_command_that_compares_them_works(folder, tmp_path, monkeypatch, capsys):
    arguments = [*SETTINGS, f"data.root={folder}", "hydra/launcher=submitit_local", "seed=0,1"]
    done = command_line(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    (sweep_dir,) = (tmp_path / "runs" / "sweeps").iterdir()
    runs = [f"runs/motion/{sweep_dir.name}-seed_{seed}" for seed in (0, 1)]
    assert len(list(sweep_dir.glob("logs/*/*_log.out"))) == 2
    *rows, compare, _ = done.stdout.splitlines()[-4:]
    assert [row.split()[-1] for row in rows] == runs
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(compare)[4:]) == 0
    assert all(run in capsys.readouterr().out for run in runs[:1])
    assert sweep.main([f"runs/sweeps/{sweep_dir.name}"]) == 0
    assert capsys.readouterr().out.splitlines() == done.stdout.splitlines()[-5:]


def test_the_result_so_far_names_jobs_that_have_none(tmp_path, capsys):
    assert sweep.main([str(tmp_path)]) == 2
    assert "no folder of a sweep" in capsys.readouterr().err
    jobs = [Job(i, [f"seed={i}"], [], tmp_path / str(i)) for i in range(2)]
    sweep._save(jobs, tmp_path)
    outcome_file(tmp_path, jobs[0]).write_text("done\n")
    assert "1 of 2 jobs done" in sweep.result(tmp_path)
    assert "seed=1  no result" in sweep.result(tmp_path)
    sweep._save(jobs, tmp_path)  # the same sweep once more
    assert "0 of 2 jobs done" in sweep.result(tmp_path)


class OutOfOrder(Launcher):
    """Stands in for one whose cluster is down."""

    def setup(self, **_):
        pass

    def launch(self, job_overrides, initial_job_idx):
        raise RuntimeError("sbatch: error: no contact")


def test_a_launcher_that_gives_up_is_told_and_is_a_failure(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: OutOfOrder())
    assert main(["-m", *SETTINGS, f"data.root={folder}", f"runs={tmp_path}", "seed=0,1"]) == 1
    told = capsys.readouterr()
    assert "the launcher gave up: sbatch: error: no contact" in told.err
    assert told.out.count("no result") == 2


# What a job does when a signal comes. tests/slurm/test_sweep.py has the same with a real Slurm.


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path, [Job(i, [f"seed={i}"], [f"seed={i}"], tmp_path / f"run{i}") for i in range(2)], [])


@pytest.fixture
def run(monkeypatch):
    """`run(status, wish, asked)`: how the next run ends; the fixture's list has the runs that were started."""
    started = []

    def ends(status=0, wish=None, asked=()):
        def fake(arguments, variables):
            started.append(arguments)
            if wish:
                Path(variables[launch.LEFT]).write_text(f"{wish}\n")
            return status, list(asked)

        monkeypatch.setattr(sweep_job, "run", fake)
        return started

    return ends


def outcome(jobs, number):
    file = outcome_file(jobs.folder, jobs.jobs[number])
    return file.read_text().strip() if file.exists() else None


def test_what_a_run_leaves_for_is_read_where_it_is_written():
    assert sweep_job.LEFT == launch.LEFT
    assert {wish.name for wish in preempt.Wish} == {"NOTHING", "SAVE", "REQUEUE"}


@pytest.mark.parametrize(
    ("end", "text"),
    [
        ({"wish": "SAVE"}, "saved and left"),
        ({"wish": "REQUEUE"}, "saved and left"),
        ({"status": -15, "asked": [signal.SIGTERM]}, "ended by SIGTERM"),
    ],
)
def test_here_a_signal_ends_the_sweep_and_not_only_the_job(jobs, run, end, text):
    started = run(**end)
    for number in (0, 1):
        jobs(SimpleNamespace(job=number))
    assert len(started) == 1
    assert (outcome(jobs, 0), outcome(jobs, 1)) == (text, None)


def test_a_signal_that_comes_too_late_changes_nothing(jobs, run):
    started = run(asked=[signal.SIGUSR2])
    for number in (0, 1):
        jobs(SimpleNamespace(job=number))
    assert len(started) == 2
    assert (outcome(jobs, 0), outcome(jobs, 1)) == ("done", "done")


def test_submitit_queues_a_job_again_once_everything_is_saved(jobs, run, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    run(wish="REQUEUE")

    def submitits(number, frame):  # its handler writes the job to disk once more, requeues it, and exits
        assert not list(jobs.folder.glob("*.txt"))
        jobs.again = pickle.dumps(jobs)
        sys.exit(-1)

    earlier = signal.signal(signal.SIGUSR2, submitits)
    try:
        with pytest.raises(SystemExit):
            jobs(SimpleNamespace(job=0))
    finally:
        signal.signal(signal.SIGUSR2, earlier)
    started = run()
    pickle.loads(jobs.again)(SimpleNamespace(job=0))
    assert started[-1][-1] == "seed=0"
    assert outcome(jobs, 0) == "done"


def test_submitit_that_has_requeued_often_enough_makes_it_a_failure(jobs, run, monkeypatch):
    from submitit.core.utils import UncompletedJobError

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    run(wish="REQUEUE")

    def submitits(number, frame):
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    earlier = signal.signal(signal.SIGUSR2, submitits)
    try:
        jobs(SimpleNamespace(job=0))
    finally:
        signal.signal(signal.SIGUSR2, earlier)
    assert outcome(jobs, 0) == "saved and left; Job not requeued because: timed-out too many times."


@pytest.mark.parametrize("end", [{"wish": "SAVE"}, {"status": -15, "asked": [signal.SIGTERM]}])
def test_after_sigterm_slurm_decides_what_becomes_of_the_job(jobs, run, monkeypatch, end):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_PROCID", "0")
    run(**end)
    jobs(SimpleNamespace(job=0))
    assert slept == [sweep_job.CLUSTER_ENDS_SEC]


def test_only_the_first_process_of_a_job_speaks_for_it(jobs, run, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_PROCID", "1")
    run(status=1)
    jobs(SimpleNamespace(job=0))
    assert outcome(jobs, 0) is None


LISTENS_LATE = """
import signal, sys, time
time.sleep(0.5)
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))
time.sleep(30)
"""


def test_a_signal_is_passed_on_until_the_run_has_heard_it(monkeypatch):
    monkeypatch.setattr(sweep_job, "REPEAT_SEC", 0.3)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    earlier = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGUSR2))
    before = signal.getsignal(signal.SIGUSR2)
    try:
        assert sweep_job.run(["-c", LISTENS_LATE], {}) == (7, [signal.SIGUSR2])
    finally:
        signal.signal(signal.SIGALRM, earlier)
    assert signal.getsignal(signal.SIGUSR2) == before
