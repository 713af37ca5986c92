import math

import numpy as np
import pytest
import torch

from mvit_train.calibration import BINS, calibration, negative_log_likelihood


def test_two_bins_by_hand():
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]], np.float32)
    labels = np.array([0, 1, 1, 1])
    found = calibration(scores, labels)
    filled = {round(row["low"] * BINS): row for row in found["bins"] if row["count"]}
    assert set(filled) == {9, 13}  # .6 and .65 lie in [9/15, 10/15), .9 in [13/15, 14/15)
    assert (filled[9]["count"], filled[9]["accuracy"]) == (2, 100.0)
    assert filled[9]["confidence"] == pytest.approx(62.5, abs=1e-3)
    assert (filled[13]["count"], filled[13]["accuracy"]) == (2, 50.0)
    assert found["ece"] == pytest.approx((37.5 * 2 + 40 * 2) / 4, abs=1e-3)
    assert found["nll"] == pytest.approx(
        -(math.log(0.9) + math.log(0.1) + math.log(0.6) + math.log(0.65)) / 4, abs=1e-6
    )
    assert [row["accuracy"] for row in found["bins"][:9]] == [None] * 9


def test_it_equals_torchmetrics_and_torch():
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(500, 7, generator=generator)
    labels = torch.randint(0, 7, (500,), generator=generator)
    scores = logits.softmax(1)
    found = calibration(scores.numpy(), labels.numpy())
    expected = multiclass_calibration_error(scores, labels, num_classes=7, n_bins=BINS, norm="l1")
    assert found["ece"] == pytest.approx(100 * expected.item(), abs=1e-3)
    assert found["nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert sum(row["count"] for row in found["bins"]) == 500


def test_a_score_of_one_belongs_to_the_last_bin_and_of_zero_is_not_infinitely_unlikely():
    scores = np.array([[1.0, 0.0]], np.float32)
    found = calibration(scores, np.array([1]))
    assert found["bins"][-1]["count"] == 1
    assert found["nll"] == pytest.approx(87.3365, abs=1e-3)


def test_every_score_of_several_labels_counts_by_itself():
    scores = np.array([[0.8, 0.3], [0.2, 0.95]], np.float32)
    labels = np.array([[True, False], [False, True]])
    found = calibration(scores, labels)
    assert sum(row["count"] for row in found["bins"]) == 4
    own = torch.nn.functional.binary_cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels).float())
    assert found["nll"] == pytest.approx(own.item(), abs=1e-6)
    assert found["ece"] == pytest.approx(100 * (0.2 + 0.3 + 0.2 + 0.05) / 4, abs=1e-4)


def test_likelihoods_are_multiples_of_a_grid_so_that_sums_are_exact():
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).softmax(1).numpy()
    values = negative_log_likelihood(scores, np.arange(50) % 4) * 2**20
    assert (values == np.round(values)).all()
