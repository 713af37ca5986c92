"""Flash attention with a relative position of low rank and residual pooling, forward and backward, for NVIDIA GPUs.

The reference is `attention.attend_reference`; `attention.attend` chooses. As in FlashAttention-2 (arXiv 2307.08691) no
matrix of queries x keys is made. The term q_rel k_rel^T of the logits is one more product inside of the loop: for
8 x 14 x 14 keys 36 columns, 64 with the padding that a product of tiles wants. k_rel, zeros and ones, is read as it is:
made from positions in registers it would have to go to shared memory all the same, where tensor cores take operands
from, and its 226 kB serve all heads and clips out of the L2 cache.

Against the fused attention of PyTorch on q and k with further channels, 96 + 36 -> 160, where v is padded too: for a
block of 128 queries and 64 keys 64 (D) + 32 (D) + 64 (P) + 96 (v) = 256 columns of products instead of 320 to 384, no
padded copies of q, k and v in memory, and the addition of q (MViTv2, Eq. 5) while it is there anyway. D = 96 is two
tiles, 64 + 32, since a tile has a power of two of columns.

Sums are in float32, and each gradient has one program that adds it up: a run repeats itself bit by bit. Sizes of tiles
are reasoned, not measured.
"""
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# ruff: noqa: N803 - what a kernel is compiled for is in capitals

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
QUERIES, KEYS = 128, 64  # forward: 128 x (64 + 32) float32 sums are 48 registers a thread of 8 warps
BACKWARD_QUERIES, BACKWARD_KEYS = 128, 64  # for sm_90 238 and 255 registers of 8 warps, 8 bytes of them spilled


@triton.jit
def _tile(start, rows, num_rows, stride, first, num_columns, COLUMNS: tl.constexpr):
    """rows x COLUMNS of a matrix from column `first` on, zeros beyond its end."""
    d = first + tl.arange(0, COLUMNS)
    mask = (rows < num_rows)[:, None] & (d < num_columns)[None, :]
    return tl.load(start + rows[:, None] * stride + d[None, :], mask=mask, other=0.0)


@triton.jit
def _store(start, values, rows, num_rows, stride, first, num_columns, COLUMNS: tl.constexpr):
    d = first + tl.arange(0, COLUMNS)
    mask = (rows < num_rows)[:, None] & (d < num_columns)[None, :]
    tl.store(start + rows[:, None] * stride + d[None, :], values, mask=mask)


@triton.jit
def _dot(a, b, EXACT: tl.constexpr):
    """a b in float32. EXACT: by float32 operands, for them and for the interpreter, which knows no products in bf16."""
    if EXACT:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b)


@triton.jit
def _logits(q0, q1, relative, k0, k1, at, scale, D1: tl.constexpr, P: tl.constexpr, EXACT: tl.constexpr):
    """To base 2: of exp2. What D1 = 0 and P = 0 leave out may be anything."""
    logits = _dot(q0, tl.trans(k0), EXACT)
    if D1 > 0:
        logits += _dot(q1, tl.trans(k1), EXACT)
    logits *= scale * LOG2E
    if P > 0:
        logits += _dot(relative, tl.trans(at).to(relative.dtype), EXACT) * LOG2E
    return logits


@triton.jit
def _forward(
    q,
    k,
    v,
    q_rel,
    k_rel,
    out,
    lse,
    strides,  # of q, k, v, q_rel and out: batch, head, token
    sizes,  # heads, queries, keys, channels, columns of the relative term, first query to which q is added
    scale,
    D0: tl.constexpr,
    D1: tl.constexpr,
    P: tl.constexpr,
    RESIDUAL: tl.constexpr,
    EXACT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    q_strides, k_strides, v_strides, rel_strides, out_strides = strides
    heads, num_queries, num_keys, dim, num_rel, first_residual = sizes
    sample, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    q += sample * q_strides[0] + head * q_strides[1]
    k += sample * k_strides[0] + head * k_strides[1]
    v += sample * v_strides[0] + head * v_strides[1]
    out += sample * out_strides[0] + head * out_strides[1]
    q_rel += sample * rel_strides[0] + head * rel_strides[1]
    q0 = _tile(q, row, num_queries, q_strides[2], 0, dim, D0)
    q1 = _tile(q, row, num_queries, q_strides[2], D0, dim, D1) if D1 > 0 else q0
    relative = _tile(q_rel, row, num_queries, rel_strides[2], 0, num_rel, P) if P > 0 else q0
    total0 = tl.zeros([QUERIES, D0], tl.float32)
    total1 = tl.zeros([QUERIES, D1 if D1 > 0 else D0], tl.float32)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    weight = tl.zeros([QUERIES], tl.float32)
    for first in range(0, num_keys, KEYS):
        key = first + tl.arange(0, KEYS)
        k0 = _tile(k, key, num_keys, k_strides[2], 0, dim, D0)
        k1 = _tile(k, key, num_keys, k_strides[2], D0, dim, D1) if D1 > 0 else k0
        at = _tile(k_rel, key, num_keys, num_rel, 0, num_rel, P) if P > 0 else k0
        logits = _logits(q0, q1, relative, k0, k1, at, scale, D1, P, EXACT)
        logits = tl.where((key < num_keys)[None, :], logits, float("-inf"))
        new = tl.maximum(highest, tl.max(logits, 1))
        shrink = tl.exp2(highest - new)
        probability = tl.exp2(logits - new[:, None])
        weight = weight * shrink + tl.sum(probability, 1)
        probability = probability.to(v.dtype.element_ty)
        values = _tile(v, key, num_keys, v_strides[2], 0, dim, D0)
        total0 = total0 * shrink[:, None] + _dot(probability, values, EXACT)
        if D1 > 0:
            values = _tile(v, key, num_keys, v_strides[2], D0, dim, D1)
            total1 = total1 * shrink[:, None] + _dot(probability, values, EXACT)
        highest = new
    tl.store(lse + tl.program_id(1) * num_queries + row, highest + tl.log2(weight), mask=row < num_queries)
    total0 = total0 / weight[:, None]
    if RESIDUAL:
        total0 += tl.where((row >= first_residual)[:, None], q0.to(tl.float32), 0.0)
    _store(out, total0, row, num_queries, out_strides[2], 0, dim, D0)
    if D1 > 0:
        total1 = total1 / weight[:, None]
        if RESIDUAL:
            total1 += tl.where((row >= first_residual)[:, None], q1.to(tl.float32), 0.0)
        _store(out, total1, row, num_queries, out_strides[2], D0, dim, D1)


@torch.library.custom_op("mvit_train::attend", mutates_args=())
def attend(
    q: Tensor, k: Tensor, v: Tensor, q_rel: Tensor | None, k_rel: Tensor | None, residual_from: int | None
) -> tuple[Tensor, Tensor]:
    """q: (B, H, Nq, D), k, v: (B, H, Nk, D), q_rel: (B, H, Nq, P), their last axes without gaps; k_rel: (Nk, P).

    Returns the attention, to which q is added from query `residual_from` on, (B, H, Nq, D), in memory (B, Nq, H, D);
    and the logarithm to base 2 of the sum of each query's exponentials, (B, H, Nq), for the backward pass.
    """
    out, lse = _outputs(q, k, v, q_rel, k_rel, residual_from)
    b, h, n, _ = q.shape
    relative = q if q_rel is None else q_rel
    _forward[(triton.cdiv(n, QUERIES), b * h)](
        *(q, k, v, relative, q if k_rel is None else k_rel, out, lse),
        tuple(x.stride()[:3] for x in (q, k, v, relative, out)),
        *sizes(q, k, q_rel, residual_from),
        **constants(q, q_rel, residual_from),
        QUERIES=QUERIES,
        KEYS=KEYS,
        num_warps=8,
        num_stages=3,  # of K, V and k_rel, 64 x (96 + 96 + 64) x 2 bytes each: 96 kB of 227
    )
    return out, lse


@attend.register_fake
def _outputs(q: Tensor, k, v, q_rel, k_rel, residual_from) -> tuple[Tensor, Tensor]:
    b, h, n, d = q.shape
    return q.new_empty(b, n, h, d).transpose(1, 2), q.new_empty(b, h, n, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.residual_from = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple:
    from mvit_train.ops.triton_attention_backward import attend_backward

    q, k, v, q_rel, k_rel, out, lse = ctx.saved_tensors
    dq, dk, dv, d_rel = attend_backward(grad, q, k, v, q_rel, k_rel, out, lse, ctx.residual_from)
    return dq, dk, dv, None if q_rel is None else d_rel, None, None


attend.register_autograd(_gradients, setup_context=_save)


def sizes(q: Tensor, k: Tensor, q_rel: Tensor | None, residual_from: int | None) -> tuple[tuple[int, ...], float]:
    """The kernels' `sizes` and `scale`."""
    num_rel = 0 if q_rel is None else q_rel.shape[-1]
    return (q.shape[1], q.shape[2], k.shape[2], q.shape[3], num_rel, residual_from or 0), q.shape[3] ** -0.5


def constants(q: Tensor, q_rel: Tensor | None, residual_from: int | None) -> dict[str, Any]:
    """What a kernel is compiled for. D columns are a tile of the largest power of two in D, and one with the rest."""
    dim = q.shape[-1]
    first = max(1 << dim.bit_length() - 1, 16)
    return dict(
        D0=first,
        D1=max(triton.next_power_of_2(dim - first), 16) if dim > first else 0,
        P=0 if q_rel is None else max(triton.next_power_of_2(q_rel.shape[-1]), 16),
        RESIDUAL=residual_from is not None,
        EXACT=q.dtype == torch.float32 or triton.knobs.runtime.interpret,
    )
