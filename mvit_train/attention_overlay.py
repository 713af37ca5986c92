"""Where a model looks, as heat over the frames that it sees, beside the same frames without it."""

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mvit_train.models import MViT
from mvit_train.models.rollout import Method, saliency
from mvit_train.mp4 import write_mp4

STRENGTH = 0.8  # how much of a pixel the greatest heat covers
MIN_SIDE = 256  # pixels; smaller clips are enlarged
MIN_RANGE = 1.0  # the greatest heat is at least so far above the mean: a flat map stays dark
STILL_SEC = 2.0  # how long the only frame of a clip is shown
REPEATED_SEC = 1 / 30  # between frames that come at one time, as in a clip longer than its video

# 16 colours of matplotlib's "inferno" (public domain), evenly spaced: perceptually uniform, brighter for more.
INFERNO = np.array([
    (0, 0, 4), (12, 8, 38), (36, 12, 79), (66, 10, 104), (93, 18, 110), (120, 28, 109), (147, 38, 103), (174, 48, 92),
    (199, 62, 76), (221, 81, 58), (237, 105, 37), (248, 133, 15), (252, 165, 10), (250, 198, 45), (242, 230, 97),
    (252, 255, 164),
])  # fmt: skip


def attention_clip(
    model: MViT,
    views: Tensor,
    times_sec: Sequence[Sequence[float]],
    *,
    normalise: Callable[[Tensor], Tensor],
    method: Method = "rollout",
) -> bytes:
    """An H.264 mp4 of `attention_frames`."""
    file = io.BytesIO()
    write_mp4(file, attention_frames(model, views, times_sec, normalise=normalise, method=method))
    return file.getvalue()


def attention_frames(
    model: MViT,
    views: Tensor,
    times_sec: Sequence[Sequence[float]],
    *,
    normalise: Callable[[Tensor], Tensor],
    method: Method = "rollout",
) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, image (H, 2 W, 3) uint8), for `write_mp4`: one view after another, each at the pace of its frames.

    views: uint8 (V, 3, T, S, S), as an evaluation has them. times_sec: T times in the video for each.
    normalise: turns a uint8 batch into what the model takes, such as `VideoClassifier.normalise`.
    """
    parameter = next(model.parameters())
    start, image = 0.0, None
    for view, times in zip(views, times_sec, strict=True):
        video = normalise(view[None].to(parameter.device)).to(parameter.dtype)
        video = video.squeeze(2) if len(model.input_size) == 2 else video  # images are (1, 3, S, S)
        maps = saliency(model, video, method)[0].float().cpu().numpy()
        images = attention_overlay(view.permute(1, 2, 3, 0).cpu().numpy(), maps)
        shown, end = playing_times(times)
        for time_sec, image in zip(shown, images, strict=True):
            yield start + time_sec, image
        start += end
    if image is not None:
        yield start, image  # where the last frame ends


def attention_overlay(frames: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Frames with heat over them, beside them as they are: (T, H', 2 W', 3) uint8, enlarged if smaller than MIN_SIDE.

    The heat is none where a map is at its mean or below, and full at its greatest value of all frames or at twice the
    mean, whichever is more. Its colour covers a pixel by heat times STRENGTH.

    frames: (T, H, W, 3) uint8. maps: (T', H', W'), not negative, stretched over the frames linearly.
    """
    factor = max(-(-MIN_SIDE // min(frames.shape[1:3])), 1)
    size = (frames.shape[1] * factor, frames.shape[2] * factor)
    colours = torch.from_numpy(frames.astype(np.float32)).permute(0, 3, 1, 2)  # (T, 3, H, W)
    images = interpolate(colours, size, mode="bilinear").permute(0, 2, 3, 1).numpy()
    above = torch.from_numpy(maps / max(maps.mean(), np.finfo(maps.dtype).tiny) - 1)
    heat = (above / max(float(above.max()), MIN_RANGE)).clamp(min=0)[None, None].float()
    heat = interpolate(heat, (len(frames), *size), mode="trilinear")[0, 0, ..., None].numpy()  # (T, H', W', 1)
    covered = images + STRENGTH * heat * (inferno(heat[..., 0]) - images)
    return np.concatenate((images, covered), axis=2).round().astype(np.uint8)


def inferno(heat: np.ndarray) -> np.ndarray:
    """The colours (..., 3), 0 to 255, of heat from 0 to 1."""
    place = np.linspace(0, 1, len(INFERNO))
    return np.stack([np.interp(heat, place, channel) for channel in INFERNO.T], axis=-1)


def playing_times(times_sec: Sequence[float]) -> tuple[list[float], float]:
    """When to show the frames of a clip, from 0 on, and when the last one ends: 2 2.5 3 -> 0 0.5 1, and 1.5."""
    shown = [0.0]
    for before, after in pairwise(times_sec):
        shown.append(shown[-1] + max(after - before, REPEATED_SEC))
    return shown, shown[-1] * len(shown) / (len(shown) - 1) if len(shown) > 1 else STILL_SEC
