"""The ordered list of class names that gives a score vector its meaning."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from mvit_train.known_labels import KNOWN_ORDERS, KNOWN_SETS

Relation = Literal["same", "permuted", "subset", "superset", "other"]
MAX_NAMED = 5
# Control characters (they steer terminals), surrogates, line separators, and what turns the direction of text around.
UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def fingerprint(lines: Iterable[str]) -> str:
    """Twelve hex digits that identify an ordered list of strings."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Comparison:
    """How one class list relates to another.

    Args:
        kind: "same"; "permuted": the same classes in another order; "subset": some of the other's; "superset": all of
            the other's and more; "other": each has classes that the other lacks.
        sentence: the same in words, with the classes that differ.
    """

    kind: Relation
    sentence: str


@dataclass(frozen=True)
class Labels:
    """Class names in score order. It travels with the data and with every checkpoint.

    Published models of one data set disagree in class order (UniFormer's Kinetics-400 list and the alphabetical one
    agree at none of the 400 places), so weights without their list are unusable.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if strange := [name for name in self.names if UNPRINTABLE.search(name)]:
            raise ValueError(f"class names must be printable text, this one is not: {strange[0][:80]!r}")
        twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if twice:
            raise ValueError(f"class names must be distinct, these come twice: {', '.join(twice[:MAX_NAMED])}")

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
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no class list in UTF-8: {error}") from error
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not names:
            raise ValueError(f"{file} names no class")
        return cls(names)

    @classmethod
    def stored(cls, names: Iterable[str], mark: str | None, where: str) -> "Labels":
        """A list that a file carries with its fingerprint `mark`, if it has one. ValueError: they disagree."""
        try:
            labels = cls(tuple(names))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if mark is not None and mark != labels.fingerprint:
            raise ValueError(
                f"{where}: its {len(labels)} class names have the fingerprint {labels.fingerprint}, but {mark} is "
                "written beside them: the list was changed after the weights were saved, so the scores are of other "
                "classes than it says"
            )
        return labels

    def compare(self, other: "Labels", *, mine: str = "the first", its: str = "the second") -> Comparison:
        """This list against `other`. `mine` and `its` say in the sentence whose lists they are.

        ("a", "b") of the data against ("b", "a", "c") of the checkpoint, mine="the data", its="the checkpoint":
        subset, "the 2 classes of the data are among the 3 of the checkpoint".
        """
        ours, theirs = set(self.names), set(other.names)
        start = f"the {len(self)} classes of {mine}"
        if self.names == other.names:
            return Comparison("same", f"{start} are those of {its}")
        if ours == theirs:
            place = next(i for i, (a, b) in enumerate(zip(self.names, other.names, strict=True)) if a != b)
            first = f"first at {place}: {self.names[place]!r} against {other.names[place]!r}"
            return Comparison("permuted", f"{start} are those of {its} in another order, {first}")
        if ours < theirs:
            return Comparison("subset", f"{start} are among the {len(other)} of {its}")
        more, missing = _some(ours - theirs), _some(theirs - ours)
        if ours > theirs:
            return Comparison("superset", f"{start} are the {len(other)} of {its} and more: {more}")
        return Comparison(
            "other", f"{start} are not the {len(other)} of {its}: only in {mine}: {more}; only in {its}: {missing}"
        )

    def known(self) -> str | None:
        """The published list that this is, name for name in its order: "Kinetics-400, alphabetical (...)", or None."""
        return KNOWN_ORDERS.get(self.fingerprint)

    def doubt(self) -> str | None:
        """A warning where these are the classes of a published list in an order that nobody published."""
        known_set = KNOWN_SETS.get(fingerprint(sorted(self.names)))
        if known_set is None or self.known() is not None:
            return None
        return (
            f"the {len(self)} classes are those of {known_set}, in an order that is none of the published ones: "
            "published weights do not fit it unless their file names its classes"
        )


def _some(names: set[str]) -> str:
    first = sorted(names)[:MAX_NAMED]
    return ", ".join(first) + (f" and {len(names) - len(first)} more" if len(names) > len(first) else "")
