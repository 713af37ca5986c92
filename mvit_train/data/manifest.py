"""Which videos there are and what they show: manifests, PyTorchVideo's lists and class folders."""

import csv
import hashlib
import json
import logging
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from mvit_train.data.escapes import DOUBTFUL, Escapes
from mvit_train.data.table import LABEL_SEPARATOR, Manifest, Strings
from mvit_train.labels import Labels

log = logging.getLogger(__name__)

Split = Literal["train", "val"]
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv", ".3gp")
)
IMAGE_SUFFIXES = frozenset((".jpeg", ".jpg", ".png", ".webp", ".bmp"))
VAL_SHARE = 0.2
MAX_LISTED = 10
MAX_NUMBER = 99_999  # a class; the largest makes a list of so many

Row = tuple[int, str, str, tuple[float, float]]  # line, path, label, start and end in seconds
WHOLE = (math.nan, math.nan)


@dataclass(frozen=True)
class Rows:
    """What a file says, not yet understood: row i is at `lines[i]` and has the label `texts[kinds[i]]`."""

    file: Path
    paths: Strings
    kinds: np.ndarray
    texts: tuple[str, ...]
    lines: np.ndarray
    spans: np.ndarray | None = None


def read_splits(root: Path, also_from: Sequence[Path] = ()) -> dict[Split, Manifest]:
    """Finds both splits below `root`; the first of these that is there counts:

    1. `train.csv` and `val.csv`: manifests (`path,label` with that header) or PyTorchVideo's `path label` lists;
       `classes.txt` beside them fixes the class order. A label is a name or a number; several are joined by `;`, and
       if any is, an empty one means that none applies. Columns `start` and `end` say in seconds which part counts.
    2. `train/CLASS/...` and `val/CLASS/...`: class folders.
    3. `CLASS/...`: class folders of which every fifth video of a class, chosen by a hash of its path, validates.

    Class folders may hold images instead of videos. A manifest's paths must lie below `root`, or a folder of
    `also_from`; links in class folders are followed wherever they lead.
    Raises ValueError naming the file, line and value of what cannot be understood.
    """
    if not root.is_dir():
        raise ValueError(f"data.root: {root} is not a folder")
    files = {split: root / f"{split}.csv" for split in ("train", "val")}
    if any(file.exists() for file in files.values()):
        if missing := [file.name for file in files.values() if not file.exists()]:
            raise ValueError(f"{root} has no {missing[0]} beside its other split")
        return read_lists(files["train"], files["val"], also_from)
    if (root / "train").is_dir() and (root / "val").is_dir():
        train = read_folders(root / "train", root)
        return {"train": train, "val": read_folders(root / "val", root, train.labels)}
    return split_folders(read_folders(root, root))


def read_lists(train: Path, val: Path, also_from: Sequence[Path] = ()) -> dict[Split, Manifest]:
    """Reads two list files that share one class list; their paths lie below their folder, or one of `also_from`."""
    places = (train.parent, *also_from)
    rows: dict[Split, Rows] = {"train": read_rows(train, places), "val": read_rows(val, places)}
    classes_file = train.parent / "classes.txt"
    if classes_file.exists():
        labels, source = Labels.read(classes_file), str(classes_file)
        _check_summary(classes_file, labels)
    else:
        labels, source = _labels_of(rows["train"].texts), f"the labels of {train}"
    # One row with several labels makes a set of several labels; only then may a row have none.
    multi_label = any(
        LABEL_SEPARATOR in text and text not in labels.index and _targets(text, labels, multi_label=True) is not None
        for split in rows.values()
        for text in split.texts
    )
    real = tuple(os.path.realpath(place) for place in places)
    return {
        split: replace(_manifest(found, labels, source, multi_label=multi_label), places=real)
        for split, found in rows.items()
    }


def read_rows(file: Path, places: Sequence[Path]) -> Rows:
    """Every row of a manifest or of a `path label` list, whose paths lie below one of `places`.

    ValueError: what cannot be understood, with its line.
    """
    try:
        return _read_rows(file, Escapes(file, places))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is no manifest in UTF-8: {error}") from error


def _read_rows(file: Path, escapes: Escapes) -> Rows:
    kinds, lines, times = array("i"), array("i"), array("d")
    texts: dict[str, int] = {}

    def columns(rows: Iterator[Row]) -> Iterator[str]:
        for line, path, text, span in rows:
            if not path:
                raise ValueError(f"{file}, line {line}: path is empty")
            if DOUBTFUL.search(path):
                escapes.note(line, path)
            kinds.append(texts.setdefault(text, len(texts)))
            lines.append(line)
            times.extend(span)
            yield path

    with file.open(encoding="utf-8", newline="") as stream:
        header = [name.strip() for name in next(csv.reader([stream.readline()]), [])]
        if {"path", "label"} <= set(header):
            paths = Strings(columns(_csv_rows(csv.reader(stream), header, file)))
        elif "label" in header and len(header) > 1:
            raise ValueError(f"{file}: the header {','.join(header)} has no `path` column, so this is no manifest")
        else:
            stream.seek(0)
            paths = Strings(columns(_list_rows(stream, file)))
    if not paths:
        raise ValueError(f"{file} lists no video")
    escapes.refuse()
    spans = np.frombuffer(times, dtype=np.float64).reshape(-1, 2)
    return Rows(
        file,
        paths,
        np.frombuffer(kinds, dtype=np.int32),
        tuple(texts),
        np.frombuffer(lines, dtype=np.int32),
        None if np.isnan(spans).all() else spans,
    )


def _csv_rows(reader: Any, header: Sequence[str], file: Path) -> Iterator[Row]:
    path_column, label_column = header.index("path"), header.index("label")
    span_columns = [header.index(name) for name in ("start", "end")] if {"start", "end"} <= set(header) else []
    last = max(path_column, label_column, *span_columns)
    for row in reader:
        if not row:
            continue
        if len(row) <= last:
            row += [""] * (last + 1 - len(row))
        span = WHOLE
        if span_columns and (row[span_columns[0]] or row[span_columns[1]]):
            span = _span(row[span_columns[0]], row[span_columns[1]], f"{file}, line {reader.line_num + 1}")
        yield reader.line_num + 1, row[path_column].strip(), row[label_column].strip(), span


def _span(start: str, end: str, where: str) -> tuple[float, float]:
    try:
        span = float(start or 0), float(end or "inf")
    except ValueError:
        span = math.nan, math.nan
    if not 0 <= span[0] < span[1]:
        raise ValueError(f"{where}: start {start!r} and end {end!r} must be seconds, 0 or more, that rise")
    return span


def _list_rows(lines: Iterable[str], file: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            path, _, label = line.strip().replace("\t", " ").rpartition(" ")
            if not path or not label.lstrip("-").isdecimal():
                raise ValueError(
                    f"{file}, line {number}: {line.strip()!r} is neither `path label` with a whole number "
                    "nor below a header line `path,label`"
                )
            yield number, path.strip(), label, WHOLE


def read_folders(folder: Path, root: Path, labels: Labels | None = None) -> Manifest:
    """Reads `folder/CLASS/**/video.*` of any video suffix, or images if there is no video; class order is alphabetical
    unless given."""
    files = sorted(_files_below(folder))
    for suffixes in (VIDEO_SUFFIXES, IMAGE_SUFFIXES):
        if chosen := [path for path in files if os.path.splitext(path)[1].lower() in suffixes]:
            break
    else:
        raise ValueError(
            f"{folder} holds neither train.csv and val.csv nor folders of videos or images named after classes "
            f"(suffixes: {' '.join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))})"
        )
    if len(chosen) < len(files):
        other = next(path for path in files if os.path.splitext(path)[1].lower() not in suffixes)
        what = "videos" if suffixes is VIDEO_SUFFIXES else "images"
        log.warning("%s: %d files are no %s and are left out, first %s", folder, len(files) - len(chosen), what, other)
    names = [path.split(os.sep, 1)[0] for path in chosen]
    texts = tuple(sorted(set(names)))
    index = {text: kind for kind, text in enumerate(texts)}
    prefix = os.path.relpath(folder, root)
    paths = Strings(os.path.normpath(os.path.join(prefix, path)) for path in chosen)
    kinds = np.array([index[name] for name in names], dtype=np.int32)
    rows = Rows(folder, paths, kinds, texts, np.arange(1, len(paths) + 1, dtype=np.int32))
    return _manifest(rows, labels or Labels(texts), "the training folders", root=root, multi_label=False)


def _files_below(folder: Path) -> Iterator[str]:
    """Paths, relative to `folder`, of the files in its subfolders; hidden ones are left out, links are followed."""
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(where, folder)
        if below != os.curdir:
            yield from (os.path.join(below, name) for name in files if not name.startswith("."))


def split_folders(everything: Manifest) -> dict[Split, Manifest]:
    """Takes every fifth video of a class for validation, at least one; which ones depends on their paths alone."""
    rows_of: dict[int, list[int]] = {}
    for row, kind in enumerate(everything.kinds.tolist()):
        rows_of.setdefault(kind, []).append(row)
    is_val = np.zeros(len(everything), dtype=bool)
    for rows in rows_of.values():
        rows.sort(key=lambda row: hashlib.sha256(everything.paths[row].encode(errors="surrogateescape")).digest())
        is_val[rows[: math.ceil(VAL_SHARE * len(rows))] if len(rows) > 1 else []] = True
    if not is_val.any():
        raise ValueError(f"{everything.root}: every class has a single video, none can be kept for validation")
    log.warning(
        "%s has no train/val split: %d of its %d videos are kept for validation",
        everything.root,
        is_val.sum(),
        len(everything),
    )
    return {"train": everything.take(np.flatnonzero(~is_val)), "val": everything.take(np.flatnonzero(is_val))}


def _check_summary(classes_file: Path, labels: Labels) -> None:
    """A class list that was changed after data_prep wrote the manifests gives every number in them another meaning."""
    summary = classes_file.with_name("summary.json")
    if not summary.exists():
        return
    try:
        written = json.loads(summary.read_text(encoding="utf-8"))["classes"]["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return  # not data_prep's
    if written != labels.fingerprint:
        raise ValueError(
            f"{classes_file} (fingerprint {labels.fingerprint}) is not the class list that the manifests beside it "
            f"were written with ({written}, in {summary.name}); restore it, or prepare the data again"
        )


def _labels_of(texts: Sequence[str]) -> Labels:
    """Class names from labels alone: numbers stand for themselves, 0 to the largest; names sort alphabetically."""
    names = {part for text in texts for part in text.split(LABEL_SEPARATOR) if part}
    if names and all(name.isdecimal() for name in names):
        largest = max(names, key=lambda name: (len(name), name))
        if len(largest) > len(str(MAX_NUMBER)):
            raise ValueError(f"label {largest:.40}: a class number is at most {MAX_NUMBER}")
        return Labels(tuple(str(i) for i in range(max(map(int, names)) + 1)))
    return Labels(tuple(sorted(names)))


def _targets(text: str, labels: Labels, *, multi_label: bool) -> tuple[int, ...] | None:
    """The class indices that a label stands for, None if it is not one."""
    found = []
    for part in text.split(LABEL_SEPARATOR) if multi_label and text not in labels.index else [text]:
        target = labels.index.get(part.strip(), int(part) if _is_number(part) else -1)
        if part and not 0 <= target < len(labels):
            return None
        if part:
            found.append(target)
    return tuple(dict.fromkeys(found)) if multi_label or found else None


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= len(str(MAX_NUMBER))


def _manifest(rows: Rows, labels: Labels, source: str, *, multi_label: bool, root: Path | None = None) -> Manifest:
    targets = [_targets(text, labels, multi_label=multi_label) for text in rows.texts]
    if unknown := [kind for kind, target in enumerate(targets) if target is None]:
        bad = np.flatnonzero(np.isin(rows.kinds, unknown)).tolist()
        listed = [
            f"line {rows.lines[row]}: {rows.paths[row]}: label {rows.texts[rows.kinds[row]]!r}"
            for row in bad[:MAX_LISTED]
        ]
        more = f"\n  ... and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
        raise ValueError(
            f"{rows.file}: {len(bad)} labels are not among the {len(labels)} classes of {source} "
            f"(names, or numbers 0 to {len(labels) - 1}):\n  " + "\n  ".join(listed).replace("''", "is empty") + more
        )
    known = cast(list[tuple[int, ...]], targets)
    return Manifest(root or rows.file.parent, rows.paths, rows.kinds, tuple(known), labels, multi_label, rows.spans)
