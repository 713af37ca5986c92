"""A few videos of a data set, read as training reads them, with a stopwatch at every stage.

Each is read in a process of its own watch: a video that hangs or kills its reader is reported like any other. The
stopwatch is put around the decoder's methods in that process alone; the normal path has no timers.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import TimeoutError, get_context
from typing import Any

import numpy as np
import torch

from mvit_train.data.dataset import KineticsView, collate
from mvit_train.data.manifest import Split
from mvit_train.data.stream import DecodeError

STAGES = ("open", "seek and read", "decode", "convert", "transform", "collate")
PATIENCE_SEC = 20.0  # for one video
BUDGET_SEC = 60.0  # for all; then no further one is begun
MANY_PACKETS = 4.0  # decoded for each frame of a clip; prepared files take 2, downloads 5 to 8
COLLATED = 8  # items, to measure what one of them takes


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One video. What is known of it before a failure is kept.

    Args:
        reason: why it cannot be read, or None.
        short_side: of its frames, in pixels.
        packets: read and decoded.
        seconds: by stage, for one clip.
    """

    split: Split
    path: str
    reason: str | None = None
    fps: float | None = None
    duration_sec: float | None = None
    short_side: int | None = None
    packets: tuple[int, int] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


class Stopwatch:
    """Adds time up by stage; while an inner stage runs, the outer one's clock stands still."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._note()
        self._running.append(name)
        try:
            yield
        finally:
            self._note()
            self._running.pop()

    def timed(self, name: str, function: Callable) -> Callable:
        """The same function, its time counted for the stage `name`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return call

    def _note(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


def spread(length: int, count: int) -> list[int]:
    """`count` places evenly over `length`, first and last included: 10, 4 -> 0 3 6 9."""
    return sorted({round(place) for place in np.linspace(0, length - 1, min(count, length))})


def read_sample(
    datasets: Mapping[Split, KineticsView], counts: Mapping[Split, int], patience_sec: float = PATIENCE_SEC
) -> list[Reading]:
    """So many videos of each split, evenly spread, the same in every call; fewer where that takes too long."""
    readings: list[Reading] = []
    chosen: list[tuple[Split, int]] = [
        (split, i) for split, dataset in datasets.items() for i in spread(len(dataset), counts[split])
    ]
    pool, end = None, time.monotonic() + BUDGET_SEC
    for split, index in chosen:
        if time.monotonic() > end:
            break
        pool = pool or get_context("fork").Pool(1, _start, (datasets,))
        try:
            readings.append(pool.apply_async(_read, (split, index)).get(patience_sec))
        except TimeoutError:
            reason = f"could not be read within {patience_sec:g} s, or killed the process that read it"
            readings.append(Reading(split=split, path=datasets[split].name(index), reason=reason))
            pool.terminate()
            pool = None
    if pool:
        pool.terminate()
    return readings


_datasets: Mapping[Split, KineticsView] = {}  # of a reading process
_opened: list[Any] = []  # its last video
_watch = Stopwatch()


def _start(datasets: Mapping[Split, KineticsView]) -> None:
    """In a reading process: puts the stopwatch around what its copies of the datasets call."""
    global _datasets
    torch.set_num_threads(1)
    _datasets = datasets
    for dataset in datasets.values():
        _put_timers(dataset)


def _put_timers(dataset: KineticsView) -> None:
    open_video = _watch.timed("open", dataset.handler.video_from_path)

    def open_timed(filepath: str | os.PathLike, *args: object, **kwargs: object) -> Any:
        video = open_video(filepath)
        _opened[:] = [video]
        stages = (("get_frames", "convert"), ("_images", "seek and read"))  # get_frames itself stacks the images
        if hasattr(video, "_stream"):  # not a still image
            _replace(video, stages)
            _replace(video._stream, (("decode", "decode"), ("to_rgb", "convert")))
        return video

    dataset.handler.video_from_path = open_timed
    dataset.kinetics._transform = _watch.timed("transform", dataset.kinetics._transform)


def _replace(thing: Any, stages: Sequence[tuple[str, str]]) -> None:
    for method, stage in stages:
        setattr(thing, method, _watch.timed(stage, getattr(thing, method)))


def _read(split: Split, index: int) -> Reading:
    dataset, reason, seconds = _datasets[split], None, {}
    _opened.clear()
    _watch.seconds.clear()
    try:
        rng = np.random.default_rng([index])
        clips = dataset.views(dataset.read(index, rng), rng)
        item = dataset.item(index, clips[:1], [])
        with _watch.stage("collate"):
            collate([item] * COLLATED)
        seconds = {stage: _watch.seconds[stage] / len(clips) for stage in STAGES}
        seconds["collate"] = _watch.seconds["collate"] / COLLATED
    except DecodeError as error:
        reason = error.reason
    except Exception as error:  # a bug of ours, in one video: the others must still be looked at
        reason = f"{type(error).__name__}: {error}"
    facts = _facts(_opened[0]) if _opened else {}
    return Reading(split=split, path=dataset.name(index), reason=reason, seconds=seconds, **facts)


def _facts(video: Any) -> dict[str, Any]:
    if not hasattr(video, "_stream"):
        return {}
    codec = video._stream.codec
    return {
        "fps": float(video.fps),
        "duration_sec": float(video.duration),
        "short_side": min(codec.width, codec.height),
        "packets": video.num_packets,
    }
