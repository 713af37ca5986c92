"""torch.compile for training: each kind of block once, or the whole model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

from mvit_train.models.mvit import MViT

Compile = Literal["blocks", "full", "graphs"]

RECOMPILE_LIMIT = 256
"""Kinds of blocks, times numbers of samples that stochastic depth keeps, times training and evaluation. PyTorch counts
them all at Block.forward, and at 8 it would stop compiling."""


@contextmanager
def compiled(model: nn.Module, how: Compile | None) -> Iterator[None]:
    """Within it the model runs compiled; parameters, their names and the modules themselves stay what they are.

    "blocks": each block is a graph, and blocks with equal shapes share one, which takes less time to compile. "full":
    the model is one graph. "graphs": that as a CUDA graph on a GPU, which needs no launches from the CPU; inputs keep
    their shape from step to step. None: nothing is compiled.

    Raises:
        ValueError: the model is not ours and has no blocks to compile.
    """
    modules: list[nn.Module] = [] if how is None else [model]
    if how == "blocks":
        if not isinstance(model, MViT):
            raise ValueError(f"compile=blocks: {type(model).__name__} is not an MViT; compile=full compiles any model")
        modules = list(model.blocks)
    mode: dict[str, Any] = {"mode": "reduce-overhead"} if how == "graphs" else {}
    for module in modules:
        module.compile(fullgraph=True, dynamic=False, recompile_limit=RECOMPILE_LIMIT, **mode)
    try:
        yield
    finally:
        for module in modules:
            module._compiled_call_impl = None
