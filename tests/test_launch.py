"""Whatever befalls one of several processes, its cause is told first, and all of them end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvit_train.launch import num_to_start

START = """
import sys
from mvit_train import launch
launch.GRACE_SEC = 1.0
sys.exit(launch.start([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], 2))
"""
RANK = """
import os, signal, sys, time
from mvit_train import launch
launch.POLITE_SEC, rank = 0.5, int(os.environ["LOCAL_RANK"])
"""


def start(code, *arguments):
    """`launch.start` of a few lines in two processes."""
    command = [sys.executable, "-c", START, RANK + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(word):
    """Processes with this word in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in file.read_bytes() and "Z" not in (file.parent / "stat").read_text().split()[2]:
                found.append(int(file.parent.name))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]


def test_processes_know_their_places_and_a_status_of_0_needs_all():
    code = "place = [os.environ[name] for name in ('LOCAL_RANK', 'MASTER_ADDR', 'NODE_RANK')]\n"
    code += "os.write(1, f'{place} {os.environ[\"MASTER_PORT\"].isdigit()}\\n'.encode())"
    status, out, err = finish(start(code))
    assert (status, sorted(out.splitlines()), err) == (
        0,
        [f"['{rank}', '127.0.0.1', '0'] True" for rank in range(2)],
        "",
    )


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("sys.exit(3 * rank)", 3, ""),
        ("time.sleep(60 * (1 - rank)); sys.exit(3)", 3, "process 0 of 2 did not end and is killed"),
        ("rank and os.kill(os.getpid(), signal.SIGKILL)", 137, "process 1 of 2 was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSTOP) if rank else sys.exit(1)", 1, "process 1 of 2 did not end and is kille"),
    ],
)
def test_the_first_failure_decides_and_the_others_are_ended(code, status, message):
    found, _, err = finish(start(code))
    assert found == status
    assert message in err


def test_the_process_in_which_something_is_wrong_speaks_first():
    code = (
        "launch.leave(RuntimeError('gloo/pair.cc:1] Connection closed') if rank else IndexError('mine'), brief=False)"
    )
    status, _, err = finish(start(code))
    lines = err.splitlines()
    assert (status, lines[0]) == (1, "IndexError: mine")  # it was not raised, and so has no traceback
    assert lines[1:3] == [
        "mvit_train: process 0: failed, see above",
        "mvit_train: process 1 has lost the others: pair.cc:1] Connection closed",
    ]


def test_what_all_processes_find_alike_the_first_one_says_before_the_others():
    status, _, err = finish(start("launch.leave(ValueError(f'too many, says {rank}'), brief=True)"))
    assert status == 1
    assert err.splitlines()[0] == "mvit_train: process 0: too many, says 0"


def test_a_signal_reaches_processes_that_do_not_listen_yet(tmp_path):
    code = """
open(sys.argv[1] + str(rank), "w").close()
time.sleep(1)
signal.signal(signal.SIGUSR1, lambda *_: os._exit(5 * rank))
time.sleep(60)
"""
    process = start(code, tmp_path / "young")
    wait_until(lambda: (tmp_path / "young0").exists() and (tmp_path / "young1").exists())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such signal")
def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    code = "launch.follow_parent(); open(sys.argv[1] + str(rank), 'w').close(); time.sleep(60)"
    process = start(code, tmp_path / "ready")
    wait_until(lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists())
    process.kill()
    wait_until(lambda: not alive(str(tmp_path)))


def test_one_device_and_processes_that_others_have_started_start_none(monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    cpu = {"accelerator": "cpu", "num_nodes": 1}
    assert [num_to_start(cpu | {"devices": devices}) for devices in (1, "auto", 2)] == [0, 0, 2]
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert num_to_start(cpu | {"devices": 2}) == 0


FAULTY = """
import ctypes, os, signal, sys, time
from mvit_train import launch
from mvit_train.__main__ import main

FAULTS = {
    "raise": lambda: [][0],
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: ctypes.PyDLL(None).sleep(600),  # in a library that keeps the interpreter to itself
}

if __name__ == "__main__":
    kind, rank, folder, *arguments = sys.argv[1:]
    if launch.PARENT not in os.environ:
        sys.exit(launch.start([sys.executable, *sys.argv], 2))
    from mvit_train.module import VideoClassifier
    step = VideoClassifier.training_step

    def faulty(self, batch, batch_idx):
        if batch_idx == 1 and self.global_rank == int(rank):
            open(f"{folder}/{kind}", "w").close()
            FAULTS[kind]()
        return step(self, batch, batch_idx)

    VideoClassifier.training_step = faulty
    sys.exit(main(arguments))
"""
TINY = [
    *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "clip.num_frames=4", "clip.sampling_rate=2", "views=1x1"),
    *("clip.crop_size=32", "data.num_workers=1", "data.batch_size=1", "data.eval_batch_size=8", "logger.wandb=off"),
    *("trainer.accelerator=cpu", "trainer.devices=2", "optim.warmup_epochs=0", "trainer.timeout_minutes=0.25"),
]
LOST = " has lost the others: "


def test_a_process_that_fails_or_is_killed_or_stuck_ends_all_and_is_the_first_to_be_named(folder, tmp_path):
    """All at the same time, for most of it is starting."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    faults = {"raise": 1, "kill": 0, "hang": 1}
    runs, ends = {}, {}
    for kind, rank in faults.items():
        with (tmp_path / f"{kind}.err").open("w") as err:
            arguments = [*TINY, f"data.root={folder}", f"runs={tmp_path}", f"run_id={kind}"]
            command = [sys.executable, tmp_path / "faulty.py", kind, str(rank), tmp_path, *arguments]
            here = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
            runs[kind] = subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL, env=here, cwd=tmp_path)
    deadline = time.monotonic() + 400
    while len(ends) < len(runs):
        assert time.monotonic() < deadline, f"only {list(ends)} have ended"
        time.sleep(0.05)
        ends |= {kind: time.time() for kind, run in runs.items() if kind not in ends and run.poll() is not None}
    wait_until(lambda: not alive(str(tmp_path)))  # reading processes notice a little later

    said = {kind: (tmp_path / f"{kind}.err").read_text().splitlines() for kind in faults}
    said = {kind: [line for line in lines if not line.startswith("WARNING: ")] for kind, lines in said.items()}
    took = {kind: ends[kind] - (tmp_path / kind).stat().st_mtime for kind in faults}
    assert {kind: run.returncode for kind, run in runs.items()} == {"raise": 1, "kill": 137, "hang": 1}
    assert {kind for kind, seconds in took.items() if seconds > 60} == set(), took  # on a quiet machine 2 to 15

    lines = said["raise"]
    assert [line for line in lines if line.startswith("Traceback")] == lines[:1]
    assert lines[-3:-1] == ["IndexError: list index out of range", "mvit_train: process 1 of 2: failed, see above"]
    assert LOST in lines[-1]
    assert said["kill"][0] == "mvit_train: process 0 of 2 was killed by SIGKILL"
    assert len(said["kill"]) <= 2  # and the other, which has lost it
    lost = next(i for i, line in enumerate(said["hang"]) if LOST in line)
    stack = next(i for i, line in enumerate(said["hang"]) if "Timeout (" in line)
    assert abs(stack - lost) < 100
    assert any("faulty.py" in line and "<lambda>" in line for line in said["hang"][stack:])
