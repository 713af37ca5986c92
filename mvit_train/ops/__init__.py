"""Operations with a fast path beside a reference twin. Each operation chooses in one place; `force` overrules it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Implementation = Literal["reference", "fast"]

_forced: Implementation | None = None


@contextmanager
def force(path: Implementation) -> Iterator[None]:
    """Within it every operation takes this path: the reference to test against or to count multiply-adds in, or the
    fast one where the choice by device would be another."""
    global _forced
    before, _forced = _forced, path
    try:
        yield
    finally:
        _forced = before


def forced() -> Implementation | None:
    """What `force` asks for at the moment."""
    return _forced
