"""Reading that goes wrong: workers are killed, decoders hang, a fifth of the videos is broken."""

import csv
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from legs import Config, Run, Strike, at_steps, kill_everything
from oracle import course

from mvit_train.data.decode import DecodedVideo
from mvit_train.data.sampler import EpochShuffle


def marks(disturbed: Run) -> int:
    """How many faults the processes of the last leg have written down."""
    return sum(len(file.read_text()) for file in disturbed.notes.glob(f"{disturbed.logs[-1].stem}.marks*"))


def kill_workers(disturbed: Run, seed: str, *, steadily: bool):
    """What a leg does to its own workers: kills one now and then, at steps or, steadily, at any time."""

    def settle(rank: int) -> None:
        rng = random.Random(f"{seed} {len(disturbed.logs)} {rank}")
        file = disturbed.notes / f"{disturbed.logs[-1].stem}.marks{rank}"

        def kill() -> None:
            workers = sorted(multiprocessing.active_children(), key=lambda worker: worker.pid or 0)
            if workers:
                rng.choice(workers).kill()
                with file.open("a") as opened:
                    opened.write("x")

        def now_and_then() -> None:
            while True:
                time.sleep(rng.uniform(1, 2))  # twice at one video would be its own fault
                kill()

        if steadily:
            threading.Thread(target=now_and_then, daemon=True).start()
        else:
            at_steps(lambda module, batch_idx: kill() if rng.random() < 0.4 else None)

    return settle


@pytest.mark.parametrize("steadily", [False, True], ids=["at steps", "at any time"])
@pytest.mark.parametrize("processes", [1, 2])
def test_workers_are_killed(run, ends_as_expected, ledger, request, share, processes, steadily):
    """The run goes on, without another leg."""
    config = Config(processes, 2, ("trainer.max_epochs=6",))
    left, seed = share(10), f"{request.config.getoption('--seed')} {request.node.name}"
    while left > 0:
        with ledger.run("a reading worker killed") as row:
            disturbed = run(config)
            disturbed.settle = kill_workers(disturbed, seed, steadily=steadily)
            seed += "+"
            assert disturbed.leg() == [0] * processes, disturbed.logs[-1].read_text()[-3000:]
            found = marks(disturbed)
            assert found or steadily
            row.faults += found
            left -= max(found, 1)
            ends_as_expected(disturbed)


def hang_at(disturbed: Run, names: set[str]):
    """Makes the decoder hang at some videos, deaf to all but SIGKILL."""

    def settle(rank: int) -> None:
        get_frames = DecodedVideo.get_frames

        def hang(self, times):
            if os.path.basename(os.path.dirname(self._path)) + "/" + self.name in names:
                with (disturbed.notes / f"{disturbed.logs[-1].stem}.marks{rank}").open("a") as file:
                    file.write("x")
                signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
                time.sleep(1000)
            return get_frames(self, times)

        DecodedVideo.get_frames = hang

    return settle


@pytest.mark.parametrize("processes", [1, 2])
def test_a_decoder_hangs_and_the_video_is_taken_for_unreadable(
    folder, tmp_path, run, expected, ends_as_expected, ledger, rng, share, processes
):
    """As if the file were empty; and so again in each leg of a run that is also killed."""
    more = ("data.timeout_sec=3", "module.max_unreadable=0.9")
    names = {f"{name}/{number}.mp4" for name, number in zip(("low", "high"), rng.sample(range(12), 2), strict=True)}
    videos = tmp_path / "videos"
    shutil.copytree(folder, videos)
    for name in names:
        (videos / name).write_bytes(b"")
    like = expected(Config(processes, 2, more), videos)
    left = share(6)
    while left > 0:
        with ledger.run("a decoder that hangs") as row:
            disturbed = run(Config(processes, 2, more))
            disturbed.settle = hang_at(disturbed, names)
            while not disturbed.complete:
                disturbed.leg(Strike("step", rng.randint(2, 6), kill_everything))
                row.faults += marks(disturbed)
                left -= max(marks(disturbed), 1)
            ends_as_expected(disturbed, like=like)


BROKEN = {
    "missing": lambda file, rng: file.unlink(),
    "empty": lambda file, rng: file.write_bytes(b""),
    "text": lambda file, rng: file.write_text("<html>404 Not Found</html>\n"),
    "random": lambda file, rng: file.write_bytes(rng.randbytes(5000)),
    "half": lambda file, rng: os.truncate(file, file.stat().st_size // 2),
}


@pytest.fixture
def broken_fifth(tmp_path, video, rng):
    """40 videos, 30 for training, and the manifest indices in each split of the fifth that is broken."""
    place, found = tmp_path / "videos", {}
    place.mkdir()
    for split, count in (("train", 30), ("val", 10)):
        found[split] = sorted(rng.sample(range(count), count // 5))
        rows = []
        for i in range(count):
            file = place / f"{split}{i}.mp4"
            shutil.copy(video("a.mp4", 20 + i % 12, first_index=i % 12), file)
            rows.append(f"{file.name},{'ab'[i % 2]}\n")
            if i in found[split]:
                rng.choice(list(BROKEN.values()))(file, rng)
        (place / f"{split}.csv").write_text("path,label\n" + "".join(rows))
    return place, found


def substitute(broken: set[int], count: int, epoch: int, asked: int) -> tuple[int, list[int]]:
    """The video that comes in place of the one asked for, and those that failed before it."""
    failed: list[int] = []
    for attempt in itertools.count():
        index = int(np.random.default_rng([0, epoch, asked, attempt]).integers(count)) if attempt else asked
        if index not in broken:
            return index, failed
        failed.append(index)
    raise AssertionError


@pytest.mark.parametrize("config", [Config(1, 0), Config(1, 2), Config(2, 2)], ids=str)
def test_a_fifth_of_the_videos_is_broken(broken_fifth, run, expected, ends_as_expected, ledger, rng, share, config):
    """The stream is the one that can be foretold, also across kills, and the accounts of it are right."""
    videos, broken = broken_fifth
    config = config._replace(more=("module.max_unreadable=0.5",))
    like, left = expected(config, videos), share(8)
    with ledger.run("broken videos, 20 %") as row:
        row.faults += len(broken["train"]) + len(broken["val"])
    while left > 0:
        with ledger.run("broken videos, 20 %, and kill -9") as row:
            disturbed = run(config, videos=videos)
            while left > 0 and not disturbed.complete:
                disturbed.leg(Strike("step", rng.randint(2, 8), kill_everything, rng.randrange(config.processes)))
                row.faults += disturbed.struck
                left -= disturbed.struck
            ends_as_expected(disturbed, like=like)
            check_accounts(disturbed, set(broken["train"]), len(broken["val"]))


def check_accounts(finished: Run, broken: set[int], failed: int) -> None:
    """What the run says it has replaced is what it had to replace."""
    counts, named = [], set()
    for rank, steps in enumerate(course(finished).steps):
        batch_size = 4 // finished.config.processes
        sampler = EpochShuffle(30, batch_size=batch_size, seed=0, rank=rank, world_size=finished.config.processes)
        counts.append(0)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            asked = [index for _, index in sampler]
            for step in range(len(asked) // batch_size):
                batch = [substitute(broken, 30, epoch, i) for i in asked[step * batch_size :][:batch_size]]
                assert steps[f"{epoch}.{step}"][0] == [index for index, _ in batch]
                counts[-1] += sum(len(missed) for _, missed in batch)
                named |= {f"train{index}.mp4" for _, missed in batch for index in missed}
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert {entry["video"] for entry in metrics["substituted"]} == named
    assert metrics["videos"]["failed"] == failed
    rows = list(csv.DictReader((finished.folder / "metrics.csv").open()))
    assert [float(row["train/substituted"]) for row in rows if row["train/substituted"]][-1] == counts[0]
