"""One video as a model takes it, without a data set around it."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from mvit_train.data.decode import DecodedVideo
from mvit_train.data.transforms import TestCrops
from mvit_train.data.views import UniformClips, Views, clip_duration, windows


def read_views(
    path: str | os.PathLike,
    *,
    views: str = "1x1",
    num_frames: int = 16,
    sampling_rate: int = 4,
    crop_size: int = 224,
    mean: Sequence[float] = (0.45, 0.45, 0.45),
    std: Sequence[float] = (0.225, 0.225, 0.225),
) -> Tensor:
    """The test views of a video file, clips x crops, the same that `task=evaluate` scores.

    Returns float32 (V, 3, T, S, S), RGB in [0, 1] normalised with `mean` and `std`.

    Raises:
        DecodeError: the file cannot be read, with its path and the reason.
        ValueError: `views` is not of the form 5x1.
    """
    wanted = Views.parse(views)
    sampler = UniformClips(clip_duration(num_frames, sampling_rate), wanted.clips)
    crops = TestCrops(crop_size, wanted.crops)
    with DecodedVideo(path, num_frames=num_frames) as video:
        clips = video.get_clips(windows(sampler, video.duration, {"fps": video.fps}))
    pixels = torch.cat([crops({"video": clip})["video"] for clip in clips])  # (V, 3, T, S, S) uint8
    channels = (1, 3, 1, 1, 1)
    return (pixels / 255 - torch.tensor(mean).view(channels)) / torch.tensor(std).view(channels)
