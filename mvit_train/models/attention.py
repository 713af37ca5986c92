"""Multi-head pooling attention and the block built around it (MViT, arXiv 2104.11227, Sec. 3.1)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mvit_train.models.layers import THW, DropPath, Mlp, conv_output

LAYER_NORM_EPS = 1e-6
SKIP_KERNEL, SKIP_PADDING = (1, 3, 3), (0, 1, 1)


def pool_tokens(x: Tensor, thw: THW, pool: nn.Module, *, cls_token: bool) -> Tensor:
    """Runs `pool` over the (t, h, w) grid of each head's tokens; a leading class token passes by unpooled.

    x: (B, H, N, D) with N = t * h * w, plus 1 if `cls_token`. Returns (B, H, N', D).
    """
    cls, grid = (x[:, :, :1], x[:, :, 1:]) if cls_token else (None, x)
    b, heads, _, d = grid.shape
    grid = grid.transpose(2, 3).reshape(b * heads, d, *thw)
    grid = pool(grid).view(b, heads, d, -1).transpose(2, 3)
    return grid if cls is None else torch.cat((cls, grid), dim=2)


class PoolingAttention(nn.Module):
    """Attention whose query, key and value are pooled over the grid before they meet.

    Pooling is a depthwise convolution over the channels of one head, its weights shared by all heads, followed by a
    LayerNorm over those channels, which the class token also passes through.

    Args:
        dim: channels in and out.
        q_stride: stride of the query pooling, which is the block's output grid; None: the query is not pooled.
        kv_stride: stride of the key and value pooling; None: they are not pooled.
        kernel: kernel of all three poolings.
    """

    def __init__(
        self, dim: int, num_heads: int, *, q_stride: THW | None, kv_stride: THW | None, kernel: THW, cls_token: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.cls_token = num_heads, cls_token
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)

        def pooling(stride: THW | None) -> tuple[nn.Conv3d | None, nn.LayerNorm | None]:
            if stride is None:
                return None, None
            head_dim = dim // num_heads
            pool = nn.Conv3d(head_dim, head_dim, kernel, stride, padding, groups=head_dim, bias=False)
            return pool, nn.LayerNorm(head_dim, eps=LAYER_NORM_EPS)

        self.pool_q, self.norm_q = pooling(q_stride)
        self.pool_k, self.norm_k = pooling(kv_stride)
        self.pool_v, self.norm_v = pooling(kv_stride)
        self.q_grid = (kernel, q_stride, padding) if q_stride is not None else None

    def forward(self, x: Tensor, thw: THW) -> tuple[Tensor, THW]:
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, D)
        q = self._pool(q, thw, self.pool_q, self.norm_q)
        k = self._pool(k, thw, self.pool_k, self.norm_k)
        v = self._pool(v, thw, self.pool_v, self.norm_v)
        x = scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(b, -1, c)
        return self.proj(x), conv_output(thw, *self.q_grid) if self.q_grid else thw

    def _pool(self, x: Tensor, thw: THW, pool: nn.Module | None, norm: nn.Module | None) -> Tensor:
        if pool is None or norm is None:
            return x
        return norm(pool_tokens(x, thw, pool, cls_token=self.cls_token))


class Block(nn.Module):
    """Pre-norm transformer block with pooling attention.

    Two details carry accuracy (paper, Table A.1 and Sec. 3.2): where the channels change, the skip path projects the
    *normalised* input, and where the query is pooled with a stride, the skip path is max-pooled alike.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        *,
        q_stride: THW | None,
        kv_stride: THW | None,
        kernel: THW,
        cls_token: bool,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.cls_token = cls_token
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = PoolingAttention(
            dim, num_heads, q_stride=q_stride, kv_stride=kv_stride, kernel=kernel, cls_token=cls_token
        )
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim, dim_out)
        self.proj = nn.Linear(dim, dim_out) if dim_out != dim else None
        self.pool_skip = nn.MaxPool3d(SKIP_KERNEL, q_stride, SKIP_PADDING) if q_stride is not None else None

    def forward(self, x: Tensor, thw: THW) -> tuple[Tensor, THW]:
        """x: (B, N, C) on the grid `thw`. Returns (B, N', C') and its grid."""
        attended, thw_out = self.attn(self.norm1(x), thw)
        if self.pool_skip is not None:
            x = pool_tokens(x.unsqueeze(1), thw, self.pool_skip, cls_token=self.cls_token).squeeze(1)
        x = x + self.drop_path(attended)
        normed = self.norm2(x)
        skip = x if self.proj is None else self.proj(normed)
        return skip + self.drop_path(self.mlp(normed)), thw_out
