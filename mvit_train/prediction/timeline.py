"""Which part of a video shows what: the scores of sliding windows, put together to segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A stretch of a video whose windows have the same likeliest class, and the mean of its scores there."""

    start_sec: float
    end_sec: float
    class_index: int
    class_name: str
    probability: float


def segments(windows: Sequence[tuple[float, float]], scores: Tensor, classes: tuple[str, ...]) -> tuple[Segment, ...]:
    """Segments that follow each other without a gap from the first window's start to the last one's end.

    windows: (start, end) in seconds, ascending; scores: (N, K), a row for each. Where two windows disagree, the border
    lies midway between their centres: windows 0-2, 1-3, 2-4 s of classes a, a, b -> a 0-2.5 s, b 2.5-4 s.
    """
    centres = [(start + end) / 2 for start, end in windows]
    borders = [windows[0][0], *((a + b) / 2 for a, b in pairwise(centres)), windows[-1][1]]
    found = []
    for index, group in groupby(enumerate(scores.argmax(1).tolist()), key=lambda row: row[1]):
        rows = [row for row, _ in group]
        mean = torch.mean(scores[rows, index].double()).item()
        found.append(Segment(borders[rows[0]], borders[rows[-1] + 1], index, classes[index], mean))
    return tuple(found)
