"""One video encoded for training: every frame at its time, in a file that is there whole or not at all."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import av
import numpy as np
from av.error import FFmpegError

from data_prep.pictures import Pictures, with_pictures
from data_prep.pool import still_working
from data_prep.probe import Probe, Task, content_digest, probe
from data_prep.writer import write_video
from mvit_train.data.store import STORES, StoreName
from mvit_train.data.stream import DecodeError

MARK = "data_prep.videos"  # what the comment of every prepared file begins with
PART = ".part"  # the name of an unfinished file is .SHA256 OF ITS NAME.RANDOM.part
PREFIX_LENGTH = 18
MAX_PSNR = 100.0  # stands for equality

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """How files are prepared: `b3fast, short side 256, crf 23`."""

    store: StoreName
    short_side: int
    quality: int

    def __str__(self) -> str:
        name = STORES[self.store].quality_options[0]
        return f"{self.store}, short side {self.short_side}, {'q' if name == 'qmin' else name} {self.quality}"


@dataclass(frozen=True)
class EncodeTask:
    """A file as it was when it was listed, or a window of it, and where it goes: OUT/`target`."""

    path: str
    size: int
    mtime_ns: int
    start: str
    end: str
    recipe: Recipe
    out: str
    target: str
    measure: bool = False  # the PSNR

    @property
    def key(self) -> tuple[str, int, int, str, str]:
        return self.path, self.size, self.mtime_ns, self.start, self.end

    @property
    def file(self) -> Path:
        return Path(self.out, self.target)

    @property
    def tag(self) -> str:
        """Says of a file that it is the outcome of this very task."""
        digest = hashlib.sha256(repr(self.key).encode(errors="surrogateescape")).hexdigest()[:16]
        return f"{MARK} {self.recipe}, of {digest}"


@dataclass(frozen=True)
class Prepared:
    """What became of a task. `reason` is why there is no file, or "".

    Args:
        num_frames: encoded.
        encode_sec: wall time of reading, scaling and encoding; 0 for a file that was found finished.
        damage: of the source, bridged by the frames around it as in training.
        psnr: dB, of all samples of all frames against the scaled source; None: not measured.
        facts: a `Probe` of the file.
    """

    path: str
    size: int
    mtime_ns: int
    start: str
    end: str
    recipe: str
    target: str
    reason: str = ""
    num_frames: int = 0
    encode_sec: float = 0.0
    damage: str = ""
    psnr: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int, int, str, str]:
        return self.path, self.size, self.mtime_ns, self.start, self.end

    @property
    def verified(self) -> bool:
        return True

    def probe(self, out: Path) -> Probe:
        """Of the prepared file, or of the source if there is none."""
        if self.reason:
            return Probe(self.path, self.size, self.mtime_ns, True, self.reason)
        return Probe(**{**self.facts, "path": str(out / self.target)})


def lost(task: EncodeTask, reason: str) -> Prepared:
    """What is said of a task whose process has ended; the part that it left is removed."""
    for part in task.file.parent.glob(f"{_part_prefix(task.file)}*{PART}"):
        part.unlink(missing_ok=True)
    return _failed(task, reason)


def _failed(task: EncodeTask, reason: str) -> Prepared:
    return Prepared(*task.key, str(task.recipe), task.target, reason)


def encode(task: EncodeTask) -> Prepared:
    """Encodes one file. What is wrong with it is in the result; OSError if nothing can be written."""
    try:
        if tag_of(task.file) == task.tag:  # finished by a run that could not say so any more
            return _described(task, Prepared(*task.key, str(task.recipe), task.target), task.file)
        task.file.parent.mkdir(parents=True, exist_ok=True)
        part = _part_of(task.file)
        try:
            result = _described(task, _encode_to(part, task), part)
            if task.measure:
                result = replace(result, psnr=_psnr(task, part))
            _sync(part)
            os.replace(part, task.file)
            return result
        finally:
            part.unlink(missing_ok=True)
    except DecodeError as error:
        return _failed(task, error.reason)
    except FFmpegError as error:
        if isinstance(error, OSError):  # a full disk is no fault of the video
            raise OSError(error.errno, f"{error.strerror}, while {task.file} was written") from error
        return _failed(task, f"cannot be encoded: {error}")
    except (ValueError, ArithmeticError, MemoryError) as error:  # one odd file must not stop a long run
        return _failed(task, f"cannot be encoded: {type(error).__name__}: {error}")


def tag_of(file: Path) -> str | None:
    """The comment in a file; None if there is no file, "" if it has none or is no video."""
    if not file.exists():
        return None
    try:
        with av.open(f"file:{file}") as container:
            return container.metadata.get("comment", "")
    except (FFmpegError, OSError, ValueError):
        return ""


def remove_parts(out: Path, tasks: Iterable[EncodeTask]) -> None:
    """Removes what killed runs have left of these files. Looks once into every folder, which may be large."""
    ours = {(str(task.file.parent), _part_prefix(task.file)) for task in tasks}
    for folder, _, names in os.walk(out):
        for name in names:
            if name.endswith(PART) and (folder, name[:PREFIX_LENGTH]) in ours:
                Path(folder, name).unlink(missing_ok=True)


def _part_prefix(file: Path) -> str:
    return f".{hashlib.sha256(file.name.encode(errors='surrogateescape')).hexdigest()[:16]}."


def _part_of(file: Path) -> Path:
    return file.with_name(f"{_part_prefix(file)}{uuid4().hex}{PART}")  # short, whatever the name


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _described(task: EncodeTask, result: Prepared, file: Path) -> Prepared:
    """With what the reader of training finds in the new file; copies are told by their sources."""
    made = Task.of(file, verify=True)
    assert made is not None
    found = probe(made)
    if found.reason:
        raise DecodeError(task.path, f"the prepared file cannot be read: {found.reason}")
    with av.open(f"file:{file}") as container:
        count = container.streams.video[0].frames
    if result.num_frames not in (0, count):
        raise DecodeError(task.path, f"the prepared file holds {count} of {result.num_frames} frames")
    window = f"{task.start}_{task.end}" if task.start or task.end else ""
    return replace(
        result, num_frames=count, facts=asdict(replace(found, path="", digest=content_digest(task.path) + window))
    )


def _use(task: EncodeTask, use: Callable[[Pictures], T]) -> T:
    store = STORES[task.recipe.store]
    return with_pictures(task.path, store, task.recipe.short_side, (task.start, task.end), use)


def _encode_to(part: Path, task: EncodeTask) -> Prepared:
    def write(pictures: Pictures) -> Prepared:
        started = time.monotonic()
        num_frames = write_video(part, pictures, STORES[task.recipe.store], task.recipe.quality, task.tag)
        return Prepared(
            *task.key,
            recipe=str(task.recipe),
            target=task.target,
            num_frames=num_frames,
            encode_sec=round(time.monotonic() - started, 3),
            damage=pictures.damage,
        )

    return _use(task, write)


def _psnr(task: EncodeTask, file: Path) -> float:
    """dB over all samples of all frames, between what went into the encoder and what comes out of the file."""

    def compare(pictures: Pictures) -> float:
        squares = samples = 0
        with av.open(f"file:{file}") as container:
            frames = container.decode(video=0)
            for (_, frame), found in zip(pictures, frames, strict=True):
                still_working()
                difference = frame.to_ndarray().astype(np.int16) - found.to_ndarray()
                squares += int(np.square(difference, dtype=np.int32).sum(dtype=np.int64))
                samples += difference.size
        return min(MAX_PSNR, 10 * math.log10(255**2 * samples / max(squares, 1)))

    return round(_use(task, compare), 2)
