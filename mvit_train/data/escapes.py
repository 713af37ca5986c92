"""Paths that a manifest must not name: a list from a stranger reads no other files than those beside it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")
DOUBTFUL = re.compile(rf"{CONTROL.pattern}|^/|\.\.")  # a path that is none of these needs no further look


class Escapes:
    """Notices paths that lead out of all `places` by their text; where links lead shows when a file is read."""

    def __init__(self, file: Path, places: Sequence[Path]) -> None:
        self.file, self.root = file, os.path.abspath(file.parent)
        self.folders = tuple(os.path.join(os.path.abspath(place), "") for place in places)
        self.first: tuple[int, str] | None = None
        self.source = ""  # a folder above all of them

    def note(self, line: int, path: str) -> None:
        """ValueError: the path holds a control character."""
        if CONTROL.search(path):
            raise ValueError(f"{self.file}, line {line}: path {path!r} holds a control character")
        target = os.path.normpath(os.path.join(self.root, path))
        if not target.startswith(self.folders):
            self.first = self.first or (line, path)
            self.source = os.path.commonpath([self.source or os.path.dirname(target), os.path.dirname(target)])

    def refuse(self) -> None:
        """ValueError if there was one."""
        if self.first:
            raise ValueError(
                f"{self.file}, line {self.first[0]}: {self.first[1]} leads out of data.root={self.file.parent}; if the "
                f"manifest can be trusted, say where its videos may lie: data.also_from={self.source}"
            )
