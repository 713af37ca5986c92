"""Which frames of a video are looked at: windows, dense clips and segments, and the views of a test.

A clip is a temporal sample, a crop a spatial one, a view is clip x crop. A window spans time and is sampled evenly, as
for Kinetics; its samplers are PyTorchVideo's kind. PyTorchVideo's own are not the published protocol: with K clips they
start at i * delta / K and never reach the end, with one clip they start at 0. Dense clips (Charades) and segments
(Something-Something) are lists of frames that no window describes.
"""

import copy
import inspect
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler

Seconds = Fraction | float
Sampling = Literal["window", "dense", "segment"]
Count = Literal["frames", "seconds"]

TARGET_FPS = 30  # the rate at which the recipes count `sampling_rate`; videos of another rate keep the clip's duration


@dataclass(frozen=True)
class Views:
    """Views of a video in a test, written "5x1": `clips` in time x `crops` in space, 1 central or 3 side by side."""

    clips: int
    crops: int

    def __post_init__(self) -> None:
        if self.clips < 1 or self.crops not in (1, 3):
            raise ValueError(
                f"views {str(self)!r}: expected CLIPSxCROPS with 1 or more clips and 1 or 3 crops, like 5x1"
            )

    @classmethod
    def parse(cls, text: str) -> "Views":
        match = re.fullmatch(r"(\d+)x(\d+)", text)
        if match is None:
            raise ValueError(f"views {text!r}: expected CLIPSxCROPS with 1 or more clips and 1 or 3 crops, like 5x1")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"


def clip_duration(num_frames: int, sampling_rate: int, target_fps: float = TARGET_FPS) -> Fraction:
    """Seconds a clip spans: 16 frames at rate 4 are 64/30 s, whatever the rate of the video."""
    return Fraction(num_frames * sampling_rate) / Fraction(target_fps)


def frame_times(start_sec: Seconds, end_sec: Seconds, num_frames: int, fps: Fraction) -> list[Fraction]:
    """Times at which a window [start, end) is sampled: SlowFast's linspace(start, start + L - 1, T), in seconds.

    The frame on show at each time is taken, so at a constant rate the frame indices are `floor(time * fps)`:
    64 frames at 30 fps, T = 16 -> 0 4 8 12 16 21 25 29 33 37 42 46 50 54 58 63. T = 1 takes the start.
    """
    start, end = Fraction(start_sec), Fraction(end_sec)
    step = max(end - start - 1 / fps, Fraction(0)) / max(num_frames - 1, 1)
    return [start + step * j for j in range(num_frames)]


class _WindowSampler(ClipSampler):
    """Windows of a fixed length: in seconds or, if `native`, in frames of the video, whatever its rate."""

    def __init__(self, clip_duration: Seconds, *, native: bool = False) -> None:
        super().__init__(clip_duration)
        self._native = native

    def _length(self, fps: Fraction) -> Fraction:
        return Fraction(self._clip_duration) / (fps if self._native else 1)


class RandomClip(_WindowSampler):
    """One training clip, its start uniform over the video.

    The chance comes in as `annotation["draw"]` in [0, 1), which the dataset derives from (seed, epoch, index): no
    generator is shared, so workers, ranks and restarts do not matter.
    """

    def __call__(self, last_clip_time: Seconds | None, video_duration: Seconds, annotation: dict[str, Any]) -> ClipInfo:
        length = self._length(Fraction(annotation.get("fps", TARGET_FPS)))
        start = Fraction(annotation["draw"]) * max(Fraction(video_duration) - length, Fraction(0))
        return ClipInfo(start, start + length, 0, 0, True)


class UniformClips(_WindowSampler):
    """`num_clips` test clips from the first frame to the last.

    Starts counted in frames are SlowFast's (decoder.py, DATA.USE_OFFSET_SAMPLING True), whole frames:
    i * floor((N - L) / (K - 1)), and floor((N - L) / 2) for K = 1; N frames in the video, L in the clip.
    N = 300, L = 64, K = 5 -> 0 59 118 177 236. Counted in seconds they are i * (D - L) / (K - 1) of the duration D,
    exactly. `annotation["fps"]` is the video's rate; without it, as inside PyTorchVideo's own iterator, 30.
    """

    def __init__(
        self,
        clip_duration: Seconds,
        num_clips: int,
        *,
        native: bool = False,
        count: Count = "frames",
    ) -> None:
        super().__init__(clip_duration, native=native)
        self._num_clips, self._count = num_clips, count

    def __call__(self, last_clip_time: Seconds | None, video_duration: Seconds, annotation: dict[str, Any]) -> ClipInfo:
        fps = Fraction(annotation.get("fps", TARGET_FPS))
        length, index = self._length(fps), self._current_clip_index
        parts, part = (self._num_clips - 1, index) if self._num_clips > 1 else (2, 1)
        if self._count == "seconds":
            start = part * max(Fraction(video_duration) - length, Fraction(0)) / parts
        else:
            # Containers round durations (mp4 with an edit list to milliseconds), a number of frames is whole; the
            # clip's may not be, and may miss a whole one by a hair after a float: floor a millionth higher.
            spare_frames = max(round(Fraction(video_duration) * fps) - max(length * fps, 1), 0)
            start = part * math.floor(spare_frames / parts + Fraction(1, 10**6)) / fps
        is_last = index == self._num_clips - 1
        self._current_clip_index = 0 if is_last else index + 1
        return ClipInfo(start, start + length, index, 0, is_last)

    def reset(self) -> None:
        self._current_clip_index = 0


class FrameSampler(ABC):
    """Clips as lists of frames, counted at `target_fps` or, where that is None, as the video has them."""

    def __init__(self, num_frames: int, num_clips: int | None, target_fps: float | None = TARGET_FPS) -> None:
        """num_clips: None for one random clip of training, else so many of a test."""
        self.num_frames, self.num_clips = num_frames, num_clips
        self._target_fps = None if target_fps is None else Fraction(target_fps)

    def times(self, duration: Seconds, fps: Fraction, rng: np.random.Generator) -> list[list[Fraction]]:
        """The times of every clip's frames, in seconds."""
        rate = self._target_fps or fps
        length = max(round(Fraction(duration) * rate), 1)
        clips = [self.random(length, rng)] if self.num_clips is None else self.all(length)
        return [[Fraction(min(max(frame, 0), length - 1)) / rate for frame in clip] for clip in clips]

    @abstractmethod
    def random(self, length: int, rng: np.random.Generator) -> list[int]:
        """The frames of a training clip, of a video of so many."""

    @abstractmethod
    def all(self, length: int) -> list[list[int]]:
        """The frames of every test clip, of a video of so many."""


class DenseClips(FrameSampler):
    """Every `sampling_rate`-th frame from a start, exactly (SlowFast charades.py).

    A clip covers S = (T - 1) * rate + 1 frames. Training starts anywhere, of a shorter video before its first frame or
    at it; tests start at round(i * (N - S) / (K - 1)), for K = 1 at floor((N - S) / 2). Frames outside are the first or
    the last one. N = 40, T = 4, rate 8, K = 2 -> 0 8 16 24 and 15 23 31 39.
    """

    def __init__(
        self, num_frames: int, sampling_rate: int, num_clips: int | None, target_fps: float | None = TARGET_FPS
    ) -> None:
        super().__init__(num_frames, num_clips, target_fps)
        self.sampling_rate = sampling_rate

    def random(self, length: int, rng: np.random.Generator) -> list[int]:
        spare = self._spare(length)
        return self._from(int(rng.integers(min(spare, 0), max(spare, 0) + 1)))

    def all(self, length: int) -> list[list[int]]:
        spare, num_clips = max(self._spare(length), 0), self.num_clips or 1
        if num_clips == 1:
            return [self._from(spare // 2)]
        return [self._from(round(Fraction(spare * i, num_clips - 1))) for i in range(num_clips)]

    def _spare(self, length: int) -> int:
        return length - ((self.num_frames - 1) * self.sampling_rate + 1)

    def _from(self, start: int) -> list[int]:
        return [start + self.sampling_rate * j for j in range(self.num_frames)]


class Segments(FrameSampler):
    """One frame from each of T equal segments of the whole video (SlowFast ssv2.py).

    Segment j goes from round(j * (N - 1) / T) to round((j + 1) * (N - 1) / T), both included, halves to the even side.
    Training takes a random frame of each, a test the middle: N = 40, T = 16 -> 1 3 6 8 11 13 16 18 21 23 25 28 30 33 35
    38. The official test knows one clip; clip i of K here takes the frame at (2i + 1) / 2K of each segment.
    """

    def random(self, length: int, rng: np.random.Generator) -> list[int]:
        return [int(rng.integers(first, last + 1)) for first, last in self._bounds(length)]

    def all(self, length: int) -> list[list[int]]:
        num_clips = self.num_clips or 1
        return [
            [first + (last - first) * (2 * i + 1) // (2 * num_clips) for first, last in self._bounds(length)]
            for i in range(num_clips)
        ]

    def _bounds(self, length: int) -> list[tuple[int, int]]:
        edges = [round(Fraction((length - 1) * j, self.num_frames)) for j in range(self.num_frames + 1)]
        return list(pairwise(edges))


def clip_sampler(
    sampling: Sampling,
    *,
    num_frames: int,
    sampling_rate: int,
    num_clips: int | None,
    target_fps: float | None = TARGET_FPS,
    count: Count = "frames",
) -> ClipSampler | FrameSampler:
    """The sampler of training (num_clips None) or of a test.

    target_fps: the rate at which `sampling_rate` counts; None: every video's own. count: see `UniformClips`.
    """
    if sampling == "segment":
        return Segments(num_frames, num_clips, target_fps)
    if sampling == "dense":
        return DenseClips(num_frames, sampling_rate, num_clips, target_fps)
    native = target_fps is None
    length = num_frames * sampling_rate if native else clip_duration(num_frames, sampling_rate, target_fps)
    if num_clips is None:
        return RandomClip(length, native=native)
    return UniformClips(length, num_clips, native=native, count=count)


def clip_times(
    sampler: ClipSampler | FrameSampler,
    *,
    duration: Seconds,
    fps: Fraction,
    num_frames: int,
    rng: np.random.Generator,
    annotation: dict[str, Any] | None = None,
) -> list[list[Fraction]]:
    """The times, in seconds, of the frames of every clip that a sampler takes from a video; its own state is left."""
    if isinstance(sampler, FrameSampler):
        return sampler.times(duration, fps, rng)
    facts = {**(annotation or {}), "fps": fps, "draw": rng.random()}
    return [frame_times(start, end, num_frames, fps) for start, end in windows(sampler, duration, facts)]


def windows(sampler: ClipSampler, duration: Seconds, annotation: dict[str, Any]) -> list[tuple[Seconds, Seconds]]:
    """All windows (start, end) in seconds that `sampler` takes from a video; the sampler itself is left as it is."""
    walker: Any = copy.deepcopy(sampler)
    walker.reset()
    # Before the first clip PyTorchVideo passes 0.0 on PyPI and None at HEAD, where the argument has another name.
    end = None if "last_clip_end_time" in inspect.signature(walker.__call__).parameters else 0.0
    found = []
    while True:
        start, end, _, _, is_last = walker(end, duration, annotation)
        found.append((start, end))
        if is_last:
            return found
