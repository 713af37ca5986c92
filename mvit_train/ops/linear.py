"""A linear layer: on x86 CPUs in float32 by oneDNN's matrix product, elsewhere by PyTorch's choice.

In float32 PyTorch takes MKL's, which on AMD is slower by a tenth, and by up to a half where a token has 96 channels.
"""

import platform
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mvit_train.ops import forced

ONEDNN = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias. x: (..., C); weight: (C', C); bias: (C',). Returns (..., C')."""
    if forced() == "reference" or not _by_onednn(x, weight, bias):
        return functional.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN is there and takes these; not where the model is exported, for other machines."""
    in_float32 = all(tensor is None or tensor.dtype == torch.float32 for tensor in (x, weight, bias))
    as_they_are = not (torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu"))
    return ONEDNN and x.device.type == "cpu" and in_float32 and as_they_are


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """By the operation that torch.compile makes of a linear layer whose weights are constants."""
    if torch.compiler.is_compiling():
        return _compiled_product(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.library.custom_op("mvit_train::linear", mutates_args=())  # for inductor the weights would have to be constants
def _compiled_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@_compiled_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    """The gradient of the input by oneDNN, too; that of the weight by MKL, which is the faster there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad_outputs[0].reshape(-1, len(weight))
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            linear(grad, weight.T, None).view(x.shape) if to_x else None,
            grad.T @ x.reshape(-1, x.shape[-1]) if to_weight else None,
            grad.sum(0) if to_bias else None,
        )
