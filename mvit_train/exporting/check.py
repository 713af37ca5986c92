"""Whether an exported graph gives what the model gives, and how fast."""

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from mvit_train.exporting.files import Runner
from mvit_train.exporting.program import Deployed

BATCHES = (1, 3)  # one, and another than the graph was traced with
BOUND = 1e-4  # of the probabilities, and of the logits as a share of the largest; float32 gives 1e-6
ROUNDS, ENOUGH_SEC = 20, 4.0


class Differences(NamedTuple):
    """The largest ones between two runners on the same clips, and the largest logit."""

    probabilities: float
    logits: float
    largest_logit: float

    def __str__(self) -> str:
        return (
            f"largest difference {self.probabilities:.1e} of the probabilities, {self.logits:.1e} of the logits "
            f"(largest logit {self.largest_logit:.3g})"
        )


def differences(deployed: Deployed, exported: Runner) -> Differences:
    """Compares on random clips, in batches of BATCHES."""
    found = []
    with torch.no_grad():
        for batch_size in BATCHES:
            clips = deployed.random_clips(batch_size)
            (probabilities, logits), given = deployed(clips), exported(clips)
            compared = (given[0] - probabilities, given[1] - logits, logits)
            found.append(torch.stack([values.abs().max() for values in compared]))
    return Differences(*torch.stack(found).amax(0).tolist())  # unlike max(), it keeps NaN


def check_equal(found: Differences, name: str) -> None:
    """Raises ValueError if the graph does not compute what the model does."""
    if not (found.probabilities <= BOUND and found.logits <= BOUND * found.largest_logit):  # NaN is refused too
        raise ValueError(
            f"{name} does not give what the model gives: {found}; at most {BOUND:g} of the probabilities and of the "
            "largest logit are let through, and nothing was written"
        )


def median_ms(runner: Runner, clips: Tensor) -> float:
    """Milliseconds of one forward on the clock of the wall: the median of up to 20, in some 4 s after a first one. A
    first one that takes longer than that is all there is."""
    first = _seconds(runner, clips)
    seconds: list[float] = []
    while first < ENOUGH_SEC and len(seconds) < ROUNDS and sum(seconds) < ENOUGH_SEC:
        seconds.append(_seconds(runner, clips))
    return statistics.median(seconds or [first]) * 1000


def table(milliseconds: Mapping[str, Mapping[int, float]]) -> str:
    """Lines of median_ms by what ran and on how many threads."""
    counts = list(next(iter(milliseconds.values())))
    rows = [["one clip, median ms", *(f"{count} thread{'s' * (count > 1)}" for count in counts)]]
    rows += [[name, *(f"{times[count]:.1f}" for count in counts)] for name, times in milliseconds.items()]
    return "\n".join(f"  {name:<19}" + "".join(f"{cell:>13}" for cell in cells) for name, *cells in rows)


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """torch computes with so many threads within it."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(runner: Runner, clips: Tensor) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        runner(clips)
        return time.perf_counter() - start
