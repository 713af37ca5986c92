"""The backward pass of `triton_attention`: keys and values by one kernel, queries and their relative term by another.

Both compute the logits again, as in FlashAttention-2 (arXiv 2307.08691, Alg. 2): with S the logits, P = softmax(S) and
O = P V, dV = P^T dO, dS = P (dO V^T - rowsum(dO O)), dQ = dS K / sqrt(D), dK = dS^T Q / sqrt(D), and of the relative
term dq_rel = dS k_rel. Splitting in two costs a second product for S and one for dO V^T, 7 instead of 5, and saves
atomic additions, which would add dQ up in another order each time.
"""
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# ruff: noqa: N803 - what a kernel is compiled for is in capitals

import torch
import triton
import triton.language as tl
from torch import Tensor

from mvit_train.ops.triton_attention import (
    BACKWARD_KEYS,
    BACKWARD_QUERIES,
    _dot,
    _logits,
    _store,
    _tile,
    constants,
    sizes,
)


@triton.jit
def _attended(
    grad,
    out,
    q,
    delta,
    strides,  # of grad, out and q
    sizes,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """delta = rowsum(dO O), where O is what came out before q was added."""
    heads, num_queries, _, dim, _, first_residual = sizes
    sample, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    grad_strides, out_strides, q_strides = strides
    grad += sample * grad_strides[0] + head * grad_strides[1]
    out += sample * out_strides[0] + head * out_strides[1]
    attended = _tile(out, row, num_queries, out_strides[2], 0, dim, BLOCK_D).to(tl.float32)
    if RESIDUAL:
        q += sample * q_strides[0] + head * q_strides[1]
        added = _tile(q, row, num_queries, q_strides[2], 0, dim, BLOCK_D).to(tl.float32)
        attended -= tl.where((row >= first_residual)[:, None], added, 0.0)
    slope = _tile(grad, row, num_queries, grad_strides[2], 0, dim, BLOCK_D).to(tl.float32)
    tl.store(delta + tl.program_id(1) * num_queries + row, tl.sum(slope * attended, 1), mask=row < num_queries)


@triton.jit
def _key_gradients(
    grad,
    q,
    k,
    v,
    q_rel,
    k_rel,
    lse,
    delta,
    dk,
    dv,
    strides,  # of grad, q, k, v, q_rel; dk and dv are laid out like k, without gaps
    sizes,
    scale,
    D0: tl.constexpr,
    D1: tl.constexpr,
    P: tl.constexpr,
    EXACT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    heads, num_queries, num_keys, dim, num_rel, _ = sizes
    sample, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    grad_strides, q_strides, k_strides, v_strides, rel_strides = strides
    grad += sample * grad_strides[0] + head * grad_strides[1]
    q += sample * q_strides[0] + head * q_strides[1]
    k += sample * k_strides[0] + head * k_strides[1]
    v += sample * v_strides[0] + head * v_strides[1]
    q_rel += sample * rel_strides[0] + head * rel_strides[1]
    key = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    k0 = _tile(k, key, num_keys, k_strides[2], 0, dim, D0)
    v0 = _tile(v, key, num_keys, v_strides[2], 0, dim, D0)
    k1 = _tile(k, key, num_keys, k_strides[2], D0, dim, D1) if D1 > 0 else k0
    v1 = _tile(v, key, num_keys, v_strides[2], D0, dim, D1) if D1 > 0 else v0
    at = _tile(k_rel, key, num_keys, num_rel, 0, num_rel, P) if P > 0 else k0
    dk0 = tl.zeros([KEYS, D0], tl.float32)
    dv0 = tl.zeros([KEYS, D0], tl.float32)
    dk1 = tl.zeros([KEYS, D1 if D1 > 0 else D0], tl.float32)
    dv1 = tl.zeros([KEYS, D1 if D1 > 0 else D0], tl.float32)
    for first in range(0, num_queries, QUERIES):
        row = first + tl.arange(0, QUERIES)
        q0 = _tile(q, row, num_queries, q_strides[2], 0, dim, D0)
        q1 = _tile(q, row, num_queries, q_strides[2], D0, dim, D1) if D1 > 0 else q0
        g0 = _tile(grad, row, num_queries, grad_strides[2], 0, dim, D0)
        g1 = _tile(grad, row, num_queries, grad_strides[2], D0, dim, D1) if D1 > 0 else g0
        relative = _tile(q_rel, row, num_queries, rel_strides[2], 0, num_rel, P) if P > 0 else q0
        of_row = tl.program_id(1) * num_queries + row
        norm = tl.load(lse + of_row, mask=row < num_queries, other=float("inf"))  # beyond the end: probability 0
        mean = tl.load(delta + of_row, mask=row < num_queries, other=0.0)
        probability = tl.exp2(_logits(q0, q1, relative, k0, k1, at, scale, D1, P, EXACT) - norm[:, None])
        slope = _dot(g0, tl.trans(v0), EXACT)
        if D1 > 0:
            slope += _dot(g1, tl.trans(v1), EXACT)
        slope = tl.trans((probability * (slope - mean[:, None])).to(q0.dtype))
        probability = tl.trans(probability.to(g0.dtype))
        dv0 += _dot(probability, g0, EXACT)
        dk0 += _dot(slope, q0, EXACT)
        if D1 > 0:
            dv1 += _dot(probability, g1, EXACT)
            dk1 += _dot(slope, q1, EXACT)
    offset, stride = (sample * num_keys * heads + head) * dim, heads * dim
    _store(dk + offset, dk0 * scale, key, num_keys, stride, 0, dim, D0)
    _store(dv + offset, dv0, key, num_keys, stride, 0, dim, D0)
    if D1 > 0:
        _store(dk + offset, dk1 * scale, key, num_keys, stride, D0, dim, D1)
        _store(dv + offset, dv1, key, num_keys, stride, D0, dim, D1)


@triton.jit
def _query_gradients(
    grad,
    q,
    k,
    v,
    q_rel,
    k_rel,
    lse,
    delta,
    dq,
    d_rel,
    strides,  # of grad, q, k, v, q_rel; dq and d_rel are laid out (B, Nq, H, .), without gaps
    sizes,
    scale,
    D0: tl.constexpr,
    D1: tl.constexpr,
    P: tl.constexpr,
    RESIDUAL: tl.constexpr,
    EXACT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    heads, num_queries, num_keys, dim, num_rel, first_residual = sizes
    sample, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    grad_strides, q_strides, k_strides, v_strides, rel_strides = strides
    grad += sample * grad_strides[0] + head * grad_strides[1]
    q += sample * q_strides[0] + head * q_strides[1]
    k += sample * k_strides[0] + head * k_strides[1]
    v += sample * v_strides[0] + head * v_strides[1]
    q_rel += sample * rel_strides[0] + head * rel_strides[1]
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    q0 = _tile(q, row, num_queries, q_strides[2], 0, dim, D0)
    q1 = _tile(q, row, num_queries, q_strides[2], D0, dim, D1) if D1 > 0 else q0
    g0 = _tile(grad, row, num_queries, grad_strides[2], 0, dim, D0)
    g1 = _tile(grad, row, num_queries, grad_strides[2], D0, dim, D1) if D1 > 0 else g0
    relative = _tile(q_rel, row, num_queries, rel_strides[2], 0, num_rel, P) if P > 0 else q0
    of_row = tl.program_id(1) * num_queries + row
    norm = tl.load(lse + of_row, mask=row < num_queries, other=float("inf"))
    mean = tl.load(delta + of_row, mask=row < num_queries, other=0.0)
    dq0 = tl.zeros([QUERIES, D0], tl.float32)
    dq1 = tl.zeros([QUERIES, D1 if D1 > 0 else D0], tl.float32)
    of_rel = tl.zeros([QUERIES, P if P > 0 else D0], tl.float32)
    for first in range(0, num_keys, KEYS):
        key = first + tl.arange(0, KEYS)
        k0 = _tile(k, key, num_keys, k_strides[2], 0, dim, D0)
        v0 = _tile(v, key, num_keys, v_strides[2], 0, dim, D0)
        k1 = _tile(k, key, num_keys, k_strides[2], D0, dim, D1) if D1 > 0 else k0
        at = _tile(k_rel, key, num_keys, num_rel, 0, num_rel, P) if P > 0 else k0
        logits = _logits(q0, q1, relative, k0, k1, at, scale, D1, P, EXACT)
        probability = tl.where((key < num_keys)[None, :], tl.exp2(logits - norm[:, None]), 0.0)
        slope = _dot(g0, tl.trans(v0), EXACT)
        if D1 > 0:
            slope += _dot(g1, tl.trans(_tile(v, key, num_keys, v_strides[2], D0, dim, D1)), EXACT)
        slope = (probability * (slope - mean[:, None])).to(q0.dtype)
        dq0 += _dot(slope, k0, EXACT)
        if D1 > 0:
            dq1 += _dot(slope, k1, EXACT)
        if P > 0:
            of_rel += _dot(slope, at.to(q0.dtype), EXACT)
    added = tl.where((row >= first_residual)[:, None], 1.0, 0.0) if RESIDUAL else 0.0
    at_row = sample * num_queries * heads + head
    stride = heads * dim
    _store(dq + at_row * dim, dq0 * scale + added * g0.to(tl.float32), row, num_queries, stride, 0, dim, D0)
    if D1 > 0:
        _store(dq + at_row * dim, dq1 * scale + added * g1.to(tl.float32), row, num_queries, stride, D0, dim, D1)
    if P > 0:
        _store(d_rel + at_row * num_rel, of_rel, row, num_queries, heads * num_rel, 0, num_rel, P)


@torch.library.custom_op("mvit_train::attend_backward", mutates_args=())
def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_rel: Tensor | None,
    k_rel: Tensor | None,
    out: Tensor,
    lse: Tensor,
    residual_from: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and q_rel, the last one empty without it; in memory (B, N, H, .)."""
    dq, dk, dv, d_rel = _outputs(grad, q, k, v, q_rel, k_rel, out, lse, residual_from)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    (b, h, n, d), num_keys = q.shape, k.shape[2]
    settings, common = constants(q, q_rel, residual_from), sizes(q, k, q_rel, residual_from)
    residual = settings.pop("RESIDUAL")
    delta = torch.empty_like(lse)
    _attended[(triton.cdiv(n, 32), b * h)](
        *(grad, out, q, delta, tuple(x.stride()[:3] for x in (grad, out, q)), common[0]),
        RESIDUAL=residual,
        ROWS=32,
        BLOCK_D=triton.next_power_of_2(d),
    )
    relative, at = q if q_rel is None else q_rel, q if k_rel is None else k_rel
    strides = tuple(x.stride()[:3] for x in (grad, q, k, v, relative))
    inputs = (grad, q, k, v, relative, at, lse, delta)
    settings |= dict(QUERIES=BACKWARD_QUERIES, KEYS=BACKWARD_KEYS, num_warps=8, num_stages=2)
    _key_gradients[(triton.cdiv(num_keys, BACKWARD_KEYS), b * h)](*inputs, dk, dv, strides, *common, **settings)
    _query_gradients[(triton.cdiv(n, BACKWARD_QUERIES), b * h)](
        *(*inputs, dq, d_rel, strides, *common), RESIDUAL=residual, **settings
    )
    return dq, dk, dv, d_rel


@attend_backward.register_fake
def _outputs(grad, q: Tensor, k: Tensor, v, q_rel: Tensor | None, k_rel, out, lse, residual_from):
    def like(x: Tensor) -> Tensor:
        b, h, n, d = x.shape
        return x.new_empty(b, n, h, d).transpose(1, 2)

    return like(q), like(k), like(v), q.new_empty(0) if q_rel is None else like(q_rel)
