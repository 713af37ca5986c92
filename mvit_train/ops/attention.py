"""Softmax attention with an optional decomposed relative position (MViTv2, arXiv 2112.01526, Eq. 3 and 4).

The relative term adds q . R_h + q . R_w + q . R_t to the logit of each query and key, where R_x is the row of axis x's
table that belongs to their distance along it. Per axis there are few distances, so a query needs only one product per
key *position on the axis*; `attend` gets those products as `q_rel` (queries x positions) and, as `k_rel`, which
positions a key has (keys x positions, zero or one): the term is q_rel k_rel^T. A class token has rows of zeros in both.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from mvit_train.ops import forced


def attend(q: Tensor, k: Tensor, v: Tensor, *, q_rel: Tensor | None = None, k_rel: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + q_rel k_rel^T) v.

    q: (B, H, Nq, D); k, v: (B, H, Nk, D); q_rel: (B, H, Nq, P); k_rel: (Nk, P). Returns (B, H, Nq, D).
    """
    path = forced() or ("reference" if _products_are_faster(q) else "fast")
    return (attend_reference if path == "reference" else attend_fused)(q, k, v, q_rel=q_rel, k_rel=k_rel)


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, *, q_rel: Tensor | None = None, k_rel: Tensor | None = None
) -> Tensor:
    """The definition, by matrix products."""
    return attention_weights(q, k, q_rel=q_rel, k_rel=k_rel) @ v


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
    d = q.shape[-1]
    to = -(-(d + q_rel.shape[-1]) // 8) * 8  # a multiple of 8 channels, for the GPU kernels
    fill = to - d - q_rel.shape[-1]
    q = pad(torch.cat((q * d**-0.5, q_rel), dim=-1), (0, fill))
    k = pad(torch.cat((k, k_rel.to(k.dtype).expand(*k.shape[:2], -1, -1)), dim=-1), (0, fill))
    return scaled_dot_product_attention(q, k, pad(v, (0, to - d)), scale=1.0)[..., :d]


def _products_are_faster(q: Tensor) -> bool:
    """In bf16 on CPUs without AMX the fused kernel is slower than two products and a softmax."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()
