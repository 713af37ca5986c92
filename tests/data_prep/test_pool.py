"""Tasks here are functions without arguments, which `operator.call` runs."""

import operator
import os
import signal
from functools import partial

import pytest

from data_prep.pool import CRASHED, run_all


def outcomes(tasks, **kwargs):
    options = {"workers": 2, "timeout_sec": 0.0, **kwargs}
    return list(run_all(operator.call, tasks, lost=lambda task, reason: (task.func, reason), **options))


def test_every_task_has_one_result():
    tasks = [partial(operator.add, number, 1) for number in range(7)]
    assert sorted(outcomes(tasks)) == list(range(1, 8))
    assert outcomes(tasks, workers=0) == list(range(1, 8))


def test_a_task_that_hangs_is_given_up_and_the_others_go_on():
    tasks = [partial(operator.add, 1, 1), partial(signal.pause), *[partial(operator.add, 2, 2)] * 3]
    found = outcomes(tasks, timeout_sec=0.5)
    assert sorted(found, key=str) == [(signal.pause, "given up after 0.5 s at a standstill"), 2, 4, 4, 4]


def test_a_task_that_crashes_is_the_only_one_lost():
    found = outcomes([partial(operator.add, 1, 1), partial(os._exit, 1), partial(os.abort), partial(operator.neg, 3)])
    assert sorted(found, key=str) == sorted([2, (os._exit, CRASHED), (os.abort, CRASHED), -3], key=str)


def test_what_a_task_raises_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        outcomes([partial(operator.truediv, 1, 0)])


def test_who_stops_early_loses_what_is_at_work():
    lost = []
    tasks = [partial(signal.pause), partial(operator.add, 1, 1)]
    results = run_all(
        operator.call, tasks, 2, timeout_sec=0, lost=lambda task, reason: lost.append((task.func, reason))
    )
    assert next(results) == 2
    results.close()
    assert lost == [(signal.pause, "interrupted")]
