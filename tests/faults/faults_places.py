"""The place where a run lives is changed under its feet, or the number of its processes from one leg to the next."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from legs import TIMEOUT_SEC, Config, Run, Strike, kill_everything, signals
from oracle import weights


@pytest.mark.parametrize("processes", [1, 2])
def test_the_run_folder_is_removed(run, ends_as_expected, ledger, rng, share, processes):
    """The run says so and ends; there is nothing left to go on with, so that the same command begins anew."""
    for _ in range(share(3)):
        with ledger.run("run folder removed") as row:
            disturbed = run(Config(processes, 0))

            def remove(folder: Path = disturbed.folder) -> None:
                shutil.rmtree(folder)

            codes = disturbed.leg(Strike(rng.choice(["step", "stepped", "validation"]), rng.randint(1, 3), remove))
            assert codes[0] == 1, codes
            assert f"{disturbed.checkpoints} is gone" in disturbed.logs[-1].read_text()
            row.faults += 1
            for file in disturbed.streams:
                file.unlink()
            ends_as_expected(disturbed)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_disk_becomes_read_only(folder, disk, ends_as_expected, ledger, rng, share, processes):
    def remount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)

    for number in range(share(3)):
        with ledger.run("disk becomes read-only") as row:
            disturbed = Run(folder, disk, f"run{number}", Config(processes, 0), notes=disk.parent)
            place = rng.choice(["step", "stepped", "validation", "epoch end"])
            try:
                codes = disturbed.leg(Strike(place, rng.randint(1, 2), lambda: remount("ro")))
            finally:
                remount("rw")
            assert codes[0] == 1, codes
            printed = disturbed.logs[-1].read_text()
            assert "cannot be written: Read-only file system" in printed, printed[-3000:]
            row.faults += 1
            ends_as_expected(disturbed)
            shutil.rmtree(disturbed.folder)  # there is no room for several


CHANGES = {
    "1 to 2": (Config(1, 2), Config(2, 0), 4),
    "2 to 1": (Config(2, 0), Config(1, 2), 4),
    "1 to 2, twice the clips": (Config(1, 0), Config(2, 2, ("data.batch_size=4",)), 8),
    "2 to 1, half the clips": (Config(2, 2), Config(1, 0, ("data.batch_size=2",)), 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_killed_run_goes_on_with_another_number_of_processes(run, ledger, rng, share, name):
    """No video comes twice, and less than a batch over all processes is left out, at the end."""
    before, after, batch = CHANGES[name]
    for _ in range(share(2)):
        with ledger.run("kill -9, then another number of processes") as row:
            first = run(before)
            killed = rng.randint(2, 4)
            assert -signal.SIGKILL in first.leg(Strike("step", killed, kill_everything))
            row.faults += 1
            second = first.continued(after)
            assert second.leg() == [0] * after.processes, second.logs[-1].read_text()[-3000:]
            lines = [json.loads(line) for file in second.streams for line in file.read_text().splitlines()]
            seen = [video for place, videos, _ in lines if place[0] == "0" for video in videos]
            assert len(seen) == len(set(seen)), sorted(seen)
            assert 18 - len(seen) < (2 * batch if batch > 4 else batch), sorted(seen)  # twice: docs/resume.md


def test_the_command_line_survives_storms_from_its_first_moment(folder, tmp_path, run, ledger, rng, share):
    """Processes of their own, of which one starts the other: while Python imports, trains, saves, evaluates."""
    config = Config(2, 2)
    whole = run(config)
    assert whole.leg() == [0, 0]
    expected, left, number = weights(whole.checkpoints / "last.ckpt"), share(8), 0
    while left > 0:
        number += 1
        with ledger.run("storm of signals: command line, from its start") as row:
            disturbed = Run(folder, tmp_path, f"line{number}", config)
            calm = False
            while not disturbed.complete:
                calm = left <= 0
                with (tmp_path / f"line{number}.log").open("a") as log:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "mvit_train", *disturbed.arguments],
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                if not calm:
                    time.sleep(rng.choice([rng.uniform(0, 2), rng.uniform(2, 12)]))
                    for signal_number in signals(rng):
                        if process.poll() is None:
                            os.killpg(process.pid, signal_number)
                        time.sleep(rng.uniform(0, 0.1))
                    row.faults += 1
                    left -= 1
                try:
                    code = process.wait(TIMEOUT_SEC)
                finally:
                    kill_group(process.pid)
                assert not calm or code == 0
                assert code in (0, -signal.SIGTERM, -signal.SIGUSR1, -signal.SIGKILL), code
            assert weights(disturbed.checkpoints / "last.ckpt") == expected


def kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
