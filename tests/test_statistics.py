import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mvit_train.average_precision import average_precisions
from mvit_train.statistics import (
    CHUNK,
    RESAMPLES,
    interval,
    mcnemar,
    mean_over_classes,
    on_fine_grid,
    resampled_class_sums,
    resampled_precisions,
    resampled_weights,
)


def pairs(lost: int, won: int, both: int = 3, neither: int = 2) -> tuple[np.ndarray, np.ndarray]:
    after = np.array([False] * lost + [True] * won + [True] * both + [False] * neither)
    before = np.array([True] * lost + [False] * won + [True] * both + [False] * neither)
    return after, before


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),  # twice more than half
        (6, 0, 2 / 64),
        (1, 9, 2 * (1 + 10) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (12, 4, 2 * (1 + 16 + 120 + 560 + 1820) / 65536),
    ],
)
def test_mcnemar_equals_the_binomials_written_out(lost, won, p):
    assert mcnemar(*pairs(lost, won)) == {"lost": lost, "won": won, "p": pytest.approx(p, rel=1e-15)}


def test_mcnemar_of_many_videos_equals_the_sum_in_logarithms_and_never_overflows():
    for lost, won in ((2600, 2400), (11_000, 9_000), (700, 300)):
        n, k = lost + won, min(lost, won)
        logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
        log_p = math.log(2) + max(logs) + math.log(sum(math.exp(log - max(logs)) for log in logs)) - n * math.log(2)
        assert math.log(mcnemar(*pairs(lost, won))["p"]) == pytest.approx(log_p, rel=1e-9)
    assert mcnemar(*pairs(20_000, 0))["p"] == 0.0
    assert mcnemar(*pairs(1000, 0))["p"] == float(Fraction(2, 2**1000))


def test_resamples_are_draws_with_replacement_the_same_in_every_call():
    first, second = (np.concatenate(list(resampled_weights(30))) for _ in range(2))
    assert first.shape == (RESAMPLES, 30)
    assert (first.sum(axis=1) == 30).all()
    assert np.array_equal(first, second)
    assert len(np.unique(first, axis=0)) == RESAMPLES
    # A video is drawn Binomial(30, 1/30) times: mean 1, variance 29/30, and not at all with chance (29/30)^30
    assert first.mean() == 1
    assert first.var() == pytest.approx(29 / 30, rel=0.02)
    assert (first == 0).mean() == pytest.approx((29 / 30) ** 30, rel=0.02)


def test_few_resamples_of_many_videos_are_held_at_a_time():
    sizes = [len(weights) for weights in resampled_weights(CHUNK // 3, 7)]
    assert sizes == [3, 3, 1]


def test_sums_by_class_equal_adding_up_the_drawn_videos_one_by_one():
    rng = np.random.default_rng(1)
    labels, values = rng.choice([0, 1, 3], 12), rng.integers(-3, 4, (12, 2)).astype(float)
    order = np.argsort(labels, kind="stable")  # the draws count in this order
    drawn = np.random.default_rng(0).integers(0, 12, (RESAMPLES, 12))
    found = np.concatenate(list(resampled_class_sums(values, labels, 4)))
    assert found.shape == (RESAMPLES, 4, 2)
    for sample in (0, 1, 999, RESAMPLES - 1):
        expected = np.zeros((4, 2))
        for place in drawn[sample]:
            expected[labels[order[place]]] += values[order[place]]
        assert np.array_equal(found[sample], expected)


def test_the_interval_of_an_accuracy_is_near_the_normal_one():
    right = np.arange(2000) < 1400
    samples = np.concatenate([weights @ right for weights in resampled_weights(2000)]) / 2000
    half = 1.96 * math.sqrt(0.7 * 0.3 / 2000)
    assert interval(samples) == pytest.approx([0.7 - half, 0.7 + half], abs=0.15 * half)


def test_an_interval_leaves_out_what_a_resample_lacks():
    assert interval(np.array([1.0, np.nan, 1.0, 1.0])) == [1.0, 1.0]
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    assert mean_over_classes(values)[0] == 2
    assert np.isnan(mean_over_classes(values)[1])


def test_average_precisions_of_a_resample_are_those_of_the_videos_repeated():
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 6, (40, 5)).astype(np.float32) / 8  # many are equal
    labels = rng.random((40, 5)) < 0.3
    labels[:, 4] = False
    weights = np.stack([np.ones(40), *np.concatenate(list(resampled_weights(40, 6)))])
    found = resampled_precisions(scores, labels, weights)
    for row, counts in zip(found, weights.astype(int), strict=True):
        drawn = np.repeat(np.arange(40), counts)
        expected = average_precisions(torch.from_numpy(scores[drawn]), torch.from_numpy(labels[drawn]))
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-5)
    assert np.isnan(found[:, 4]).all()


def test_sums_on_the_grid_do_not_depend_on_their_order():
    values = on_fine_grid(np.random.default_rng(3).exponential(5, 20_000))
    assert sum(values.tolist()) == values.sum() == sum(values[::-1].tolist())
