"""Mixup and cutmix on a batch of clips, and label smoothing."""

import numpy as np
import torch
from torch import Tensor


def smooth_one_hot(label: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """(B,) class indices to (B, K) targets: 1 - s + s / K for the class, s / K for the others."""
    target = torch.full((len(label), num_classes), smoothing / num_classes, device=label.device)
    return target.scatter_(1, label[:, None], 1 - smoothing + smoothing / num_classes)


def smooth_multi_hot(label: Tensor, smoothing: float) -> Tensor:
    """(B, K) zeros and ones to targets 1 - s / 2 and s / 2: each class is a choice between two of its own."""
    return label.float() * (1 - smoothing) + smoothing / 2


class Mixup:
    """Mixes each clip with its mirror image in the batch order: one mode and one share for the whole batch.

    Mixup adds the clips, cutmix pastes a box that spans all frames; the targets mix in the same share (PySlowFast's
    `MixUp`; MViT, arXiv 2104.11227, Sec. D.1: alpha 0.8 and 1.0). Labels are smoothed with or without mixing.

    Args:
        mixup_alpha, cutmix_alpha: Beta parameters of the two modes; 0 switches a mode off. With both on, each batch
            takes either with probability 1/2.
        label_smoothing: share of the target spread over all classes, or, of a clip of several classes, of each one's
            over yes and no.
    """

    def __init__(self, *, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, label_smoothing: float = 0.1) -> None:
        if min(mixup_alpha, cutmix_alpha) < 0 or not 0 <= label_smoothing < 1:
            raise ValueError(
                f"mixup_alpha {mixup_alpha}, cutmix_alpha {cutmix_alpha}: at least 0; "
                f"label_smoothing {label_smoothing}: 0 to less than 1"
            )
        self.mixup_alpha, self.cutmix_alpha, self.label_smoothing = mixup_alpha, cutmix_alpha, label_smoothing

    def __call__(
        self, video: Tensor, label: Tensor, num_classes: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """video: float (B, 3, T, S, S); label: (B,) class indices, or (B, K) zeros and ones.

        Returns the mixed video and soft targets (B, K).
        """
        if label.ndim == 2:
            target = smooth_multi_hot(label, self.label_smoothing)
        else:
            target = smooth_one_hot(label, num_classes, self.label_smoothing)
        modes = [mode for mode in ("mixup", "cutmix") if getattr(self, f"{mode}_alpha") > 0]
        if not modes or len(video) < 2:
            return video, target
        mode = modes[rng.integers(len(modes))]
        share = float(rng.beta(*[getattr(self, f"{mode}_alpha")] * 2))
        if mode == "mixup":
            video = video * share + video.flip(0) * (1 - share)
        else:
            top, left, height, width = cut_box((video.shape[-2], video.shape[-1]), share, rng)
            video = video.clone()
            box = (..., slice(top, top + height), slice(left, left + width))
            video[box] = video.flip(0)[box]
            share = 1 - height * width / (video.shape[-2] * video.shape[-1])
        return video, target * share + target.flip(0) * (1 - share)


def cut_box(size: tuple[int, int], share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a box with area 1 - share around a uniform centre, clipped at the frame's edge."""
    frame_height, frame_width = size
    half_height = int(frame_height * np.sqrt(1 - share)) // 2
    half_width = int(frame_width * np.sqrt(1 - share)) // 2
    y, x = rng.integers(frame_height), rng.integers(frame_width)
    top, bottom = max(y - half_height, 0), min(y + half_height, frame_height)
    left, right = max(x - half_width, 0), min(x + half_width, frame_width)
    return int(top), int(left), int(bottom - top), int(right - left)
