"""What `videos` works on: the videos of a folder, or those that manifests name, and where each goes when prepared."""

import csv
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from data_prep.listing import (
    SEPARATOR,
    SPLITS,
    Entry,
    Listing,
    Split,
    UserError,
    find_files,
    labels_from,
    read_lines,
    read_text,
)

Window = tuple[str, str]  # start and end in seconds as a manifest writes them; empty: all of the file
WHOLE: Window = ("", "")
Piece = tuple[Path, Window]  # a file, or a window of it
VIDEOS = "videos"  # the folder of prepared files beside manifests


@dataclass(frozen=True)
class Sources:
    """Pieces in a fixed order. `listing` is of the manifests that name them, or None: a folder of videos."""

    pieces: tuple[Piece, ...]
    base: Path  # above all files
    listing: Listing | None = None

    @property
    def paths(self) -> list[Path]:
        """Every file once."""
        return sorted({path for path, _ in self.pieces})


def find_sources(root: Path) -> Sources:
    """`root` is a video, a folder with `train.csv`, `val.csv` or `test.csv`, or else a folder of videos."""
    if root.is_file():
        return Sources(((root, WHOLE),), root.parent)
    if any((root / f"{split}.csv").exists() for split in SPLITS):
        return _read_manifests(root)
    files = find_files(root)
    if not files:
        raise UserError(f"{root}: holds no train.csv, val.csv or test.csv, and no video")
    return Sources(tuple((path, WHOLE) for path in files), root)


def piece_of(entry: Entry) -> Piece:
    """The part of a file that an entry of a manifest names."""
    assert entry.path is not None
    return entry.path, (entry.time_start, entry.time_end)


def targets_of(sources: Sources, suffix: str) -> dict[Piece, str]:
    """Where each piece goes below OUT: the tree below `base`, mirrored, below `videos/` if manifests lie beside it.

    A window is added to the name: `a/b.webm` from 10 to 20 s -> `a/b_10_20.mp4`. Where two would have one name, as
    `b.avi` and `b.mp4`, all of these end in a checksum of their source's.
    """
    plain, exact = {}, {}
    for piece in sources.pieces:
        path, window = piece
        below = path.relative_to(sources.base)
        stem = "_".join([below.stem, *filter(None, window)])
        plain[piece] = below.with_name(f"{stem}{suffix}")
        mark = zlib.crc32("\n".join([str(below), *window]).encode(errors="surrogateescape"))
        exact[piece] = below.with_name(f"{stem}-{mark:08x}{suffix}")
    used = Counter(str(target).casefold() for target in plain.values())  # some file systems ignore case
    top = PurePath(VIDEOS) if sources.listing else PurePath()
    return {
        piece: str(top / (target if used[str(target).casefold()] == 1 else exact[piece]))
        for piece, target in plain.items()
    }


def _read_manifests(root: Path) -> Sources:
    entries = [entry for split in SPLITS if (file := root / f"{split}.csv").exists() for entry in _entries(file, split)]
    if not entries:
        raise UserError(f"{root}: its manifests list no video")
    classes = root / "classes.txt"
    if classes.exists():
        labels = labels_from((line for _, line in read_lines(classes)), classes)
    else:
        labels = labels_from(_class_names(entries), f"the labels of {root}")
    if (root / "segments.csv").exists():
        entries = _with_segments(entries, root / "segments.csv")
    pieces = tuple(sorted({piece_of(entry) for entry in entries}))
    base = Path(os.path.commonpath([path.parent for path, _ in pieces]))
    usual = (root / VIDEOS, root)  # below them names are kept whole, and `videos/` is not doubled
    base = next((folder for folder in usual if base.is_relative_to(folder)), base)
    return Sources(pieces, base, Listing(tuple(entries), labels, {}))


def _entries(file: Path, split: Split) -> Iterator[Entry]:
    """One entry per row; `video_id` is the path as it is written there."""
    for where, row in _rows(file):
        path, start, end = row["path"], row.get("start", ""), row.get("end", "")
        if not path:
            raise UserError(f"{where}: path is empty")
        if start or end:
            start, end = _checked_window(start, end, where)
        whole = Path(os.path.abspath(file.parent / path))
        yield Entry(path, split, row["label"], whole, start, end, replaced=row.get("status") == "replaced")


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, {column: text}) of every row of a manifest, or of a list of lines `path label`."""
    lines = read_text(file).splitlines()
    header = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    if {"path", "label"} <= set(header):
        reader = csv.reader(lines[1:])
        for values in filter(None, reader):
            texts = [value.strip() for value in values] + [""] * (len(header) - len(values))
            yield f"{file}, line {reader.line_num + 1}", dict(zip(header, texts, strict=False))
        return
    for number, line in read_lines(file):
        path, _, label = line.replace("\t", " ").rpartition(" ")
        if not path or not label.lstrip("-").isdigit():
            raise UserError(
                f"{file}, line {number}: {line!r} is neither `path label` with a whole number nor below a header line "
                "`path,label`"
            )
        yield f"{file}, line {number}", {"path": path.strip(), "label": label}


def _checked_window(start: str, end: str, where: str) -> Window:
    try:
        good = 0 <= float(start or 0) < float(end or "inf")
    except ValueError:
        good = False
    if not good:
        raise UserError(f"{where}: start {start!r} and end {end!r} must be seconds, 0 or more, that rise")
    return start, end


def _class_names(entries: Sequence[Entry]) -> Iterable[str]:
    """As training takes them from its labels alone: numbers stand for themselves, names are sorted."""
    trained = [entry for entry in entries if entry.split == "train"] or entries
    texts = {entry.label for entry in trained if entry.label}
    names = {name for text in texts for name in text.split(SEPARATOR)}
    if not all(name.lstrip("-").isdigit() for name in names):
        return sorted(names)
    return map(str, range(max(map(int, names), default=-1) + 1))


def _with_segments(entries: Sequence[Entry], file: Path) -> list[Entry]:
    """The entries with the lines of `segments.csv` that are theirs."""
    segments: dict[str, list[tuple[str, float, float]]] = {}
    for where, row in _rows(file):
        try:
            segment = row["label"], float(row["start"]), float(row["end"])
        except (KeyError, ValueError) as error:
            raise UserError(f"{where}: label, start and end are not a class and seconds") from error
        segments.setdefault(row["path"], []).append(segment)
    return [
        replace(entry, segments=tuple(segments.get(entry.video_id, ()))) if piece_of(entry)[1] == WHOLE else entry
        for entry in entries
    ]


def refuse_own_output(sources: Sources, root: Path, out: Path) -> None:
    """UserError if what is written would be read as a source, now or next time."""
    real_root, real_out = Path(os.path.realpath(root)), Path(os.path.realpath(out))
    for upper, lower, text in ((real_root, real_out, "lies in"), (real_out, real_root, "holds")):
        if lower.is_relative_to(upper):
            text = "is" if lower == upper else text
            raise UserError(
                f"--out {out} {text} --root {root}: prepared files would be taken for sources. Give another"
            )
    if within := [path for path in sources.paths if Path(os.path.realpath(path)).is_relative_to(real_out)]:
        raise UserError(f"{within[0]} lies in --out {out}: prepared files would be taken for sources. Give another")
