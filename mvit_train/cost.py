"""What a model costs, for the tables that set it beside its accuracy."""

import copy
from typing import Any

from torch import nn

from mvit_train.complexity import ACTIVATIONS, operations
from mvit_train.models import MViT


def cost(model: nn.Module) -> dict[str, Any]:
    """{"params": their number, "gflops": 1e9 multiply-adds of one view as `task=complexity` counts them, or None for a
    model that is no MViT}. It traces a copy on the meta device, which computes nothing."""
    params = sum(parameter.numel() for parameter in model.parameters())
    if not isinstance(model, MViT):
        return {"params": params, "gflops": None}
    on_meta = {id(tensor): tensor.to("meta") for tensor in model.buffers()}
    on_meta |= {id(tensor): nn.Parameter(tensor.detach().to("meta"), False) for tensor in model.parameters()}
    traced = copy.deepcopy(model, on_meta)
    counts = operations(traced.eval())
    return {"params": params, "gflops": sum(n for name, n in counts.items() if name != ACTIVATIONS) / 1e9}
