"""Where the model looks in the views of a file, as a video beside the prediction."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch

from mvit_train.attention_overlay import attention_frames
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.decode import open_video
from mvit_train.data.transforms import TestCrops
from mvit_train.data.views import Views, clip_times
from mvit_train.models import MViT
from mvit_train.models.rollout import Method
from mvit_train.module import VideoClassifier
from mvit_train.mp4 import write_mp4
from mvit_train.prediction.reading import watched

TimedViews = tuple[np.ndarray, list[list[float]]]  # uint8 (V, 3, T, S, S), and the T times of each view in seconds


def write_attention(
    module: VideoClassifier,
    data: VideoDataModule,
    path: Path,
    target: Path,
    *,
    views: str = "5x1",
    method: Method = "rollout",
) -> None:
    """Writes an mp4 of the views of a video or image, one after another, with heat where the model looks.

    Computed in the precision of the weights, without autocast. DecodeError: the file cannot be read.
    """
    arguments = (path, data, Views.parse(views))
    found = (
        watched(timed_views, *arguments, timeout_sec=data.timeout_sec) if data.num_workers else timed_views(*arguments)
    )
    pixels, times = next(found)
    model, normalise = cast(MViT, module.model), module.normalise
    write_mp4(target, attention_frames(model, torch.from_numpy(pixels), times, normalise=normalise, method=method))


def timed_views(path: Path, data: VideoDataModule, views: Views) -> Iterator[TimedViews]:
    """The test views of one file, as an evaluation has them, and when their frames are on show. DecodeError."""
    rng = np.random.default_rng(0)  # tests draw nothing
    transform = TestCrops(data.crop_size, views.crops, data.interpolation)
    with open_video(path, num_frames=data.num_frames) as video:
        times = clip_times(
            data.clip_sampler(views.clips),
            duration=video.duration,
            fps=video.fps,
            num_frames=data.num_frames,
            rng=rng,
        )
        clips = video.get_frames(times)
    pixels = torch.cat([transform({"video": clip, "rng": rng})["video"] for clip in clips])
    yield pixels.numpy(), [[float(time) for time in clip] for clip in times for _ in range(views.crops)]
