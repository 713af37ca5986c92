"""The papers' optimisation: AdamW or SGD without decay on one-dimensional parameters, warm-up and half-cosine."""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True, kw_only=True)
class WarmupCosine(ABC):
    """An optimiser whose learning rate is a function of the fractional epoch (MViT, arXiv 2104.11227, Sec. D.1).

    Args:
        lr: peak learning rate for `lr_batch` clips per optimiser step; it scales linearly with the clips actually
            taken, repeats and accumulated batches included. The paper's 1.6e-3 at 512 clips is 1e-4 at 32.
        warmup_epochs: epochs of linear rise from `start_factor` of the peak.
        start_factor, end_factor: first and last learning rate as a share of the peak.
        weight_decay: for parameters of two and more dimensions, position embeddings and class token included.
        layer_decay: the learning rate falls by this factor from the head to the last block and from each block to the
            one before it, for fine-tuning (BEiT, arXiv 2106.08254, Sec. 3.2; MaskFeat uses 0.75).
    """

    lr: float
    lr_batch: int = 512
    warmup_epochs: float = 30
    start_factor: float = 0.01
    end_factor: float = 0.01
    weight_decay: float = 0.05
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.lr_batch < 1 or self.warmup_epochs < 0 or self.weight_decay < 0:
            raise ValueError(
                f"optim: lr and lr_batch must be positive, warmup_epochs and weight_decay at least 0: {self}"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optim.layer_decay {self.layer_decay:g} must be more than 0 and at most 1")

    @abstractmethod
    def optimizer(self, groups: list[dict], lr: float) -> Optimizer:
        """The optimiser of these groups; a group without an lr of its own takes this one."""

    def scaled_lr(self, clips_per_step: int) -> float:
        return self.lr * clips_per_step / self.lr_batch

    def factor(self, epoch: float, max_epochs: float) -> float:
        """Learning rate at a fractional epoch, as a share of the peak."""
        if epoch < self.warmup_epochs:
            return self.start_factor + (1 - self.start_factor) * epoch / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / max(max_epochs - self.warmup_epochs, 1e-9)
        return self.end_factor + (1 - self.end_factor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def build(
        self, model: nn.Module, *, clips_per_step: int, steps_per_epoch: int, max_epochs: int
    ) -> tuple[Optimizer, LambdaLR]:
        """The optimiser, and its schedule to be stepped once per optimiser step."""
        if self.warmup_epochs > max_epochs:
            raise ValueError(f"optim.warmup_epochs {self.warmup_epochs} exceeds trainer.max_epochs {max_epochs}")
        lr = self.scaled_lr(clips_per_step)
        optimizer = self.optimizer(parameter_groups(model, self.weight_decay, self.layer_decay, lr), lr)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step / steps_per_epoch, max_epochs))


@dataclass(frozen=True, kw_only=True)
class AdamWCosine(WarmupCosine):
    """AdamW: Kinetics and ImageNet."""

    betas: tuple[float, float] = (0.9, 0.999)

    def optimizer(self, groups: list[dict], lr: float) -> Optimizer:
        on_gpu = all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=self.betas, fused=on_gpu or None)
        # A step could also take off the scale of float16's gradients; but they are clipped, and so unscaled, before it.
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
        return optimizer


@dataclass(frozen=True, kw_only=True)
class SGDCosine(WarmupCosine):
    """SGD with Nesterov's momentum: what the papers fine-tune with on Something-Something, Charades and AVA."""

    momentum: float = 0.9

    def optimizer(self, groups: list[dict], lr: float) -> Optimizer:
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.momentum > 0)


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, lr: float | None = None
) -> list[dict]:
    """Decayed parameters, and without decay every one-dimensional tensor and bias; with `layer_decay` both by layer,
    each with its learning rate. Frozen parameters are in none.

    This is PySlowFast's ZERO_WD_1D_PARAM with ZERO_DECAY_POS_CLS off, as in all its MViT recipes: class token and
    position embeddings are decayed. MViT-B has 108 decayed tensors and 205 others.
    """
    last = num_layers(model) - 1
    groups: dict[tuple[int, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") else weight_decay
        layer = last if layer_decay == 1 else layer_of(name, last)
        group = groups.setdefault((-layer, -decay), {"params": [], "weight_decay": decay})
        group["params"].append(parameter)
        if layer_decay != 1:
            assert lr is not None, "layer decay is of a learning rate"
            group["lr"] = lr * layer_decay ** (last - layer)
    return [groups[key] for key in sorted(groups)]


def num_layers(model: nn.Module) -> int:
    """Layers that `layer_decay` tells apart: the embeddings, every block, and what follows them."""
    blocks = {int(match[1]) for name, _ in model.named_parameters() if (match := BLOCK.match(name))}
    return len(blocks) + 2


def layer_of(name: str, last: int) -> int:
    """0 for the embeddings, i + 1 for block i, `last` for the norm and the head (PySlowFast optimizer.py)."""
    if match := BLOCK.match(name):
        return int(match[1]) + 1
    return 0 if name.startswith(("patch_embed", "pos_embed", "cls_token")) else last


BLOCK = re.compile(r"blocks\.(\d+)\.")
