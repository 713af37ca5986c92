"""A data set that is drawn on first use: the same settings give the same files, and a set is complete or absent.

Needs numpy only, so that worker processes start fast.
"""

import json
import os
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from rich.progress import track

SETTINGS_FILE = "settings.json"
STALE_SEC = 3600.0
SPLITS = ("train", "val")
MIN_FRAME_SIZE = 32


class BuiltInSet(ABC):
    """Makes a data set in a folder on first use.

    Args:
        num_train: files in `train.csv`, the same number of each class.
        num_val: files in `val.csv`, of scenes that are in no training file.
        frame_size: height and width in pixels.
        seed: another seed, other scenes.
    """

    CLASSES: ClassVar[tuple[str, ...]]
    NOUN: ClassVar[str]  # "motion videos"
    SUFFIX: ClassVar[str]  # of its files
    GENERATION: ClassVar[int]  # raised when the files change: a folder of older ones is not taken for the new

    def __init__(self, *, num_train: int, num_val: int, frame_size: int, seed: int) -> None:
        for name, count in (("num_train", num_train), ("num_val", num_val)):
            if count < len(self.CLASSES) or count % len(self.CLASSES):
                raise ValueError(f"{name} {count} is not a positive multiple of the {len(self.CLASSES)} classes")
        if frame_size < MIN_FRAME_SIZE:
            raise ValueError(f"frame_size {frame_size} must be at least {MIN_FRAME_SIZE}")
        if seed < 0:
            raise ValueError(f"seed {seed} is negative")
        self.num_train, self.num_val, self.frame_size, self.seed = num_train, num_val, frame_size, seed

    @property
    @abstractmethod
    def folder_name(self) -> str:
        """A name that differs between sets."""

    @abstractmethod
    def write(self, path: Path, name: str, rng: Generator) -> None:
        """Draws one file of the class `name`."""

    def __call__(self, root: Path) -> None:
        """Leaves the finished set in `root`: `train.csv`, `val.csv` (path,label), `classes.txt` and the files.

        A finished set with these settings is reused. A new one is made in a folder beside `root` that takes its
        place when complete, so an interruption leaves nothing in `root` and two processes do no harm to each other.

        Raises:
            ValueError: `root` holds a set with other settings, or other files.
        """
        root = Path(root)
        if self._is_finished(root):
            return
        root.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        partial_root = root.with_name(f".{root.name}.partial-{uuid.uuid4().hex}")
        try:
            self._make(partial_root)
            try:
                partial_root.rename(root)  # atomic; replaces an empty folder, refuses one with files
            except OSError:
                if not self._is_finished(root):  # otherwise another process was faster, and its files equal ours
                    raise
        finally:
            shutil.rmtree(partial_root, ignore_errors=True)

    def _settings(self) -> dict[str, int]:
        return {"generation": self.GENERATION, **vars(self)}

    def _is_finished(self, root: Path) -> bool:
        if not root.exists() or not any(root.iterdir()):
            return False
        if not (root / SETTINGS_FILE).is_file():
            raise ValueError(f"{root} holds files but no {SETTINGS_FILE}: not a set of {self.NOUN}; name a new folder")
        found, wanted = json.loads((root / SETTINGS_FILE).read_text()), self._settings()
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if differing:
            what = ", ".join(f"{name} {found.get(name)} (wanted {wanted[name]})" for name in differing)
            raise ValueError(f"{root} holds other {self.NOUN}: {what}; name a new folder or remove this one")
        return True

    def _make(self, root: Path) -> None:
        jobs = []
        for split, count in enumerate((self.num_train, self.num_val)):
            for index in range(count):
                name = self.CLASSES[index % len(self.CLASSES)]
                path = root / SPLITS[split] / f"{name}_{index:05d}{self.SUFFIX}"
                jobs.append((path, name, (self.seed, split, index)))
        for split in SPLITS:
            (root / split).mkdir(parents=True)
            rows = [
                f"{path.relative_to(root).as_posix()},{name}\n" for path, name, _ in jobs if path.parent.name == split
            ]
            (root / f"{split}.csv").write_text("path,label\n" + "".join(rows))
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in self.CLASSES))
        # spawn: a fork would copy the caller's threads (torch, CUDA) in whatever state they are
        with ProcessPoolExecutor(min(os.cpu_count() or 1, 16), mp_context=get_context("spawn")) as pool:
            done = pool.map(self._write_job, jobs, chunksize=8)
            for _ in track(done, f"Making {len(jobs)} {self.NOUN}", len(jobs)):
                pass
        (root / SETTINGS_FILE).write_text(json.dumps(self._settings(), indent=2) + "\n")

    def _write_job(self, job: tuple[Path, str, tuple[int, ...]]) -> None:
        path, name, seed = job
        self.write(path, name, np.random.default_rng(seed))


def _remove_stale(root: Path) -> None:
    """Removes what killed processes left: folders in which nothing was made for an hour."""
    for folder in root.parent.glob(f".{root.name}.partial-*"):
        newest = max(
            (p.stat().st_mtime for p in (folder, *(folder / split for split in SPLITS)) if p.exists()), default=0
        )
        if time.time() - newest > STALE_SEC:
            shutil.rmtree(folder, ignore_errors=True)
