"""How a file's parameter gets its shape in a model: positions are interpolated, kernels of images get a time axis.

Positions: PySlowFast's `load_checkpoint` conversions, 2-D bicubic in space and linear in time and for relative
positions. From images to video (MViTv2, arXiv 2112.01526, Sec. 4.3): kernels become the centre in time with zeros
around it, and what is learned about time alone starts from zeros.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mvit_train.models.attention import table_of_length
from mvit_train.ops.pooling import THW

STEM = "patch_embed.proj.weight"
RELATIVE_SPACE, RELATIVE_TIME = "blocks.0.attn.rel_pos_h", "blocks.0.attn.rel_pos_t"


class Fitted(NamedTuple):
    """A tensor of the shape asked for.

    change: whether it is the file's own, one of another size, or one of an image model.
    how: the same in words for a report.
    source: its name in the file; None for zeros.
    """

    tensor: Tensor
    change: Literal["loaded", "resized", "inflated"]
    how: str
    source: str | None


def fit_parameter(name: str, shape: torch.Size, tensors: Mapping[str, Tensor], thw: THW) -> Fitted | None:
    """What the file's tensors say about a parameter of a model whose tokens lie on the grid `thw`; None: nothing."""
    tensor = tensors.get(name)
    if tensor is not None and tensor.shape == shape:
        return Fitted(tensor, "loaded", "", name)
    if name.startswith("pos_embed"):
        return _position_embedding(name, shape, tensors, thw)
    if tensor is None:
        if name.endswith("rel_pos_t") and RELATIVE_SPACE in tensors and RELATIVE_TIME not in tensors:
            return Fitted(torch.zeros(shape), "inflated", "zeros", None)
        return None
    if ".attn.rel_pos_" in name and tensor.shape[1:] == shape[1:]:
        return Fitted(table_of_length(tensor.float(), shape[0]), "resized", "linear", name)
    if name == STEM or ".attn.pool_" in name:
        return _centred(name, shape, tensor)
    return None


def _centred(name: str, shape: torch.Size, kernel: Tensor) -> Fitted | None:
    """(D, C, h, w) or (D, C, 1, h, w) -> (D, C, t, h, w)"""
    frames = kernel.unsqueeze(2) if kernel.ndim == 4 else kernel
    if len(shape) != 5 or frames.shape != (*shape[:2], 1, *shape[3:]):
        return None
    inflated = frames.new_zeros(shape)
    inflated[:, :, shape[2] // 2] = frames[:, :, 0]
    return Fitted(inflated, "inflated", "centre in time", name)


def _position_embedding(name: str, shape: torch.Size, tensors: Mapping[str, Tensor], thw: THW) -> Fitted | None:
    t, h, w = thw
    tensor = tensors.get(name)
    if tensor is None:
        return _from_other_kind(name, shape, tensors, thw)
    if tensor.shape[-1] != shape[-1]:
        return None
    if name == "pos_embed_temporal":
        return Fitted(_resized(tensor, (tensor.shape[1], 1, 1), thw=(t, 1, 1)), "resized", "linear", name)
    joint = name == "pos_embed"
    num_cls = int(joint and "cls_token" in tensors)
    target: THW = thw if joint else (1, h, w)
    if shape[1] != math.prod(target) + num_cls:
        return None
    grid = _grid(tensor.shape[1] - num_cls, target)
    if grid is None:
        return None
    table = torch.cat((tensor[:, :num_cls].float(), _resized(tensor[:, num_cls:], grid, target)), dim=1)
    ways = ["linear in time"] * (grid[0] != target[0]) + ["bicubic in space"] * (grid[1:] != target[1:])
    return Fitted(table, "resized", ", ".join(ways), name)


def _from_other_kind(name: str, shape: torch.Size, tensors: Mapping[str, Tensor], thw: THW) -> Fitted | None:
    """An image's one table, or one for space alone, as tables for space and time whose sum is the same."""
    joint, num_cls, stem = tensors.get("pos_embed"), int("cls_token" in tensors), tensors.get(STEM)
    of_image = joint is not None and stem is not None and stem.ndim == 4
    if name == "pos_embed_temporal" and ("pos_embed_spatial" in tensors or of_image):
        return Fitted(torch.zeros(shape), "inflated", "zeros", None)
    if joint is None or not of_image or joint.shape[-1] != shape[-1]:
        return None
    if name == "pos_embed_class" and num_cls:
        return Fitted(joint[:, :1], "inflated", "copied from pos_embed", "pos_embed")
    side = math.isqrt(joint.shape[1] - num_cls)
    if name != "pos_embed_spatial" or side**2 != joint.shape[1] - num_cls:
        return None
    table = _resized(joint[:, num_cls:], (1, side, side), (1, *thw[1:]))
    how = "copied from pos_embed" + (", bicubic in space" if (side, side) != thw[1:] else "")
    return Fitted(table, "inflated", how, "pos_embed")


def _grid(num_positions: int, target: THW) -> THW | None:
    """The (t, h, w) that a table of positions had: of the target's time or one frame, and square; else of its space."""
    t, h, w = target
    if num_positions < 1:
        return None
    for frames in (t, 1):
        side = math.isqrt(num_positions // frames)
        if frames * side**2 == num_positions:
            return frames, side, side
    return (num_positions // (h * w), h, w) if num_positions % (h * w) == 0 else None


def _resized(table: Tensor, grid: THW, thw: THW) -> Tensor:
    """(1, N, D) on one grid -> (1, N', D) on another."""
    x = table.float().unflatten(1, grid).permute(0, 4, 1, 2, 3)  # (1, D, t, h, w)
    if grid[1:] != thw[1:]:
        frames = x.transpose(1, 2).flatten(0, 1)  # (t, D, h, w)
        x = interpolate(frames, size=thw[1:], mode="bicubic").unflatten(0, (1, grid[0])).transpose(1, 2)
    if grid[0] != thw[0]:
        series = x.permute(0, 3, 4, 1, 2).flatten(0, 2)  # (h * w, D, t)
        x = interpolate(series, size=thw[0], mode="linear").unflatten(0, (1, *thw[1:])).permute(0, 3, 4, 1, 2)
    return x.flatten(2).transpose(1, 2).contiguous()
