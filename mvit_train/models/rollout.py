"""Where a model looks: attention rollout, and input x gradient.

Rollout (Abnar & Zuidema, Quantifying Attention Flow in Transformers, arXiv 2005.00928, Sec. 3) follows the shares that
each layer takes of its inputs back to the input. A block of MViT (arXiv 2104.11227, Sec. 3) adds up to three paths, and
each gets an equal share of every token it makes, as in the paper's 0.5 A + 0.5 I:

    R = (A P_k + S [+ P_q]) / number of paths          (N', N), rows that sum to one

    A    (N', M)  the attention of the pooled queries to the pooled keys, its heads fused into one matrix
    P_k  (M, N)   a pooled key or value stands for the inputs in its kernel's window
    S    (N', N)  the skip path: the identity, or the window of its max pooling
    P_q  (N', N)  with residual pooling (MViTv2), where the pooled query is added too, but for the class token

A pooling has no weights of its own that could be shares: a convolution's have signs and differ by channel, a maximum's
depend on the channel. P and S therefore spread evenly over the window, as far as it lies in the grid; what a stride
jumps over gets nothing by that path. Without residual pooling no query content flows, only what queries attend to.

The map is r R_L ... R_1, with r the row of the class token, or the mean of the output tokens where the model classifies
from that. From the left it is vector times matrix all the way: no product of two matrices, and no matrix as a whole.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import conv3d, conv_transpose3d

from mvit_train.models.attention import Block, PoolingAttention
from mvit_train.models.layers import Pool
from mvit_train.models.mvit import MViT
from mvit_train.ops.attention import attention_weights
from mvit_train.ops.pooling import pool_output

Method = Literal["rollout", "gradient"]
Heads = Literal["mean", "max"] | int

MAX_ELEMENTS = 4_000_000  # of an attention matrix at a time


def saliency(model: MViT, video: Tensor, method: Method = "rollout") -> Tensor:
    """(B, T, H, W), in pixels and relative: attention rollout over all heads divided by `uniform_rollout`, 1 where a
    cube counts as much as it would without looking; or input x gradient of each clip's top class divided by its mean.
    """
    if method == "gradient":
        maps = gradient_saliency(model, video)
        return maps / maps.mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    maps, uniform = attention_rollout(model, video), uniform_rollout(model).to(video.device)
    return cubes_to_pixels(model, maps / uniform.clamp(min=torch.finfo(uniform.dtype).tiny))


@torch.no_grad()
def attention_rollout(model: MViT, video: Tensor, *, heads: Heads = "mean") -> Tensor:
    """How much of what is classified comes from each input cube, by attention rollout; see above.

    heads: fuses the heads of a block: their mean, their maximum (rows scaled to sum to one), or one head alone, counted
    in the last block; a block with fewer has head * its heads // the last block's in its place.
    video: (B, 3, T, S, S), or images (B, 3, S, S), as the model takes them. Returns (B, T', H', W') over the cubes of
    the patch embedding (T' = 1 for images), each map non-negative with sum one.

    Raises:
        ValueError: the model is in training mode, or has no such head.
    """
    _refuse_training(model)
    blocks = _blocks(model)
    num_heads = blocks[-1].attn.num_heads
    if isinstance(heads, int) and not 0 <= heads < num_heads:
        raise ValueError(f"heads {heads}: the last block has heads 0 to {num_heads - 1}")
    inputs = _attention_inputs(model, video)
    row = _first_row(model, inputs[-1])
    for block, x in zip(reversed(blocks), reversed(inputs), strict=True):
        of_block = heads * block.attn.num_heads // num_heads if isinstance(heads, int) else heads
        row = _before_block(block, row, partial(_over_keys, block.attn, x, heads=of_block))
    return _map(model, row)


def uniform_rollout(model: MViT) -> Tensor:
    """The map (T', H', W') if every query attended to all keys alike: what strides and windows alone make of it.

    With keys pooled by a stride wider than the kernel it is far from even: positions under a window count several
    times as much as those between. A map says where a model looks by what it has more than this one.
    """
    row = _first_row(model, torch.zeros(1))
    blocks, num_cls = _blocks(model), int(model.cls_token is not None)
    grids = [model.thw, *(block.attn.thw_out for block in blocks[:-1])]
    for block, grid in zip(reversed(blocks), reversed(grids), strict=True):
        t, h, w = block.attn.pool_k.spec.grid(grid) if block.attn.pool_k else grid
        row = _before_block(block, row, partial(_over_all_keys, num_cls + t * h * w))
    return _map(model, row)[0]


def gradient_saliency(model: MViT, video: Tensor, class_index: int | None = None) -> Tensor:
    """|input x gradient of the class's logit|, summed over the channels (Simonyan et al., arXiv 1312.6034, use the
    gradient alone; Shrikumar et al., arXiv 1605.01713, times the input).

    The input is normalised, so a pixel of the mean colour has none. class_index: None is each clip's top class.
    video: (B, 3, T, S, S), or images (B, 3, S, S). Returns (B, T, S, S), T = 1 for images.

    Raises:
        ValueError: the model is in training mode, or has no such class.
    """
    _refuse_training(model)
    with torch.enable_grad():
        video = video.detach().clone().requires_grad_()
        logits = model(video)  # (B, K)
        if class_index is not None and not 0 <= class_index < logits.shape[1]:
            raise ValueError(f"class_index {class_index}: the model has classes 0 to {logits.shape[1] - 1}")
        of_class = logits.amax(1) if class_index is None else logits[:, class_index]
        (gradient,) = torch.autograd.grad(of_class.sum(), video)
    product = (video.detach() * gradient).abs().sum(1)
    return product if product.ndim == 4 else product[:, None]


def cubes_to_pixels(model: MViT, maps: Tensor) -> Tensor:
    """Maps (B, T', H', W') over cubes to (B, T, H, W), linear between the cubes' centres, which depend on the padding.

    Kernel 7, stride 4, padding 3: cube i is centred on pixel 4 i. Kernel and stride 4: on 4 i + 1.5.
    """
    conv, size = model.patch_embed.proj, model.input_size
    axes = zip(size, conv.kernel_size, conv.stride, conv.padding, strict=True)
    for axis, (n, kernel, stride, padding) in enumerate(axes, start=4 - len(size)):
        centre = (kernel - 1) / 2 - int(padding)  # of the first cube, in pixels
        place = (torch.arange(n, device=maps.device) - centre) / stride  # in cubes
        place = place.clamp(0, maps.shape[axis] - 1)[:, None]
        weights = (1 - (place - torch.arange(maps.shape[axis], device=maps.device)).abs()).clamp(min=0)
        maps = (maps.movedim(axis, -1) @ weights.T.to(maps.dtype)).movedim(-1, axis)
    return maps


def _refuse_training(model: MViT) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout and stochastic depth draw: call model.eval()")


def _blocks(model: MViT) -> list[Block]:
    return cast(list[Block], list(model.blocks))


def _attention_inputs(model: MViT, video: Tensor) -> list[Tensor]:
    """What the attention of each block gets, (B, N, C), in one pass of the model."""
    inputs: list[Tensor] = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        for block in _blocks(model)
    ]
    try:
        model(video)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _first_row(model: MViT, last: Tensor) -> Tensor:
    """(B, N): what the classifier takes of each token that the last block makes; `last` is what that block's attention
    gets."""
    num_cls = int(model.cls_token is not None)
    t, h, w = _blocks(model)[-1].attn.thw_out
    dtype = torch.promote_types(last.dtype, torch.float32)
    row = torch.zeros(len(last), num_cls + t * h * w, dtype=dtype, device=last.device)
    if num_cls and not model.mean_pooling:
        row[:, 0] = 1
    else:
        row[:, num_cls:] = 1 / (t * h * w)
    return row


def _map(model: MViT, row: Tensor) -> Tensor:
    """Shares (B, N) of the input tokens as maps (B, T', H', W') of sum one, without what stayed with a class token."""
    grid = row[:, int(model.cls_token is not None) :]
    return (grid / grid.sum(1, keepdim=True)).unflatten(1, model.thw)


def _before_block(block: Block, row: Tensor, over_keys: Callable[[Tensor], Tensor]) -> Tensor:
    """Shares (B, N') of a block's output tokens to shares (B, N) of its input tokens; over_keys: row -> row A."""
    attn = block.attn
    num_paths = torch.full_like(row, 3 if attn.residual_pooling else 2)
    num_paths[:, : attn.num_cls] = 2
    row = row / num_paths
    before = _spread(over_keys(row), attn.pool_k) + _spread(row, block.pool_skip)
    if attn.residual_pooling:
        row[:, : attn.num_cls] = 0
        before += _spread(row, attn.pool_q)
    return before


def _over_all_keys(num_keys: int, row: Tensor) -> Tensor:
    return (row.sum(1, keepdim=True) / num_keys).expand(-1, num_keys)


def _over_keys(attn: PoolingAttention, x: Tensor, row: Tensor, *, heads: Heads) -> Tensor:
    """row A, (B, N') to (B, M), some queries at a time; x: what the attention gets."""
    parts = []
    for first, weights in attention_rows(attn, x):
        fused = _fuse(weights, heads).to(row.dtype)  # (B, n, M)
        parts.append((row[:, None, first : first + fused.shape[1]] @ fused)[:, 0])
    return torch.stack(parts).sum(0)


def attention_rows(attn: PoolingAttention, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The attention that `attn` computes for x (B, N, C), again: (the first of n queries, weights (B, H, n, M))."""
    q, k, _ = attn.pooled_qkv(x)
    q_rel, k_rel = attn.relative_terms(q)
    q, k = q.transpose(1, 2), k.transpose(1, 2)  # (B, H, N', D), (B, H, M, D)
    n = max(1, MAX_ELEMENTS // k[..., 0].numel())
    for first in range(0, q.shape[2], n):
        some = slice(first, first + n)
        relative = None if q_rel is None else q_rel[:, :, some]
        yield first, attention_weights(q[:, :, some], k, q_rel=relative, k_rel=k_rel)


def _fuse(weights: Tensor, heads: Heads) -> Tensor:
    """(B, H, n, M) to (B, n, M), rows of sum one."""
    if heads == "mean":
        return weights.mean(1)
    if heads == "max":
        largest = weights.amax(1)
        return largest / largest.sum(-1, keepdim=True)
    return weights[:, heads]


def _spread(row: Tensor, pool: Pool | None) -> Tensor:
    """row P, (B, N') to (B, N): the share of each pooled position, evenly over the positions in its window."""
    if pool is None:
        return row
    _, kernel, stride = pool.spec
    padding = tuple((k - 1) // 2 for k in kernel)
    ones = row.new_ones(1, 1, *kernel)
    window = conv3d(row.new_ones(1, 1, *pool.thw), ones, None, stride, padding)  # positions in each, without padding
    pooled = row[:, pool.num_cls :].unflatten(1, pool_output(pool.thw, kernel, stride))[:, None] / window
    cut = (  # positions at the end that no window reaches
        n + 2 * p - k - (m - 1) * s
        for n, m, k, s, p in zip(pool.thw, window.shape[2:], kernel, stride, padding, strict=True)
    )
    grid = conv_transpose3d(pooled, ones, None, stride, padding, tuple(cut))
    return torch.cat((row[:, : pool.num_cls], grid.flatten(1)), dim=1)
