"""Mutated videos through the reading workers of training and evaluation."""

import hashlib
import multiprocessing
import re
import shutil
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from av.error import FFmpegError
from torch.utils.data import SequentialSampler
from video_files import MUTATIONS, mutated

from mvit_train.data.dataset import Item, TestViews, collate
from mvit_train.data.loader import ResilientLoader
from mvit_train.data.manifest import Manifest
from mvit_train.data.stream import DecodeError
from mvit_train.data.transforms import TestCrops
from mvit_train.data.views import Views, clip_sampler
from mvit_train.demo.answer import read_facts
from mvit_train.labels import Labels
from mvit_train.prediction.reading import sliding_windows, upright_frames
from mvit_train.report.examples import small_mp4

BATCH = 400  # files on disk at a time
NUM_FRAMES, CROP = 4, 32
MAX_MIB = 1536  # of a worker at one file, above what it has before it
UNCLEAR = "UNCLEAR"
SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".ts")


@dataclass
class Row:
    """What became of the cases of one kind."""

    cases: int = 0
    read: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    hangs: int = 0
    unclear: list[str] = field(default_factory=list)
    worst_mib: float = 0.0
    seconds: float = 0.0


class Measured(TestViews):
    """Test views whose worker notes the most memory that a file took, and any exception that is no DecodeError.

    Every third file is also read as `task=predict` and the report do: facts, windows, all frames, a small copy.
    """

    def __init__(self, *arguments: Any, peaks: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.peaks = peaks  # MiB by video, in memory that workers share

    def __getitem__(self, index: int) -> Item:
        before = reset_peak()
        try:
            item = super().__getitem__(index)
            if index % 3 == 0:
                read_otherwise(Path(self.name(index)))
            return item
        except Exception as error:
            nothing = torch.empty(0, dtype=torch.uint8)
            return self.item(index, nothing, [(index, f"{UNCLEAR} {type(error).__name__}: {error}")])
        finally:
            self.peaks[index] = max(self.peaks[index], peak_mib() - before)


def read_otherwise(path: Path) -> None:
    """By the readers that do not go through a dataset."""
    sampler = clip_sampler("window", num_frames=NUM_FRAMES, sampling_rate=2, num_clips=1, target_fps=30)
    data: Any = SimpleNamespace(crop_size=CROP, interpolation="bilinear", num_frames=NUM_FRAMES, sampling_rate=2)
    data.target_fps, data.clip_sampler = 30, lambda count: sampler
    with suppress(DecodeError):
        list(read_facts(path))
    with suppress(DecodeError):
        deque(sliding_windows(path, data, 1, None), maxlen=0)
    with suppress(DecodeError):
        deque(upright_frames(path), maxlen=0)
    with suppress(DecodeError, FFmpegError, OSError, ValueError):
        small_mp4(path)


def reset_peak() -> float:
    """MiB that this process has now, from which its peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_mib() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found
    return int(found[1]) / 1024


def fuzz_videos(
    seeds: dict[str, bytes], count: int, seed: int, folder: Path, *, num_workers: int, timeout_sec: float, keep: Path
) -> dict[str, Row]:
    """`count` mutated files, read; rows by mutation. Files with a finding are kept in `keep`."""
    rows = {name: Row() for name in MUTATIONS}
    names, others = list(seeds), list(seeds.values())
    for first in range(0, count, BATCH):
        kinds, files = [], []
        for number in range(first, min(first + BATCH, count)):
            rng = np.random.default_rng([seed, number])
            kind = list(MUTATIONS)[number % len(MUTATIONS)]
            source = seeds[names[int(rng.integers(len(names)))]]
            file = folder / f"{number:06d}{SUFFIXES[int(rng.integers(len(SUFFIXES)))]}"
            file.write_bytes(mutated(kind, source, rng, others))
            kinds.append(kind)
            files.append(file)
        _read(files, kinds, rows, num_workers, timeout_sec, keep)
        for file in files:
            file.unlink()
    return rows


def _read(
    files: list[Path], kinds: list[str], rows: dict[str, Row], num_workers: int, timeout_sec: float, keep: Path
) -> None:
    peaks = multiprocessing.get_context().RawArray("d", len(files))
    manifest = Manifest.of(files[0].parent, [(file.name, 0) for file in files], Labels(("a",)))
    dataset = Measured(
        manifest,
        clip_sampler=clip_sampler("window", num_frames=NUM_FRAMES, sampling_rate=2, num_clips=2, target_fps=30),
        num_frames=NUM_FRAMES,
        transform=TestCrops(CROP, Views(2, 1).crops, "bilinear"),
        peaks=peaks,
    )
    loader = ResilientLoader(
        dataset,
        batch_size=1,
        sampler=SequentialSampler(range(len(files))),
        collate_fn=collate,
        num_workers=num_workers,
        timeout_sec=timeout_sec,
    )
    began = time.monotonic()
    for batch, file, kind in zip(loader, files, kinds, strict=True):
        row, failures = rows[kind], batch["failures"]
        reason = failures[0][1] if failures else ""
        row.cases += 1
        row.seconds += time.monotonic() - began
        began = time.monotonic()
        row.read += not failures
        if reason.startswith("the process that read it died"):
            row.crashes += 1
        elif reason.startswith("could not be read within"):
            row.hangs += 1
        elif reason.startswith(UNCLEAR):
            row.unclear.append(f"{file.name}: {reason}")
        elif failures:
            row.errors[family(reason)] += 1
        mib = peaks[failures[0][0] if failures else int(batch["video_index"][0])]
        row.worst_mib = max(row.worst_mib, mib)
        if mib > MAX_MIB:
            row.unclear.append(f"{file.name}: {mib:.0f} MiB, the limit is {MAX_MIB}")
        if mib > MAX_MIB or reason.startswith(("the process", "could not", UNCLEAR)):
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, keep / f"{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}{file.suffix}")


def family(reason: str) -> str:
    """A reason without what differs between files."""
    return re.sub(r"[\d.]+", "N", reason.split(":")[0])[:48]
