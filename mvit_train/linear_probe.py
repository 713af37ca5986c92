"""How far frozen features go: a linear classifier on what the weights of the start make of a video.

The comparison that fine-tuning has to win. Features are what the classification layer sees of the centre clip and
centre crop; the classifier is multinomial logistic regression on standardised features, its weight decay chosen on a
fifth of the training videos.
"""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.manifest import Split
from mvit_train.metrics import topk_accuracy
from mvit_train.module import VideoClassifier

WEIGHT_DECAYS = tuple(10.0**exponent for exponent in range(-5, 2))
HELD_OUT = 5  # one in so many training videos chooses among them


def linear_probe(start: VideoClassifier, data: VideoDataModule, trainer: Trainer, *, max_videos: int) -> dict[str, Any]:
    """Fits the classifier to the features of `start`, which loses its head, and tests it on the validation videos.

    max_videos: of training, at most. All ranks take part and return the same: {"top1", "train_videos",
    "weight_decay"}. Videos that cannot be read are left out.
    """
    start.model.head = nn.Identity()
    x, y = features(start, data, trainer, "train", max_videos)
    x_val, y_val = features(start, data, trainer, "val", None)
    scale = x.std(0, correction=0).clamp(min=1e-6)
    x_val, x = (x_val - x.mean(0)) / scale, (x - x.mean(0)) / scale
    decay = choose_weight_decay(x, y, len(data.labels))
    top1 = topk_accuracy(fit_logistic(x, y, len(data.labels), decay)(x_val), y_val, 1)
    return {"top1": top1, "train_videos": len(y), "weight_decay": decay}


def features(
    module: VideoClassifier, data: VideoDataModule, trainer: Trainer, split: Split, max_videos: int | None
) -> tuple[Tensor, Tensor]:
    """Features (N, C) in float64 and labels (N,) of the videos of a split, of all ranks and in their order."""
    module.to(trainer.strategy.root_device).eval()
    rows: dict[int, tuple[Tensor, int]] = {}
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        for batch in data.centre_loader(split, max_videos):
            if len(batch["video"]):
                found = module(batch["video"].to(module.device)).double().cpu()
                videos, labels = batch["video_index"].tolist(), batch["label"].tolist()
                rows |= zip(videos, zip(found, labels, strict=True), strict=True)
    module.cpu()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, rows)
        rows = {video: row for part in parts for video, row in part.items()}
    if not rows:
        raise ValueError(f"linear probe: none of the {split} videos can be read")
    ordered = [rows[video] for video in sorted(rows)]
    return torch.stack([row for row, _ in ordered]), torch.tensor([label for _, label in ordered])


def choose_weight_decay(x: Tensor, y: Tensor, num_classes: int) -> float:
    """The one of WEIGHT_DECAYS with which the other videos classify a fifth of them best; of equals the largest."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    held, rest = order[::HELD_OUT], torch.tensor([i for place, i in enumerate(order.tolist()) if place % HELD_OUT])
    if not len(rest):
        return WEIGHT_DECAYS[-1]
    losses = {
        decay: cross_entropy(fit_logistic(x[rest], y[rest], num_classes, decay)(x[held]), y[held]).item()
        for decay in WEIGHT_DECAYS
    }
    return min(reversed(WEIGHT_DECAYS), key=losses.__getitem__)


def fit_logistic(x: Tensor, y: Tensor, num_classes: int, weight_decay: float) -> nn.Linear:
    """Minimises mean cross-entropy + weight_decay / 2 * |W|^2, the bias being free; x (N, C) in float64."""
    layer = nn.Linear(x.shape[1], num_classes, dtype=x.dtype)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=200, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(layer(x), y) + weight_decay / 2 * layer.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return layer.requires_grad_(False)
