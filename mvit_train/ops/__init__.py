"""Operations with fast paths beside a reference twin. Each operation chooses in one place; `force` overrules it.

"fast" is written with PyTorch's operations, "triton" is a kernel of our own for NVIDIA GPUs (docs/kernels.md). Where an
operation has no such path for what it is given, it takes its next best.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Implementation = Literal["reference", "fast", "triton"]

KERNELS = os.environ.get("MVIT_KERNELS", "on") != "off" and importlib.util.find_spec("triton") is not None
"""Whether kernels are chosen at all; MVIT_KERNELS=off leaves them out, to compare."""

_forced: Implementation | None = None


@contextmanager
def force(path: Implementation) -> Iterator[None]:
    """Within it every operation takes this path: the reference to test against or to count multiply-adds in, or a fast
    one where the choice by device would be another."""
    global _forced
    before, _forced = _forced, path
    try:
        yield
    finally:
        _forced = before


def forced() -> Implementation | None:
    """What `force` asks for at the moment."""
    return _forced


def triton_takes(x: Tensor) -> bool:
    """Whether kernels are chosen for such tensors: in 16 or 32 bits, on an NVIDIA GPU since Ampere."""
    suits = KERNELS and x.device.type == "cuda" and x.dtype in (torch.bfloat16, torch.float16, torch.float32)
    return suits and _is_ampere_or_later(x.device.index or 0)


@torch.compiler.assume_constant_result
def _is_ampere_or_later(device_index: int) -> bool:
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device_index) >= (8, 0)
