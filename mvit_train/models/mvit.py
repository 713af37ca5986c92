"""Multiscale Vision Transformers (MViT, arXiv 2104.11227; MViTv2, arXiv 2112.01526) for video and images, and ViT.

One class. A stage is a run of blocks at one resolution and width: entering a new stage halves height and width through
the query pooling of its first block and doubles the heads there; the channels double in the last block before it
(MViT) or in that first block (MViTv2). ViT is the model with one stage and no pooling; an image is a grid with t = 1.
`variants.py` has the published settings. Parameter names are PySlowFast's. Every model returns logits (B, K), in
training and in evaluation.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvit_train.models.attention import Block, RelPos, overlapping_kernel
from mvit_train.models.layers import (
    LAYER_NORM_EPS,
    PatchEmbed,
    PoolKind,
    PoolSpec,
    init_differences,
    init_weights,
    parameter,
)
from mvit_train.ops.pooling import THW

PosEmbed = Literal["none", "space", "joint", "separate"]


class MViT(nn.Module):
    """The defaults are MViT-B, 16x4 (MViT, Table 2b): 36.6 M parameters, 70.8 G multiply-adds per clip.

    Args:
        num_classes: K of the logits (B, K).
        num_frames: T of the input (B, 3, T, S, S); 1 for images, which come as (B, 3, S, S).
        crop_size: S of the input.
        patch_kernel, patch_stride: the cube of the patch embedding in (t, h, w), or the patch of an image in (h, w).
        embed_dim: channels of the first stage.
        num_heads: heads of the first stage.
        blocks_per_stage: (1, 2, 11, 2) is 16 blocks in 4 stages.
        dim_mul, head_mul: factors by which channels and heads grow from stage to stage.
        expand_in: "mlp", of the last block of a stage, or "attention", of the first block of the next.
        q_strides: stride of the query pooling at the entry of the second and each later stage; None: (1, 2, 2) each.
        full_q_pooling: pools the query in all other blocks too, with stride 1 (MViTv2, Table 7).
        kv_stride: stride of the key and value pooling in the first stage. None: no key and value pooling.
        kv_stride_adaptive: divides it by the query's strides from stage to stage, so that keys keep one resolution
            (MViT, Table 14); otherwise it stays.
        full_kv_pooling: pools keys and values also where their stride has come down to 1.
        pool: "conv" (depthwise, followed by a LayerNorm), "max" or "avg".
        pool_kernel: kernel of the query, key and value pooling, or its rule from the stride s (s, s + 1, 2 s + 1;
            1 where s is 1). A pooling with kernel and stride 1 is left out.
        pos_embed: absolute positions: "separate" tables for space and time that are added, one "joint" table,
            "space" only, or "none" (MViT, Table 11).
        rel_pos: axes of the decomposed relative positions in every attention (MViTv2, Sec. 4.1).
        residual_pooling: adds the pooled query to the result of the attention (MViTv2, Sec. 4.1).
        cls_token: classifies from a class token; otherwise from the mean of the normalised tokens.
        mean_pooling: classifies from the normalised mean of the tokens instead, a class token left out of it
            (fine-tuned MaskFeat models).
        stem_init: start of the patch embedding's kernels: PyTorch's "default", as in the papers, or "difference" in
            time (of images: in space), with which small models learn motion (outlines) from scratch.
        drop_path_rate: stochastic depth of the last block; earlier blocks rise to it linearly from 0.
        dropout: dropout before the classification layer.
        activation_checkpointing: keeps only the blocks' inputs for the backward pass and computes the rest again.
    """

    def __init__(
        self,
        *,
        num_classes: int = 400,
        num_frames: int = 16,
        crop_size: int = 224,
        patch_kernel: tuple[int, ...] = (3, 7, 7),
        patch_stride: tuple[int, ...] = (2, 4, 4),
        embed_dim: int = 96,
        num_heads: int = 1,
        blocks_per_stage: tuple[int, ...] = (1, 2, 11, 2),
        dim_mul: int = 2,
        head_mul: int = 2,
        expand_in: Literal["mlp", "attention"] = "mlp",
        q_strides: tuple[THW, ...] | None = None,
        full_q_pooling: bool = False,
        kv_stride: THW | None = (1, 8, 8),
        kv_stride_adaptive: bool = True,
        full_kv_pooling: bool = True,
        pool: PoolKind = "conv",
        pool_kernel: THW | Literal["s", "s+1", "2s+1"] = (3, 3, 3),
        pos_embed: PosEmbed = "separate",
        rel_pos: RelPos = "none",
        residual_pooling: bool = False,
        cls_token: bool = True,
        mean_pooling: bool = False,
        stem_init: Literal["default", "difference"] = "default",
        drop_path_rate: float = 0.2,
        dropout: float = 0.5,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        entries = tuple(accumulate(blocks_per_stage))[:-1]  # the first block of the second and each later stage
        q_strides = ((1, 2, 2),) * len(entries) if q_strides is None else q_strides
        _check(embed_dim, num_heads, blocks_per_stage, q_strides, patch_kernel, num_frames, dim_mul, head_mul)
        self.input_size = (num_frames, crop_size, crop_size)[-len(patch_kernel) :]
        self.mean_pooling, self.activation_checkpointing = mean_pooling, activation_checkpointing
        self.blocks_per_stage = blocks_per_stage
        self.patch_embed = PatchEmbed(embed_dim, patch_kernel, patch_stride)
        thw = self.thw = self.patch_embed.grid(self.input_size)
        if min(thw) < 1:
            raise ValueError(f"num_frames {num_frames}, crop_size {crop_size}: too small for a cube of {patch_kernel}")
        self.cls_token = parameter(1, 1, embed_dim) if cls_token else None
        self._add_position_embedding(pos_embed, embed_dim)

        depth, dim, heads, blocks = sum(blocks_per_stage), embed_dim, num_heads, []
        table_size: THW = (thw[0], crop_size // patch_stride[-2], crop_size // patch_stride[-1])
        for i in range(depth):
            q_stride = q_strides[entries.index(i)] if i in entries else (1, 1, 1)
            if kv_stride is not None and kv_stride_adaptive:
                kv_stride = _each(lambda kv, q: max(kv // q, 1), kv_stride, q_stride)
            heads *= head_mul if i in entries else 1
            grows = i in entries if expand_in == "attention" else i + 1 in entries
            dim_out = dim * dim_mul if grows else dim
            q_pool = _pooling(pool, pool_kernel, q_stride) if i in entries or full_q_pooling else None
            pools_kv = kv_stride is not None and (full_kv_pooling or kv_stride != (1, 1, 1))
            block = Block(
                dim,
                dim_out,
                heads,
                expand_in=expand_in,
                thw=thw,
                table_size=table_size,
                q_pool=q_pool,
                kv_pool=_pooling(pool, pool_kernel, kv_stride) if pools_kv and kv_stride else None,
                cls_token=cls_token,
                rel_pos=rel_pos,
                residual_pooling=residual_pooling,
                drop_path_rate=drop_path_rate * i / max(depth - 1, 1),
            )
            blocks.append(block)
            dim, thw = dim_out, block.attn.thw_out
            table_size = _each(lambda size, q: size // q, table_size, q_stride)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.head = nn.Sequential()
        self.head.add_module("dropout", nn.Dropout(dropout))
        self.head.add_module("projection", nn.Linear(dim, num_classes))
        self.apply(init_weights)
        if stem_init == "difference":
            init_differences(self.patch_embed.proj)

    def forward(self, video: Tensor) -> Tensor:
        """video: (B, 3, T, S, S), or images (B, 3, S, S); normalised RGB. Returns logits (B, K)."""
        if tuple(video.shape[2:]) != self.input_size:
            raise ValueError(f"the model was built for inputs of {self.input_size}, got {tuple(video.shape[2:])}")
        x = self.patch_embed(video)  # (B, N, C)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        positions = self._position_embedding()
        x = x if positions is None else x + positions
        for block in cast(list[Block], self.blocks):
            drawn = [block.drop_path.draw(x) for _ in range(2)]
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, *drawn, use_reentrant=False)
            else:
                x = block(x, *drawn)
        return self.head(self._pooled_tokens(x))

    def _pooled_tokens(self, x: Tensor) -> Tensor:
        """What the head sees, (B, C). The order of mean and norm is the official code's in each case."""
        if self.mean_pooling:
            return self.norm(x[:, int(self.cls_token is not None) :].mean(1))
        return self.norm(x).mean(1) if self.cls_token is None else self.norm(x[:, 0])

    def _add_position_embedding(self, kind: PosEmbed, dim: int) -> None:
        t, h, w = self.thw
        self.pos_embed_kind = kind
        if kind == "joint":
            self.pos_embed = parameter(1, t * h * w + (self.cls_token is not None), dim)
        elif kind != "none":
            self.pos_embed_spatial = parameter(1, h * w, dim)
            if kind == "separate":
                self.pos_embed_temporal = parameter(1, t, dim)
            if self.cls_token is not None:
                self.pos_embed_class = parameter(1, 1, dim)

    def _position_embedding(self) -> Tensor | None:
        if self.pos_embed_kind == "none":
            return None
        if self.pos_embed_kind == "joint":
            return self.pos_embed
        t, h, w = self.thw
        grid = self.pos_embed_spatial.repeat(1, t, 1)
        if self.pos_embed_kind == "separate":
            grid = grid + self.pos_embed_temporal.repeat_interleave(h * w, dim=1)
        return grid if self.cls_token is None else torch.cat((self.pos_embed_class, grid), dim=1)


def _check(
    embed_dim: int,
    num_heads: int,
    blocks_per_stage: tuple[int, ...],
    q_strides: tuple[THW, ...],
    patch_kernel: tuple[int, ...],
    num_frames: int,
    dim_mul: int,
    head_mul: int,
) -> None:
    """Refuses what no model can be built from, naming the value."""
    if embed_dim % num_heads or dim_mul % head_mul:
        raise ValueError(
            f"embed_dim {embed_dim} must be a multiple of num_heads {num_heads}, "
            f"and dim_mul {dim_mul} of head_mul {head_mul}"
        )
    if not blocks_per_stage or min(blocks_per_stage) < 1:
        raise ValueError(f"blocks_per_stage {blocks_per_stage}: each stage needs a block")
    if len(q_strides) != len(blocks_per_stage) - 1:
        raise ValueError(
            f"q_strides {q_strides}: {len(blocks_per_stage)} stages need {len(blocks_per_stage) - 1}, one for each but "
            "the first"
        )
    if len(patch_kernel) == 2 and num_frames != 1:
        raise ValueError(f"num_frames {num_frames}: a patch_kernel of two axes takes images, num_frames=1")


def _pooling(kind: PoolKind, kernel: THW | Literal["s", "s+1", "2s+1"], stride: THW) -> PoolSpec | None:
    if kernel == "s":
        kernel = stride
    elif kernel == "s+1":
        kernel = overlapping_kernel(stride)
    elif kernel == "2s+1":
        kernel = _each(lambda s, _: 2 * s + 1 if s > 1 else 1, stride, stride)
    return None if kernel == stride == (1, 1, 1) else PoolSpec(kind, kernel, stride)


def _each(function: Callable[[int, int], int], a: THW, b: THW) -> THW:
    t, h, w = (function(*pair) for pair in zip(a, b, strict=True))
    return t, h, w
