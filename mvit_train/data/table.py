"""A split in memory: which videos, what they show, which part of them; compact, and shared by forked workers.

A million rows of 60 letters take about 80 MB. Columns are single blocks of memory: reading a row changes no reference
count within them, so that worker processes never come to own copies of their pages, as they do of lists of strings.
"""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from mvit_train.labels import Labels, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

LABEL_SEPARATOR = ";"


class Strings(Sequence[str]):
    """An immutable sequence of strings in one block of bytes."""

    def __init__(self, strings: Iterable[str] = ()) -> None:
        buffer, ends = bytearray(), array("q", [0])
        for string in strings:
            buffer += string.encode(errors="surrogateescape")
            ends.append(len(buffer))
        self._bytes, self._ends = np.frombuffer(buffer, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Strings": ...
    def __getitem__(self, index: int | slice) -> "str | Strings":
        if isinstance(index, slice):
            return Strings(self[i] for i in range(*index.indices(len(self))))
        place = range(len(self))[index]
        return self._bytes[self._ends[place] : self._ends[place + 1]].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Strings({list(self[:3])}{'...' if len(self) > 3 else ''}, {len(self)})"


@dataclass(frozen=True)
class Manifest:
    """One split: paths below `root` (or absolute ones), what each video shows, and the classes' names.

    Args:
        kinds: (N,) int32: which of `targets` a video shows.
        targets: the class indices of each kind: one, or with `multi_label` any number, also none.
        spans: (N, 2) float64, the seconds of each file that are the video, NaN where all of it is; None: all of all.
        places: real paths of the folders that no link may lead out of; None: links may lead anywhere.
    """

    root: Path
    paths: Strings
    kinds: np.ndarray
    targets: tuple[tuple[int, ...], ...]
    labels: Labels
    multi_label: bool = False
    spans: np.ndarray | None = None
    places: tuple[str, ...] | None = None

    @classmethod
    def of(cls, root: Path, rows: Iterable[tuple[str, int]], labels: Labels) -> "Manifest":
        """A split of (path, class index) rows."""
        paths, targets = zip(*rows, strict=True)
        used, kinds = np.unique(targets, return_inverse=True)
        return cls(root, Strings(paths), kinds.astype(np.int32), tuple((int(i),) for i in used), labels)

    def __len__(self) -> int:
        return len(self.paths)

    def target(self, index: int) -> tuple[int, ...]:
        """The class indices of a video; exactly one unless `multi_label`."""
        return self.targets[self.kinds[index]]

    def target_tensor(self) -> "Tensor":
        """(N,) int64 class indices or, with `multi_label`, (N, K) bool."""
        import torch  # here, for data_prep knows manifests without it, and it takes seconds

        if not self.multi_label:
            return torch.from_numpy(np.array([target for (target,) in self.targets])[self.kinds])
        table = torch.zeros(len(self.targets), len(self.labels), dtype=torch.bool)
        for kind, target in enumerate(self.targets):
            table[kind, list(target)] = True
        return table[torch.from_numpy(self.kinds).long()]

    def span(self, index: int) -> tuple[float, float] | None:
        """Start and end in seconds of the part of the file that is the video; None: all of it."""
        if self.spans is None or np.isnan(self.spans[index]).any():
            return None
        start, end = self.spans[index].tolist()
        return start, end

    def leads_out(self, path: str) -> bool:
        """Whether a file lies outside of `places` once links are followed."""
        if self.places is None:
            return False
        real = os.path.realpath(path)
        return not any(real.startswith(os.path.join(place, "")) for place in self.places)

    def class_counts(self) -> list[int]:
        """Videos of each class."""
        counts = [0] * len(self.labels)
        for kind, count in enumerate(np.bincount(self.kinds, minlength=len(self.targets)).tolist()):
            for target in self.targets[kind]:
                counts[target] += count
        return counts

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the videos and their class names, in any order."""
        names = [LABEL_SEPARATOR.join(self.labels.names[i] for i in target) for target in self.targets]
        return fingerprint(sorted(f"{path}\t{names[k]}" for path, k in zip(self.paths, self.kinds, strict=True)))

    def take(self, rows: Collection[int] | np.ndarray) -> "Manifest":
        """The split of these rows, in this order."""
        chosen = np.asarray(rows, dtype=np.int64)
        used, kinds = np.unique(self.kinds[chosen], return_inverse=True)
        return replace(
            self,
            paths=Strings(self.paths[i] for i in chosen.tolist()),
            kinds=kinds.astype(np.int32),
            targets=tuple(self.targets[kind] for kind in used),
            spans=None if self.spans is None else self.spans[chosen],
        )

    def relabelled(self, labels: Labels) -> "Manifest":
        """The same videos, their classes counted in another list that has all of them. ValueError if it has not."""
        if absent := sorted({self.labels.names[i] for kind in self.targets for i in kind} - set(labels.names)):
            raise ValueError(
                f"{self.root}: {len(absent)} classes are not among the {len(labels)} asked for: "
                + ", ".join(absent[:5])
            )
        targets = tuple(tuple(labels.index[self.labels.names[i]] for i in kind) for kind in self.targets)
        return replace(self, targets=targets, labels=labels)

    def only(self, names: Collection[str]) -> "Manifest":
        """The videos of these classes, whose order stays; of several labels the others fall away.

        A video that had labels and keeps none is left out; one that never had any stays, as what shows nothing.
        """
        if unknown := [name for name in names if name not in self.labels.index]:
            raise ValueError(f"data.classes: {', '.join(map(repr, unknown[:5]))} is no class of {self.root}")
        chosen = {self.labels.index[name] for name in names}
        left = tuple(tuple(i for i in kind if i in chosen) for kind in self.targets)
        stays = np.array([bool(kind) or not before for kind, before in zip(left, self.targets, strict=True)])
        few = replace(self, targets=left).take(np.flatnonzero(stays[self.kinds]))
        return few.relabelled(Labels(tuple(name for name in self.labels.names if name in names)))

    def capped(self, per_class: int) -> "Manifest":
        """At most so many videos of each class, chosen by a hash of their paths: the same in every run, and for a
        larger number these and more. With several labels a video counts for each, and comes in while one has room."""
        hashes = [hashlib.sha256(path.encode(errors="surrogateescape")).digest() for path in self.paths]
        order = sorted(range(len(self)), key=hashes.__getitem__)
        counts: Counter[int] = Counter()
        rows = []
        for row in order:
            kinds = self.target(row) or (-1,)  # those that show nothing are capped as a class would be
            if any(counts[i] < per_class for i in kinds):
                counts.update(kinds)
                rows.append(row)
        return self.take(sorted(rows))
