"""Pooling of tokens over their (t, h, w) grid: a depthwise convolution, and the maximum or mean over windows.

Tokens stay (B, N, C) all the way: seen as a grid they are channels-last, which a convolution reads without a copy, also
out of the packed output of the qkv layer, where a token's channels are C of 3 C in a row.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, conv3d, layer_norm, max_pool2d, max_pool3d, pad

from mvit_train.ops import forced, triton_takes

THW = tuple[int, int, int]

CHUNK = 300_000  # elements of the gradient that stay in the cache while all taps of the kernel visit them


def pool_output(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> THW:
    """Grid after a pooling or convolution with padding (kernel - 1) // 2: 56, kernel 3, stride 2 -> 28; 39 -> 20."""
    t, h, w = ((n + 2 * ((k - 1) // 2) - k) // s + 1 for n, k, s in zip(size, kernel, stride, strict=True))
    return t, h, w


def pool_norm(
    x: Tensor, thw: THW, weight: Tensor, gamma: Tensor, beta: Tensor, stride: THW, *, num_cls: int, eps: float
) -> Tensor:
    """`pool_conv`, then LayerNorm over the channels of each head, which class tokens pass too.

    x: (B, N, C), also as a part of the packed projection; gamma, beta: (D,). Returns (B, N', heads, D) in x's type.
    """
    by_triton = weight.shape[2] in (1, 3) and weight.shape[3:] == (3, 3) and num_cls <= 1 and x.stride(-1) == 1
    path = forced() or ("triton" if by_triton and triton_takes(x) else None)
    if path == "triton" and by_triton:
        from mvit_train.ops import triton_pooling  # needs Triton

        keep = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or gamma.requires_grad)
        return triton_pooling.pool_norm(x, thw, weight, gamma, beta, stride, num_cls, eps, keep)[0]
    return pool_norm_reference(x, thw, weight, gamma, beta, stride, num_cls=num_cls, eps=eps)


def pool_norm_reference(
    x: Tensor, thw: THW, weight: Tensor, gamma: Tensor, beta: Tensor, stride: THW, *, num_cls: int, eps: float
) -> Tensor:
    """In two operations."""
    pooled = pool_conv(x, thw, weight, stride, num_cls=num_cls).unflatten(-1, (-1, len(weight)))
    return layer_norm(pooled, gamma.shape, gamma, beta, eps).to(x.dtype)  # autocast normalises in float32 on GPUs


def pool_conv(x: Tensor, thw: THW, weight: Tensor, stride: THW, *, num_cls: int) -> Tensor:
    """Depthwise convolution of each head's channels, the weight shared by all heads; class tokens pass by.

    x: (B, N, C) with N = num_cls + t * h * w; weight: (C / heads, 1, kt, kh, kw), its padding (kernel - 1) // 2.
    Returns (B, N', C).
    """
    has_centre = all(k % 2 for k in weight.shape[2:])  # about which the fast backward mirrors the kernel
    path = forced() or ("fast" if x.device.type == "cpu" else "reference")
    if path != "reference" and has_centre:
        return pool_conv_channels_last(x, thw, weight, stride, num_cls=num_cls)
    return pool_conv_reference(x, thw, weight, stride, num_cls=num_cls)


def pool_conv_reference(x: Tensor, thw: THW, weight: Tensor, stride: THW, *, num_cls: int) -> Tensor:
    """As the official code does it: heads folded into the batch, channels first."""
    (b, _, c), d = x.shape, len(weight)
    cls, grid = x[:, :num_cls], x[:, num_cls:]
    grid = grid.unflatten(-1, (c // d, d)).permute(0, 2, 3, 1).reshape(-1, d, *thw)  # (B * heads, D, t, h, w)
    grid = conv3d(grid, weight, None, stride, _padding(weight), groups=d)
    grid = grid.reshape(b, c // d, d, -1).permute(0, 3, 1, 2).flatten(2)
    return torch.cat((cls, grid), dim=1)


def pool_conv_channels_last(x: Tensor, thw: THW, weight: Tensor, stride: THW, *, num_cls: int) -> Tensor:
    """Without copies; on CPUs forward 2 to 8 times faster, with a backward of our own where gradients are needed."""
    weight = weight.to(x.dtype).repeat(x.shape[2] // len(weight), 1, 1, 1, 1)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _DepthwiseConv.apply(x, thw, weight, stride, num_cls)
    return _DepthwiseConv.forward(None, x, thw, weight, stride, num_cls)


def pool_window(x: Tensor, thw: THW, kernel: THW, stride: THW, kind: Literal["max", "avg"], *, num_cls: int) -> Tensor:
    """Maximum or mean over windows, the mean counting the padding as zeros. x: (B, N, C) -> (B, N', C)."""
    cls, grid, padding = x[:, :num_cls], _grid(x, thw, num_cls), _half(kernel)
    if kind == "max" and kernel[0] == stride[0] == 1:  # the skip path: frame by frame is the same, and faster
        frames = grid.transpose(1, 2).flatten(0, 1)  # (B * t, C, h, w)
        frames = max_pool2d(frames, kernel[1:], stride[1:], padding[1:])
        pooled = frames.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[-1])
    else:
        pool = max_pool3d if kind == "max" else avg_pool3d
        pooled = pool(grid, kernel, stride, padding).flatten(2).transpose(1, 2)
    return torch.cat((cls, pooled), dim=1)


def _grid(x: Tensor, thw: THW, num_cls: int) -> Tensor:
    """The tokens (B, N, C) seen as (B, C, t, h, w), channels-last in memory."""
    return x[:, num_cls:].unflatten(1, thw).permute(0, 4, 1, 2, 3)


class _DepthwiseConv(torch.autograd.Function):
    """Depthwise conv3d whose backward is written with fast forwards: PyTorch's own is 2 to 30 times slower on CPUs.

    The input's gradient is a convolution of the output's, with zeros between its positions where there was a stride,
    with the mirrored kernel. The weight's is, for each tap of the kernel, a sum over positions of input times gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, thw: THW, weight: Tensor, stride: THW, num_cls: int) -> Tensor:
        if ctx is not None:
            ctx.save_for_backward(x, weight)
            ctx.thw, ctx.stride, ctx.num_cls = thw, stride, num_cls
        pooled = conv3d(_grid(x, thw, num_cls), weight, None, stride, _padding(weight), groups=len(weight))
        return torch.cat((x[:, :num_cls], pooled.permute(0, 2, 3, 4, 1).flatten(1, 3)), dim=1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        thw_out = pool_output(ctx.thw, weight.shape[2:], ctx.stride)
        pooled = _grid(grad, thw_out, ctx.num_cls)
        grid_gradient = _input_gradient(pooled, weight, ctx.thw, ctx.stride).permute(0, 2, 3, 4, 1).flatten(1, 3)
        x_gradient = torch.cat((grad[:, : ctx.num_cls], grid_gradient), dim=1)
        return (
            x_gradient,
            None,
            _weight_gradient(pooled, _grid(x, ctx.thw, ctx.num_cls), weight, ctx.stride),
            None,
            None,
        )


def _input_gradient(grad: Tensor, weight: Tensor, thw: THW, stride: THW) -> Tensor:
    b, c = grad.shape[:2]
    if stride != (1, 1, 1):
        spread = grad.new_zeros(b, *thw, c).permute(0, 4, 1, 2, 3)
        spread[:, :, :: stride[0], :: stride[1], :: stride[2]] = grad
        grad = spread
    return conv3d(grad, weight.flip(2, 3, 4), None, 1, _padding(weight), groups=c)


@torch.library.custom_op("mvit_train::depthwise_weight_gradient", mutates_args=())  # whole: its loops would be a graph
def _weight_gradient(grad: Tensor, grid: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    c, _, *kernel = weight.shape
    (pt, ph, pw), (st, sh, sw) = _padding(weight), stride
    padded = pad(grid.permute(0, 2, 3, 4, 1), (0, 0, pw, pw, ph, ph, pt, pt))
    grad = grad.permute(0, 2, 3, 4, 1)  # (B, t, h, w, C)
    b, t, h, w, _ = grad.shape
    num_frames = max(1, CHUNK // (h * w * c))
    at_least_float32 = torch.promote_types(grad.dtype, torch.float32)
    total = torch.zeros(*kernel, c, dtype=at_least_float32, device=grad.device)
    for sample in range(b):
        for first in range(0, t, num_frames):
            last = min(first + num_frames, t) - 1
            part = grad[sample, first : last + 1]
            for i in range(kernel[0]):
                frames = padded[sample, first * st + i : last * st + i + 1 : st]
                for j in range(kernel[1]):
                    rows = frames[:, j : j + (h - 1) * sh + 1 : sh]
                    for k in range(kernel[2]):
                        total[i, j, k] += (rows[:, :, k : k + (w - 1) * sw + 1 : sw] * part).sum((0, 1, 2))
    return total.permute(3, 0, 1, 2).unsqueeze(1).to(weight.dtype, memory_format=torch.contiguous_format, copy=True)


@_weight_gradient.register_fake
def _(grad: Tensor, grid: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _padding(weight: Tensor) -> THW:
    return _half(weight.shape[2:])


def _half(kernel: Any) -> THW:
    t, h, w = ((k - 1) // 2 for k in kernel)
    return t, h, w
