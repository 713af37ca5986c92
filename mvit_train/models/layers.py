"""Parts that every stage of the transformer shares: patch embedding, token pooling, MLP, stochastic depth."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvit_train.ops.linear import linear, mlp
from mvit_train.ops.pooling import THW, pool_conv, pool_output, pool_window

INIT_STD = 0.02
LAYER_NORM_EPS = 1e-6
SKIPPING_BATCH = 8  # the least in which stochastic depth leaves out work

PoolKind = Literal["conv", "max", "avg"]


class PatchEmbed(nn.Module):
    """Overlapping space-time cubes, or patches of an image, to tokens (MViT, arXiv 2104.11227, Sec. 3.2, Table 12).

    kernel, stride: (t, h, w), or (h, w) for an image. The padding is (kernel - 1) // 2 where cubes overlap, else none.
    """

    def __init__(self, embed_dim: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        padding = tuple((k - 1) // 2 if k > s else 0 for k, s in zip(kernel, stride, strict=True))
        convolution: Any = nn.Conv3d if len(kernel) == 3 else nn.Conv2d
        self.proj: nn.Conv2d | nn.Conv3d = convolution(3, embed_dim, kernel, stride, padding)

    def grid(self, size: tuple[int, ...]) -> THW:
        """The (t, h, w) of the tokens of an input of `size`; an image has t = 1."""
        conv = self.proj
        counts = (
            (n + 2 * int(p) - k) // s + 1
            for n, k, s, p in zip(size, conv.kernel_size, conv.stride, conv.padding, strict=True)
        )
        *t, h, w = counts
        return (t[0] if t else 1), h, w

    def forward(self, video: Tensor) -> Tensor:
        return self.proj(video).flatten(2).transpose(1, 2)  # (B, 3, [T,] S, S) -> (B, N, C), t h w row-major


class PoolSpec(NamedTuple):
    """A pooling of the query, or of key and value."""

    kind: PoolKind
    kernel: THW
    stride: THW

    def grid(self, thw: THW) -> THW:
        return pool_output(thw, self.kernel, self.stride)


class Pool(nn.Module):
    """Pools the grid of tokens; a leading class token passes by.

    "conv" is a depthwise convolution over the channels of one head, its weight shared by all heads.
    """

    def __init__(self, spec: PoolSpec, thw: THW, head_dim: int, *, cls_token: bool) -> None:
        super().__init__()
        self.spec, self.thw, self.num_cls = spec, thw, int(cls_token)
        if spec.kind == "conv":
            conv = nn.Conv3d(head_dim, head_dim, spec.kernel, groups=head_dim, bias=False)
            self.weight = conv.weight  # drawn as PyTorch draws it

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, C), N = t * h * w, plus 1 with a class token. Returns (B, N', C)."""
        kind, kernel, stride = self.spec
        if kind == "conv":
            return pool_conv(x, self.thw, self.weight, stride, num_cls=self.num_cls)
        return pool_window(x, self.thw, kernel, stride, kind, num_cls=self.num_cls)

    def extra_repr(self) -> str:
        return f"{self.spec.kind}, kernel={self.spec.kernel}, stride={self.spec.stride}"


class Linear(nn.Linear):
    """torch.nn.Linear, computed by `ops.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """input: (..., C). Returns (..., C')."""
        return linear(input, self.weight, self.bias)


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden_dim: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)


class DropPath(nn.Module):
    """Draws which samples go through a residual branch (stochastic depth, arXiv 1603.09382), each with 1 - `rate`.

    In a batch of 8 or more a fixed number of samples is drawn instead of each for itself, as in DINOv2 (arXiv
    2304.07193, Sec. 5): the branch is computed for these alone, and shapes do not change from step to step. A sample is
    then kept with round(B (1 - rate)) / B, within 1/16 of 1 - rate, and scaled by the inverse of that, so that the mean
    stays the branch. Gradients are means over samples that know nothing of each other: their expectation is that of
    independent draws of this rate.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def draw(self, x: Tensor) -> Tensor | None:
        """For x (B, ...) the indices of the samples that are kept, or, in small batches, a factor (B,) for each, 0 or
        1 / (1 - rate); None: all as they are. Nothing waits for the device, as torch.randperm would."""
        if self.rate == 0.0 or not self.training:
            return None
        batch_size, keep = len(x), 1.0 - self.rate
        if batch_size < SKIPPING_BATCH:
            return torch.empty(batch_size, device=x.device).bernoulli_(keep) / keep
        number = max(round(batch_size * keep), 1)
        return None if number == batch_size else torch.rand(batch_size, device=x.device).argsort()[:number]

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


def init_differences(stem: nn.Conv2d | nn.Conv3d, gain: float = 6.0) -> None:
    """Makes the stem's initial kernels differences, in time or, of images, in space: their weights sum to zero over t,
    or over (h, w), then grow by `gain`.

    With PyTorch's default nearly all of a token is colour and texture, motion about 2 % of its power, and the LayerNorm
    of each token scales by the rest: models 32 wide stay at chance on small moving objects. With differences a token
    starts from what changes, and the gain brings it from 0.1 to the order of 1, where the residual stream uses it.
    Outlines in images fare alike.
    """
    over = (2,) if len(stem.kernel_size) == 3 else (2, 3)
    if stem.kernel_size[0] < 2:
        raise ValueError(
            f"stem_init difference needs a patch kernel over 2 or more frames, or rows, not {stem.kernel_size}"
        )
    with torch.no_grad():
        stem.weight -= stem.weight.mean(over, keepdim=True)
        stem.weight *= gain


def parameter(*shape: int) -> nn.Parameter:
    """A learned tensor drawn from a truncated normal (class token, positions)."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=INIT_STD))
