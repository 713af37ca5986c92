"""Linear layers, and the two of a block's MLP: on x86 CPUs by oneDNN's matrix product, elsewhere by PyTorch's choice.

In float32 PyTorch takes MKL's product, which on AMD is slower by a tenth, and by up to a half where a token has 96
channels. In bfloat16 it takes oneDNN's, but writes the bias first and adds the product to it.
"""

import platform
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import gelu

from mvit_train.ops import forced

ONEDNN = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
TYPES = {torch.float32} | ({torch.bfloat16} if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported() else set())
"""In which the CPU is fast by oneDNN."""

TOKENS = 2048
"""Whose hidden channels stay in the cache of a CPU core."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias. x: (..., C); weight: (C', C); bias: (C',). Returns (..., C')."""
    if not _by_onednn(x, weight, bias):
        return functional.linear(x, weight, bias)
    x, weight, bias = _as_computed(x, weight, bias)
    return _Linear.apply(x, weight, bias) if _needs_gradient(x, weight, bias) else _product(x, weight, bias)


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Linear, exact GELU, linear. x: (..., C); weight1: (M, C); weight2: (C', M). Returns (..., C').

    For the backward pass the M channels are kept as they were before GELU, not after it, too: it is computed again.
    CPUs go through the tokens by so many that these channels stay in the cache.
    """
    given = (x, weight1, bias1, weight2, bias2)
    if forced() != "reference" and not torch.compiler.is_exporting():
        if not _needs_gradient(*given):
            if _by_onednn(*given):
                return (_compiled_mlp if torch.compiler.is_compiling() else _mlp)(*_as_computed(*given))
        elif not torch.compiler.is_compiling():  # which chooses by itself what is kept
            return _Mlp.apply(*_as_computed(*given))
    return linear(gelu(linear(x, weight1, bias1)), weight2, bias2)


def _by_onednn(x: Tensor, *others: Tensor | None) -> bool:
    """Whether oneDNN is there and takes these; not where the model is exported, for other machines."""
    if not ONEDNN or x.device.type != "cpu" or torch.compiler.is_exporting() or forced() == "reference":
        return False
    types = {tensor.dtype for tensor in (x, *others) if tensor is not None}
    if torch.is_autocast_enabled("cpu"):
        return types | {torch.get_autocast_dtype("cpu")} <= TYPES
    return len(types) == 1 and types <= TYPES


def _as_computed(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """In the type of autocast, where it is on, as PyTorch's linear layers."""
    given, device = (x, *others), x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return given
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in given)


def _needs_gradient(*given: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """By the operation that torch.compile makes of a linear layer whose weights are constants."""
    if torch.compiler.is_compiling():
        return _compiled_product(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Without gradients: oneDNN applies GELU to its product."""
    with_gelu = torch.ops.mkldnn._linear_pointwise
    parts = (with_gelu(part, weight1, bias1, "gelu", [], "none") for part in _tokens(x))
    return _joined([_product(part, weight2, bias2) for part in parts]).view(*x.shape[:-1], -1)


def _joined(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _tokens(x: Tensor) -> tuple[Tensor, ...]:
    """x (..., C) in parts of (N, C): on CPUs of so many tokens that their hidden channels stay in the cache."""
    x = x.reshape(-1, x.shape[-1])
    return x.split(TOKENS * torch.get_num_threads()) if x.device.type == "cpu" else (x,)


@torch.library.custom_op("mvit_train::linear", mutates_args=())  # for inductor the weights would have to be constants
def _compiled_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _product(x, weight, bias)


@torch.library.custom_op("mvit_train::mlp", mutates_args=())
def _compiled_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    return _mlp(x, weight1, bias1, weight2, bias2)


@_compiled_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


@_compiled_mlp.register_fake
def _(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight2))


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> Gradients:
    """Of a linear layer's input, weight and bias, as far as `needed`: the input's by oneDNN, too; the weight's by MKL
    in float32, which is the faster there."""
    rows = grad.reshape(-1, len(weight))
    to_x, to_weight, to_bias = needed
    return (
        linear(rows, weight.T, None).view(x.shape) if to_x else None,
        rows.T @ x.reshape(-1, x.shape[-1]) if to_weight else None,
        rows.sum(0) if to_bias else None,
    )


def _sum(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """In float32 until the end; one addition after the other would lose what is small in bfloat16."""
    present = [part for part in parts if part is not None]
    return torch.stack(present).sum(0) if len(present) > 1 else parts[0]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        return _gradients(grad_outputs[0], x, weight, ctx.needs_input_grad)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden, parts = [], []
        for part in _tokens(x):
            hidden.append(linear(part, weight1, bias1))
            parts.append(linear(gelu(hidden[-1]), weight2, bias2))
        ctx.save_for_backward(x, weight1, bias1, weight2, *hidden)
        return _joined(parts).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, bias1, weight2, *hidden = ctx.saved_tensors
        of_first, of_second = ctx.needs_input_grad[:3], ctx.needs_input_grad[3:]
        sizes = [len(part) for part in hidden]
        tokens, grads = (each.reshape(-1, each.shape[-1]).split(sizes) for each in (x, grad_outputs[0]))
        parts = []
        for part, before, grad in zip(tokens, hidden, grads, strict=True):
            if torch.is_grad_enabled():  # for second derivatives; what was kept is of no graph
                before = linear(part, weight1, bias1)
            grad, *to_second = _gradients(grad, gelu(before), weight2, (any(of_first), *of_second))
            to_first = (None, None, None)
            if grad is not None:
                to_first = _gradients(torch.ops.aten.gelu_backward(grad, before), part, weight1, of_first)
            parts.append((*to_first, *to_second))
        to_x, *to_weights = zip(*parts, strict=True)
        return _joined(to_x).view(x.shape) if of_first[0] else None, *(_sum(each) for each in to_weights)
