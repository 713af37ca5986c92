"""Storms of SIGUSR1 and SIGTERM, sent to all processes of a run and to their workers."""

import itertools
import time

import pytest
from legs import ONCE, PLACES, Config, Run, Strike, signals, storm

CONFIGS = {"2 processes, 0 workers": Config(2, 0), "2 processes, 2 workers": Config(2, 2)}
SAVING = ("save", "rename", "renamed")
OTHERS = tuple(place for place in PLACES if place not in SAVING)


def assert_left_properly(disturbed: Run, codes: list[int]) -> None:
    """Once the training has been announced, a run leaves with status 0; before it may be ended by SIGTERM."""
    printed = disturbed.logs[-1].read_text()
    assert set(codes) == {0} or "M parameters" not in printed, f"{codes}\n{printed[-3000:]}"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_storm_at_a_random_moment(run, ends_as_expected, ledger, rng, share, name):
    config, left = CONFIGS[name], share(14)
    began = time.monotonic()
    run(config).leg()
    whole = time.monotonic() - began
    while left > 0:
        with ledger.run(f"storm of signals: {name}") as row:
            disturbed = run(config)
            while left > 0 and not disturbed.complete:
                leg = disturbed.start()
                time.sleep(rng.uniform(0, 0.8 * whole))
                hit = leg.running
                for number in signals(rng):
                    leg.kill(number)
                    time.sleep(rng.choice([0, rng.uniform(0, 0.2)]))
                assert_left_properly(disturbed, leg.wait())
                row.faults += hit
                left -= hit
            ends_as_expected(disturbed)


@pytest.mark.parametrize("places", [SAVING, OTHERS], ids=["save", "else"])
def test_a_storm_at_a_place(run, ends_as_expected, ledger, rng, share, places):
    left, shuffled = share(12), itertools.cycle(rng.sample(places, len(places)))
    kind = "storm of signals: while saving" if places is SAVING else "storm of signals: at places of all kinds"
    while left > 0:
        with ledger.run(kind) as row:
            disturbed = run(Config(2, rng.choice([0, 2])))
            while left > 0 and not disturbed.complete:
                place = next(shuffled)
                rank = 0 if places is SAVING else rng.randrange(2)
                number = 1 if place in ONCE else rng.randint(1, 3)
                assert_left_properly(disturbed, disturbed.leg(Strike(place, number, storm(rng), rank)))
                row.faults += disturbed.struck
                left -= disturbed.struck
            ends_as_expected(disturbed)
