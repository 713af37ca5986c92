"""Spatial transforms on decoded clips: uint8 (3, T, H, W) in, uint8 (crops, 3, T, S, S) out.

They are PyTorchVideo transforms (a dict in, a dict out). Randomness comes from the generator in the dict, which the
dataset seeds by (seed, epoch, index); nothing is drawn from a global or worker state.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

Sample = dict[str, Any]

# Testing resizes the short side to 256 for a crop of 224 (MViT, arXiv 2104.11227, Sec. 4); other sizes keep the ratio.
SHORT_SIDE_PER_CROP = 256 / 224


class RandomResizedCrop:
    """One random box for all frames, resized to the crop size, then flipped with probability `flip`.

    Box: area share uniform in `area`, aspect ratio log-uniform in `aspect`, ten tries, else the largest centred box
    of an allowed ratio; bilinear without antialiasing (PySlowFast's `random_resized_crop`, facts of its K400 recipe:
    area 0.08 to 1, aspect 3/4 to 4/3).
    """

    def __init__(
        self,
        *,
        crop_size: int,
        area: tuple[float, float] = (0.08, 1.0),
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
    ) -> None:
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"augment.area {area} must rise within 0 to 1")
        if not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"augment.aspect {aspect} must rise and be positive")
        if not 0 <= flip <= 1:
            raise ValueError(f"augment.flip {flip} is a probability, 0 to 1")
        self.crop_size, self.area, self.aspect, self.flip = crop_size, area, aspect, flip

    def __call__(self, sample: Sample) -> Sample:
        video, rng = sample["video"], sample["rng"]
        top, left, height, width = random_box((video.shape[-2], video.shape[-1]), self.area, self.aspect, rng)
        video = video[..., top : top + height, left : left + width]
        video = scale(video, [self.crop_size, self.crop_size])
        if rng.random() < self.flip:
            video = video.flip(-1)
        return {**sample, "video": video.contiguous()[None]}


def random_box(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random box within a frame of `size` (H, W)."""
    frame_height, frame_width = size
    for _ in range(10):
        box_area = frame_height * frame_width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        width, height = round(math.sqrt(box_area * ratio)), round(math.sqrt(box_area / ratio))
        if 0 < width <= frame_width and 0 < height <= frame_height:
            top, left = rng.integers(frame_height - height + 1), rng.integers(frame_width - width + 1)
            return int(top), int(left), height, width
    ratio = min(max(frame_width / frame_height, aspect[0]), aspect[1])
    width = min(frame_width, max(round(frame_height * ratio), 1))
    height = min(frame_height, max(round(frame_width / ratio), 1))
    return (frame_height - height) // 2, (frame_width - width) // 2, height, width


class TestCrops:
    """The spatial crops of testing: one centre crop, or three that cover the longer side.

    One crop is cut from a frame whose short side is 8/7 of it (256 for 224), three from one whose short side equals it
    (PySlowFast's protocol).
    """

    __test__ = False  # not a pytest class

    def __init__(self, crop_size: int, num_crops: int) -> None:
        if num_crops not in (1, 3):
            raise ValueError(f"views: {num_crops} crops; possible are 1 (centre) and 3 (along the longer side)")
        self.crop_size, self.num_crops = crop_size, num_crops

    def __call__(self, sample: Sample) -> Sample:
        short_side = round(self.crop_size * SHORT_SIDE_PER_CROP) if self.num_crops == 1 else self.crop_size
        video = resize_short_side(sample["video"], short_side)
        height, width = video.shape[-2:]
        size = self.crop_size
        top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
        if self.num_crops == 1:
            corners = [(top, left)]
        elif width >= height:
            corners = [(top, 0), (top, left), (top, width - size)]
        else:
            corners = [(0, left), (top, left), (height - size, left)]
        return {**sample, "video": torch.stack([video[..., y : y + size, x : x + size] for y, x in corners])}


def resize_short_side(video: Tensor, short_side: int) -> Tensor:
    """Scales frames (3, T, H, W) so that the shorter side has `short_side` pixels, the longer one rounded down."""
    height, width = video.shape[-2:]
    if min(height, width) == short_side:
        return video
    if width < height:
        size = [math.floor(height / width * short_side), short_side]
    else:
        size = [short_side, math.floor(width / height * short_side)]
    return scale(video, size)


def scale(video: Tensor, size: list[int]) -> Tensor:
    """(3, T, H, W) to (3, T, *size), bilinear without antialiasing.

    Decoded clips lie in memory as (T, H, W, 3). Resized in that order, frame by frame, they take a tenth of the time
    that (3, T, H, W) takes, for the same pixels.
    """
    return resize(video.transpose(0, 1), size, antialias=False).transpose(0, 1)
