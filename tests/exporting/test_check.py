"""A graph that differs is refused; the clock and its table."""

import math

import pytest
import torch

from mvit_train.exporting.check import (
    ENOUGH_SEC,
    Differences,
    check_equal,
    differences,
    median_ms,
    table,
    torch_threads,
)
from mvit_train.exporting.program import Deployed
from mvit_train.models import mvit_b

TINY = dict(blocks_per_stage=(1, 1), embed_dim=16, num_classes=3, num_frames=4, crop_size=32)


@pytest.fixture(scope="module")
def module():
    return Deployed(mvit_b(**TINY), mean=[0.45] * 3, std=[0.225] * 3, multi_label=False)


def shifted(module, by):
    """A runner whose logits are apart by `by` in the last clip, if there are several."""

    def run(video):
        probabilities, logits = (scores.clone() for scores in module(video))
        if len(video) > 1:
            logits[-1, 0] += by
        return probabilities, logits

    return run


def test_the_largest_difference_is_found_in_any_clip(module):
    assert differences(module, module)[:2] == (0.0, 0.0)
    found = differences(module, shifted(module, 0.25))
    assert found.probabilities == 0
    assert found.logits == pytest.approx(0.25, rel=1e-5)
    largest = max(module(module.random_clips(n))[1].abs().max().item() for n in (1, 3))
    assert found.largest_logit == pytest.approx(largest)
    assert math.isnan(differences(module, shifted(module, math.nan)).logits)


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        (Differences(0.9e-4, 0, 1), True),
        (Differences(1.1e-4, 0, 1), False),
        (Differences(0, 0.9e-3, 10), True),
        (Differences(0, 1.1e-3, 10), False),
        (Differences(0, math.nan, 10), False),
        (Differences(math.nan, 0, 10), False),
    ],
)
def test_what_is_beyond_the_bound_or_no_number_is_refused(found, passes):
    if passes:
        check_equal(found, "w.onnx")
        return
    with pytest.raises(ValueError, match=r"w\.onnx does not give what the model gives: .* nothing was written"):
        check_equal(found, "w.onnx")


def test_a_short_forward_is_timed_often_and_a_long_one_once(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def takes(*seconds):
        calls.clear()

        def run(video):
            calls.append(len(calls))
            clock[0] += seconds[min(calls[-1], len(seconds) - 1)]

        return run

    assert median_ms(takes(3.0, 0.1), torch.zeros(1)) == pytest.approx(100)  # the first one warms up
    assert len(calls) == 21
    assert median_ms(takes(ENOUGH_SEC + 1), torch.zeros(1)) == pytest.approx(ENOUGH_SEC * 1000 + 1000)
    assert len(calls) == 1
    median_ms(takes(1.5), torch.zeros(1))
    assert len(calls) == 4


def test_the_table_has_a_column_for_each_number_of_threads():
    assert table({"eager": {1: 12.34, 8: 3.0}, "onnxruntime": {1: 1234.5, 8: 0.04}}).splitlines() == [
        "  one clip, median ms     1 thread    8 threads",
        "  eager                       12.3          3.0",
        "  onnxruntime               1234.5          0.0",
    ]


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
