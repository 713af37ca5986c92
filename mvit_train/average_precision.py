"""How well videos of several labels each are ranked: average precision per class, and its mean, mAP."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision


def average_precisions(scores: Tensor, labels: Tensor) -> Tensor:
    """(K,) average precision of each class in percent; NaN for a class that no video shows.

    The videos are ranked by their score for the class; the precision at each place is summed, weighed by the rise of
    the recall there. Videos of equal score share a place, so their order cannot matter. Scores .9 .8 .7 of videos that
    do, do not, do show the class: (1/1 + 2/3) / 2 = 83.3.

    Args:
        scores: (N, K) in [0, 1].
        labels: (N, K) bool.

    Raises:
        ValueError: a score is NaN or no probability, the shapes differ, or there are no videos.
    """
    check_multi_label(scores, labels)
    result = torch.full((scores.shape[1],), torch.nan)
    for index in labels.any(dim=0).nonzero().flatten().tolist():
        result[index] = 100 * binary_average_precision(scores[:, index], labels[:, index].long())
    return result


def summarize_multi_label(scores: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """All numbers of one evaluation of videos with several labels each, in percent, ready for JSON.

    Classes without videos are left out of the mean as in PySlowFast's `get_map`.

    Returns {"mAP": mean over the classes that have a video, "per_class": {name: {"videos": how many show it, "AP"}}};
    a class without videos has None for its AP and does not count. ValueError if no class has one.
    """
    precisions = average_precisions(scores, labels)
    present = ~precisions.isnan()
    if not present.any():
        raise ValueError(f"none of the {len(labels)} videos shows any of the classes: there is no mAP")
    videos = labels.sum(dim=0).tolist()
    rows = zip(class_names, videos, precisions.tolist(), strict=True)
    return {
        "mAP": precisions[present].double().mean().item(),
        "per_class": {name: {"videos": count, "AP": value if count else None} for name, count, value in rows},
    }


def check_multi_label(scores: Tensor, labels: Tensor) -> None:
    """Raises ValueError for scores and labels that have no average precision."""
    if labels.shape != scores.shape or labels.dtype != torch.bool:
        raise ValueError(
            f"labels {tuple(labels.shape)} {labels.dtype}: several labels a video are bool of {tuple(scores.shape)}"
        )
    if not len(labels):
        raise ValueError("no videos: an average precision needs at least one")
    bad = scores.isnan().any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"NaN scores in {len(bad)} of {len(scores)} rows: {', '.join(map(str, bad[:20]))}")
    if ((scores < 0) | (scores > 1)).any():
        raise ValueError(f"scores reach {scores.min():.3g}..{scores.max():.3g}: give sigmoid scores, not logits")
