"""Multi-head pooling attention and the block built around it.

MViT, arXiv 2104.11227, Sec. 3.1; MViTv2, arXiv 2112.01526, Sec. 4.1, for relative positions and residual pooling.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from mvit_train.models.layers import LAYER_NORM_EPS, DropPath, Linear, Mlp, Pool, PoolSpec, parameter
from mvit_train.ops.attention import attend
from mvit_train.ops.pooling import THW, pool_norm

RelPos = Literal["none", "space", "time", "space_time"]


class PoolingAttention(nn.Module):
    """Attention whose query, key and value are pooled over the grid before they meet.

    A pooling by convolution is followed by a LayerNorm over the channels of a head, which the class token also passes.

    Args:
        dim, att_dim: channels in, and of the attention and its output.
        thw: the grid of the input; `table_size` is the same by the official code's integer division (see RelativeBias).
        q_pool, kv_pool: how the query is pooled, and key and value; None: not at all.
        rel_pos: the axes along which a relative position is learned.
        residual_pooling: adds the pooled query to the attention's result (MViTv2, Sec. 4.1), but for the class token.
    """

    def __init__(
        self,
        dim: int,
        att_dim: int,
        num_heads: int,
        *,
        thw: THW,
        table_size: THW,
        q_pool: PoolSpec | None,
        kv_pool: PoolSpec | None,
        cls_token: bool,
        rel_pos: RelPos,
        residual_pooling: bool,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_cls, self.residual_pooling = num_heads, int(cls_token), residual_pooling
        head_dim = att_dim // num_heads
        self.qkv = Linear(dim, 3 * att_dim)
        self.proj = Linear(att_dim, att_dim)

        def pooling(spec: PoolSpec | None) -> tuple[Pool | None, nn.LayerNorm | None]:
            if spec is None:
                return None, None
            norm = nn.LayerNorm(head_dim, eps=LAYER_NORM_EPS) if spec.kind == "conv" else None
            return Pool(spec, thw, head_dim, cls_token=cls_token), norm

        self.pool_q, self.norm_q = pooling(q_pool)
        self.pool_k, self.norm_k = pooling(kv_pool)
        self.pool_v, self.norm_v = pooling(kv_pool)
        self.thw_out = q_pool.grid(thw) if q_pool else thw
        self._add_relative_positions(rel_pos, thw, table_size, q_pool, kv_pool, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, C). Returns (B, N', A), N' the tokens of the pooled query."""
        q, k, v = self.pooled_qkv(x)
        q_rel, k_rel = self.relative_terms(q)
        residual_from = self.num_cls if self.residual_pooling else None
        x = attend(*(x.transpose(1, 2) for x in (q, k, v)), q_rel=q_rel, k_rel=k_rel, residual_from=residual_from)
        return self.proj(x.transpose(1, 2).flatten(2))

    def pooled_qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, N, C). Returns query (B, N', H, D), and key and value (B, M, H, D), as they meet."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = self._pooled(q, self.pool_q, self.norm_q)
        k = self._pooled(k, self.pool_k, self.norm_k)
        return q, k, self._pooled(v, self.pool_v, self.norm_v)

    def _pooled(self, x: Tensor, pool: Pool | None, norm: nn.LayerNorm | None) -> Tensor:
        """(B, N, A) -> (B, N', H, D)"""
        if pool is None or norm is None:
            return (x if pool is None else pool(x)).unflatten(-1, (self.num_heads, -1))
        size, stride = pool.thw, pool.spec.stride
        return pool_norm(x, size, pool.weight, norm.weight, norm.bias, stride, num_cls=self.num_cls, eps=LAYER_NORM_EPS)

    def _add_relative_positions(
        self, axes: RelPos, thw: THW, table: THW, q_pool: PoolSpec | None, kv_pool: PoolSpec | None, head_dim: int
    ) -> None:
        """One table per axis, a row for each distance, shared by the heads (MViTv2, Eq. 4).

        The official code sizes the tables by integer division of the input (78 -> 39 -> 19) where convolutions give
        39 -> 20, and interpolates them in every forward; its released weights for 312 pixels need the same.
        """
        self.rel_pos_axes = {"none": "", "space": "hw", "time": "t", "space_time": "hwt"}[axes]
        if not self.rel_pos_axes:
            return
        q_stride = q_pool.stride if q_pool else (1, 1, 1)
        k_stride = kv_pool.stride if kv_pool else (1, 1, 1)
        k_thw = kv_pool.grid(thw) if kv_pool else thw
        has_position = []
        for axis in self.rel_pos_axes:
            i = "thw".index(axis)
            longest = table[i] if axis == "t" else max(table[i] // q_stride[i], table[i] // k_stride[i])
            setattr(self, f"rel_pos_{axis}", parameter(2 * longest - 1, head_dim))
            distances = axis_distances(self.thw_out[i], k_thw[i])
            self.register_buffer(f"distances_{axis}", distances, persistent=False)
            at = [torch.arange(n) for n in k_thw]
            position = torch.meshgrid(at, indexing="ij")[i].flatten()
            has_position.append(position[:, None] == torch.arange(k_thw[i]))
        k_rel = torch.cat(has_position, dim=1).float()
        self.register_buffer("k_rel", pad(k_rel, (0, 0, self.num_cls, 0)), persistent=False)

    def relative_terms(self, q: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """For `attend`: per query its products with the rows of each axis, (B, H, N', P), and the keys' positions."""
        if not self.rel_pos_axes:
            return None, None
        grid = q[:, self.num_cls :].unflatten(1, self.thw_out)  # (B, t, h, w, H, D)
        products = []
        for axis in self.rel_pos_axes:
            distances = self.get_buffer(f"distances_{axis}")
            rows = table_of_length(self.get_parameter(f"rel_pos_{axis}"), 2 * max(distances.shape) - 1)[distances]
            products.append(torch.einsum(f"bthwnd,{axis}kd->bnthwk", grid, rows.to(q.dtype)))
        q_rel = pad(torch.cat(products, dim=-1).flatten(2, 4), (0, 0, self.num_cls, 0))
        return q_rel, self.get_buffer("k_rel")


def axis_distances(num_queries: int, num_keys: int) -> Tensor:
    """The row of the table for each query and key on an axis; where one side is coarser, its steps are longer.

    4 queries, 2 keys: steps of 1 and 2, and the distances 2 0 / 3 1 / 4 2 / 5 3. Fractions are cut, as officially.
    """
    q_step, k_step = max(num_keys / num_queries, 1.0), max(num_queries / num_keys, 1.0)
    distances = torch.arange(num_queries)[:, None] * q_step - torch.arange(num_keys)[None] * k_step
    return (distances + (num_keys - 1) * k_step).long()


def table_of_length(table: Tensor, length: int) -> Tensor:
    """A relative-position table (L, D) resized linearly to (length, D)."""
    if len(table) == length:
        return table
    return interpolate(table.T[None], size=length, mode="linear")[0].T


class Block(nn.Module):
    """Pre-norm transformer block with pooling attention, for tokens on the grid `thw`.

    Two details carry accuracy (MViT, Table A.1 and Sec. 3.2): where the channels change, the skip path projects the
    *normalised* input, and where the query is pooled with a stride, the skip path is max-pooled alike.

    Args:
        dim, dim_out: channels in and out.
        expand_in: whether the attention or the MLP turns dim into dim_out (MViTv2, App. B.1).
        attention: the remaining arguments of PoolingAttention.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        *,
        expand_in: Literal["mlp", "attention"],
        thw: THW,
        q_pool: PoolSpec | None,
        cls_token: bool,
        drop_path_rate: float,
        **attention,
    ) -> None:
        super().__init__()
        att_dim = dim_out if expand_in == "attention" else dim
        self.expand_in = expand_in
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = PoolingAttention(dim, att_dim, num_heads, thw=thw, q_pool=q_pool, cls_token=cls_token, **attention)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(att_dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(att_dim, 4 * att_dim, dim_out)
        self.proj = Linear(dim, dim_out) if dim_out != dim else None
        self.pool_skip = None
        if q_pool is not None and q_pool.stride != (1, 1, 1):
            spec = PoolSpec("max", overlapping_kernel(q_pool.stride), q_pool.stride)
            self.pool_skip = Pool(spec, thw, dim, cls_token=cls_token)

    def forward(self, x: Tensor, of_attention: Tensor | None = None, of_mlp: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, N', C'). of_attention, of_mlp: what `drop_path` has drawn for each branch, outside, since a
        compiled block would else be another one for each rate."""
        in_attention = self.expand_in == "attention"
        x = self._residual(x, self.norm1, self.attn, self.proj if in_attention else None, self.pool_skip, of_attention)
        return self._residual(x, self.norm2, self.mlp, None if in_attention else self.proj, None, of_mlp)

    def _residual(
        self,
        x: Tensor,
        norm: nn.LayerNorm,
        branch: nn.Module,
        proj: nn.Linear | None,
        pool: Pool | None,
        drawn: Tensor | None,
    ) -> Tensor:
        """The skip path, x or proj(norm(x)), pooled, plus branch(norm(x)) of the samples that were drawn."""
        kept = None if drawn is None or drawn.is_floating_point() else drawn
        skip = x
        if proj is not None:
            x = norm(x)
            skip = proj(x)
        x = x if kept is None else x.index_select(0, kept)
        x = branch(norm(x) if proj is None else x)
        skip = skip if pool is None else pool(skip)
        if kept is not None:
            return skip.index_add(0, kept, x.to(skip.dtype), alpha=len(skip) / len(kept))
        return skip + (x if drawn is None else x * drawn.to(x.dtype)[:, None, None])


def overlapping_kernel(stride: THW) -> THW:
    """One more than the stride, so that windows overlap, where there is one: (1, 2, 2) -> (1, 3, 3)."""
    t, h, w = (s + 1 if s > 1 else 1 for s in stride)
    return t, h, w
