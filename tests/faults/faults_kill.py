"""kill -9, of everything or of one process, at places of every kind and at any moment."""

import itertools
import signal
import time

import pytest
from legs import ONCE, PLACES, Config, Strike, kill_everything, kill_itself
from oracle import course

EVERYTHING = ("augment=k400", "augment.crop.short_side=40", "data.repeats=2")
CONFIGS = {
    "1 process, 0 workers": (20, Config(1, 0)),
    "1 process, 2 workers": (20, Config(1, 2)),
    "2 processes, 0 workers": (14, Config(2, 0)),
    "2 processes, 2 workers": (14, Config(2, 2)),
    "a checkpoint every 3 steps": (10, Config(1, 0, ("checkpoints.every_steps=3",))),
    "all augmentations": (8, Config(1, 2, EVERYTHING)),
}


@pytest.mark.parametrize("where", ["within an epoch", "between epochs"])
@pytest.mark.parametrize("config", [Config(1, 0), Config(1, 2), Config(2, 0), Config(2, 2)], ids=str)
def test_a_run_that_is_killed_once_becomes_the_same(run, expected, ends_as_expected, ledger, rng, config, where):
    """The table of hashes: of weights, their average, and moments."""
    with ledger.run(f"kill -9 of everything: once, {where}") as row:
        place, number = ("epoch", 2) if where == "between epochs" else ("step", rng.randint(2, 4))
        disturbed = run(config)
        assert -signal.SIGKILL in disturbed.leg(Strike(place, number, kill_everything))
        row.faults += 1
        ends_as_expected(disturbed)
        found = (expected(config).weights, course(disturbed).weights)
        ledger.compare(config.processes, config.workers, where, *found)


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_is_killed_at_places_of_all_kinds(run, ends_as_expected, ledger, rng, share, name):
    count, config = CONFIGS[name]
    places = itertools.cycle(rng.sample(list(PLACES), len(PLACES)))
    left = share(count)
    while left > 0:
        with ledger.run(f"kill -9 of everything: {name}") as row:
            disturbed = run(config)
            while left > 0 and not disturbed.complete:
                place = next(places)
                number = 1 if place in ONCE else rng.randint(1, 3)
                codes = disturbed.leg(Strike(place, number, kill_everything, rng.randrange(config.processes)))
                killed = -signal.SIGKILL in codes  # one process may have ended already
                assert killed or set(codes) == {0}, disturbed.logs[-1].read_text()[-3000:]
                if killed:
                    row.faults += 1
                    left -= 1
            ends_as_expected(disturbed)


@pytest.mark.parametrize("config", [Config(1, 0), Config(1, 2), Config(2, 2)], ids=str)
def test_everything_is_killed_at_any_moment(run, ends_as_expected, ledger, rng, share, config):
    left, began = share(6), time.monotonic()
    assert run(config).leg() == [0] * config.processes
    whole = time.monotonic() - began
    while left > 0:
        with ledger.run("kill -9 of everything: at any moment") as row:
            disturbed = run(config)
            while left > 0 and not disturbed.complete:
                leg = disturbed.start()
                time.sleep(rng.uniform(0, whole))
                leg.kill()
                if leg.wait() != [0] * config.processes:
                    row.faults += 1
                    left -= 1
            ends_as_expected(disturbed)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_of_two_processes_is_killed_and_the_other_ends(run, ends_as_expected, ledger, rng, share, workers):
    config, left = Config(2, workers), share(6)
    places = itertools.cycle(rng.sample([place for place in PLACES if place not in ONCE], len(PLACES) - len(ONCE)))
    while left > 0:
        with ledger.run("kill -9 of one of two processes") as row:
            disturbed = run(config)
            while left > 0 and not disturbed.complete:
                rank = rng.randrange(2)
                codes = disturbed.leg(Strike(next(places), rng.randint(1, 3), kill_itself, rank))
                if codes[rank]:
                    assert codes[rank] == -signal.SIGKILL
                    assert codes[1 - rank] != 0, "it did not notice"
                    row.faults += 1
                    left -= 1
            ends_as_expected(disturbed)
