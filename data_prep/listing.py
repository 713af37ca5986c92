"""What a data set should hold: one entry for every annotated video, whether or not its file is there."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mvit_train.data.manifest import VIDEO_SUFFIXES
from mvit_train.labels import Labels

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SEPARATOR = ";"  # between the class names of one video


class UserError(ValueError):
    """Something that the user can put right; the message names value, limit and source."""


@dataclass(frozen=True)
class Entry:
    """One annotated video."""

    video_id: str
    split: Split
    label: str  # a class name, several joined by SEPARATOR, or "" where the set keeps it secret
    path: Path | None  # absolute; None: there is no file
    time_start: str = ""  # seconds in the source video that the clip was cut from, as annotated
    time_end: str = ""
    replaced: bool = False  # the file comes from the set's own replacements for corrupt ones
    segments: tuple[tuple[str, float, float], ...] = ()  # class name, start and end in seconds


@dataclass(frozen=True)
class Listing:
    """One data set, or one of its official splits: what `manifest_files` writes below OUT/`folder`."""

    entries: tuple[Entry, ...]
    labels: Labels
    expected: Mapping[str, Mapping[Split, int]]  # whose count -> split -> videos; the first is the annotated one
    num_classes: int | None = None  # expected
    usual_sec: tuple[float, float] | None = None  # durations outside are counted and reported
    notes: tuple[str, ...] = ()  # printed and kept in summary.json
    folder: str = ""
    extra_files: Mapping[str, str] = field(default_factory=dict)  # name -> text, written beside the manifest

    def splits(self) -> list[Split]:
        """The splits that the data set has."""
        return [split for split in SPLITS if any(entry.split == split for entry in self.entries)]


def find_files(root: Path, suffixes: Collection[str] = VIDEO_SUFFIXES, *, without: Collection[Path] = ()) -> list[Path]:
    """Every file below `root` with one of the suffixes (any case), sorted; hidden ones, and folders inside `root` that
    are `without`, are left out.

    Links to folders are followed, once each. Raises UserError if `root` is no folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    skipped = {os.path.realpath(folder) for folder in without} - {os.path.realpath(root)}
    found: list[Path] = []
    for folder, names, files in os.walk(os.path.abspath(root), followlinks=True):
        real = os.path.realpath(folder)
        if real in skipped:
            names.clear()
            continue
        skipped.add(real)
        names[:] = [name for name in names if not name.startswith(".")]
        found += [
            Path(folder, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return sorted(found)


def find_one(folders: Iterable[Path], names: Iterable[str], what: str) -> Path:
    """The first file of these names in or below the folders, names in order of preference."""
    folders, names = list(folders), list(names)
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    for name in names:
        for folder in folders:
            if found := sorted(path for path in folder.glob(f"*/**/{name}") if path.is_file()):
                return found[0]
    raise UserError(f"{what}: none of {', '.join(names)} is in {' or '.join(map(str, folders))}; see --annotations")


def read_lines(file: Path) -> list[tuple[int, str]]:
    """(line number, text) of every line that is not blank."""
    return [(number, line.strip()) for number, line in enumerate(read_text(file).splitlines(), 1) if line.strip()]


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start} is not UTF-8") from error


def labels_from(names: Iterable[str], source: object) -> Labels:
    """Class names in this order; UserError if there is none or one comes twice."""
    names = tuple(names)
    if not names:
        raise UserError(f"{source}: names no class")
    try:
        return Labels(names)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def first_few(values: Iterable[object], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
