"""Speed of whole training loaders: ours against PyTorchVideo's iterator and torchcodec in torch's DataLoader.

All read the same files with the same batch size, workers, clip and crop (`RandomResizedCrop`), windows at random. They
take turns within a round, each started anew and stopped after it, so that none reads while another is measured, and
what else the machine does meets all alike. Files are made from the videos given: as downloaded and as prepared.
"""

import importlib
import itertools
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytorchvideo.data
import torch
from av.error import FFmpegError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mvit_train.benchmarks.decode import SIZES, X264, Recipe, make_pair
from mvit_train.benchmarks.readers import installed
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.stream import DecodeError
from mvit_train.data.transforms import RandomResizedCrop

OURS = "ours"
MAX_SOURCES = 8  # videos taken from a folder, evenly spread
PREFETCHED = 2  # batches of each worker that are ready before the clock starts: DataLoader's prefetch_factor


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every loader has to do, from `data`."""

    num_frames: int
    sampling_rate: int
    crop_size: int
    batch_size: int
    num_workers: int

    @property
    def clip_sec(self) -> float:
        return self.num_frames * self.sampling_rate / 30

    @property
    def shape(self) -> tuple[int, ...]:
        return self.batch_size, 3, self.num_frames, self.crop_size, self.crop_size


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One loader in one round. cpu_sec: of this process and its workers; mb: 1e6 bytes of the workers, each page shared
    by n processes counted as an n-th (PSS)."""

    first_batch_sec: float
    clips: int
    wall_sec: float
    cpu_sec: float
    mb: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One loader on one kind of files, medians over the rounds.

    Args:
        clips_per_core_sec: clips per second of processor time.
        speed, speed_per_core: how many times as fast ours is, by the clock and per core: median, least, most.
    """

    files: Recipe
    who: str
    first_batch_sec: float
    clips_per_sec: float
    clips_per_core_sec: float
    speed: tuple[float, float, float]
    speed_per_core: tuple[float, float, float]
    mb: float | None


def run(work: Work, source: Path, result: Path, context: Mapping[str, str], *, rounds: int = 3) -> None:
    """Measures on files made from `source`, a video or a folder of them; prints a table as it grows, writes JSON."""
    torch.set_num_threads(1)
    rivals = {name: make for name, make in LOADERS.items() if name == OURS or name in installed()}
    print("\n".join(f"{name}: {value}" for name, value in context.items()))
    print(
        f"batches of {work.shape}, {work.num_workers} workers, {rounds} rounds; absent: {_absent(rivals)}", flush=True
    )
    sources = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    sources = [sources[round(place)] for place in np.linspace(0, len(sources) - 1, min(len(sources), MAX_SOURCES))]
    rows: list[Row] = []
    for recipe in X264:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), sources, recipe, num_files(work))
            found = compare(Path(folder), recipe, work, rivals, rounds)
            print(table(found, header=not rows), flush=True)
            rows += found
    result.parent.mkdir(parents=True, exist_ok=True)
    content = {"context": dict(context), "settings": asdict(work), "rows": [asdict(row) for row in rows]}
    result.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(result)


def _absent(present: Mapping[str, Any]) -> str:
    return ", ".join(LOADERS.keys() - present.keys()) or "none"


def num_batches(work: Work) -> tuple[int, int]:
    """Before the clock starts, so that what was prefetched counts for none; and while it runs."""
    workers = max(work.num_workers, 1)
    return PREFETCHED * workers, max(4 * workers, 8)


def num_files(work: Work) -> int:
    """So many that no epoch ends within a turn."""
    workers = max(work.num_workers, 1)
    return (sum(num_batches(work)) + (PREFETCHED + 1) * workers) * work.batch_size


def fill(folder: Path, sources: Sequence[Path], recipe: Recipe, count: int) -> None:
    """A folder of `count` videos made from the sources, each under many names, and its train.csv and val.csv."""
    (folder / "made").mkdir()
    made: list[Path] = []
    for number, source in enumerate(sources):
        try:
            (folder / "made" / str(number)).mkdir()
            made.append(make_pair(source, folder / "made" / str(number), SIZES[0])[recipe])
        except (DecodeError, FFmpegError) as error:
            print(f"{source}: left out: {error}")
    if not made:
        raise ValueError(f"input: {sources[0]} and {len(sources) - 1} more: none is a video that can be read")
    names = [f"{index}.mp4" for index in range(count)]
    for index, name in enumerate(names):
        os.link(made[index % len(made)], folder / name)
    rows = [f"{name},{index % 2}" for index, name in enumerate(names)]
    (folder / "train.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (folder / "val.csv").write_text("\n".join(["path,label", *rows[:2]]) + "\n")


def ours(folder: Path, work: Work) -> Iterator[Tensor]:
    data = VideoDataModule(
        root=folder,
        num_frames=work.num_frames,
        sampling_rate=work.sampling_rate,
        crop_size=work.crop_size,
        transform=RandomResizedCrop(crop_size=work.crop_size),
        batch_size=work.batch_size,
        eval_batch_size=work.batch_size,
        num_workers=work.num_workers,
    )
    for batch in data.train_dataloader():
        yield batch["video"]


def pytorchvideo_iterator(folder: Path, work: Work) -> Iterator[Tensor]:
    """As its tutorial has it: Kinetics with a random clip sampler, iterated by DataLoader."""
    rows = [line.rpartition(",") for line in (folder / "train.csv").read_text().splitlines()[1:]]
    listing = folder / "pytorchvideo.txt"
    listing.write_text("".join(f"{folder / name} {label}\n" for name, _, label in rows))
    dataset = pytorchvideo.data.Kinetics(
        str(listing),
        pytorchvideo.data.make_clip_sampler("random", work.clip_sec),
        video_sampler=RandomSampler,
        transform=SubsampleAndCrop(work),
        decode_audio=False,
    )
    for batch in DataLoader(dataset, batch_size=work.batch_size, num_workers=work.num_workers):
        yield batch["video"]


class SubsampleAndCrop:
    """PyTorchVideo's UniformTemporalSubsample, whose module does not import with today's torchvision; then our crop."""

    def __init__(self, work: Work) -> None:
        self.num_frames, self.crop = work.num_frames, RandomResizedCrop(crop_size=work.crop_size)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        video = sample["video"]  # (3, T, H, W), float32, every frame of the window
        frames = video[:, torch.linspace(0, video.shape[1] - 1, self.num_frames).long()]
        return {**sample, "video": self.crop({"video": frames, "rng": np.random.default_rng()})["video"][0]}


def torchcodec_dataset(folder: Path, work: Work) -> Iterator[Tensor]:
    """A map-style data set in DataLoader, the way torchcodec is used most."""
    paths = sorted(folder.glob("*.mp4"))
    dataset = TorchcodecClips(paths, work)
    yield from DataLoader(dataset, batch_size=work.batch_size, shuffle=True, num_workers=work.num_workers)


class TorchcodecClips(Dataset):
    """One random clip a video. seek_mode "approximate" opens faster, and finds the same frames at a constant rate."""

    def __init__(self, paths: Sequence[Path], work: Work) -> None:
        self.paths, self.work, self.crop = list(paths), work, RandomResizedCrop(crop_size=work.crop_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        decoders: Any = importlib.import_module("torchcodec.decoders")
        decoder = decoders.VideoDecoder(str(self.paths[index]), num_ffmpeg_threads=1, seek_mode="approximate")
        length = self.work.num_frames * self.work.sampling_rate
        start = random.randint(0, max(decoder.metadata.num_frames - length, 0))
        indices = np.linspace(start, start + length - 1, self.work.num_frames).astype(int).tolist()
        video = decoder.get_frames_at(indices).data.transpose(0, 1)  # (T, 3, H, W) -> (3, T, H, W)
        return self.crop({"video": video, "rng": np.random.default_rng()})["video"][0]


Loader = Callable[[Path, Work], Iterator[Tensor]]
LOADERS: dict[str, Loader] = {OURS: ours, "pytorchvideo": pytorchvideo_iterator, "torchcodec": torchcodec_dataset}


def compare(folder: Path, recipe: Recipe, work: Work, loaders: Mapping[str, Loader], rounds: int) -> list[Row]:
    """A row for every loader."""
    turns: dict[str, list[Turn]] = {who: [] for who in loaders}
    for _ in range(rounds):
        for who, loader in loaders.items():
            turns[who].append(take_turn(who, loader(folder, work), work))
    rows = []
    for who, found in turns.items():
        walls = [turn.clips / turn.wall_sec for turn in found]
        cores = [turn.clips / turn.cpu_sec for turn in found]
        pairs = list(zip(found, turns[OURS], strict=True))
        speed = [theirs.wall_sec / own.wall_sec for theirs, own in pairs]
        speed_per_core = [theirs.cpu_sec / own.cpu_sec for theirs, own in pairs]
        sizes = [turn.mb for turn in found if turn.mb is not None]
        row = Row(
            files=recipe,
            who=who,
            first_batch_sec=median(turn.first_batch_sec for turn in found),
            clips_per_sec=median(walls),
            clips_per_core_sec=median(cores),
            speed=(median(speed), min(speed), max(speed)),
            speed_per_core=(median(speed_per_core), min(speed_per_core), max(speed_per_core)),
            mb=median(sizes) if sizes else None,
        )
        rows.append(row)
    return rows


def take_turn(who: str, batches: Iterator[Tensor], work: Work) -> Turn:
    """Starts the loader, passes over what it prefetches, then times it. ValueError for batches of another size."""
    before, timed = num_batches(work)
    started = time.perf_counter()
    video = next(batches)
    first_batch_sec = time.perf_counter() - started
    if tuple(video.shape) != work.shape:
        raise ValueError(f"{who} gives batches of {tuple(video.shape)}, asked for are {work.shape}")
    for _ in range(before - 1):
        next(batches)
    since, cpu = time.perf_counter(), cpu_sec()
    clips = sum(len(next(batches)) for _ in range(timed))
    turn = Turn(
        first_batch_sec=first_batch_sec,
        clips=clips,
        wall_sec=time.perf_counter() - since,
        cpu_sec=cpu_sec() - cpu,
        mb=workers_mb(),
    )
    getattr(batches, "close", lambda: None)()  # ends its workers
    return turn


def cpu_sec() -> float:
    """Processor time of this process and of the workers that it has now."""
    total, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / tick  # user and system
    return total


def workers_mb() -> float | None:
    """1e6 bytes of the workers, None where there is none."""
    rollups = [Path(f"/proc/{worker.pid}/smaps_rollup") for worker in multiprocessing.active_children()]
    lines = itertools.chain.from_iterable(file.read_text().splitlines() for file in rollups)
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
    return sum(sizes) / 1e6 if sizes else None


FORM = "{:10} {:14} {:>8} {:>8} {:>10} {:>8} {:>13} {:>9} {:>13} {:>8}"


def table(rows: Sequence[Row], *, header: bool = True) -> str:
    """One line per row; "ours is" says how many times as fast ours is, by the clock and per core."""
    names = ("files", "who", "first, s", "clips/s", "per core-s", "ours is", "range", "per core", "range", "MB")
    lines = [FORM.format(*names)] if header else []
    for row in rows:
        cells: list[str] = []
        for middle, least, most in (row.speed, row.speed_per_core):
            cells += [f"{middle:.2f}x", f"{least:.2f}-{most:.2f}"]
        lines.append(
            FORM.format(
                *(row.files, row.who, f"{row.first_batch_sec:.2f}", f"{row.clips_per_sec:.1f}"),
                *(f"{row.clips_per_core_sec:.1f}", *cells, "-" if row.mb is None else f"{row.mb:.0f}"),
            )
        )
    return "\n".join(lines)
