"""Which videos there are and what they show: manifests, PyTorchVideo's lists and class folders."""

import csv
import hashlib
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from mvit_train.labels import Labels, fingerprint

log = logging.getLogger(__name__)

Split = Literal["train", "val"]
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv", ".3gp")
)
VAL_SHARE = 0.2
MAX_LISTED = 10


@dataclass(frozen=True)
class Manifest:
    """One split: paths below `root` (or absolute ones), their class indices, and the classes' names."""

    root: Path
    paths: tuple[str, ...]
    targets: tuple[int, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the videos and their class names, in any order."""
        return fingerprint(
            sorted(f"{path}\t{self.labels.names[t]}" for path, t in zip(self.paths, self.targets, strict=True))
        )


def read_splits(root: Path) -> dict[Split, Manifest]:
    """Finds both splits below `root`; the first of these that is there counts:

    1. `train.csv` and `val.csv`: manifests (`path,label` with that header) or PyTorchVideo's `path label` lists;
       `classes.txt` beside them fixes the class order.
    2. `train/CLASS/...` and `val/CLASS/...`: class folders.
    3. `CLASS/...`: class folders of which every fifth video of a class, chosen by a hash of its path, validates.

    Raises ValueError naming the file, line and value of what cannot be understood.
    """
    if not root.is_dir():
        raise ValueError(f"data.root: {root} is not a folder")
    files = {split: root / f"{split}.csv" for split in ("train", "val")}
    if any(file.exists() for file in files.values()):
        if missing := [file.name for file in files.values() if not file.exists()]:
            raise ValueError(f"{root} has no {missing[0]} beside its other split")
        return read_lists(files["train"], files["val"])
    if (root / "train").is_dir() and (root / "val").is_dir():
        train = read_folders(root / "train", root)
        return {"train": train, "val": read_folders(root / "val", root, train.labels)}
    return split_folders(read_folders(root, root))


def read_lists(train: Path, val: Path) -> dict[Split, Manifest]:
    """Reads two list files that share one class list."""
    rows = {"train": read_rows(train), "val": read_rows(val)}
    classes_file = train.parent / "classes.txt"
    if classes_file.exists():
        labels, source = Labels.read(classes_file), str(classes_file)
    else:
        labels, source = _labels_of([label for _, _, label in rows["train"]]), f"the labels of {train}"
    return {
        "train": _manifest(train, rows["train"], labels, source),
        "val": _manifest(val, rows["val"], labels, source),
    }


def read_rows(file: Path) -> list[tuple[int, str, str]]:
    """(line number, path, label) of every row of a manifest or of a `path label` list."""
    with file.open(encoding="utf-8", newline="") as stream:
        lines = stream.read().splitlines()
    header = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    if {"path", "label"} <= set(header):
        reader = csv.DictReader(lines[1:], fieldnames=header)
        rows = [(reader.line_num + 1, (row["path"] or "").strip(), (row["label"] or "").strip()) for row in reader]
    elif "label" in header and len(header) > 1:
        raise ValueError(f"{file}: the header {','.join(header)} has no `path` column, so this is no manifest")
    else:
        parts = [(number, line.rsplit(None, 1)) for number, line in enumerate(lines, 1) if line.strip()]
        bad = [number for number, part in parts if len(part) != 2 or not part[1].lstrip("-").isdigit()]
        if bad:
            raise ValueError(
                f"{file}, line {bad[0]}: {lines[bad[0] - 1]!r} is neither `path label` with a whole number "
                "nor below a header line `path,label`"
            )
        rows = [(number, path, label) for number, (path, label) in parts]
    if not rows:
        raise ValueError(f"{file} lists no video")
    if empty := [number for number, path, label in rows if not path or not label]:
        raise ValueError(f"{file}, line {empty[0]}: path or label is empty")
    return rows


def read_folders(folder: Path, root: Path, labels: Labels | None = None) -> Manifest:
    """Reads `folder/CLASS/**/video.*` of any video suffix; class order is alphabetical unless given."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file() and not path.name.startswith("."))
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise ValueError(
            f"{folder} holds neither train.csv and val.csv nor folders of videos named after classes "
            f"(suffixes: {' '.join(sorted(VIDEO_SUFFIXES))})"
        )
    if len(videos) < len(files):
        others = [path for path in files if path.suffix.lower() not in VIDEO_SUFFIXES]
        log.warning("%s: %d files are no videos and are left out, first %s", folder, len(others), others[0])
    names = [path.relative_to(folder).parts[0] for path in videos]
    labels = labels or Labels(tuple(sorted(set(names))))
    rows = [(0, str(path.relative_to(root)), name) for path, name in zip(videos, names, strict=True)]
    return _manifest(folder, rows, labels, "the training folders", root)


def split_folders(everything: Manifest) -> dict[Split, Manifest]:
    """Takes every fifth video of a class for validation, at least one; which ones depends on their paths alone."""
    val: set[str] = set()
    for target in set(everything.targets):
        paths = [path for path, t in zip(everything.paths, everything.targets, strict=True) if t == target]
        paths.sort(key=lambda path: hashlib.sha256(path.encode()).digest())
        val.update(paths[: math.ceil(VAL_SHARE * len(paths))] if len(paths) > 1 else ())
    if not val:
        raise ValueError(f"{everything.root}: every class has a single video, none can be kept for validation")
    log.warning(
        "%s has no train/val split: %d of its %d videos are kept for validation",
        everything.root,
        len(val),
        len(everything),
    )
    return {
        "train": _subset(everything, lambda path: path not in val),
        "val": _subset(everything, lambda path: path in val),
    }


def _subset(manifest: Manifest, keep) -> Manifest:
    kept = [(path, t) for path, t in zip(manifest.paths, manifest.targets, strict=True) if keep(path)]
    return Manifest(manifest.root, tuple(path for path, _ in kept), tuple(t for _, t in kept), manifest.labels)


def _labels_of(values: list[str]) -> Labels:
    """Class names from labels alone: numbers stand for themselves, 0 to the largest; names sort alphabetically."""
    if all(value.isdigit() for value in values):
        return Labels(tuple(str(i) for i in range(max(map(int, values)) + 1)))
    return Labels(tuple(sorted(set(values))))


def _manifest(
    file: Path, rows: list[tuple[int, str, str]], labels: Labels, source: str, root: Path | None = None
) -> Manifest:
    targets, mistakes = [], []
    for number, path, label in rows:
        target = labels.index.get(label, int(label) if label.isdigit() else -1)
        if not 0 <= target < len(labels):
            mistakes.append(f"line {number}: {path}: label {label!r}")
        targets.append(target)
    if mistakes:
        more = f"\n  ... and {len(mistakes) - MAX_LISTED} more" if len(mistakes) > MAX_LISTED else ""
        raise ValueError(
            f"{file}: {len(mistakes)} labels are not among the {len(labels)} classes of {source} "
            f"(names, or numbers 0 to {len(labels) - 1}):\n  " + "\n  ".join(mistakes[:MAX_LISTED]) + more
        )
    return Manifest(root or file.parent, tuple(path for _, path, _ in rows), tuple(targets), labels)
