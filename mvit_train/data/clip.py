"""One video as a model takes it, without a data set around it."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mvit_train.data.decode import open_video
from mvit_train.data.transforms import TestCrops
from mvit_train.data.views import Sampling, Views, clip_sampler, clip_times


def read_views(
    path: str | os.PathLike,
    *,
    views: str = "1x1",
    num_frames: int = 16,
    sampling_rate: int = 4,
    crop_size: int = 224,
    sampling: Sampling = "window",
    mean: Sequence[float] = (0.45, 0.45, 0.45),
    std: Sequence[float] = (0.225, 0.225, 0.225),
) -> Tensor:
    """The test views of a video or image file, clips x crops, the same that `task=evaluate` scores.

    Returns float32 (V, 3, T, S, S), RGB in [0, 1] normalised with `mean` and `std`.

    Raises:
        DecodeError: the file cannot be read, with its path and the reason.
        ValueError: `views` is not of the form 5x1.
    """
    wanted = Views.parse(views)
    sampler = clip_sampler(sampling, num_frames=num_frames, sampling_rate=sampling_rate, num_clips=wanted.clips)
    crops, rng = TestCrops(crop_size, wanted.crops), np.random.default_rng(0)  # tests draw nothing
    with open_video(path, num_frames=num_frames) as video:
        times = clip_times(sampler, duration=video.duration, fps=video.fps, num_frames=num_frames, rng=rng)
        clips = video.get_frames(times)
    pixels = torch.cat([crops({"video": clip})["video"] for clip in clips])  # (V, 3, T, S, S) uint8
    channels = (1, 3, 1, 1, 1)
    return (pixels / 255 - torch.tensor(mean).view(channels)) / torch.tensor(std).view(channels)
