"""Multiscale Vision Transformers for video (Fan et al., ICCV 2021, arXiv 2104.11227), and the ViT they start from.

One class. A stage is a run of blocks at one resolution and width: entering a new stage halves height and width
through the query pooling of its first block, doubles the heads there, and the last block before it has doubled the
channels. ViT is the model with one stage and no pooling. Parameter names are PySlowFast's, so that its checkpoints
load as they are. Every model returns logits (B, K), in training and in evaluation.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mvit_train.models.attention import LAYER_NORM_EPS, Block
from mvit_train.models.layers import THW, PatchEmbed, conv_output, init_differences, init_weights, parameter


class MViT(nn.Module):
    """The defaults are MViT-B, 16x4 (paper, Table 2b): 36.6 M parameters, 70.8 G multiply-adds per clip.

    Args:
        num_classes: K of the logits (B, K).
        num_frames: T of the input (B, 3, T, S, S).
        crop_size: S of the input.
        patch_kernel, patch_stride: the cube of the patch embedding in (t, h, w); padding is (kernel - 1) // 2 for
            overlapping cubes and none where kernel and stride agree.
        embed_dim: channels of the first stage.
        num_heads: heads of the first stage.
        depth: number of blocks.
        stage_starts: index of the first block of the second and every later stage.
        pool_kernel: kernel of the query, key and value pooling.
        kv_stride: stride of the key and value pooling in the first stage; each new stage halves it in h and w, so
            that keys keep one resolution (paper, Table 14 "adaptive"). None: no key and value pooling.
        pos_embed: "separate" spatial and temporal tables that are added, or one "joint" table (paper, Table 11).
        cls_token: classify from a class token; otherwise from the mean of the normalised tokens.
        stem_init: start of the patch embedding's kernels: PyTorch's "default", as in the papers, or "difference" in
            time, with which small models learn motion from scratch.
        drop_path_rate: stochastic depth of the last block; earlier blocks rise to it linearly from 0.
        dropout: dropout before the classification layer.
    """

    def __init__(
        self,
        *,
        num_classes: int = 400,
        num_frames: int = 16,
        crop_size: int = 224,
        patch_kernel: THW = (3, 7, 7),
        patch_stride: THW = (2, 4, 4),
        embed_dim: int = 96,
        num_heads: int = 1,
        depth: int = 16,
        stage_starts: tuple[int, ...] = (1, 3, 14),
        pool_kernel: THW = (3, 3, 3),
        kv_stride: THW | None = (1, 8, 8),
        pos_embed: Literal["separate", "joint"] = "separate",
        cls_token: bool = True,
        stem_init: Literal["default", "difference"] = "default",
        drop_path_rate: float = 0.2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        if any(not 0 < start < depth for start in stage_starts) or sorted(set(stage_starts)) != list(stage_starts):
            raise ValueError(f"stage_starts {stage_starts} must rise and lie between 1 and depth - 1 = {depth - 1}")
        self.input_size: THW = (num_frames, crop_size, crop_size)
        t, h, w = ((k - 1) // 2 if k > s else 0 for k, s in zip(patch_kernel, patch_stride, strict=True))
        self.patch_embed = PatchEmbed(embed_dim, patch_kernel, patch_stride, (t, h, w))
        self.thw = conv_output(self.input_size, patch_kernel, patch_stride, (t, h, w))
        if min(self.thw) < 1:
            raise ValueError(f"num_frames {num_frames}, crop_size {crop_size}: too small for a cube of {patch_kernel}")
        self.cls_token = parameter(1, 1, embed_dim) if cls_token else None
        self._add_position_embedding(pos_embed, embed_dim)

        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        dim, heads, blocks = embed_dim, num_heads, []
        for i in range(depth):
            q_stride = None
            if i in stage_starts:
                q_stride, heads = (1, 2, 2), heads * 2
                if kv_stride is not None:
                    kv_stride = (kv_stride[0], max(kv_stride[1] // 2, 1), max(kv_stride[2] // 2, 1))
            dim_out = dim * 2 if i + 1 in stage_starts else dim
            blocks.append(
                Block(
                    dim,
                    dim_out,
                    heads,
                    q_stride=q_stride,
                    kv_stride=kv_stride,
                    kernel=pool_kernel,
                    cls_token=cls_token,
                    drop_path_rate=rates[i],
                )
            )
            dim = dim_out
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.head = nn.Sequential()
        self.head.add_module("dropout", nn.Dropout(dropout))
        self.head.add_module("projection", nn.Linear(dim, num_classes))
        self.apply(init_weights)
        if stem_init == "difference":
            init_differences(self.patch_embed.proj)

    def forward(self, video: Tensor) -> Tensor:
        """video: (B, 3, T, S, S), normalised RGB. Returns logits (B, K)."""
        if tuple(video.shape[2:]) != self.input_size:
            raise ValueError(f"the model was built for (T, S, S) = {self.input_size}, got {tuple(video.shape[2:])}")
        x = self.patch_embed(video)  # (B, N, C)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = x + self._position_embedding()
        thw = self.thw
        for block in self.blocks:
            x, thw = block(x, thw)
        # The head looks at the class token alone, so only that one is normalised.
        x = self.norm(x).mean(1) if self.cls_token is None else self.norm(x[:, 0])
        return self.head(x)

    def _add_position_embedding(self, kind: Literal["separate", "joint"], dim: int) -> None:
        t, h, w = self.thw
        self.pos_embed_kind = kind
        if kind == "joint":
            self.pos_embed = parameter(1, t * h * w + (self.cls_token is not None), dim)
            return
        self.pos_embed_spatial = parameter(1, h * w, dim)
        self.pos_embed_temporal = parameter(1, t, dim)
        if self.cls_token is not None:
            self.pos_embed_class = parameter(1, 1, dim)

    def _position_embedding(self) -> Tensor:
        if self.pos_embed_kind == "joint":
            return self.pos_embed
        t, h, w = self.thw
        grid = self.pos_embed_spatial.repeat(1, t, 1) + self.pos_embed_temporal.repeat_interleave(h * w, dim=1)
        return grid if self.cls_token is None else torch.cat((self.pos_embed_class, grid), dim=1)


def mvit_b(**overrides) -> MViT:
    """MViT-B 16x4 (paper, Table 4): 78.4 % top-1 on Kinetics-400 with 5 x 1 views, 36.6 M parameters."""
    return MViT(**overrides)


def vit_b(**overrides) -> MViT:
    """The paper's ViT-B baseline, 8 frames with stride 8 (Tables 1 and 4): 68.5 % top-1, 87.2 M parameters."""
    baseline = dict(
        num_frames=8,
        patch_kernel=(1, 16, 16),
        patch_stride=(1, 16, 16),
        embed_dim=768,
        num_heads=12,
        depth=12,
        stage_starts=(),
        kv_stride=None,
        pos_embed="joint",
    )
    return MViT(**{**baseline, **overrides})
