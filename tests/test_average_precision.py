import math

import pytest
import torch

from mvit_train.average_precision import average_precisions, summarize_multi_label


def by_hand(scores: list[float], shown: list[bool]) -> float:
    """Average precision from its definition: over the distinct scores, precision times the rise of the recall."""
    total, previous = sum(shown), 0.0
    result = 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [truth for score, truth in zip(scores, shown, strict=True) if score >= threshold]
        recall = sum(taken) / total
        result += sum(taken) / len(taken) * (recall - previous)
        previous = recall
    return 100 * result


@pytest.mark.parametrize(
    ("scores", "shown", "expected"),
    [
        ([0.9, 0.8, 0.7], [True, False, True], 100 * (1 + 2 / 3) / 2),
        ([0.9, 0.8, 0.7], [False, False, True], 100 / 3),
        ([0.5, 0.5, 0.5], [True, False, False], 100 / 3),  # equal scores share a place, whichever comes first
        ([0.5, 0.5, 0.5], [False, False, True], 100 / 3),
        ([0.2, 0.1], [True, True], 100.0),
    ],
)
def test_average_precision_of_few_videos_is_as_counted(scores, shown, expected):
    found = average_precisions(torch.tensor(scores)[:, None], torch.tensor(shown)[:, None])
    assert found.tolist() == [pytest.approx(expected, abs=1e-4)]
    assert by_hand(scores, shown) == pytest.approx(expected)


@pytest.mark.parametrize("levels", [4, 30, 100_000])  # few levels make many ties
def test_average_precision_equals_its_definition(levels):
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels + 1, (60, 12), generator=generator) / levels
    labels = torch.rand(60, 12, generator=generator) < torch.linspace(0.02, 0.9, 12)
    labels[0] = True
    expected = [by_hand(scores[:, k].tolist(), labels[:, k].tolist()) for k in range(12)]
    assert average_precisions(scores, labels).tolist() == pytest.approx(expected, abs=1e-3)


def test_the_mean_is_over_the_classes_that_a_video_shows_and_a_video_may_show_none():
    scores = torch.tensor([[0.9, 0.4, 0.5], [0.2, 0.6, 0.5], [0.3, 0.7, 0.5]])
    labels = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    summary = summarize_multi_label(scores, labels, ["a", "b", "c"])
    assert summary == {
        "mAP": pytest.approx((100 + 100 * (1 / 2 + 2 / 3) / 2) / 2, abs=1e-4),
        "per_class": {
            "a": {"videos": 1, "AP": 100.0},
            "b": {"videos": 2, "AP": pytest.approx(100 * (1 / 2 + 2 / 3) / 2, abs=1e-4)},
            "c": {"videos": 0, "AP": None},
        },
    }
    assert average_precisions(scores, labels)[2].isnan()


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[math.nan, 0.5]], [[True, False]], "NaN scores in 1 of 1 rows: 0"),
        ([[4.0, -2.0]], [[True, False]], "sigmoid scores, not logits"),
        ([[0.5, 0.5]], [[True]], "several labels a video are bool of"),
        ([[0.5, 0.5]], [[1, 0]], "torch.int64"),
        ([[0.5, 0.5]], [[False, False]], "none of the 1 videos shows any of the classes"),
    ],
)
def test_what_has_no_average_precision_is_an_error(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        summarize_multi_label(torch.tensor(scores), torch.tensor(labels), ["a", "b"])


def test_no_videos_are_an_error():
    with pytest.raises(ValueError, match="no videos"):
        average_precisions(torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.bool))
