"""From scores to numbers: the scores of a video from those of its views, exact over ranks, and what is made from them.

Ties are broken towards the lower class index everywhere. NaN scores raise: a diverged model has no accuracy.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist

from mvit_train.average_precision import summarize_multi_label

Ensemble = Literal["mean", "max"]

GRID = 2.0**40
"""Scores are rounded to multiples of 1 / GRID (an error below 5e-13) before they are added: sums of up to 2^13 of them
are exact in float64, so the order of the additions, and with it the number of ranks, cannot change a digit."""
MAX_VIEWS = 2**13


class ViewScores:
    """The scores of videos, made from those of their views; each (video, view) counts once however often it comes.

    "mean" adds the views in float64, "max" keeps the highest score of each class (PySlowFast's ENSEMBLE_METHOD for
    Charades). Neither depends on the order of the views, so the number of ranks cannot change a digit.

    Every rank adds what it has seen; `gather` merges the ranks. A (video, view) that came to two ranks, as the padding
    of a distributed sampler makes it, counts with the scores of the lower rank; one that came twice to a rank, with the
    first. While several ranks run, each keeps its own scores for that merge: 4 K bytes per view seen, which is
    158 MB for all of K400 val at 5x1 divided by the number of ranks.
    """

    def __init__(self, num_videos: int, num_classes: int, num_views: int, *, ensemble: Ensemble = "mean") -> None:
        if not 1 <= num_views <= MAX_VIEWS:
            raise ValueError(f"num_views is {num_views}; sums are exact for 1 to {MAX_VIEWS} views")
        self.num_views, self.ensemble = num_views, ensemble
        self._total = torch.zeros(num_videos, num_classes, dtype=torch.float64)  # the sum, or the highest
        self._seen = torch.zeros(num_videos, num_views, dtype=torch.bool)
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []  # (video, view, scores) of this rank, when it has peers
        self._gathered = False

    def add(self, video_index: Tensor, view_index: Tensor, scores: Tensor) -> None:
        """Adds a batch: video_index (B,), view_index (B,), softmax or sigmoid scores (B, K) on any device.

        Raises:
            ValueError: an index is out of range, or a score is not a probability (logits were given).
        """
        assert not self._gathered, "add() after gather(): the ranks are merged already"
        video, view = video_index.cpu().long(), view_index.cpu().long()
        scores = scores.detach().float().cpu()
        self._check(video, view, scores)
        rows = []
        for row, place in enumerate(zip(video.tolist(), view.tolist(), strict=True)):
            if not self._seen[place]:
                self._seen[place] = True
                rows.append(row)
        video, view, scores = video[rows], view[rows], scores[rows]
        self._take(video, scores)
        if world_size() > 1:
            self._kept.append((video, view, scores))

    def gather(self) -> None:
        """Merges the ranks in place; afterwards all ranks hold the same digits. Without peers it changes nothing."""
        if self._gathered or world_size() == 1:
            return
        device = reduction_device()
        rank, nobody = dist.get_rank(), world_size()
        owner = torch.where(self._seen, rank, nobody).to(device)
        dist.all_reduce(owner, op=dist.ReduceOp.MIN)
        owner = owner.cpu()
        self._total.zero_()
        for video, view, scores in self._kept:
            mine = owner[video, view] == rank  # the others are counted by a lower rank
            self._take(video[mine], scores[mine])
        total = self._total.to(device)
        dist.all_reduce(total, op=dist.ReduceOp.SUM if self.ensemble == "mean" else dist.ReduceOp.MAX)
        self._total, self._seen = total.cpu(), owner < nobody
        self._kept, self._gathered = [], True

    @property
    def complete(self) -> Tensor:
        """(N,) bool: the videos of which every view has come."""
        return self._seen.all(dim=1)

    def by_video(self) -> Tensor:
        """(N, K) float32: the scores of each video; NaN for videos that are not complete."""
        scores = self._total / self.num_views if self.ensemble == "mean" else self._total
        scores = torch.where(scores.isinf(), torch.nan, scores)
        return torch.where(self.complete[:, None], scores.float(), torch.nan)

    def _take(self, video: Tensor, scores: Tensor) -> None:
        if self.ensemble == "mean":
            self._total.index_add_(0, video, on_grid(scores))
        else:  # NaN travels as infinity: what a maximum over ranks makes of NaN is up to the backend
            scores = scores.double().nan_to_num(nan=torch.inf)
            self._total.scatter_reduce_(0, video[:, None].expand_as(scores), scores, "amax")

    def _check(self, video: Tensor, view: Tensor, scores: Tensor) -> None:
        num_videos, num_classes = self._total.shape
        if scores.shape != (len(video), num_classes):
            raise ValueError(f"scores have shape {tuple(scores.shape)}, expected ({len(video)}, {num_classes})")
        for name, index, limit in (("video_index", video, num_videos), ("view_index", view, self.num_views)):
            if len(index) and not 0 <= int(index.min()) <= int(index.max()) < limit:
                raise ValueError(f"{name} {index.tolist()} leaves the range 0..{limit - 1}")
        if ((scores < 0) | (scores > 1.001)).any():
            raise ValueError(
                f"scores reach {scores.min():.3g}..{scores.max():.3g}: give softmax or sigmoid scores, not logits"
            )


def on_grid(scores: Tensor) -> Tensor:
    """float64 multiples of 1 / GRID nearest to `scores`."""
    return torch.round(scores.double() * GRID) / GRID


def reduction_device() -> torch.device:
    """Where the ranks can add tensors: on their GPUs under NCCL."""
    return torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend() else torch.device("cpu")


def world_size() -> int:
    """Number of ranks; 1 where torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def predict(scores: Tensor) -> Tensor:
    """(N,) class with the highest score of each row of (N, K); of equal ones the first.

    Raises:
        ValueError: a score is NaN; the message names the rows.
    """
    _check_scores(scores)
    return scores.argmax(dim=1)  # torch promises the first of several maxima


def topk_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Percent of rows whose label is among the k highest scores. `k` above K counts as K, which is always 100 %.

    scores: (N, K); labels: (N,). Scores (.4, .4, .2): label 0 is right at k = 1, label 1 only at k = 2.
    """
    return 100 * (label_ranks(scores, labels) < k).sum().item() / len(labels)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """(N,) how many classes are ranked above the label: 0 where top-1 is right, below 5 where top-5 is.

    scores: (N, K); labels: (N,).
    """
    _check_scores(scores)
    _check_labels(labels, scores.shape[1])
    own = scores.gather(1, labels[:, None])  # (N, 1)
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]  # (N, K): comes first if equal
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)


def mean_class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Mean over the classes that have videos of their top-1 accuracy, in percent."""
    table = confusion(predict(scores), labels, scores.shape[1]).double()
    videos = table.sum(dim=1)
    present = videos > 0
    return 100 * (table.diagonal()[present] / videos[present]).mean().item()


def confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64: how many videos of class `row` were called class `column`."""
    _check_labels(labels, num_classes)
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def headline(*, multi_label: bool) -> str:
    """The number of `summarize` that says how good a model is."""
    return "mAP" if multi_label else "top1"


def summarize(scores: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """All numbers of one evaluation, in percent, ready for JSON.

    labels: (N,) of videos of one class each, or (N, K) bool of several, for which see `summarize_multi_label`.

    Returns {"top1", "top5", "mean_class_accuracy", "per_class": {name: {"videos", "top1", "most_predicted",
    "most_predicted_share"}}}; `most_predicted` is what the videos of the class were called most often and
    `most_predicted_share` how many of them in percent. A class without videos has None for all three.
    """
    if len(set(class_names)) != len(class_names) or len(class_names) != scores.shape[1]:
        raise ValueError(f"{scores.shape[1]} classes need as many different names, not {list(class_names)[:20]}")
    if labels.ndim == 2:
        return summarize_multi_label(scores, labels, class_names)
    table, ranks = confusion(predict(scores), labels, len(class_names)), label_ranks(scores, labels)
    return {
        "top1": 100 * (ranks < 1).sum().item() / len(labels),
        "top5": 100 * (ranks < 5).sum().item() / len(labels),
        "mean_class_accuracy": mean_class_accuracy(scores, labels),
        "per_class": {
            name: _class_row(row, index, class_names)
            for index, (name, row) in enumerate(zip(class_names, table.tolist(), strict=True))
        },
    }


def _class_row(counts: list[int], index: int, class_names: Sequence[str]) -> dict[str, Any]:
    videos = sum(counts)
    if not videos:
        return {"videos": 0, "top1": None, "most_predicted": None, "most_predicted_share": None}
    most = counts.index(max(counts))
    return {
        "videos": videos,
        "top1": 100 * counts[index] / videos,
        "most_predicted": class_names[most],
        "most_predicted_share": 100 * counts[most] / videos,
    }


def _check_scores(scores: Tensor) -> None:
    bad = scores.isnan().any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"NaN scores in {len(bad)} of {len(scores)} rows: {', '.join(map(str, bad[:20]))}")


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if not len(labels):
        raise ValueError("no videos: an accuracy needs at least one")
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels reach {int(labels.min())}..{int(labels.max())}, classes are 0..{num_classes - 1}")
