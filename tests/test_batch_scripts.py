"""conf/slurm/*.sbatch with stand-ins for Slurm's commands; tests/slurm runs them under a real one."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mvit_train.__main__ import main
from mvit_train.config import compose, conf_dir
from mvit_train.launch import LEFT
from mvit_train.preempt import Wish, say_farewell

ARRAY = {f"SLURM_ARRAY_TASK_{name}": value for name, value in (("ID", "4"), ("MIN", "3"), ("MAX", "6"), ("COUNT", "4"))}
STAND_INS = {
    # Notes its arguments. What runs on every node runs here; the model does what $LEAVE says instead.
    "srun": """
        printf '%s\\0' "$@" >> srun; printf '\\0' >> srun
        [[ $* != *--kill-on-bad-exit* ]] || { [[ -z $LEAVE ]] || echo "$LEAVE" > "$MVIT_TRAIN_LEFT"; exit "$STATUS"; }
        [[ $1 != --nodes=* ]] || exec "${@:4}"
        exit "$STATUS"
    """,
    "getent": """
        [[ $2 != known ]] || printf '%s STREAM known\n' 127.0.1.1 10.0.0.5 10.0.0.6
        [[ $2 != loop ]] || echo "127.0.1.1 STREAM loop"
        exit 2
    """,
    "scontrol": """
        case "$1 $2" in
            "show hostnames") printf '%s\\n' first second ;;
            "show node") echo "NodeName=first Arch=x86_64"; echo "   NodeAddr=$ADDRESS NodeHostName=first" ;;
            "show job") echo "JobId=7 JobName=a JobState=$STATE Reason=$REASON StartTime=2026-01-02T00:00:00" \\
                "PreemptEligibleTime=2026-01-02T00:00:00 PreemptTime=$PREEMPTED" ;;
            *) echo "$@" >> scontrol ;;
        esac
    """,
}


@pytest.fixture
def submit(tmp_path):
    """`submit("train.sbatch", arguments, VARIABLE=value, ...)` runs the script as the batch host would."""
    commands, work = tmp_path / "bin", tmp_path / "work"
    for folder in (commands, work):
        folder.mkdir()
    for name, text in STAND_INS.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (commands / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NODELIST": "n"}
    answers = {"LEAVE": "", "STATUS": "0", "STATE": "RUNNING", "REASON": "None", "PREEMPTED": "None", "ADDRESS": "::1"}
    ours = {"PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    other = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MVIT_", "MASTER_"))}

    def run(file, *arguments, **variables):
        return subprocess.run(
            ["bash", str(conf_dir() / "slurm" / file), *arguments],
            cwd=work,
            env=other | ours | job | answers | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    run.folder = work
    run.steps = lambda: [step.split("\0") for step in (work / "srun").read_text().split("\0\0")[:-1]]
    run.requeued = lambda: (work / "scontrol").exists()
    return run


def test_arguments_reach_the_command_line_as_they_are(submit):
    odd = ["name=a b", 'logger.notes="it\'s"', "data.root='$HOME/*'", "model.kv_stride=[1,8,8]", "run_id=", "a\\b"]
    assert submit("train.sbatch", *odd).returncode == 0
    (step,) = submit.steps()
    assert step[-len(odd) :] == odd
    ours = ["python", "-m", "mvit_train", "trainer.num_nodes=2", "trainer.devices=4", "task=train"]
    assert step[-len(odd) - 6 : -len(odd)] == ours
    submit("eval.sbatch", "ckpt=a b")
    assert submit.steps()[1][-2:] == ["task=evaluate", "ckpt=a b"]
    submit(
        "prepare.sbatch", "videos", "prepare", "--root", "a b", **ARRAY, SLURM_ARRAY_JOB_ID="9", SLURM_CPUS_PER_TASK="6"
    )
    expected = ["python", "-m", "data_prep.videos", "prepare", "--root", "a b", "--workers", "6", "--shard", "1/4"]
    assert submit.steps()[2] == expected


@pytest.mark.parametrize(
    ("end", "requeued", "status"),
    [
        ({}, False, 0),  # done
        ({"STATUS": "3"}, False, 3),  # failed
        ({"LEAVE": "REQUEUE"}, True, 0),  # SIGUSR1
        ({"LEAVE": "MISTAKE", "STATUS": "143"}, False, 2),  # srun has ended the other process first
        ({"LEAVE": "SAVE"}, False, 0),  # SIGTERM of a user
        ({"LEAVE": "SAVE", "PREEMPTED": "2026-01-03T00:00:00"}, True, 0),
        ({"LEAVE": "SAVE", "PREEMPTED": "2026-01-01T00:00:00"}, False, 0),  # an earlier start
        ({"STATUS": "143", "PREEMPTED": "2026-01-03T00:00:00"}, True, 0),  # while it started
        ({"STATUS": "0", "PREEMPTED": "2026-01-03T00:00:00"}, False, 0),  # done all the same
        ({"LEAVE": "SAVE", "STATE": "COMPLETING"}, False, 0),  # scancel; scontrol requeue, which Slurm does
        ({"LEAVE": "REQUEUE", "STATE": "COMPLETING"}, False, 0),
        ({"LEAVE": "SAVE", "STATE": "COMPLETING", "REASON": "TimeLimit"}, True, 0),
        ({"STATUS": "143", "STATE": "COMPLETING", "REASON": "TimeLimit"}, False, 143),  # nothing was saved
        ({"LEAVE": "REQUEUE", "SLURM_RESTART_COUNT": "99"}, True, 0),
        ({"LEAVE": "REQUEUE", "SLURM_RESTART_COUNT": "100"}, False, 1),
        ({"LEAVE": "REQUEUE", "SLURM_RESTART_COUNT": "2", "MAX_RESTARTS": "2"}, False, 1),
        ({"SLURM_RESTART_COUNT": "101"}, False, 1),  # where Slurm has requeued it
    ],
)
def test_a_job_comes_back_if_its_run_was_asked_to_leave_and_nobody_has_ended_it(submit, end, requeued, status):
    done = submit("train.sbatch", **end)
    assert (submit.requeued(), done.returncode) == (requeued, status), done.stderr
    assert ("MAX_RESTARTS=" in done.stderr) == (status == 1)
    if requeued:
        assert (submit.folder / "scontrol").read_text() == "requeue 7\n"
    assert not list(submit.folder.glob(".slurm-*"))


def test_an_interrupted_share_comes_back(submit):
    task = {**ARRAY, "SLURM_ARRAY_JOB_ID": "9"}
    assert submit("prepare.sbatch", "videos", "verify", STATUS="1", **task).returncode == 1
    assert not submit.requeued()
    assert submit("prepare.sbatch", "videos", "verify", STATUS="130", **task).returncode == 0
    assert submit.requeued()


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"ADDRESS": "10.1.2.3"}, "10.1.2.3"),
        ({"ADDRESS": "fd00::1"}, "fd00::1"),
        ({"ADDRESS": "known"}, "10.0.0.5"),  # its own name, for which a node has two addresses and a loop
        ({"ADDRESS": "loop", "MASTER_ADDR": "given"}, "given"),
        ({"ADDRESS": "unknown", "SLURM_JOB_NUM_NODES": "1"}, "127.0.0.1"),
    ],
)
def test_processes_meet_at_an_address_that_needs_no_name(submit, variables, address):
    assert f" processes, the first at {address}\n" in submit("train.sbatch", **variables).stdout


@pytest.mark.parametrize(
    ("file", "variables", "message"),
    [
        ("train.sbatch", {"SLURM_NTASKS": "7"}, "7 tasks are not 4 on each of 2 nodes"),
        ("train.sbatch", {"SLURM_GPUS_ON_NODE": "8"}, "8 GPUs for 4 processes on a node: give --ntasks-per-node=8"),
        ("train.sbatch", {"SLURM_GPUS_PER_TASK": "1"}, "give --gpus-per-node"),
        ("train.sbatch", {"MAX_RESTARTS": "many"}, "MAX_RESTARTS=many is not a number"),
        ("train.sbatch", {"STAGE": "/nowhere"}, "STAGE=/nowhere: no such folder or tar file"),
        ("train.sbatch", {"PYTHON": "false"}, "false has no mvit_train"),
        ("train.sbatch", {"ADDRESS": "loop"}, "the first of n has no address that others can reach: set MASTER_ADDR"),
        ("prepare.sbatch", {}, "this is for arrays"),
        ("prepare.sbatch", {**ARRAY, "SLURM_ARRAY_TASK_COUNT": "2"}, "--array must be one range"),
    ],
)
def test_what_cannot_work_ends_at_once_with_a_sentence(submit, file, variables, message):
    done = submit(file, "videos", **variables)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (submit.folder / "srun").exists()


@pytest.mark.parametrize("kind", ["a folder", "a tar file", "a tar file of a folder"])
def test_data_are_staged_once_on_each_node_and_removed(submit, tmp_path, kind):
    local, source = tmp_path / "local", tmp_path / "it's"
    local.mkdir()
    (source / "set").mkdir(parents=True)
    for name in ("train.csv", "val.csv"):
        (source / "set" / name).write_text("path,label\n/a.mp4,x\n")
    stage = source / "set"
    if kind != "a folder":
        stage = source / "set.tar.gz"
        with tarfile.open(stage, "w:gz") as tar:
            tar.add(source / "set", "set" if kind == "a tar file of a folder" else ".")
    done = submit("train.sbatch", STAGE=str(stage), TMPDIR=str(local))
    assert done.returncode == 0, done.stderr
    copied, step, removed = submit.steps()
    assert copied[:3] == removed[:3] == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    inside = "/set" if kind == "a tar file of a folder" else ""
    assert f"data.root='{local}/mvit_train-7{inside}'" in step
    assert compose(step[step.index("mvit_train") + 1 :]).data.root == f"{local}/mvit_train-7{inside}"
    assert "names videos by absolute paths" in done.stdout
    assert not list(local.iterdir())


def test_a_full_local_disk_is_told(submit, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("path,label\n")
    (tmp_path / "bin" / "cp").write_text("#!/bin/sh\necho 'cp: No space left on device' >&2\nexit 1\n")
    (tmp_path / "bin" / "cp").chmod(0o755)
    done = submit("train.sbatch", STAGE=str(tmp_path / "data"), TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert f"STAGE={tmp_path}/data does not get to {tmp_path}/mvit_train-7 on " in done.stderr
    assert "where are free: " in done.stderr
    assert not (tmp_path / "mvit_train-7.part").exists()


def test_a_run_tells_the_batch_script_what_it_left_for(tmp_path, monkeypatch):
    monkeypatch.setenv(LEFT, str(tmp_path / "left"))
    say_farewell(tmp_path, Wish.SAVE, "preempted at step 3")
    assert (tmp_path / "left").read_text() == "SAVE\n"
    assert not (tmp_path / "REQUEUE").exists()
    say_farewell(tmp_path, Wish.REQUEUE, "preempted at step 3")
    assert (tmp_path / "left").read_text() == "REQUEUE\n"


def test_a_mistake_in_the_settings_is_told_to_the_batch_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(LEFT, str(tmp_path / "left"))
    assert main(["optim.lr=abc"]) == 2
    assert "optim.lr = abc: must be float" in capsys.readouterr().err
    assert (tmp_path / "left").read_text() == "MISTAKE\n"
