"""Speed of reading clips: ours against PyTorchVideo's, torchcodec's, decord's and OpenCV's, where they are installed.

All read the same frames of the same random spans, checked to be equal, and take turns within a round, so that what else
the machine does meets all alike. Time is processor time, files are opened anew for every clip, decoding takes one
thread. A training clip is then cropped and scaled by our `RandomResizedCrop`, whoever read it.
"""

import importlib
import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

import av
import numpy as np
import torch
from av.error import FFmpegError

from mvit_train.benchmarks.readers import PACKAGES, READERS, Reader, Span, installed, ours
from mvit_train.benchmarks.timing import mb_grown
from mvit_train.data.decode import DecodedVideo, DecodeError, frame_times
from mvit_train.data.store import STORES
from mvit_train.data.transforms import RandomResizedCrop

# As downloaded, and as prepared for training.
Recipe = Literal["raw", "prepared"]
X264: dict[Recipe, dict[str, str]] = {"raw": {"crf": "23"}, "prepared": STORES["b3fast"].encoder_options()}
Size = tuple[int, int]  # width, height
SIZES: tuple[Size, ...] = ((340, 256), (640, 360))
PREPARED_SHORT_SIDE = 256
TOLERANCE = 3  # of 255, for readers whose FFmpeg converts colours another way


def run(source: Path, result: Path, context: Mapping[str, str]) -> None:
    """Makes raw and prepared files of 10 s in two sizes from each video of `source`, a file or a folder; prints a row
    per reader and file as they are measured, and writes all as JSON. What cannot be read is named and left out."""
    torch.set_num_threads(1)
    readers = installed()
    print("\n".join(f"{name}: {value}" for name, value in context.items()), flush=True)
    sources = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    rows: list[Row] = []
    for path in sources:
        with tempfile.TemporaryDirectory() as folder:
            try:
                files = [file for size in SIZES for file in make_pair(path, Path(folder), size).values()]
            except (DecodeError, FFmpegError) as error:
                print(f"{path}: left out: {error}")
                continue
            for row in compare(files, readers):
                rows.append(row)
                print(table([row], header=len(rows) == 1), flush=True)
    if not rows:
        raise ValueError(f"input: {source} holds no video that can be read")
    notes = [f"{name} is absent" for name in sorted(READERS.keys() - readers.keys())]
    print("\n".join(["", *notes]))
    result.parent.mkdir(parents=True, exist_ok=True)
    content = {"context": dict(context), "notes": notes, "rows": [asdict(row) for row in rows]}
    result.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(result)


@dataclass(frozen=True)
class Row:
    """One reader on one file.

    Args:
        megabytes: 1e6 bytes of the file.
        milliseconds: processor time of one clip, median over the rounds: read, and read and cropped.
        speed: how many times as fast ours is, with the crop: median, least and most over the rounds.
        difference: the greatest from our frames, of 255.
        packets: read and decoded per clip, ours only.
        mb_grown: 1e6 bytes that a fresh process grows by at its peak while it reads and crops a few clips one after the
            other, the reader's package already imported. None where the system does not tell (other than Linux).
    """

    file: str
    megabytes: float
    who: str
    milliseconds: tuple[float, float]
    speed: tuple[float, float, float]
    difference: float
    packets: tuple[float, float] | None
    mb_grown: float | None


def compare(
    files: Sequence[Path],
    readers: dict[str, Reader],
    *,
    rounds: int = 5,
    clips: int = 4,
    num_frames: int = 16,
    sampling_rate: int = 4,
    crop_size: int = 224,
) -> Iterator[Row]:
    """Every reader on every file. ValueError if one reads other frames than ours."""
    crop = RandomResizedCrop(crop_size=crop_size)
    for file in files:
        spans = random_spans(file, rounds * clips, num_frames, sampling_rate)
        differences = {who: max_difference(file, spans[:clips], who, reader) for who, reader in readers.items()}
        times: dict[str, list[tuple[float, float]]] = {who: [] for who in readers}
        for done in range(0, len(spans), clips):
            for who, reader in readers.items():
                reading = cropping = 0.0
                for i, span in enumerate(spans[done : done + clips], done):
                    started = time.process_time()
                    clip = reader(file, span)
                    read = time.process_time()
                    crop({"video": clip, "rng": np.random.default_rng(i)})
                    reading, cropping = reading + read - started, cropping + time.process_time() - read
                times[who].append((reading / clips, (reading + cropping) / clips))
        for who, found in times.items():
            ratios = [theirs / own for (_, theirs), (_, own) in zip(found, times["ours"], strict=True)]
            milliseconds = [1000 * median(seconds) for seconds in zip(*found, strict=True)]
            yield Row(
                file=file.name,
                megabytes=file.stat().st_size / 1e6,
                who=who,
                milliseconds=(milliseconds[0], milliseconds[1]),
                speed=(median(ratios), min(ratios), max(ratios)),
                difference=differences[who],
                packets=packets_per_clip(file, spans) if who == "ours" else None,
                mb_grown=mb_grown_by_reading(who, file, spans[:clips], crop_size),
            )


def random_spans(file: Path, count: int, num_frames: int, sampling_rate: int) -> list[Span]:
    """Windows of num_frames * sampling_rate frames, wherever they fit."""
    with DecodedVideo(file, num_frames=num_frames) as video:
        fps, length = video.fps, num_frames * sampling_rate
        latest = int(video.duration * fps) - length
    if latest < 0:
        raise ValueError(f"{file}: shorter than a clip of {length} frames")
    rng, spans = random.Random(0), []
    for _ in range(count):
        start = rng.randint(0, latest) / fps
        end = start + length / fps
        spans.append(Span(start, end, [int(at * fps) for at in frame_times(start, end, num_frames, fps)]))
    return spans


def max_difference(file: Path, spans: Sequence[Span], who: str, reader: Reader) -> float:
    """The greatest difference from our frames."""
    greatest = 0.0
    for span in spans:
        expected, found = ours(file, span), reader(file, span)
        if found.shape != expected.shape:
            raise ValueError(f"{file}: {who} reads {tuple(found.shape)}, ours {tuple(expected.shape)}")
        greatest = max(greatest, float((found.float() - expected.float()).abs().max()))
    if greatest > TOLERANCE:
        raise ValueError(f"{file}: {who} and ours read different frames: up to {greatest:g} of 255 apart")
    return greatest


def packets_per_clip(file: Path, spans: Sequence[Span]) -> tuple[float, float]:
    """Packets read and decoded."""
    counts = []
    for span in spans:
        with DecodedVideo(file, num_frames=len(span.indices)) as video:
            video.get_clip(span.start, span.end)
            counts.append(video.num_packets)
    read, decoded = np.mean(counts, axis=0)
    return float(read), float(decoded)


def mb_grown_by_reading(who: str, file: Path, spans: Sequence[Span], crop_size: int) -> float | None:
    """See `Row`. The process comes from a server that has imported our modules and read nothing."""
    if not Path("/proc/self/status").exists():
        return None
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_grow_by_reading, who, file, list(spans), crop_size).result()


def _grow_by_reading(who: str, file: Path, spans: list[Span], crop_size: int) -> float:
    torch.set_num_threads(1)
    importlib.import_module(PACKAGES.get(who, __name__))
    crop = RandomResizedCrop(crop_size=crop_size)

    def read_all() -> None:
        for i, span in enumerate(spans):
            crop({"video": READERS[who](file, span), "rng": np.random.default_rng(i)})

    return mb_grown(read_all)


FORM = "{:46} {:>7} {:12} {:>8} {:>8} {:>8} {:>7} {:>13} {:>6} {:>12} {:>6}"


def table(rows: Sequence[Row], *, header: bool = True) -> str:
    """One line per row; "ours is" says how many times as fast ours is."""
    names = ("file", "file MB", "who", "ms read", "ms clip", "clips/s", "ours is", "range", "differ", "packets", "MB")
    lines = [FORM.format(*names)] if header else []
    for row in rows:
        read, clip = row.milliseconds
        middle, least, most = row.speed
        lines.append(
            FORM.format(
                *(row.file, f"{row.megabytes:.2f}", row.who, f"{read:.1f}", f"{clip:.1f}", f"{1000 / clip:.1f}"),
                *(f"{middle:.2f}x", f"{least:.2f}-{most:.2f}", f"{row.difference:g}"),
                "-" if row.packets is None else f"{row.packets[1]:.0f} of {row.packets[0]:.0f}",
                "-" if row.mb_grown is None else f"{row.mb_grown:.0f}",
            )
        )
    return "\n".join(lines)


def make_pair(source: Path, folder: Path, size: Size) -> dict[Recipe, Path]:
    """A file as it would be downloaded, in `size` (W, H), and what `data_prep.videos prepare` would make of it."""
    raw = make_file(source, folder / f"{source.stem}_{size[0]}x{size[1]}_raw.mp4", size, "raw")
    share = min(PREPARED_SHORT_SIDE / min(size), 1)
    width, height = (2 * round(share * side / 2) for side in size)
    name = f"{source.stem}_{size[0]}x{size[1]}_prepared.mp4"
    return {"raw": raw, "prepared": make_file(raw, folder / name, (width, height), "prepared")}


def make_file(source: Path, target: Path, size: Size, recipe: Recipe, num_frames: int = 300) -> Path:
    """A file of `num_frames` at 30 per second with the pictures of `source`, repeated if need be, in `size` (W, H)."""
    width, height = size
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options=X264[recipe])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for index, frame in zip(range(num_frames), _endless(source), strict=False):
            scaled = frame.reformat(width, height, "yuv420p")
            scaled.pts, scaled.time_base, scaled.pict_type = index, Fraction(1, 30), 0
            container.mux(stream.encode(scaled))
        container.mux(stream.encode(None))
    return target


def _endless(source: Path) -> Iterator[Any]:
    while True:
        with av.open(f"file:{source}") as container:
            if not container.streams.video:
                raise DecodeError(str(source), "no video stream")
            yield from container.decode(video=0)
