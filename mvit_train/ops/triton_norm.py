"""The backward pass of LayerNorm over rows, for the kernels in `triton_pooling`.

It reads x and the gradient once and computes mean and deviation again, which is cheaper than to keep and read them:
with 96 channels in 16 bits two float32 numbers a row would be 4 % of what moves.
"""
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# ruff: noqa: N803 - what a kernel is compiled for is in capitals

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 528  # four for each SM of an H200; each sums the gradients of gamma and beta over its rows
ELEMENTS = 4096  # of a tile: 32 a thread of 4 warps


@triton.jit
def _norm_backward(
    grad,
    x,
    gamma,
    dx,
    partial,
    num_rows,
    eps,
    DIM: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = tl.arange(0, BLOCK_D)
    channel = d < DIM
    factor = tl.load(gamma + d, mask=channel, other=0.0).to(tl.float32)
    of_gamma = tl.zeros([BLOCK_D], tl.float32)
    of_beta = tl.zeros([BLOCK_D], tl.float32)
    for first in range(tl.program_id(0) * BLOCK_R, num_rows, tl.num_programs(0) * BLOCK_R):
        row = first + tl.arange(0, BLOCK_R)
        mask = (row < num_rows)[:, None] & channel[None, :]
        at = row.to(tl.int64)[:, None] * DIM + d[None, :]
        values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        slope = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, values - (tl.sum(values, 1) / DIM)[:, None], 0.0)
        inverse = 1 / tl.sqrt(tl.sum(centred * centred, 1) / DIM + eps)
        standard = centred * inverse[:, None]
        of_gamma += tl.sum(slope * standard, 0)
        of_beta += tl.sum(slope, 0)
        slope = slope * factor[None, :]
        along = tl.sum(slope * standard, 1) / DIM
        slope = (slope - (tl.sum(slope, 1) / DIM)[:, None] - standard * along[:, None]) * inverse[:, None]
        tl.store(dx + at, slope, mask=mask)
    at = tl.program_id(0) * 2 * DIM + d
    tl.store(partial + at, of_gamma, mask=channel)
    tl.store(partial + at + DIM, of_beta, mask=channel)


def norm_backward(grad: Tensor, x: Tensor, gamma: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (..., D), gamma and beta (D,) of a LayerNorm over the last axis. No gaps in grad and x."""
    dim, rows, dx = x.shape[-1], x.numel() // x.shape[-1], torch.empty_like(x)
    width = triton.next_power_of_2(dim)
    in_tile = max(ELEMENTS // width, 1)
    partial = torch.empty(min(PROGRAMS, triton.cdiv(rows, in_tile)), 2, dim, dtype=torch.float32, device=x.device)
    _norm_backward[(len(partial),)](
        grad, x, gamma, dx, partial, rows, eps, DIM=dim, BLOCK_R=in_tile, BLOCK_D=width, num_warps=4
    )
    of_gamma, of_beta = partial.sum(0).to(gamma.dtype)
    return dx, of_gamma.clone(), of_beta.clone()  # of an operation's results none may be a part of another
