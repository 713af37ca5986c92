"""Softmax attention with an optional decomposed relative position (MViTv2, arXiv 2112.01526, Eq. 3 and 4).

The relative term adds q . R_h + q . R_w + q . R_t to the logit of each query and key, where R_x is the row of axis x's
table that belongs to their distance along it. Per axis there are few distances, so a query needs only one product per
key *position on the axis*; `attend` gets those products as `q_rel` (queries x positions) and, as `k_rel`, which
positions a key has (keys x positions, zero or one): the term is q_rel k_rel^T. A class token has rows of zeros in both.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from mvit_train.ops import forced, triton_takes

AMX = torch.cpu._is_amx_tile_supported()
LOGITS = 1_600_000  # bf16 numbers that stay in the cache of a CPU core


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_rel: Tensor | None = None,
    k_rel: Tensor | None = None,
    residual_from: int | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(D) + q_rel k_rel^T) v, with q added from query `residual_from` on (MViTv2, Eq. 5).

    q: (B, H, Nq, D); k, v: (B, H, Nk, D); q_rel: (B, H, Nq, P); k_rel: (Nk, P). Returns (B, H, Nq, D).
    """
    path = forced() or _fastest(q, q_rel)
    if path == "triton":
        from mvit_train.ops import triton_attention  # needs Triton

        return triton_attention.attend(q, k, v, q_rel, k_rel, residual_from)[0]
    paths = {"reference": attend_reference, "fast": attend_fused, "products": attend_by_products}
    x = paths[path](q, k, v, q_rel=q_rel, k_rel=k_rel)
    if residual_from is None:
        return x
    attended, x = x, x + q
    if residual_from > 0:
        x[:, :, :residual_from] = attended[:, :, :residual_from]
    return x


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, *, q_rel: Tensor | None = None, k_rel: Tensor | None = None
) -> Tensor:
    """The definition, by matrix products."""
    return attention_weights(q, k, q_rel=q_rel, k_rel=k_rel) @ v


def attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, *, q_rel: Tensor | None = None, k_rel: Tensor | None = None
) -> Tensor:
    """By matrix products of so many queries at a time that their logits stay in the cache, the relative term as further
    channels of q and k."""
    q = q * q.shape[-1] ** -0.5
    if q_rel is not None and k_rel is not None:
        fill = -(q.shape[-1] + q_rel.shape[-1]) % 8
        q, k = pad(torch.cat((q, q_rel), dim=-1), (0, fill)), pad(_with_positions(k, k_rel), (0, fill))
    num_queries = max(64, LOGITS // (q.shape[0] * q.shape[1] * k.shape[2]))
    attended = [(part @ k.transpose(-2, -1)).softmax(-1) @ v for part in q.split(num_queries, dim=2)]
    return attended[0] if len(attended) == 1 else torch.cat(attended, dim=2)


def _with_positions(k: Tensor, k_rel: Tensor) -> Tensor:
    return torch.cat((k, k_rel.to(k.dtype).expand(*k.shape[:2], -1, -1)), dim=-1)


def attention_weights(q: Tensor, k: Tensor, *, q_rel: Tensor | None = None, k_rel: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + q_rel k_rel^T), (B, H, Nq, Nk). The relative term is not scaled, as officially."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if q_rel is not None and k_rel is not None:
        logits = logits + q_rel @ k_rel.T.to(q_rel.dtype)
    return logits.softmax(-1)


def attend_fused(
    q: Tensor, k: Tensor, v: Tensor, *, q_rel: Tensor | None = None, k_rel: Tensor | None = None
) -> Tensor:
    """By PyTorch's fused attention, which knows no such term: q_rel and k_rel become further channels of q and k.

    No tensor of Nq x Nk elements is made. v is padded to the same number of channels, which the kernels ask for.
    """
    if q_rel is None or k_rel is None:
        return scaled_dot_product_attention(q, k, v)
    d, to = q.shape[-1], fused_channels(q, q_rel)
    fill = to - d - q_rel.shape[-1]
    q = pad(torch.cat((q * d**-0.5, q_rel), dim=-1), (0, fill))
    k = pad(_with_positions(k, k_rel), (0, fill))
    return scaled_dot_product_attention(q, k, pad(v, (0, to - d)), scale=1.0)[..., :d]


def fused_channels(q: Tensor, q_rel: Tensor) -> int:
    """Channels of q and k with the relative term in the fused kernel: on GPUs one of the sizes it is written for, which
    it would otherwise fill up to itself; a multiple of 8 on CPUs."""
    needed = q.shape[-1] + q_rel.shape[-1]
    step = 32 if q.device.type == "cuda" else 8
    return -(-needed // step) * step


def _fastest(q: Tensor, q_rel: Tensor | None) -> Literal["products", "fast", "triton"]:
    """On GPUs a kernel of our own where the fused one would need more than 128 channels, for which it is slow.

    In bf16 on CPUs without AMX the fused kernel is slower than two products and a softmax.
    """
    if q_rel is not None and fused_channels(q, q_rel) > 128 and q.dtype != torch.float32 and triton_takes(q):
        fits = q.shape[-1] <= 128 and q_rel.shape[-1] <= 64  # in shared memory and registers
        return "triton" if fits else "fast"
    by_products = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not AMX
    return "products" if by_products else "fast"
