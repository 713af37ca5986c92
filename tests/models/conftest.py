"""Models of other libraries with the graph of one of ours, and weights that hide nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers
from torch import Tensor, nn

FOUR_BLOCKS: dict[str, Any] = dict(blocks_per_stage=(1, 2, 1), embed_dim=16, num_classes=11)


@pytest.fixture(scope="session")
def four_blocks() -> dict[str, Any]:
    """The arguments of a model of three stages, 16 to 64 channels wide, for 11 classes."""
    return FOUR_BLOCKS


@pytest.fixture(scope="session")
def randomised() -> Callable[..., Any]:
    """`randomised(model)`: the model, every parameter drawn anew. What starts as 0 or 1 would hide a wrong name."""

    def draw(model: nn.Module, seed: int = 0) -> nn.Module:
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                n = torch.randn(parameter.shape, generator=random)
                if "pos" in name or "class_token" in name or "cls_token" in name:
                    parameter.copy_(0.5 * n)
                elif parameter.ndim == 1:
                    parameter.copy_(0.1 * n + float(name.endswith("weight")))
                else:
                    parameter.copy_(n / n[0].numel() ** 0.5)
        return model.eval()

    return draw


@pytest.fixture(scope="session")
def pytorchvideo_twin() -> Callable[..., nn.Module]:
    """PyTorchVideo's builder for `mvit_b(blocks_per_stage=(1, 2, 1), embed_dim=16, ...)`."""
    return partial(
        create_multiscale_vision_transformers,
        depth=4,
        patch_embed_dim=16,
        embed_dim_mul=[[1, 2.0], [3, 2.0]],
        atten_head_mul=[[1, 2.0], [3, 2.0]],
        pool_q_stride_size=[[1, 1, 2, 2], [3, 1, 2, 2]],
        head_num_classes=11,
    )


@pytest.fixture(scope="session")
def relative_difference() -> Callable[[Tensor, Tensor], float]:
    """The largest difference, relative to the largest number expected."""

    def measure(found: Tensor, expected: Tensor) -> float:
        return ((found - expected).abs().max() / expected.abs().max()).item()

    return measure
