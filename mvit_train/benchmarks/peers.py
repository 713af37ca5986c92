"""The same networks in torchvision and PyTorchVideo, with the weights of ours: what `task=benchmark` compares with.
And Hiera-B (arXiv 2306.00989), a successor of another architecture, for time and memory alone.

Neither package is imported before it is asked for. Nothing drops out in any of them, so that all do the same work.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mvit_train.models import MViT, mvit_b, mvit_v2_s
from mvit_train.models.formats import from_ours

MODELS: dict[str, Callable[..., MViT]] = {"mvit_b": mvit_b, "mvit_v2_s": mvit_v2_s}
# Of the largest logit, in float32. The LayerNorms of PyTorchVideo 0.1.5's poolings add 1e-5, all others 1e-6.
TOLERANCE = {"torchvision": 1e-5, "pytorchvideo": 1e-4}


HIERA = "hiera"  # of the package hiera-transformer


class AbsentError(Exception):
    """There is no such peer here; the text says why."""


def build_ours(model: str, *, num_frames: int, crop_size: int, seed: int = 0) -> MViT:
    """Our model, every parameter drawn anew: what starts as 0 or 1 would hide a difference."""
    ours = MODELS[model](num_frames=num_frames, crop_size=crop_size, drop_path_rate=0.0, dropout=0.0)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.ndim == 1:  # LayerNorms and biases
                parameter.copy_(0.1 * noise + float("norm" in name and name.endswith("weight")))
            else:
                parameter.copy_(0.5 * noise if "pos" in name else noise / noise[0].numel() ** 0.5)
    return ours


def build_peer(peer: str, model: str, ours: MViT) -> nn.Module:
    """The peer's network of our `model`, with its weights; of "hiera" its own. Raises AbsentError."""
    try:
        if peer == HIERA:
            return _hiera(ours)
        theirs = {"torchvision": lambda _, ours: torchvision_twin(ours), "pytorchvideo": _pytorchvideo}[peer](
            model, ours
        )
    except ImportError as error:
        raise AbsentError(f"cannot be imported: {error}") from error
    theirs.load_state_dict(from_ours(ours.state_dict(), peer), strict=True)  # pyright: ignore[reportArgumentType]
    return theirs


def check_equal(peer: str, theirs: nn.Module, ours: MViT, video: Tensor) -> float:
    """The largest difference of the logits for `video` in float32, of the largest logit. Raises ValueError where it is
    more than TOLERANCE: there is no point in timing two networks."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected, found = theirs.eval()(video), ours.eval()(video)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    if not difference <= TOLERANCE[peer]:
        raise ValueError(
            f"{peer}'s logits differ from ours by {difference:.1e} of the largest with the same weights and input, "
            f"more than {TOLERANCE[peer]:.0e}; nothing was timed"
        )
    return difference


def torchvision_twin(ours: MViT) -> nn.Module:
    """torchvision's class with the settings of our blocks; `mvit_v1_b()` and `mvit_v2_s()` take no other input size."""
    from torchvision.models.video.mvit import MSBlockConfig
    from torchvision.models.video.mvit import MViT as TorchvisionMViT

    blocks: list[Any] = list(ours.blocks)
    settings = []
    for block in blocks:
        q, kv = (pool.spec if pool else None for pool in (block.attn.pool_q, block.attn.pool_k))
        settings.append(
            MSBlockConfig(
                num_heads=block.attn.num_heads,
                input_channels=len(block.norm1.weight),
                output_channels=len(block.mlp.fc2.weight),
                kernel_q=list(q.kernel) if q else [],
                kernel_kv=list(kv.kernel) if kv else [],
                stride_q=list(q.stride) if q else [],
                stride_kv=list(kv.stride) if kv else [],
            )
        )
    num_frames, *size = ours.input_size
    return TorchvisionMViT(
        spatial_size=(size[0], size[1]),
        temporal_size=num_frames,
        block_setting=settings,
        residual_pool=blocks[0].attn.residual_pooling,
        residual_with_cls_embed=False,
        rel_pos_embed=bool(blocks[0].attn.rel_pos_axes),
        proj_after_attn=blocks[0].expand_in == "attention",
        dropout=0.0,
        stochastic_depth_prob=0.0,
        num_classes=len(ours.get_parameter("head.projection.weight")),
    )


def _pytorchvideo(model: str, ours: MViT) -> nn.Module:
    if model != "mvit_b":
        raise AbsentError("has no MViTv2")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # fvcore scripts a loss when imported
        from pytorchvideo.models.hub.vision_transformers import mvit_video_base_config
        from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers

    num_frames, crop_size, _ = ours.input_size
    size: dict[str, Any] = dict(temporal_size=num_frames, spatial_size=crop_size)
    return create_multiscale_vision_transformers(**mvit_video_base_config | size, head_dropout_rate=0.0)


def _hiera(ours: MViT) -> nn.Module:
    if ours.input_size != (16, 224, 224):
        raise AbsentError("is measured with 16 frames of 224 pixels alone")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        from hiera import hiera_base_16x224  # pyright: ignore[reportMissingImports]

    return hiera_base_16x224(pretrained=False)
