"""Logistic regression: cases whose solution is known, and the choice of its weight decay."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from mvit_train.linear_probe import WEIGHT_DECAYS, choose_weight_decay, fit_logistic


def blobs(num, *, spread, seed=0):
    """Three classes around corners of a triangle in 10 dimensions: x (N, 10) float64 and y (N,)."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(num) % 3
    centres = torch.zeros(3, 10, dtype=torch.float64)
    centres[[0, 1, 2], [0, 1, 2]] = 3.0
    return centres[y] + spread * torch.randn(num, 10, generator=generator, dtype=torch.float64), y


def test_separable_classes_are_told_apart():
    x, y = blobs(90, spread=0.3)
    x_new, y_new = blobs(300, spread=0.3, seed=1)
    layer = fit_logistic(x, y, 3, choose_weight_decay(x, y, 3))
    assert (layer(x_new).argmax(1) == y_new).all()


def test_the_solution_is_stationary():
    x, y = blobs(60, spread=2.0)
    layer = fit_logistic(x, y, 3, 0.01).requires_grad_(True)
    loss = cross_entropy(layer(x), y) + 0.01 / 2 * layer.weight.square().sum()
    for gradient in torch.autograd.grad(loss, list(layer.parameters())):
        assert gradient.abs().max() < 1e-5


def test_much_weight_decay_leaves_the_frequencies_of_the_classes():
    x, y = blobs(40, spread=1.0)
    scores = fit_logistic(x - x.mean(0), y, 3, 1e4)(x).softmax(1)
    expected = torch.bincount(y).double() / len(y)
    torch.testing.assert_close(scores, expected.expand(40, 3), atol=1e-3, rtol=0)


def test_noise_asks_for_much_decay_and_clear_classes_for_little():
    noise = torch.randn(60, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, y = blobs(60, spread=1.0)
    x, _ = blobs(60, spread=0.1)
    assert choose_weight_decay(noise, y, 3) > 10 * choose_weight_decay(x, y, 3)


@pytest.mark.parametrize("num", [1, 2])
def test_hardly_any_video_is_no_error(num):
    x, y = blobs(num, spread=0.1)
    assert choose_weight_decay(x, y, 3) in WEIGHT_DECAYS
