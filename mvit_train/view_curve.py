"""Accuracy as a function of the number of views, from the one pass that scores them all.

A video's views come together, so after each of them, in an order fixed by the number of clips and crops, it is known
how many classes are ranked above the label. These ranks are all that is kept: 4 bytes for a view, not 4 for a class.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from mvit_train.data.views import Views
from mvit_train.metrics import Ensemble, label_ranks, on_grid, reduction_device, world_size


def view_order(views: Views) -> list[tuple[int, int]]:
    """(clip, crop) of the views in the order in which they are counted.

    All clips with their central crop come before the other crops. Of the clips the central one comes first, the earlier
    of two; then always the one farthest from those before, of equals the earliest. 5x1: clips 2 0 4 1 3.
    """
    clips = [(views.clips - 1) // 2]
    while len(clips) < views.clips:
        rest = (clip for clip in range(views.clips) if clip not in clips)
        clips.append(max(rest, key=lambda clip: (min(abs(clip - chosen) for chosen in clips), -clip)))
    crops = (1, 0, 2) if views.crops == 3 else (0,)
    return [(clip, crop) for crop in crops for clip in clips]


class ViewRanks:
    """How many classes are ranked above the label of a video, after one view, after two, ... after all of them.

    The scores after k views are put together as `ViewScores` does it for all: those after the last are its own, digit
    by digit, and no number of ranks or workers changes any.
    """

    def __init__(self, num_videos: int, views: Views, *, ensemble: Ensemble = "mean") -> None:
        self.ensemble = ensemble
        self.ranks = torch.full((num_videos, views.clips * views.crops), -1, dtype=torch.int32)  # -1: not seen
        self._order = torch.tensor([clip * views.crops + crop for clip, crop in view_order(views)])

    def add(self, video_index: Tensor, view_index: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Adds a batch of whole videos: video_index (B,), view_index (B,), scores (B, K), labels (B,), any device."""
        video, view, labels = video_index.cpu().long(), view_index.cpu().long(), labels.cpu().long()
        scores = scores.detach().float().cpu()
        for index in video.unique_consecutive().tolist():
            rows = video == index
            assert torch.equal(view[rows], torch.arange(len(self._order))), "the views of a video come together"
            after = self._after_each(scores[rows][self._order])
            self.ranks[index] = label_ranks(after, labels[rows]).int()

    def gather(self) -> None:
        """Merges the ranks in place."""
        if world_size() > 1:
            ranks = self.ranks.to(reduction_device())
            dist.all_reduce(ranks, op=dist.ReduceOp.MAX)
            self.ranks = ranks.cpu()

    def _after_each(self, scores: Tensor) -> Tensor:
        """(V, K) float32: row k - 1 is of the first k views. NaN becomes 0: a model that has diverged is refused, with
        the names of the videos, when its predictions are saved."""
        scores = scores.nan_to_num(nan=0.0)
        if self.ensemble == "max":
            return scores.cummax(dim=0).values
        counts = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]
        return (on_grid(scores).cumsum(dim=0) / counts).float()
