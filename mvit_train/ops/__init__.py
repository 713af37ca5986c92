"""Operations with a fast path beside a reference twin; which one runs is chosen here and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Path = Literal["reference", "fast"]

_forced: Path | None = None


@contextmanager
def force(path: Path) -> Iterator[None]:
    """Within it every operation takes this path: the reference to test against or to count multiply-adds in, or the
    fast one where the choice by device would be another."""
    global _forced
    before, _forced = _forced, path
    try:
        yield
    finally:
        _forced = before


def forced() -> Path | None:
    return _forced
