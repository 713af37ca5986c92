"""Pillow's affine transforms of frames as one sparse product, on any device.

All frames and channels sample the same places, so a transform is a table of places and weights (H * W, taps), applied
to the pixels as a table (H * W, channels * frames). Like Pillow: places in double precision, pixel centres at halves,
places off the frame take the fill colour, taps off the frame repeat its edge, the cubic kernel has a = -1, and values
are cut to whole numbers, not rounded.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

Interpolation = Literal["bilinear", "bicubic"]
Matrix = tuple[float, float, float, float, float, float]

FRAMES_AT_ONCE = 8  # bounds the memory of the double precision tables
# The order of summation differs from Pillow's by about 2e-13, which must not cut 128 to 127.
ROUNDING = 2.0**-40


def affine(
    video: Tensor, matrix: Matrix, *, interpolation: Interpolation = "bicubic", fill: Sequence[int] = (128, 128, 128)
) -> Tensor:
    """`Image.transform(size, AFFINE, matrix, interpolation, fillcolor=fill)` of every frame.

    Output pixel (x, y) shows input place (a x + b y + c, d x + e y + f) for matrix (a, b, c, d, e, f).
    video: uint8 (3, T, H, W), returned in the same shape.
    """
    height, width = video.shape[-2:]
    place, weight = _taps(height, width, matrix, interpolation, video.device)
    return torch.cat([_sum_taps(part, place, weight, fill) for part in video.split(FRAMES_AT_ONCE, dim=1)], dim=1)


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """The matrix of Pillow's `Image.rotate`: counter-clockwise around the centre of the frame."""
    angle = -math.radians(degrees % 360)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cosine, sine, cosine * -x + sine * -y + x, -sine, cosine, -sine * -x + cosine * -y + y


def _taps(
    height: int, width: int, matrix: Matrix, interpolation: Interpolation, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Places in the table of pixels, int32 (H * W, taps), and weights, float64; place H * W is the fill colour."""
    a, b, c, d, e, f = matrix
    x = torch.arange(width, dtype=torch.float64, device=device) + 0.5  # (W,)
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None] + 0.5  # (H, 1)
    across, down = a * x + b * y + c, d * x + e * y + f  # (H, W)
    outside = (across < 0) | (across >= width) | (down < 0) | (down >= height)
    columns, weights_across = _taps_along(across, width, interpolation if (a, b, c) != (1, 0, 0) else "none")
    rows, weights_down = _taps_along(down, height, interpolation if (d, e, f) != (0, 1, 0) else "none")
    place = (rows * width)[:, None] + columns  # (taps down, taps across, H, W)
    weight = weights_down[:, None] * weights_across
    place = place.masked_fill_(outside, height * width)
    return place.flatten(2).flatten(0, 1).t().contiguous(), weight.flatten(2).flatten(0, 1).t().contiguous()


def _taps_along(place: Tensor, size: int, interpolation: Interpolation | Literal["none"]) -> tuple[Tensor, Tensor]:
    """Indices along one axis and their weights, (taps, H, W); an axis that does not move needs one tap, itself."""
    place = place - 0.5
    first = place.floor()
    d = place - first  # how far beyond the pixel `first`
    if interpolation == "bicubic":
        start, weights = -1, [-d + d**2 * (2 - d), 1 - d**2 * (2 - d), d + d**2 * (1 - d), -(d**2) * (1 - d)]
    elif interpolation == "bilinear":
        start, weights = 0, [1 - d, d]
    else:
        start, weights = 0, [torch.ones_like(d)]
    first = first.int()
    indices = [(first + offset).clamp_(0, size - 1) for offset in range(start, start + len(weights))]
    return torch.stack(indices), torch.stack(weights)


def _sum_taps(video: Tensor, place: Tensor, weight: Tensor, fill: Sequence[int]) -> Tensor:
    channels, num_frames, height, width = video.shape
    pixels = video.new_empty(height * width + 1, channels, num_frames, dtype=torch.float64)
    pixels[:-1] = video.flatten(2).permute(2, 0, 1)
    for channel, level in enumerate(fill):  # a tensor of them would have to travel to the device
        pixels[-1, channel] = level
    out = embedding_bag(place, pixels.flatten(1), mode="sum", per_sample_weights=weight)  # (H * W, channels * frames)
    out = out.add_(ROUNDING).clamp_(0, 255).to(torch.uint8)
    return out.t().reshape(channels, num_frames, height, width)
