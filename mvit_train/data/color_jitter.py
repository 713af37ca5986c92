"""Random brightness, contrast and saturation of clips, in PySlowFast's arithmetic."""

import numpy as np
import torch
from torch import Tensor

GREY = 0.299, 0.587, 0.114  # of red, green, blue


class ColorJitter:
    """Brightness, contrast and saturation in random order, each by a factor that is the same for all frames.

    Factors: uniform in 1 +- the given range; 0 switches a change off. Contrast turns around the mean grey of each
    frame, saturation around the grey of each pixel (PySlowFast's `color_jitter`; its recipes give 0.4 for all three and
    do not use it together with RandAugment). Levels are rounded and cut to 0..255 once, after the last change.
    """

    def __init__(self, *, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4) -> None:
        self.ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        if not all(0 <= value <= 1 for value in self.ranges.values()):
            raise ValueError(f"color jitter {self.ranges}: ranges lie within 0 to 1")

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
        """Changes and their factors, in order."""
        changes = [change for change, value in self.ranges.items() if value > 0]
        order = [changes[i] for i in rng.permutation(len(changes))]
        return tuple((change, 1 + rng.uniform(-self.ranges[change], self.ranges[change])) for change in order)

    def apply(self, video: Tensor, changes: tuple[tuple[str, float], ...]) -> Tensor:
        """uint8 (3, T, H, W) to the same, on the device that it is on."""
        pixels = video.float()
        for change, factor in changes:
            pixels = pixels * factor + _around(pixels, change) * (1 - factor)
        return pixels.round_().clamp_(0, 255).to(torch.uint8) if changes else video


def _around(pixels: Tensor, change: str) -> Tensor | float:
    """What a factor of 0 would leave of float (3, T, H, W)."""
    if change == "brightness":
        return 0.0
    grey = sum(weight * channel for weight, channel in zip(GREY, pixels, strict=True))
    assert isinstance(grey, Tensor)  # (T, H, W)
    if change == "saturation":
        return grey
    return grey.double().mean((-2, -1), keepdim=True).float()  # the order of a sum in float32 depends on the device
