"""Training memory of a model, predicted without allocating it: what a step keeps, tensor by tensor.

Covered: every tensor that autograd keeps from the forward pass for the backward pass, once per storage, under bf16
autocast by CUDA's rules (linear layers and attention in bf16, LayerNorm in float32) and with fused attention, which
keeps no matrix of queries times keys; and weights, gradients and AdamW's two moments in float32.

Not covered, so that the peak on a GPU is higher: what an operation needs while it runs, gradients of activations on
their way back, the allocator's rounding, the CUDA context, DDP's buckets, and with activation checkpointing the one
block that is computed again. Kernels that keep something else than PyTorch's own change the number too.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy, layer_norm
from torch.overrides import TorchFunctionMode

from mvit_train import ops
from mvit_train.models import MViT

STATE_BYTES = 16  # per parameter: float32 weight, gradient and two moments of AdamW


@dataclass(frozen=True, kw_only=True)
class Memory:
    """In bytes. per_clip: kept for the backward pass for each clip of the batch; per_step: kept once whatever the
    batch, mostly the weights in bf16; state: weights, gradients, optimiser."""

    per_clip: int
    per_step: int
    state: int


def training_memory(model: MViT) -> Memory:
    """The prediction for a model on any device, also "meta"; nothing of its size is allocated.

    The forward pass runs on tensors that have a shape and no data, with one clip and with two; the difference is a
    clip's share.
    """
    with FakeTensorMode():
        state = {name: torch.empty(b.shape, dtype=b.dtype, device="cpu") for name, b in model.named_buffers()}
        state |= {name: nn.Parameter(torch.empty(p.shape, device="cpu")) for name, p in model.named_parameters()}
        one, two = (bytes_kept(model, state, num_clips) for num_clips in (1, 2))
    num_params = sum(parameter.numel() for parameter in model.parameters())
    return Memory(per_clip=two - one, per_step=2 * one - two, state=STATE_BYTES * num_params)


def bytes_kept(model: MViT, state: dict[str, Tensor], num_clips: int) -> int:
    """Bytes that a bf16 training step keeps from its forward pass, `state` (parameters and buffers) not included."""
    owned = {tensor.untyped_storage()._cdata for tensor in state.values()}
    kept: dict[int, Tensor] = {}  # by storage; alive until the end, as in a step, so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in owned:
            kept.setdefault(storage, tensor)
        return tensor

    video = torch.empty(num_clips, 3, *model.input_size, device="cpu")
    target = torch.zeros(num_clips, dtype=torch.long, device="cpu")
    with saved_tensors_hooks(keep, lambda tensor: tensor), autocast_as_on_cuda(), ops.force("fast"):
        cross_entropy(torch.func.functional_call(model, state, (video,)), target)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@contextmanager
def autocast_as_on_cuda():
    """bf16 autocast on the CPU, with CUDA's rule for LayerNorm: input and output in float32."""

    class LayerNormInFloat32(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is layer_norm:
                args = (args[0].float(), *args[1:])
            return func(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), LayerNormInFloat32():
        yield
