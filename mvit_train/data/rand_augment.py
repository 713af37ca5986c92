"""RandAugment (arXiv 1909.13719) for clips, as timm and PySlowFast run it on PIL frames.

A policy such as `rand-m7-n4-mstd0.5-inc1` reads: 4 operations, drawn with replacement from 15, each applied with
probability 1/2 at a level of 7 out of 10 with normal noise of deviation 0.5, all frames alike. "inc1" is the set whose
operations grow stronger with the level. Pixels are Pillow's, bit for bit.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from mvit_train.data import pixel_ops
from mvit_train.data.affine import Interpolation, Matrix, affine, rotation

MAX_LEVEL = 10
PROBABILITY = 0.5  # of each drawn operation; no published policy sets another


@dataclass(frozen=True)
class Op:
    """One operation to apply: its name in OPS, its argument in the operation's own unit."""

    name: str
    value: float
    interpolation: Interpolation = "bicubic"


class RandAugment:
    """Draws operations and applies them to clips.

    Args:
        policy: timm's notation, rand-m<level>-n<operations>-mstd<deviation>-inc1 in any order after "rand".
        fill: RGB levels that show where a frame was moved away. PySlowFast: grey; timm: the mean of the data set.
        interpolation: of the moving operations; "random" draws one of the two for each of them.

    Raises:
        ValueError: `policy` has a part that is unknown or missing.
    """

    def __init__(
        self,
        policy: str,
        *,
        fill: Sequence[int] = (128, 128, 128),
        interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic",
    ) -> None:
        self.level, self.num_ops, self.level_std = parse_policy(policy)
        self.fill = tuple(fill)
        self.interpolation: Interpolation | Literal["random"] = interpolation

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[Op, ...]:
        """The operations that fire, in order. Shares of the frame become pixels when they are applied."""
        ops = []
        for choice in rng.integers(len(OPS), size=self.num_ops):
            fires, noise, sign = rng.random() < PROBABILITY, rng.standard_normal(), 1 - 2 * int(rng.integers(2))
            interpolation = self.interpolation
            if interpolation == "random":
                interpolation = "bilinear" if rng.random() < 0.5 else "bicubic"
            if fires:
                name = list(OPS)[choice]
                level = min(max(self.level + self.level_std * noise, 0), MAX_LEVEL)
                ops.append(Op(name, float(OPS[name](level / MAX_LEVEL, sign)), interpolation))
        return tuple(ops)

    def apply(self, video: Tensor, ops: Sequence[Op]) -> Tensor:
        """uint8 (3, T, H, W) to the same, on the device that it is on."""
        for op in ops:
            video = apply_op(video.contiguous(), op, self.fill)
        return video


def parse_policy(policy: str) -> tuple[float, int, float]:
    """`rand-m7-n4-mstd0.5-inc1` -> (7.0, 4, 0.5)."""
    name, *parts = policy.split("-")
    found: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"(m|n|mstd|inc)(\d+(?:\.\d+)?)", part)
        if match is None or match[1] in found:
            raise ValueError(f"RandAugment policy {policy!r}: {part!r} is not one of m, n, mstd, inc with a number")
        found[match[1]] = float(match[2])
    if name != "rand" or not {"m", "n"} <= found.keys():
        raise ValueError(f"RandAugment policy {policy!r} must be like rand-m7-n4-mstd0.5-inc1")
    if found.get("inc") != 1:
        raise ValueError(f"RandAugment policy {policy!r}: only the increasing operations, inc1, are here")
    if found["m"] > MAX_LEVEL or found["n"] % 1:
        raise ValueError(f"RandAugment policy {policy!r}: m is at most {MAX_LEVEL}, n a whole number")
    return found["m"], int(found["n"]), found.get("mstd", 0.0)


def apply_op(video: Tensor, op: Op, fill: Sequence[int]) -> Tensor:
    """One operation on uint8 (3, T, H, W)."""
    if op.name in PIXEL_OPS:
        return PIXEL_OPS[op.name](video, op.value)
    if op.value == 0:
        return video
    matrix = MOVES[op.name](op.value, video.shape[-2], video.shape[-1])
    return affine(video, matrix, interpolation=op.interpolation, fill=fill)


# From a level 0..1 and a sign to the argument: nothing, degrees, bits kept, threshold, amount, factor, share.
OPS: dict[str, Callable[[float, int], float]] = {
    "autocontrast": lambda level, sign: 0,
    "equalize": lambda level, sign: 0,
    "invert": lambda level, sign: 0,
    "rotate": lambda level, sign: sign * level * 30,
    "posterize": lambda level, sign: 4 - int(level * 4),
    "solarize": lambda level, sign: 256 - int(level * 256),
    "solarize_add": lambda level, sign: int(level * 110),
    "color": lambda level, sign: 1 + sign * level * 0.9,
    "contrast": lambda level, sign: 1 + sign * level * 0.9,
    "brightness": lambda level, sign: 1 + sign * level * 0.9,
    "sharpness": lambda level, sign: 1 + sign * level * 0.9,
    "shear_x": lambda level, sign: sign * level * 0.3,
    "shear_y": lambda level, sign: sign * level * 0.3,
    "translate_x": lambda level, sign: sign * level * 0.45,
    "translate_y": lambda level, sign: sign * level * 0.45,
}

PIXEL_OPS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "autocontrast": lambda video, _: pixel_ops.autocontrast(video),
    "equalize": lambda video, _: pixel_ops.equalize(video),
    "invert": lambda video, _: pixel_ops.invert(video),
    "posterize": lambda video, bits: pixel_ops.posterize(video, int(bits)),
    "solarize": lambda video, threshold: pixel_ops.solarize(video, int(threshold)),
    "solarize_add": lambda video, amount: pixel_ops.solarize_add(video, int(amount)),
    "color": pixel_ops.color,
    "contrast": pixel_ops.contrast,
    "brightness": pixel_ops.brightness,
    "sharpness": pixel_ops.sharpness,
}

# From the argument, the height and the width to the matrix.
MOVES: dict[str, Callable[[float, int, int], Matrix]] = {
    "rotate": rotation,
    "shear_x": lambda factor, height, width: (1, factor, 0, 0, 1, 0),
    "shear_y": lambda factor, height, width: (1, 0, 0, factor, 1, 0),
    "translate_x": lambda share, height, width: (1, 0, share * width, 0, 1, 0),
    "translate_y": lambda share, height, width: (1, 0, 0, 0, 1, share * height),
}
