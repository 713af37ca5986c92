"""`make faults`: faults by kind, as many as asked for, and what became of the runs that met them."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from legs import Config, HangError, Run
from oracle import Course, check, course, no_video_twice

DEFAULT = 260
"""Faults of the whole suite; each test is given its share."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="of all that is random in the faults")
    parser.addoption("--faults", type=int, default=DEFAULT, help="how many, over all kinds, more or less")


@dataclass
class Row:
    """What became of the faults of a kind."""

    faults: int = 0
    runs: int = 0
    exact: int = 0
    hangs: int = 0
    seconds: float = 0.0


class Ledger:
    """The table at the end."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.hashes: list[str] = []

    def compare(self, *cells: object) -> None:
        """A row of the table of hashes: processes, workers, where, uninterrupted, interrupted."""
        head = "| processes | workers | killed | uninterrupted, sha256 | interrupted, sha256 |"
        self.hashes = self.hashes or [head, "|--:|--:|---|---|---|"]
        self.hashes.append("| " + " | ".join(str(cell)[:16] for cell in cells) + " |")

    @contextmanager
    def run(self, kind: str) -> Iterator[Row]:
        """A run of a kind of fault: it counts as exact unless something is raised."""
        row, began = self.rows.setdefault(kind, Row()), time.monotonic()
        row.runs += 1
        try:
            yield row
            row.exact += 1
        except KeyboardInterrupt:
            row.runs -= 1
            raise
        except HangError:
            row.hangs += 1
            raise
        finally:
            row.seconds += time.monotonic() - began

    def table(self) -> list[str]:
        lines = ["| fault | injected | runs | nothing lost | something lost | hangs | seconds |", "|---|" + "--:|" * 6]
        total = Row()
        for kind, row in [*self.rows.items(), ("all", total)]:
            lost = row.runs - row.exact - row.hangs
            cells = (row.faults, row.runs, row.exact, lost, row.hangs, f"{row.seconds:.0f}")
            lines.append(f"| {kind} | " + " | ".join(map(str, cells)) + " |")
            for name, value in vars(row).items():
                setattr(total, name, getattr(total, name) + value)
        return lines


LEDGER = Ledger()


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    return LEDGER


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if LEDGER.rows:
        terminalreporter.section(f"faults, --seed {config.getoption('--seed')}")
        for line in [*LEDGER.hashes, "", *LEDGER.table()]:
            terminalreporter.write_line(line)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Of the test's own: faults do not depend on which other tests run."""
    return random.Random(f"{request.config.getoption('--seed')} {request.node.name}")


@pytest.fixture
def share(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """`share(20)`: 20 faults of a suite of `DEFAULT`, at least 1."""
    asked = int(request.config.getoption("--faults") or DEFAULT)
    return lambda count: max(1, round(count * asked / DEFAULT))


@pytest.fixture(scope="session", autouse=True)
def quiet_machine() -> Iterator[None]:
    """One thread a process, no W&B account, no run id or cluster of elsewhere."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in [name for name in os.environ if name.startswith("SLURM_") or name == "MVIT_TRAIN_RUN_ID"]:
            patch.delenv(name)
        yield


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Callable[..., Run]:
    """`run(config)`: a new run on the videos of `folder`."""
    count = 0

    def make(config: Config, videos: Path = folder) -> Run:
        nonlocal count
        count += 1
        return Run(videos, tmp_path, f"run{count}", config)

    return make


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, of 8 MiB, for which one has to be root."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="session")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Course]:
    """`expected(config)`: the course of an uninterrupted run, made once for each configuration and set of videos."""
    made: dict[tuple[Config, Path], Course] = {}

    def get(config: Config, videos: Path = folder) -> Course:
        if (config, videos) not in made:
            whole = Run(videos, tmp_path_factory.mktemp("whole"), "whole", config)
            codes = whole.leg()
            assert codes == [0] * config.processes, whole.logs[-1].read_text()[-3000:]
            made[config, videos] = course(whole)
        return made[config, videos]

    return get


@pytest.fixture
def ends_as_expected(expected: Callable[..., Course]) -> Callable[..., None]:
    """`ends_as_expected(run)`: a last leg without faults comes to its end, and all is as if nothing had happened, or as
    in the course `like`."""

    def finish(run: Run, like: Course | None = None) -> None:
        if not run.complete:
            codes = run.leg()
            assert codes == [0] * run.config.processes, run.logs[-1].read_text()[-3000:]
        found = course(run)
        check(found, like or expected(run.config), faults=len(run.logs) - 1)
        if not run.config.more:
            no_video_twice(found)

    return finish
