"""Random erasing (arXiv 1708.04896) of clips: one box through all frames, filled with noise."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

AREA = 0.02, 1 / 3
ASPECT = 0.3, 1 / 0.3


@dataclass(frozen=True)
class Erasure:
    """A box in pixels and the seed of the noise in it."""

    top: int
    left: int
    height: int
    width: int
    seed: int

    def apply(self, video: Tensor) -> None:
        """Erases from float (3, T, S, S), in place, by noise of the clip's device: each kind of device has its own."""
        box = video[..., self.top : self.top + self.height, self.left : self.left + self.width]
        random = torch.Generator(video.device).manual_seed(self.seed)
        box.copy_(torch.randn(box.shape, generator=random, device=video.device))


class RandomErasing:
    """Replaces a random box of a normalised clip by normal noise, fresh for every frame, channel and pixel.

    Box: area share uniform in 0.02 to 1/3, aspect ratio log-uniform in 0.3 to 1/0.3, smaller than the frame in both
    directions, else drawn again (PySlowFast's `RandomErasing` with mode "pixel", cube, count 1; MViT, arXiv 2104.11227,
    Sec. D.1: probability 0.25).

    Args:
        num_tries: boxes drawn before the clip is left as it is. PySlowFast: 100 for videos, 10 for images.
    """

    def __init__(self, *, probability: float = 0.25, num_tries: int = 100) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"erasing probability {probability} must lie within 0 to 1")
        self.probability, self.num_tries = probability, num_tries

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Erasure | None:
        """What to erase from frames of `size` (H, W); mostly nothing."""
        frame_height, frame_width = size
        if rng.random() >= self.probability:
            return None
        for _ in range(self.num_tries):
            area = frame_height * frame_width * rng.uniform(*AREA)
            ratio = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height < frame_height and width < frame_width:
                top, left = rng.integers(frame_height - height + 1), rng.integers(frame_width - width + 1)
                return Erasure(int(top), int(left), height, width, seed=int(rng.integers(2**63)))
        return None
