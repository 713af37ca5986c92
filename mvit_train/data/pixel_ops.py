"""Pillow's point and enhancement operations (`ImageOps`, `ImageEnhance`) on clips, bit for bit, on any device.

All take and return uint8 (3, T, H, W) and treat every frame as an image of its own. Where torchvision does the same
arithmetic as fast, it does the work.
"""

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import adjust_brightness, invert, posterize

__all__ = [
    "autocontrast",
    "brightness",
    "color",
    "contrast",
    "equalize",
    "grey",
    "invert",
    "posterize",
    "sharpness",
    "solarize",
    "solarize_add",
]


def autocontrast(video: Tensor) -> Tensor:
    """Stretches each channel of each frame to 0..255. (torchvision divides in single precision: one level off.)"""
    low, high = (bound.double() for bound in _planes(video).aminmax(dim=1, keepdim=True))  # (3T, 1)
    stretch = torch.full_like(high, 255) / (high - low)  # 255 / tensor would be 255 * (1 / tensor)
    level = torch.arange(256, dtype=torch.float64, device=video.device)
    table = (level * stretch + -low * stretch).clamp(0, 255)
    return _look_up(video, torch.where(high > low, table, level).to(torch.uint8))


def equalize(video: Tensor) -> Tensor:
    """Flattens the histogram of each channel of each frame. (torchvision takes twice as long.)"""
    planes = _planes(video)
    first = torch.arange(len(planes), dtype=torch.int32, device=video.device)[:, None] * 256
    histogram = torch.bincount if video.device.type == "cpu" else histogram_by_scatter
    count = histogram((planes + first).flatten(), minlength=len(planes) * 256).view(-1, 256)  # (3T, 256)
    below = count.cumsum(1) - count
    num_brightest = count.gather(1, planes.amax(1, keepdim=True).long())
    step = (planes.shape[1] - num_brightest) // 255
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    level = torch.arange(256, device=video.device)
    return _look_up(video, torch.where(step > 0, table, level).to(torch.uint8))


def histogram_by_scatter(values: Tensor, *, minlength: int) -> Tensor:
    """torch.bincount of values below `minlength`, for which no GPU has to tell the host their maximum."""
    count = torch.zeros(minlength, dtype=torch.int64, device=values.device)
    return count.scatter_add_(0, values.long(), torch.ones_like(values, dtype=torch.int64))


def solarize(video: Tensor, threshold: int) -> Tensor:
    """Inverts the pixels from `threshold` on. (torchvision takes six times as long.)"""
    if threshold > 255:
        return video
    return video ^ (video >= threshold).view(torch.uint8).neg_()


def solarize_add(video: Tensor, amount: int) -> Tensor:
    """Adds `amount`, at most 127, to the pixels below 128."""
    return video + (video < 128).view(torch.uint8).mul_(amount)


def color(video: Tensor, factor: float) -> Tensor:
    """Blends with the grey frame."""
    return _blend(grey(video).float(), video, factor)


def brightness(video: Tensor, factor: float) -> Tensor:
    """Blends with black."""
    return adjust_brightness(video.transpose(0, 1), factor).transpose(0, 1)  # its channels are the third last


def contrast(video: Tensor, factor: float) -> Tensor:
    """Blends with the mean of the grey frame, rounded to a whole level."""
    num_pixels = video.shape[-2] * video.shape[-1]
    mean = (grey(video).sum((-2, -1), keepdim=True).double() / num_pixels + 0.5).floor()  # (T, 1, 1)
    return _blend(mean.float(), video, factor)


def sharpness(video: Tensor, factor: float) -> Tensor:
    """Blends with the frame smoothed by 3 x 3 weights of 1/13 around 5/13; the outermost pixels stay."""
    if min(video.shape[-2:]) < 3:
        return video
    wide = video.to(torch.int16)
    rows = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]  # (3, T, H, W - 2)
    total = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :] + 4 * wide[..., 1:-1, 1:-1]
    smooth = total.float().div_(13).add_(0.5).floor_()
    out = video.clone()
    out[..., 1:-1, 1:-1] = _blend(smooth, video[..., 1:-1, 1:-1], factor)
    return out


def grey(video: Tensor) -> Tensor:
    """int32 (T, H, W): Pillow's conversion to L."""
    red, green, blue = video.int()
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _blend(start: Tensor, video: Tensor, factor: float) -> Tensor:
    """start + factor * (video - start), cut to 0..255: Pillow's `Image.blend` with its two roundings to float32."""
    return video.float().sub_(start).mul_(factor).add_(start).clamp_(0, 255).to(torch.uint8)


def _planes(video: Tensor) -> Tensor:
    """(3, T, H, W) to (3T, H * W)."""
    return video.flatten(2).flatten(0, 1)


def _look_up(video: Tensor, table: Tensor) -> Tensor:
    """The levels of each plane replaced by those in its row of `table`, (3T, 256)."""
    return table.gather(1, _planes(video).long()).view_as(video)
