"""Checkpoints that are damaged behind the back of a run, and disks that are full, read-only, or gone."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from legs import Config, Run, Strike, kill_everything

from mvit_train.checkpoint import read_checkpoint

KEEP = ("checkpoints.keep=4",)


def half(file: Path, rng) -> None:
    os.truncate(file, rng.randrange(1, file.stat().st_size))


def empty(file: Path, rng) -> None:
    os.truncate(file, 0)


def overwritten(file: Path, rng) -> None:
    """A stretch of random bytes, somewhere."""
    size = file.stat().st_size
    length = rng.randrange(1, size)
    with file.open("r+b") as opened:
        opened.seek(rng.randrange(size - length))
        opened.write(rng.randbytes(length))


def one_bit(file: Path, rng) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def other(file: Path, rng) -> None:
    file.write_bytes(rng.randbytes(file.stat().st_size))


DAMAGES = (half, empty, overwritten, one_bit, other)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoints_are_left_out(run, ends_as_expected, ledger, rng, share, damage):
    """Of those that a killed leg leaves to go on from, some are damaged, up to all but one."""
    left = share(8)
    while left > 0:
        with ledger.run(f"damaged checkpoint: {damage.__name__}") as row:
            disturbed = run(Config(1, 0, KEEP))
            while left > 0 and not disturbed.complete:
                disturbed.leg(Strike("step", rng.randint(3, 5), kill_everything))
                files = [file for file in sorted(disturbed.checkpoints.glob("*.ckpt")) if file.name != "best.ckpt"]
                for file in rng.sample(files, rng.randint(0, min(len(files) - 1, left))):
                    damage(file, rng)
                    row.faults += 1
                    left -= 1
            ends_as_expected(disturbed)


def fill(place: Path, leave: int):
    """Takes all room of a disk but `leave` bytes."""

    def act() -> None:
        free = shutil.disk_usage(place).free
        (place / "filler").write_bytes(bytes(max(free - leave, 0)))

    return act


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_ends_the_run_and_once_there_is_room_it_goes_on(
    folder, disk, ends_as_expected, ledger, rng, share, processes
):
    left, numbers = share(8), itertools.count()
    places = itertools.cycle(["step", "stepped", "validation", "epoch end", "save"])
    while left > 0:
        with ledger.run(f"full disk: {processes} process{'es' * (processes > 1)}") as row:
            disturbed = Run(folder, disk, f"run{next(numbers)}", Config(processes, 0), notes=disk.parent)
            while left > 0 and not disturbed.complete:
                size = max((file.stat().st_size for file in disturbed.checkpoints.glob("*.ckpt")), default=500_000)
                codes = disturbed.leg(Strike(next(places), rng.randint(1, 3), fill(disk, rng.randrange(size))))
                (disk / "filler").unlink(missing_ok=True)
                if not disturbed.struck or set(codes) == {0}:
                    continue
                printed = disturbed.logs[-1].read_text()
                told = "make room, and the same command goes on" in printed or "No space left on device: '" in printed
                assert told, printed[-3000:]
                assert processes > 1 or "Traceback" not in printed
                assert not list(disturbed.checkpoints.glob(".*"))
                for file in disturbed.checkpoints.glob("*.ckpt"):
                    read_checkpoint(file)
                row.faults += 1
                left -= 1
            ends_as_expected(disturbed)
            shutil.rmtree(disturbed.folder)
