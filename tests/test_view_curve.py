import pytest
import torch

from mvit_train.data.views import Views
from mvit_train.metrics import ViewScores, topk_accuracy
from mvit_train.view_curve import ViewRanks, view_order


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ("1x1", [(0, 0)]),
        ("1x3", [(0, 1), (0, 0), (0, 2)]),
        ("2x1", [(0, 0), (1, 0)]),
        ("5x1", [(2, 0), (0, 0), (4, 0), (1, 0), (3, 0)]),
        ("3x3", [(1, 1), (0, 1), (2, 1), (1, 0), (0, 0), (2, 0), (1, 2), (0, 2), (2, 2)]),
    ],
)
def test_central_views_come_first_and_clips_spread(views, expected):
    assert view_order(Views.parse(views)) == expected


def test_ten_clips_are_each_counted_once():
    assert [clip for clip, _ in view_order(Views(10, 1))] == [4, 9, 0, 2, 6, 1, 3, 5, 7, 8]


@pytest.mark.parametrize("ensemble", ["mean", "max"])
def test_the_curve_equals_an_evaluation_of_the_first_views_alone(ensemble):
    """ViewScores of k views, told which k these are, is the other way to the same numbers."""
    views, (num_videos, num_classes) = Views(3, 3), (40, 6)
    scores = torch.randn(num_videos, 9, num_classes, generator=torch.Generator().manual_seed(0)).softmax(-1)
    scores[3] = 1 / num_classes  # a tie of all
    labels = torch.arange(num_videos) % num_classes
    ranks = ViewRanks(num_videos, views, ensemble=ensemble)
    for batch in torch.randperm(num_videos, generator=torch.Generator().manual_seed(1)).split(3):
        rows = batch.repeat_interleave(9)
        ranks.add(rows, torch.arange(9).repeat(len(batch)), scores[batch].flatten(0, 1), labels[rows])
    ranks.gather()
    order = [clip * 3 + crop for clip, crop in view_order(views)]
    for k in range(1, 10):
        alone = ViewScores(num_videos, num_classes, k, ensemble=ensemble)
        for place, view in enumerate(order[:k]):
            alone.add(torch.arange(num_videos), torch.full((num_videos,), place), scores[:, view])
        for top in (1, 5):
            found = 100 * (ranks.ranks[:, k - 1] < top).sum().item() / num_videos
            assert found == topk_accuracy(alone.by_video(), labels, top), (k, top)


def test_videos_that_never_came_have_no_rank():
    ranks = ViewRanks(3, Views(2, 1))
    ranks.add(torch.tensor([1, 1]), torch.arange(2), torch.full((2, 2), 0.5), torch.tensor([1, 1]))
    assert ranks.ranks.tolist() == [[-1, -1], [1, 1], [-1, -1]]
