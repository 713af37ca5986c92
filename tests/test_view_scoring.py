"""An early exit calls the classes that all views call, and its passes are as large as all others."""

import pytest
import torch

from mvit_train.data.views import Views
from mvit_train.view_scoring import Passes

NUM_CLASSES = 5


def scored(passes, scores):
    """What `passes` yields for videos of these scores (N, V, K), which their clips carry, in batches of three."""
    found = []
    num_videos, num_views, num_classes = scores.shape
    for begin in range(0, num_videos, 3):
        clips = scores[begin : begin + 3].flatten(0, 1).reshape(-1, 1, num_classes, 1, 1)
        videos = torch.arange(begin, min(begin + 3, num_videos)).repeat_interleave(num_views)
        batch = {"video_index": videos, "view_index": torch.arange(num_views).repeat(len(videos) // num_views)}
        found += passes.add(clips, batch | {"label": videos % num_classes})
    return found + list(passes.flush())


def random_scores(num_videos, num_views, sharpness, seed=0):
    random = torch.Generator().manual_seed(seed)
    centre = torch.randn(num_videos, 1, NUM_CLASSES, generator=random) * sharpness
    return (centre + torch.randn(num_videos, num_views, NUM_CLASSES, generator=random) * 2).softmax(2)


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("views", [Views(5, 1), Views(3, 3), Views(1, 1)])
def test_a_margin_of_one_calls_what_all_views_call_with_fewer_of_them(sharpness, views):
    scores, sizes = random_scores(200, views.clips * views.crops, sharpness), []

    def score(clips):
        sizes.append(len(clips))
        return clips.flatten(1)

    passes = Passes(score, views=views, most=8, early_exit=1.0)
    found = scored(passes, scores)
    assert sorted(int(one.video[0]) for one in found) == list(range(200))
    for one in found:
        everything = scores[int(one.video[0])]
        assert one.scores.mean(0).argmax() == everything.mean(0).argmax()
        assert torch.equal(one.label, one.video % NUM_CLASSES)
        assert torch.equal(one.view, torch.arange(len(everything)))
        told = (one.scores == everything).all(1)  # those that were scored; the others are their mean
        assert told.any()
        torch.testing.assert_close(one.scores.mean(0), everything[told].mean(0))
    assert set(sizes) == {passes.size}
    assert passes.num_videos == 200
    total = 200 * len(scores[0])
    assert passes.num_scored < 0.85 * total if sharpness > 5 and len(scores[0]) > 1 else passes.num_scored <= total


def test_a_video_is_decided_once_its_lead_is_more_than_what_is_left_can_take_away():
    first = torch.tensor([0.9, 0.1, 0.0, 0.0, 0.0])
    scores = torch.stack([first, first, first, first, first])[None]
    passes = Passes(lambda clips: clips.flatten(1), views=Views(5, 1), most=5, early_exit=1.0)
    scored(passes, scores)
    assert passes.num_scored == 3  # 3 x 0.8 > 2; 2 x 0.8 is not more than 3
    nearly = Passes(lambda clips: clips.flatten(1), views=Views(5, 1), most=5, early_exit=0.5)
    scored(nearly, scores)
    assert nearly.num_scored == 2  # 2 x 0.8 > 3 x 0.5


def test_without_an_exit_every_view_is_scored():
    scores = random_scores(7, 3, 2.0)
    passes = Passes(lambda clips: clips.flatten(1), views=Views(3, 1), most=4)
    found = scored(passes, scores)
    assert torch.equal(torch.cat([one.scores for one in found]), scores.flatten(0, 1))
    assert passes.num_scored == 21
