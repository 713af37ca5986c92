"""What the names and shapes of a state dict tell about the network they belong to, and which variant would fit them.

Weights that load without an error can still be of another network: PySlowFast's "32x3" file has 24 blocks, the first
16x4 file pools no keys and values in its last stage, MViTv2-L was released with the expansion in the attention for
video and in the MLP for images. What shapes do not tell: strides, residual pooling, what the head sees.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mvit_train.models.mvit import MViT
from mvit_train.models.variants import VARIANTS

Kernel = tuple[int, ...] | None
OVERRIDES: tuple[dict[str, Any], ...] = (  # in which released files differ from the published variants
    {},
    dict(full_kv_pooling=False),
    dict(expand_in="mlp"),
    dict(expand_in="attention"),
    dict(cls_token=True),
    dict(cls_token=False),
    dict(pos_embed="separate"),
)


@dataclass(frozen=True)
class Graph:
    """Facts of a network; None where shapes do not tell.

    Args:
        patch_kernel: (t, h, w), or (h, w) for images.
        widths: channels of the attention of each block.
        q_kernels, kv_kernels: (t, h, w) of the pooling of each block, None where there is none or it has no weights.
    """

    patch_kernel: tuple[int, ...]
    widths: tuple[int, ...]
    head_dim: int | None
    expand_in: str | None
    q_kernels: tuple[Kernel, ...]
    kv_kernels: tuple[Kernel, ...]
    cls_token: bool
    pos_embed: str
    rel_pos: str

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Graph":
        """Reads a state dict with our names; parameters may be missing."""
        numbers = {int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
        blocks = range(len(numbers))

        def shape(name: str) -> tuple[int, ...] | None:
            return tuple(tensors[name].shape) if name in tensors else None

        widths = tuple((shape(f"blocks.{i}.attn.proj.weight") or (0,))[0] for i in blocks)
        entries = [i for i in blocks[1:] if widths[i] != widths[i - 1]]
        grown_before = {shape(f"blocks.{i}.norm1.weight") == (widths[i],) for i in entries}
        pools = {x: [shape(f"blocks.{i}.attn.pool_{x}.weight") for i in blocks] for x in "qk"}
        last_axes = [s[0] for s in pools["q"] + pools["k"] if s]
        last_axes += [s[1] for s in (shape(f"blocks.0.attn.rel_pos_{axis}") for axis in "hwt") if s]
        space, time = (any(f"blocks.0.attn.rel_pos_{axis}" in tensors for axis in axes) for axes in ("hw", "t"))
        return cls(
            patch_kernel=(shape("patch_embed.proj.weight") or ())[2:],
            widths=widths,
            head_dim=last_axes[0] if last_axes else None,
            expand_in=None if len(grown_before) != 1 else "mlp" if grown_before == {True} else "attention",
            q_kernels=tuple(s and s[2:] for s in pools["q"]),
            kv_kernels=tuple(s and s[2:] for s in pools["k"]),
            cls_token="cls_token" in tensors,
            pos_embed=_position_embedding(tensors),
            rel_pos={(False, False): "none", (True, False): "space", (False, True): "time"}.get(
                (space, time), "space_time"
            ),
        )

    @property
    def input(self) -> str:
        return "images" if len(self.patch_kernel) == 2 else "video"

    @property
    def channels_by_stage(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.widths))

    @property
    def blocks_by_stage(self) -> tuple[int, ...]:
        return tuple(self.widths.count(width) for width in self.channels_by_stage)

    def differences(self, model: "Graph") -> list[str]:
        """Why these weights are not the model's, a sentence each; from images to video only what inflation, see
        `resize`, does not bridge."""
        return [
            f"{what}: {_text(found)} in the file, {_text(built)} in the model"
            for what, found, built in (*self._input_facts(model), *self._block_facts(model))
            if found != built
        ]

    def _input_facts(self, model: "Graph") -> Iterator[tuple[str, Any, Any]]:
        inflates = (self.input, model.input) == ("images", "video")
        bridged = {("space", "separate")}
        if inflates:
            bridged |= {("joint", "separate"), ("joint", "space")}
        else:
            yield "input", self.input, model.input
            yield "class token", self.cls_token, model.cls_token
        axes = slice(-2, None) if self.input != model.input else slice(None)
        yield "patch kernel", self.patch_kernel[axes], model.patch_kernel[axes]
        if (self.pos_embed, model.pos_embed) not in bridged:
            yield "position embedding", self.pos_embed, model.pos_embed
        if (self.rel_pos, model.rel_pos) != ("space", "space_time"):
            yield "relative positions", self.rel_pos, model.rel_pos

    def _block_facts(self, model: "Graph") -> Iterator[tuple[str, Any, Any]]:
        yield "blocks", len(self.widths), len(model.widths)
        yield "channels by stage", self.channels_by_stage, model.channels_by_stage
        if len(self.widths) != len(model.widths):
            return
        yield "blocks by stage", self.blocks_by_stage, model.blocks_by_stage
        if self.head_dim and model.head_dim:
            yield "channels of a head", self.head_dim, model.head_dim
        yield "channels grow in", self.expand_in, model.expand_in
        pairs = {"query": (self.q_kernels, model.q_kernels), "key and value": (self.kv_kernels, model.kv_kernels)}
        for what, (found, built) in pairs.items():
            yield f"blocks that pool the {what} by weights", _pooled_blocks(found), _pooled_blocks(built)
            both = [(a, b) for a, b in zip(found, built, strict=True) if a and b]
            wrong = [(a, b) for a, b in both if a != b and (a[0] != 1 or a[1:] != b[1:])]
            yield from ((f"kernel of the {what} pooling", a, b) for a, b in wrong[:1])


def fitting_variant(tensors: Mapping[str, Tensor], input_kind: str) -> str | None:
    """The published variant that these weights fit, as a call: "mvit_b(full_kv_pooling=False)".

    Of several the one with most tensors of the same shape; first of all those for `input_kind`, "images" or "video".
    """
    graph = Graph.of(tensors)
    found: list[tuple[bool, int, str]] = []
    for variant in VARIANTS:
        for i, overrides in enumerate(OVERRIDES):
            shapes, candidate = _published(variant, i)
            if candidate.widths != graph.widths:
                break  # which no override changes
            if not graph.differences(candidate):
                same = sum(name in tensors and tensors[name].shape == shape for name, shape in shapes.items())
                call = ", ".join(f"{name}={value!r}" for name, value in overrides.items())
                text = f"{variant.__name__}({call})" if call else variant.__name__
                found.append((candidate.input == input_kind, same, text))
    return max(found, key=lambda row: row[:2])[2] if found else None


@cache
def _published(variant: Callable[..., MViT], overrides: int) -> tuple[dict[str, torch.Size], Graph]:
    """The shapes and the graph of a variant with OVERRIDES[overrides]; no weights are allocated."""
    with torch.device("meta"):
        built = variant(**OVERRIDES[overrides]).state_dict()
    return {name: tensor.shape for name, tensor in built.items()}, Graph.of(built)


def _position_embedding(tensors: Mapping[str, Tensor]) -> str:
    if "pos_embed" in tensors:
        return "joint"
    if "pos_embed_spatial" in tensors:
        return "separate" if "pos_embed_temporal" in tensors else "space"
    return "none"


def _text(fact: Any) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return "unknown" if fact is None else str(fact)


def _pooled_blocks(kernels: tuple[Kernel, ...]) -> str:
    """(k, k, k, None, None, k) -> "0-2, 5" """
    runs: list[list[int]] = []
    for i in (i for i, kernel in enumerate(kernels) if kernel):
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) or "none"
