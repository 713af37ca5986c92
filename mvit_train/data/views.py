"""Which windows of a video are looked at: PyTorchVideo clip samplers with SlowFast's protocol, and the views of a test.

A clip is a temporal sample, a crop a spatial one, a view is clip x crop. PyTorchVideo's own samplers are not the
published protocol: with K clips they start at i * delta / K and never reach the end, with one clip they start at 0.
"""

import copy
import inspect
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler

Seconds = Fraction | float

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


def clip_duration(num_frames: int, sampling_rate: int) -> Fraction:
    """Seconds a clip spans: 16 frames at rate 4 are 64/30 s, whatever the rate of the video."""
    return Fraction(num_frames * sampling_rate, TARGET_FPS)


class RandomClip(ClipSampler):
    """One training clip, its start uniform over the video.

    The chance comes in as `annotation["draw"]` in [0, 1), which the dataset derives from (seed, epoch, index): no
    generator is shared, so workers, ranks and restarts do not matter.
    """

    def __call__(self, last_clip_time: Seconds | None, video_duration: Seconds, annotation: dict[str, Any]) -> ClipInfo:
        latest = max(Fraction(video_duration) - self._clip_duration, Fraction(0))
        start = Fraction(annotation["draw"]) * latest
        return ClipInfo(start, start + self._clip_duration, 0, 0, True)


class UniformClips(ClipSampler):
    """`num_clips` test clips from the first frame to the last (SlowFast decoder.py, DATA.USE_OFFSET_SAMPLING True).

    Starts are whole frames: i * floor((N - L) / (K - 1)), and floor((N - L) / 2) for K = 1; N frames in the video, L in
    the clip. N = 300, L = 64, K = 5 -> 0 59 118 177 236. `annotation["fps"]` is the video's rate; without it, as inside
    PyTorchVideo's own iterator, starts are counted at 30 fps.
    """

    def __init__(self, clip_duration: Seconds, num_clips: int) -> None:
        super().__init__(clip_duration)
        self._num_clips = num_clips

    def __call__(self, last_clip_time: Seconds | None, video_duration: Seconds, annotation: dict[str, Any]) -> ClipInfo:
        fps = Fraction(annotation.get("fps", TARGET_FPS))
        clip_frames = max(self._clip_duration * fps, 1)
        spare_frames = max(Fraction(video_duration) * fps - clip_frames, 0)
        # A duration or rate that went through a float may miss a whole frame by a hair: floor a millionth higher.
        stride = math.floor(
            spare_frames / (max(self._num_clips - 1, 1) if self._num_clips > 1 else 2) + Fraction(1, 10**6)
        )
        index = self._current_clip_index
        start = (index if self._num_clips > 1 else 1) * stride / fps
        is_last = index == self._num_clips - 1
        self._current_clip_index = 0 if is_last else index + 1
        return ClipInfo(start, start + self._clip_duration, index, 0, is_last)

    def reset(self) -> None:
        self._current_clip_index = 0


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
