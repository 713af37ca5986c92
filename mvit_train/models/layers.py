"""Parts that every stage of the transformer shares: patch embedding, MLP, stochastic depth."""

import torch
from torch import Tensor, nn

THW = tuple[int, int, int]

INIT_STD = 0.02


def conv_output(size: THW, kernel: THW, stride: THW, padding: THW) -> THW:
    """Grid after a convolution or pooling, per axis: 78, kernel 3, stride 2, padding 1 -> 39."""
    t, h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    return t, h, w


class PatchEmbed(nn.Module):
    """Overlapping space-time cubes to tokens (MViT, arXiv 2104.11227, Sec. 3.2 and Table 12)."""

    def __init__(self, embed_dim: int, kernel: THW, stride: THW, padding: THW) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, embed_dim, kernel, stride, padding)

    def forward(self, video: Tensor) -> Tensor:
        return self.proj(video).flatten(2).transpose(1, 2)  # (B, 3, T, S, S) -> (B, N, C), t h w row-major


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden_dim: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth per sample: a residual branch is dropped with `rate`, kept ones are scaled by 1 / keep."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def init_weights(module: nn.Module) -> None:
    """Initialisation of the papers' models: linear weights N(0, 0.02), every bias 0, LayerNorm 1 and 0.

    Convolutions (stem and pooling) keep PyTorch's default. The 0.02 biases of today's SlowFast came later, with
    the reversible models (its commit 64f8d7e), and are left out.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)


def init_differences(stem: nn.Conv3d, gain: float = 6.0) -> None:
    """Makes the stem's initial kernels differences in time: their weights sum to zero over t, then grow by `gain`.

    With PyTorch's default nearly all of a token is colour and texture, motion about 2 % of its power, and the LayerNorm
    of each token scales by the rest: models 32 wide stay at chance on small moving objects. With differences a token
    starts from what changes, and the gain brings it from 0.1 to the order of 1, where the residual stream uses it.
    """
    if stem.kernel_size[0] < 2:
        raise ValueError(f"stem_init difference needs a patch kernel over 2 or more frames, not {stem.kernel_size}")
    with torch.no_grad():
        stem.weight -= stem.weight.mean(2, keepdim=True)
        stem.weight *= gain


def parameter(*shape: int) -> nn.Parameter:
    """A learned tensor drawn from a truncated normal (class token, position embeddings)."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=INIT_STD))
