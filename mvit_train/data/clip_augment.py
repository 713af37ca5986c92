"""The augmentation of a training clip in the published order: pixels at a short side of 256, then crop, then flip."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mvit_train.data.color_jitter import ColorJitter
from mvit_train.data.rand_augment import RandAugment
from mvit_train.data.transforms import (
    ClipTransform,
    Crop,
    JitteredCrop,
    RandomResizedCrop,
    Size,
    scale,
    with_short_side,
)


@dataclass(frozen=True)
class Drawn:
    """All that was drawn for one clip."""

    frame: Size
    pixels: Any  # operations of RandAugment, or factors of ColorJitter
    crop: Crop


class ClipAugment(ClipTransform):
    """Scales frames to a short side, changes their pixels, crops and flips them.

    PySlowFast's Kinetics recipe is short side 256, RandAugment, RandomResizedCrop; its SSv2 recipe is RandAugment on
    frames as decoded (short side None), JitteredCrop.

    Args:
        pixels: RandAugment or ColorJitter; the recipes never use both.
        short_side: before RandAugment, whose shifts and turns fill a share of the frame with grey.
        pixels_after_crop: timm's order, which PySlowFast takes for images: crop and flip, then pixels.
    """

    def __init__(
        self,
        *,
        crop: RandomResizedCrop | JitteredCrop,
        pixels: RandAugment | ColorJitter,
        short_side: int | None = 256,
        pixels_after_crop: bool = False,
    ) -> None:
        if short_side is not None and short_side < 1:
            raise ValueError(f"augment.short_side {short_side} must be positive, or null for frames as decoded")
        self.crop, self.pixels, self.short_side = crop, pixels, short_side
        self.crop_size, self.pixels_after_crop = crop.crop_size, pixels_after_crop

    def draw(self, size: Size, rng: np.random.Generator) -> Drawn:
        frame = size if self.short_side is None else with_short_side(size, self.short_side)
        seen = (self.crop_size, self.crop_size) if self.pixels_after_crop else frame
        return Drawn(frame, self.pixels.draw(seen, rng), self.crop.draw(frame, rng))

    def apply(self, video: Tensor, drawn: Drawn) -> Tensor:
        video = scale(video, drawn.frame)
        if self.pixels_after_crop:
            return self.pixels.apply(self.crop.apply(video, drawn.crop), drawn.pixels)
        return self.crop.apply(self.pixels.apply(video, drawn.pixels), drawn.crop)
