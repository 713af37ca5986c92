"""Forward passes over the views of videos, all of the same size; with an early exit as soon as the answer is known."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from mvit_train.data.dataset import Batch
from mvit_train.data.views import Views
from mvit_train.metrics import reduction_device, world_size
from mvit_train.view_curve import view_order


class Scored(NamedTuple):
    """Views (B,) of videos (B,), with softmax or sigmoid scores (B, K) and labels (B,) or (B, K)."""

    video: Tensor
    view: Tensor
    scores: Tensor
    label: Tensor


@dataclass
class Waiting:
    """A video whose views are not all scored: its clips (V, 3, T, S, S), and the scores so far."""

    video: Tensor
    label: Tensor
    clips: Tensor
    scores: list[Tensor] = field(default_factory=list)


class Passes:
    """Scores whole videos by passes of `size` clips, the last one filled up: kernels differ with the size of a batch,
    and their last digits would tell how many ranks there are and which videos failed.

    With an early exit, one view of each video is scored after the other, until the class called can no longer change.
    A video waits for the next pass until it is decided, and every pass takes as many videos as it has room for. The
    views that are left out count as the mean of those that were scored, so that the scores are that mean.

    Args:
        score: turns uint8 (B, 3, T, S, S) into scores (B, K).
        most: clips of a pass at most.
        early_exit: a video is decided once the sum of the scores of the leading class is ahead of the next one's by
            more than this for each view that is left. A view's scores differ by at most 1: with 1.0 the class called is
            the one that all views would have called. None: no early exit.
    """

    def __init__(
        self, score: Callable[[Tensor], Tensor], *, views: Views, most: int, early_exit: float | None = None
    ) -> None:
        self.score, self.size, self.early_exit = score, pass_size(views, most), early_exit
        self.num_videos = self.num_scored = 0
        self._order = [clip * views.crops + crop for clip, crop in view_order(views)]
        self._waiting: deque[Waiting] = deque()

    def add(self, clips: Tensor, batch: Batch) -> Iterator[Scored]:
        """Takes the clips (B, 3, T, S, S) of a batch of whole videos; yields what is decided."""
        label = batch["label"]
        videos = batch["video_index"].unique_consecutive()
        self.num_videos += len(videos)
        if self.early_exit is None:
            self.num_scored += len(clips)
            found = torch.cat([self._pass(chunk) for chunk in clips.split(self.size)])
            yield Scored(batch["video_index"], batch["view_index"], found, label)
            return
        for video in videos:
            rows = batch["video_index"] == video
            self._waiting.append(Waiting(video, label[rows][0], clips[rows]))
            while len(self._waiting) >= self.size:
                yield from self._next(self.early_exit)

    def flush(self) -> Iterator[Scored]:
        """Decides the videos that still wait."""
        while self._waiting and self.early_exit is not None:
            yield from self._next(self.early_exit)

    def _pass(self, clips: Tensor) -> Tensor:
        whole = torch.cat([clips, clips[-1:].expand(self.size - len(clips), *clips.shape[1:])])
        return self.score(whole)[: len(clips)]

    def _next(self, margin: float) -> Iterator[Scored]:
        taken = [self._waiting.popleft() for _ in range(min(self.size, len(self._waiting)))]
        self.num_scored += len(taken)
        found = self._pass(torch.stack([video.clips[self._order[len(video.scores)]] for video in taken]))
        for video, scores in zip(taken, found, strict=True):
            video.scores.append(scores)
        for video, ahead in zip(taken, leads(taken), strict=True):
            left = len(self._order) - len(video.scores)
            if left and ahead <= margin * left:
                self._waiting.append(video)
            else:
                yield decided(video, self._order)


def scored_views(passes: Passes) -> tuple[int, int]:
    """(views, videos) that the processes of a run have scored."""
    counts = torch.tensor([passes.num_scored, passes.num_videos])
    if world_size() > 1:
        counts = counts.to(reduction_device())
        dist.all_reduce(counts)
    return int(counts[0]), int(counts[1])


def pass_size(views: Views, most: int) -> int:
    """Clips of a pass: the views of whole videos, or, where `most` is too few for one, equal parts of it."""
    number = views.clips * views.crops
    return most // number * number or -(-number // -(-number // most))


def leads(videos: Sequence[Waiting]) -> list[float]:
    """How far the highest sum of scores of each video is ahead of the next; of a single class, infinitely."""
    sums = torch.stack([torch.stack(video.scores).double().sum(0) for video in videos])
    if sums.shape[1] == 1:
        return [torch.inf] * len(videos)
    best = sums.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]).tolist()


def decided(video: Waiting, order: Sequence[int]) -> Scored:
    """All views of the video, those that were left out with the mean of the others."""
    seen = torch.stack(video.scores)
    scores = seen.mean(0).expand(len(order), -1).clone()
    scores[list(order[: len(seen)])] = seen
    views = torch.arange(len(order))
    return Scored(video.video.expand(len(order)), views, scores, video.label.expand(len(order), *video.label.shape))
