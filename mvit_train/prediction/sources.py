"""Which files to predict: from a file, a folder, a pattern, a list of them, to paths in order."""

import csv
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mvit_train.data.manifest import IMAGE_SUFFIXES, VIDEO_SUFFIXES

LIST_SUFFIXES = frozenset((".txt", ".csv"))


def find_inputs(asked: Path | Sequence[Path]) -> list[Path]:
    """The files that `input` stands for, each once.

    A file stands for itself, also one that is not there: reading it says so. A folder stands for the videos and images
    anywhere below it, a pattern for those that match it (`**` for folders in between), in the order of their names. A
    .txt file has a path in each line; a .csv file has them in its column `path`, or in its first one without a header
    of that name. Paths that a list does not find from here are looked for beside the list.

    Raises:
        ValueError: a folder or list without a video or image, or a pattern that matches nothing.
    """
    entries = [asked] if isinstance(asked, Path) else asked
    found = dict.fromkeys(path for entry in entries for path in _stands_for(entry))
    if not found:
        raise ValueError("input: the list is empty, no file is named")
    return list(found)


def _stands_for(entry: Path) -> Iterator[Path]:
    if entry.is_dir():
        yield from _below(entry)
    elif entry.suffix.lower() in LIST_SUFFIXES and entry.is_file():
        yield from _listed(entry)
    elif glob.has_magic(str(entry)) and not entry.exists():
        matches = [Path(match) for match in sorted(glob.glob(str(entry), recursive=True))]
        if not (files := [path for path in matches if path.is_file() and is_media(path)]):
            some = f"; {len(matches)} matches are something else" if matches else ""
            raise ValueError(f"input: no video or image matches {entry}{some}")
        yield from files
    else:
        yield entry


def is_media(path: Path) -> bool:
    """Whether the suffix is one of a video or an image."""
    return path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def is_image(path: Path) -> bool:
    """Whether the file is read as a still image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _below(folder: Path) -> list[Path]:
    files = []
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(where, name) for name in names if not name.startswith(".")]
    if not (chosen := sorted(path for path in files if is_media(path))):
        raise ValueError(
            f"input: {folder} holds no video or image among its {len(files)} files "
            f"(suffixes: {' '.join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))})"
        )
    return chosen


def _listed(file: Path) -> Iterator[Path]:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    if file.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(lines) if row]
        header = [name.strip() for name in rows[0]] if rows else []
        has_header = "path" in header
        column = header.index("path") if has_header else 0
        names = [row[column].strip() for row in rows[has_header:] if len(row) > column]
    else:
        names = [line.strip() for line in lines]
    if not any(names):
        raise ValueError(f"input: {file} lists no file")
    for name in filter(None, names):
        yield Path(name) if Path(name).exists() else file.parent / name


def folder_of(paths: Sequence[Path]) -> Path:
    """The folder that all of them lie below."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))
