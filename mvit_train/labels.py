"""The ordered list of class names that gives a score vector its meaning."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


def fingerprint(lines: Iterable[str]) -> str:
    """Twelve hex digits that identify an ordered list of strings."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Labels:
    """Class names in score order. It travels with the data and with every checkpoint.

    Published models of one data set disagree in class order (UniFormer's Kinetics-400 list and the alphabetical one
    agree at none of the 400 places), so weights without their list are unusable.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"class names must be distinct, these come twice: {', '.join(twice[:5])}")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.names)

    @cached_property
    def index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @classmethod
    def read(cls, file: Path) -> "Labels":
        """Reads `classes.txt`: one class name a line, in score order."""
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
        if not names:
            raise ValueError(f"{file} names no class")
        return cls(names)

    def difference(self, other: "Labels") -> str | None:
        """What a person must know when two lists differ, or None if they are the same."""
        if self == other:
            return None
        if sorted(self.names) == sorted(other.names):
            place = next(i for i, (a, b) in enumerate(zip(self.names, other.names, strict=True)) if a != b)
            return f"the same {len(self)} classes in another order, first at {place}: " + (
                f"{self.names[place]!r} against {other.names[place]!r}"
            )
        only_here, only_there = sorted(set(self.names) - set(other.names)), sorted(set(other.names) - set(self.names))
        return (
            f"{len(self)} against {len(other)} classes; only in the first: {', '.join(only_here[:5]) or 'none'}; "
            f"only in the second: {', '.join(only_there[:5]) or 'none'}"
        )
