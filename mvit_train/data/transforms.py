"""Spatial transforms on decoded clips: uint8 (3, T, H, W) in, uint8 (crops, 3, T, S, S) out.

They are PyTorchVideo transforms (a dict in, a dict out). Randomness comes from the generator in the dict, which the
dataset seeds by (seed, epoch, index); nothing is drawn from a global or worker state. What training draws is plain
numbers, drawn from the size of the frames alone, so it can be applied elsewhere, to the same pixels.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

Sample = dict[str, Any]
Size = tuple[int, int]  # height, width

Interpolation = Literal["bilinear", "bicubic"]

# Testing resizes the short side to 256 for a crop of 224 (MViT, arXiv 2104.11227, Sec. 4), for others to
# floor(crop / 0.875) (PySlowFast's imagenet.py).
CROP_PER_SHORT_SIDE = 0.875


class ClipTransform(ABC):
    """Something random for a whole clip, in two steps: `draw` in a worker, `apply` there or on the training device."""

    crop_size: int

    @abstractmethod
    def draw(self, size: Size, rng: np.random.Generator) -> Any:
        """Plain numbers for a clip whose frames have this size."""

    @abstractmethod
    def apply(self, video: Tensor, drawn: Any) -> Tensor:
        """uint8 (3, T, H, W) to uint8 (3, T, S, S), on any device."""

    def __call__(self, sample: Sample) -> Sample:
        video = sample["video"]
        drawn = self.draw((video.shape[-2], video.shape[-1]), sample["rng"])
        return {**sample, "video": self.apply(video, drawn)[None]}


@dataclass(frozen=True)
class Crop:
    """Frames are scaled to `frame`, the box is cut out, scaled to the crop size, and mirrored."""

    frame: Size
    box: tuple[int, int, int, int]  # top, left, height, width
    flip: bool


class RandomCrop(ClipTransform):
    """One crop for all frames, then flipped with probability `flip`; subclasses draw the frame size and the box."""

    interpolation: Interpolation = "bilinear"

    def __init__(self, *, crop_size: int, flip: float) -> None:
        if not 0 <= flip <= 1:
            raise ValueError(f"augment.flip {flip} is a probability, 0 to 1")
        self.crop_size, self.flip = crop_size, flip

    @abstractmethod
    def draw_box(self, size: Size, rng: np.random.Generator) -> tuple[Size, tuple[int, int, int, int]]:
        """The size to scale frames to and the box in it."""

    def draw(self, size: Size, rng: np.random.Generator) -> Crop:
        frame, box = self.draw_box(size, rng)
        return Crop(frame, box, flip=bool(rng.random() < self.flip))

    def apply(self, video: Tensor, drawn: Crop) -> Tensor:
        top, left, height, width = drawn.box
        video = scale(video, drawn.frame)[..., top : top + height, left : left + width]
        video = scale(video, (self.crop_size, self.crop_size), self.interpolation)
        return (video.flip(-1) if drawn.flip else video).contiguous()


class RandomResizedCrop(RandomCrop):
    """One random box for all frames, resized to the crop size, then flipped with probability `flip`.

    Box: area share uniform in `area`, aspect ratio log-uniform in `aspect`, ten tries, else the largest centred box
    of an allowed ratio; bilinear without antialiasing (PySlowFast's `random_resized_crop`, facts of its K400 recipe:
    area 0.08 to 1, aspect 3/4 to 4/3). `interpolation` bicubic: with antialiasing, as for ImageNet.
    """

    def __init__(
        self,
        *,
        crop_size: int,
        area: tuple[float, float] = (0.08, 1.0),
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__(crop_size=crop_size, flip=flip)
        self.interpolation = interpolation
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"augment.area {area} must rise within 0 to 1")
        if not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"augment.aspect {aspect} must rise and be positive")
        self.area, self.aspect = area, aspect

    def draw_box(self, size: Size, rng: np.random.Generator) -> tuple[Size, tuple[int, int, int, int]]:
        return size, random_box(size, self.area, self.aspect, rng)


class JitteredCrop(RandomCrop):
    """Frames scaled to a random short side, a random square cut out, then flipped with probability `flip`.

    Short side: 1 / uniform(1 / longest, 1 / shortest), rounded (PySlowFast's `random_short_side_scale_jitter` with
    inverse uniform sampling, its SSv2 and AVA recipes: 256 to 320; SSv2 without flips, which would turn left to right).
    """

    def __init__(self, *, crop_size: int, short_side: tuple[int, int] = (256, 320), flip: float = 0.5) -> None:
        super().__init__(crop_size=crop_size, flip=flip)
        if not crop_size <= short_side[0] <= short_side[1]:
            raise ValueError(f"augment.short_side {short_side} must rise and be at least the crop size, {crop_size}")
        self.short_side = short_side

    def draw_box(self, size: Size, rng: np.random.Generator) -> tuple[Size, tuple[int, int, int, int]]:
        height, width = frame = with_short_side(
            size, round(1 / rng.uniform(1 / self.short_side[1], 1 / self.short_side[0]))
        )
        top, left = rng.integers(height - self.crop_size + 1), rng.integers(width - self.crop_size + 1)
        return frame, (int(top), int(left), self.crop_size, self.crop_size)


def random_box(
    size: Size, area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
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
    (PySlowFast's protocol; for ImageNet bicubic with antialiasing).
    """

    __test__ = False  # not a pytest class

    def __init__(self, crop_size: int, num_crops: int, interpolation: Interpolation = "bilinear") -> None:
        if num_crops not in (1, 3):
            raise ValueError(f"views: {num_crops} crops; possible are 1 (centre) and 3 (along the longer side)")
        self.crop_size, self.num_crops = crop_size, num_crops
        self.short_side = math.floor(crop_size / CROP_PER_SHORT_SIDE) if num_crops == 1 else crop_size
        self.interpolation: Interpolation = interpolation

    def __call__(self, sample: Sample) -> Sample:
        video = resize_short_side(sample["video"], self.short_side, self.interpolation)
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


def resize_short_side(video: Tensor, short_side: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """Scales frames (3, T, H, W) so that the shorter side has `short_side` pixels, the longer one rounded down."""
    return scale(video, with_short_side((video.shape[-2], video.shape[-1]), short_side), interpolation)


def with_short_side(size: Size, short_side: int) -> Size:
    """(480, 640) with 256 -> (256, 341)."""
    height, width = size
    if min(height, width) == short_side:
        return size
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


def scale(video: Tensor, size: Size, interpolation: Interpolation = "bilinear") -> Tensor:
    """uint8 (3, T, H, W) to (3, T, *size): bilinear without antialiasing, the same on every device; or bicubic with it,
    as Pillow has it on a CPU, elsewhere up to a level apart.

    Decoded clips lie in memory as (T, H, W, 3). Resized in that order, frame by frame, they take a tenth of the time
    that (3, T, H, W) takes, for the same pixels.
    """
    if video.shape[-2:] == size:
        return video
    if interpolation == "bicubic":
        return resize(video.transpose(0, 1), list(size), InterpolationMode.BICUBIC, antialias=True).transpose(0, 1)
    if video.device.type != "cpu":  # there torchvision would work in float32 and differ by one level here and there
        return scale_in_integers(video, size)
    return resize(video.transpose(0, 1), list(size), antialias=False).transpose(0, 1)


def scale_in_integers(video: Tensor, size: Size) -> Tensor:
    """The arithmetic of `scale` on the CPU in elementary operations: along the width, then along the height, with
    weights of 16 bits and levels rounded after each."""
    return _scale_along(_scale_along(video, -1, size[1]), -2, size[0])


def _scale_along(video: Tensor, dim: int, size: int) -> Tensor:
    old = video.shape[dim]
    if size == old:
        return video
    place = ((torch.arange(size, dtype=torch.float64, device=video.device) + 0.5) * (old / size) - 0.5).clamp_(min=0)
    first = place.long().clamp_(max=old - 1)
    share = (place - first).clamp_(max=1)
    weights = torch.stack([1 - share, share])  # (2, size)
    # As many bits as keep the largest weight below 2^15, like Pillow and torch; weights of one pixel alone are 1.
    bits = 14 + (weights.amax() * 2**15 + 0.5 < 2**15).int()
    near, far = (weights * 2**bits + 0.5).int().view(2, *[-1] + [1] * (-1 - dim))
    total = video.index_select(dim, first) * near + video.index_select(dim, (first + 1).clamp_(max=old - 1)) * far
    return (total + 2 ** (bits - 1) >> bits).to(torch.uint8)
