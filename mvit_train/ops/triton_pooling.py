"""Depthwise 3x3x3 convolution and LayerNorm in one pass over the tokens, forward and backward, for NVIDIA GPUs.

The reference is `pooling.pool_norm_reference`; `pooling.pool_norm` chooses. Needs Triton; where TRITON_INTERPRET=1 was
set before Triton was first imported, the kernels run on a CPU, for tests.

What moves, for each head of D = 96 channels in 16 bits: forward reads the window's tokens where the projection left
them, (B, N, 3, H, D), and writes their pooling before the norm, which the backward pass starts from, and after it. A
program takes BLOCK_H x BLOCK_W positions of one frame, so that its 27 taps find all but the first of their reads in the
SM's cache: for 4 x 8 positions L2 delivers 3 x 6 x 10 tokens, 5.6 times what is written. Backward goes row by row
through the norm (`triton_norm`), gathers the input's gradient, without atomics and only by the taps that a stride lets
through, and sums the weight's over chunks of patches. Sums are in float32 and in an order that depends on shapes alone,
so that a run repeats itself bit by bit. Block sizes are reasoned, not measured.
"""
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# ruff: noqa: N803, SIM102 - what a kernel is compiled for is in capitals, and an if by itself

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mvit_train.ops.pooling import pool_output
from mvit_train.ops.triton_norm import norm_backward

BLOCK_H, BLOCK_W = (
    4,
    8,
)  # with 8 warps 16 float32 sums a thread; for sm_90 140 registers, none spilled, so 2 programs a SM
CHUNKS = 256  # of the weight's gradient; times 9 rows of taps these are 17 programs for each SM of an H200


@triton.jit
def _forward(
    x,
    weight,
    gamma,
    beta,
    pooled,
    normed,
    stride_b,
    stride_n,
    heads,
    thw,
    thw_out,
    eps,
    DIM: tl.constexpr,
    STRIDE: tl.constexpr,
    KT: tl.constexpr,
    NUM_CLS: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    t, h, w = thw
    t_out, h_out, w_out = thw_out
    patch, frame = tl.program_id(0), tl.program_id(1)
    sample, head = (tl.program_id(2) // heads).to(tl.int64), tl.program_id(2) % heads
    position = tl.arange(0, BLOCK_H * BLOCK_W)
    across = tl.cdiv(w_out, BLOCK_W)
    oh = patch // across * BLOCK_H + position // BLOCK_W
    ow = patch % across * BLOCK_W + position % BLOCK_W
    d = tl.arange(0, BLOCK_D)
    channel = d < DIM
    token = x + sample * stride_b + head * DIM
    total = tl.zeros([BLOCK_H * BLOCK_W, BLOCK_D], tl.float32)
    for i in range(KT):  # not unrolled: three times quicker to compile
        it = frame * STRIDE[0] + i - KT // 2
        rows = tl.where((it >= 0) & (it < t), h, 0)  # a frame outside has none
        for j in tl.static_range(3):
            ih = oh * STRIDE[1] + j - 1
            for k in tl.static_range(3):
                iw = ow * STRIDE[2] + k - 1
                inside = (ih >= 0) & (ih < rows) & (iw >= 0) & (iw < w)
                at = (NUM_CLS + (it * h + ih) * w + iw) * stride_n
                values = tl.load(token + at[:, None] + d[None, :], mask=inside[:, None] & channel[None, :], other=0.0)
                tap = tl.load(weight + d * (KT * 9) + (i * 3 + j) * 3 + k, mask=channel, other=0.0)
                total += values.to(tl.float32) * tap.to(tl.float32)[None, :]
    scale = tl.load(gamma + d, mask=channel, other=0.0).to(tl.float32)
    shift = tl.load(beta + d, mask=channel, other=0.0).to(tl.float32)
    centred = tl.where(channel[None, :], total - (tl.sum(total, 1) / DIM)[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 1) / DIM + eps)
    row = sample * (NUM_CLS + t_out * h_out * w_out)
    at = (row + NUM_CLS + (frame * h_out + oh) * w_out + ow) * heads + head
    at = at[:, None] * DIM + d[None, :]
    mask = ((oh < h_out) & (ow < w_out))[:, None] & channel[None, :]
    if KEEP:
        tl.store(pooled + at, total, mask=mask)
    tl.store(normed + at, centred / deviation[:, None] * scale[None, :] + shift[None, :], mask=mask)
    if NUM_CLS == 1:
        if (patch == 0) & (frame == 0):  # the class token: the norm alone
            cls = tl.load(token + d, mask=channel, other=0.0).to(tl.float32)
            centred_cls = tl.where(channel, cls - tl.sum(cls, 0) / DIM, 0.0)
            deviation_cls = tl.sqrt(tl.sum(centred_cls * centred_cls, 0) / DIM + eps)
            at_cls = (row * heads + head) * DIM + d
            if KEEP:
                tl.store(pooled + at_cls, cls, mask=channel)
            tl.store(normed + at_cls, centred_cls / deviation_cls * scale + shift, mask=channel)


@triton.jit
def _input_gradient(
    grad,
    weight,
    out,
    heads,
    thw,
    thw_out,
    DIM: tl.constexpr,
    STRIDE: tl.constexpr,
    KT: tl.constexpr,
    NUM_CLS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    t, h, w = thw
    t_out, h_out, w_out = thw_out
    patch, frame = tl.program_id(0), tl.program_id(1)
    sample, head = (tl.program_id(2) // heads).to(tl.int64), tl.program_id(2) % heads
    position = tl.arange(0, BLOCK_H * BLOCK_W)
    across = tl.cdiv(w, BLOCK_W)
    ih = patch // across * BLOCK_H + position // BLOCK_W
    iw = patch % across * BLOCK_W + position % BLOCK_W
    d = tl.arange(0, BLOCK_D)
    channel = d < DIM
    row = sample * (NUM_CLS + t_out * h_out * w_out)
    total = tl.zeros([BLOCK_H * BLOCK_W, BLOCK_D], tl.float32)
    # Of the taps on an axis only every stride-th can have met this position: stride 8 lets at most one through.
    for a in range((KT + STRIDE[0] - 1) // STRIDE[0]):
        i = (frame + KT // 2) % STRIDE[0] + a * STRIDE[0]
        ot = (frame + KT // 2 - i) // STRIDE[0]
        rows = tl.where((i < KT) & (frame + KT // 2 >= i) & (ot < t_out), h_out, 0)
        for b in tl.static_range((2 + STRIDE[1]) // STRIDE[1]):
            j = (ih + 1) % STRIDE[1] + b * STRIDE[1]
            oh = (ih + 1 - j) // STRIDE[1]
            for c in tl.static_range((2 + STRIDE[2]) // STRIDE[2]):
                k = (iw + 1) % STRIDE[2] + c * STRIDE[2]
                ow = (iw + 1 - k) // STRIDE[2]
                met = (j < 3) & (k < 3) & (ih + 1 >= j) & (iw + 1 >= k) & (oh < rows) & (ow < w_out)
                met = met[:, None] & channel[None, :]
                at = ((row + NUM_CLS + (ot * h_out + oh) * w_out + ow) * heads + head) * DIM
                values = tl.load(grad + at[:, None] + d[None, :], mask=met, other=0.0).to(tl.float32)
                if STRIDE[1] == 1 and STRIDE[2] == 1:  # one weight for all positions
                    tap = tl.load(weight + d * (KT * 9) + (i * 3 + b) * 3 + c, mask=channel, other=0.0)
                    total += values * tap.to(tl.float32)[None, :]
                else:
                    at = d[None, :] * (KT * 9) + ((i * 3 + j) * 3 + k)[:, None]
                    total += values * tl.load(weight + at, mask=met, other=0.0).to(tl.float32)
    first = sample * (NUM_CLS + t * h * w)
    at = (first + NUM_CLS + (frame * h + ih) * w + iw) * heads + head
    mask = ((ih < h) & (iw < w))[:, None] & channel[None, :]
    tl.store(out + at[:, None] * DIM + d[None, :], total, mask=mask)
    if NUM_CLS == 1:
        if (patch == 0) & (frame == 0):
            cls = tl.load(grad + (row * heads + head) * DIM + d, mask=channel, other=0.0)
            tl.store(out + (first * heads + head) * DIM + d, cls, mask=channel)


@triton.jit
def _weight_gradient(
    x,
    grad,
    partial,
    stride_b,
    stride_n,
    batch,
    heads,
    thw,
    thw_out,
    DIM: tl.constexpr,
    STRIDE: tl.constexpr,
    KT: tl.constexpr,
    NUM_CLS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    t, h, w = thw
    t_out, h_out, w_out = thw_out
    chunk, i, j = tl.program_id(0), tl.program_id(1) // 3, tl.program_id(1) % 3  # all three taps of a row
    position = tl.arange(0, BLOCK_H * BLOCK_W)
    across = tl.cdiv(w_out, BLOCK_W)
    patches = across * tl.cdiv(h_out, BLOCK_H)
    d = tl.arange(0, BLOCK_D)
    channel = d < DIM
    left = tl.zeros([BLOCK_D], tl.float32)
    centre = tl.zeros([BLOCK_D], tl.float32)
    right = tl.zeros([BLOCK_D], tl.float32)
    for number in range(chunk, batch * heads * t_out * patches, tl.num_programs(0)):
        patch, frame = number % patches, number // patches % t_out
        head, sample = number // (patches * t_out) % heads, (number // (patches * t_out) // heads).to(tl.int64)
        oh = patch // across * BLOCK_H + position // BLOCK_W
        ow = patch % across * BLOCK_W + position % BLOCK_W
        at = (sample * (NUM_CLS + t_out * h_out * w_out) + NUM_CLS + (frame * h_out + oh) * w_out + ow) * heads + head
        there = (oh < h_out) & (ow < w_out)
        slope = tl.load(grad + at[:, None] * DIM + d[None, :], mask=there[:, None] & channel[None, :], other=0.0)
        slope = slope.to(tl.float32)
        it, ih, iw = frame * STRIDE[0] + i - KT // 2, oh * STRIDE[1] + j - 1, ow * STRIDE[2] - 1
        there = there & (ih >= 0) & (ih < tl.where((it >= 0) & (it < t), h, 0))
        at = (NUM_CLS + (it * h + ih) * w + iw)[:, None] * stride_n + d[None, :]
        token = x + sample * stride_b + head * DIM + at
        inside = (there & (iw >= 0) & (iw < w))[:, None] & channel[None, :]
        left += tl.sum(tl.load(token, mask=inside, other=0.0).to(tl.float32) * slope, 0)
        inside = (there & (iw + 1 < w))[:, None] & channel[None, :]
        centre += tl.sum(tl.load(token + stride_n, mask=inside, other=0.0).to(tl.float32) * slope, 0)
        inside = (there & (iw + 2 < w))[:, None] & channel[None, :]
        right += tl.sum(tl.load(token + 2 * stride_n, mask=inside, other=0.0).to(tl.float32) * slope, 0)
    at = (chunk * (KT * 9) + (i * 3 + j) * 3) * DIM + d
    tl.store(partial + at, left, mask=channel)
    tl.store(partial + at + DIM, centre, mask=channel)
    tl.store(partial + at + 2 * DIM, right, mask=channel)


@torch.library.custom_op("mvit_train::pool_norm", mutates_args=())
def pool_norm(
    x: Tensor,
    thw: Sequence[int],
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    stride: Sequence[int],
    num_cls: int,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """x: (B, N, H D), its last axis without gaps, the others with any stride; weight: (D, 1, 1 or 3, 3, 3).

    keep: whether a gradient will be asked for. Returns the tokens after the norm and, where they are kept, before it,
    (B, N', H, D).
    """
    normed, pooled = _outputs(x, thw, weight, gamma, beta, stride, num_cls, eps, keep)
    thw_out, heads = pool_output(thw, weight.shape[2:], stride), normed.shape[2]
    grid = (triton.cdiv(thw_out[1], BLOCK_H) * triton.cdiv(thw_out[2], BLOCK_W), thw_out[0], len(x) * heads)
    _forward[grid](
        *(x, weight.contiguous(), gamma, beta, pooled, normed),
        *(*x.stride()[:2], heads, tuple(thw), thw_out, eps),
        KEEP=keep,
        **_constants(weight, stride, num_cls),
    )
    return normed, pooled


@pool_norm.register_fake
def _outputs(x: Tensor, thw, weight, gamma, beta, stride, num_cls, eps, keep) -> tuple[Tensor, Tensor]:
    t, h, w = pool_output(thw, weight.shape[2:], stride)
    normed = x.new_empty(len(x), num_cls + t * h * w, x.shape[2] // len(weight), len(weight))
    return normed, torch.empty_like(normed) if keep else x.new_empty(0)


@torch.library.custom_op("mvit_train::pool_norm_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    thw: Sequence[int],
    weight: Tensor,
    gamma: Tensor,
    pooled: Tensor,
    stride: Sequence[int],
    num_cls: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, without gaps, and of weight, gamma and beta."""
    (b, _, heads, dim), thw_out = pooled.shape, pool_output(thw, weight.shape[2:], stride)
    grad, gamma_gradient, beta_gradient = norm_backward(grad.contiguous(), pooled, gamma, eps)
    constants, sizes = _constants(weight, stride, num_cls), (heads, tuple(thw), thw_out)
    weight = weight.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    patches = triton.cdiv(thw[1], BLOCK_H) * triton.cdiv(thw[2], BLOCK_W)
    _input_gradient[(patches, thw[0], b * heads)](grad, weight, out, *sizes, **constants)
    taps = weight[0].numel()
    patches = triton.cdiv(thw_out[1], BLOCK_H) * triton.cdiv(thw_out[2], BLOCK_W) * thw_out[0] * b * heads
    partial = torch.empty(min(CHUNKS, patches), taps, dim, dtype=torch.float32, device=x.device)
    _weight_gradient[(len(partial), taps // 3)](x, grad, partial, *x.stride()[:2], b, *sizes, **constants)
    weight_gradient = partial.sum(0).T.reshape(weight.shape).to(weight.dtype, copy=True)
    return out, weight_gradient, gamma_gradient, beta_gradient


@_backward.register_fake
def _(grad, x, thw, weight, gamma, pooled, stride, num_cls, eps):
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return out, weight.new_empty(weight.shape), torch.empty_like(gamma), torch.empty_like(gamma)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, ctx.thw, weight, gamma, _, ctx.stride, ctx.num_cls, ctx.eps, _ = inputs
    ctx.save_for_backward(x, weight, gamma, output[1])
    ctx.set_materialize_grads(False)  # nothing asks for one of the kept tokens


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple:
    x, weight, gamma, pooled = ctx.saved_tensors
    dx, dw, dg, db = _backward(grad, x, ctx.thw, weight, gamma, pooled, ctx.stride, ctx.num_cls, ctx.eps)
    return dx, None, dw, dg, db, None, None, None, None


pool_norm.register_autograd(_gradients, setup_context=_save)


def _constants(weight: Tensor, stride: Sequence[int], num_cls: int) -> dict[str, Any]:
    return dict(
        **dict(DIM=len(weight), STRIDE=tuple(stride), KT=weight.shape[2], NUM_CLS=num_cls),
        **dict(BLOCK_H=BLOCK_H, BLOCK_W=BLOCK_W, BLOCK_D=triton.next_power_of_2(len(weight)), num_warps=8),
    )
