"""The papers' optimisation: AdamW without decay on one-dimensional parameters, warm-up and half-cosine."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True, kw_only=True)
class AdamWCosine:
    """AdamW whose learning rate is a function of the fractional epoch (MViT, arXiv 2104.11227, Sec. D.1).

    Args:
        lr: peak learning rate for `lr_batch` clips per optimiser step; it scales linearly with the clips actually
            taken. The paper's 1.6e-3 at 512 clips is 1e-4 at 32.
        warmup_epochs: epochs of linear rise from `start_factor` of the peak.
        start_factor, end_factor: first and last learning rate as a share of the peak.
        weight_decay: for parameters of two and more dimensions, position embeddings and class token included.
    """

    lr: float
    lr_batch: int = 512
    warmup_epochs: float = 30
    start_factor: float = 0.01
    end_factor: float = 0.01
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.lr_batch < 1 or self.warmup_epochs < 0 or self.weight_decay < 0:
            raise ValueError(
                f"optim: lr and lr_batch must be positive, warmup_epochs and weight_decay at least 0: {self}"
            )

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
    ) -> tuple[torch.optim.AdamW, LambdaLR]:
        """The optimiser, and its schedule to be stepped once per optimiser step."""
        if self.warmup_epochs > max_epochs:
            raise ValueError(f"optim.warmup_epochs {self.warmup_epochs} exceeds trainer.max_epochs {max_epochs}")
        groups = parameter_groups(model, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.scaled_lr(clips_per_step), betas=self.betas)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step / steps_per_epoch, max_epochs))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: decayed, and without decay every one-dimensional tensor and bias.

    This is PySlowFast's ZERO_WD_1D_PARAM with ZERO_DECAY_POS_CLS off, as in all its MViT recipes: class token and
    position embeddings are decayed. MViT-B has 108 decayed tensors and 205 others.
    """
    decayed, exempt = [], []
    for name, parameter in model.named_parameters():
        (exempt if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
