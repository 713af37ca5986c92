"""Kinetics-400, -600, -700, -700-2020: CVDF's folders with annotations, class folders, replaced videos."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.command import options, run
from data_prep.kinetics_annotations import (
    CLIP_NAME,
    Annotation,
    class_of_folder,
    find_annotations,
    plain_label,
    read_annotations,
)
from data_prep.kinetics_replacements import find_replacements
from data_prep.listing import SPLITS, Entry, Listing, Split, UserError, find_files, first_few, labels_from, read_lines
from mvit_train.labels import Labels

CLASSES = {"k400": 400, "k600": 600, "k700": 700, "k700-2020": 700}
# Videos by train/val/test. Annotated: the official files. The copies: kinetics-dataset#51, FiftyOne, and what the
# papers' code bases state. Kinetics-600's and -700's annotated counts are approximate.
EXPECTED: dict[str, dict[str, Sequence[int]]] = {
    "k400": {
        "annotated": (246534, 19906, 39805),
        "the CVDF copy": (241258, 19881, 38685),
        "the non-local copy": (234643, 19761),
        "the archived non-local copy": (234584, 19760),
        "mmaction2's copy": (240436, 19796),
    },
    "k600": {
        "annotated (about)": (392622, 30001, 60000),
        "FiftyOne's list": (370582, 28313, 56618),
        "the CVDF copy": (427549, 29793, 72924),
        "mmaction2's copy": (383393, 27910),
        "VideoMAEv2's copy": (366006, 27935),
    },
    "k700": {"annotated (about)": (545000, 35000, 70000), "mmaction2's copy": (542357, 34824)},
    "k700-2020": {"annotated": (542352, 34125, 67433), "the CVDF copy": (534073, 33914, 64260)},
}
USUAL_SEC = (8.0, 11.0)
SPLIT_FOLDER = re.compile(r"(?:\w*[_-])?(train|val|valid|validation|test)(?:[_-]\w*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A file named after a YouTube id."""

    path: Path
    video_id: str
    times: tuple[int, int] | None
    split: Split | None  # None: no folder says so
    folder: str  # the class, if it lies in a folder of one; else ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = options("kinetics", __doc__)
    parser.add_argument("--set", choices=[*CLASSES], default="k400", help="default %(default)s")
    parser.add_argument(
        "--annotations", type=Path, metavar="PATH", help="folder or file of the csv; default: ROOT/annotations, ROOT"
    )
    parser.add_argument(
        "--replacement", type=Path, metavar="PATH", help="folder or .tgz of replaced videos; default: found below ROOT"
    )
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names in score order; default: sorted")
    return run("kinetics", parser.parse_args(argv), lambda arguments: [list_kinetics(arguments)])


def list_kinetics(arguments: argparse.Namespace) -> Listing:
    """Joins the annotations, if there are any, with the files by id and times, else lists the class folders."""
    root, out = arguments.root, arguments.out
    replacements = find_replacements(root, out, arguments.replacement)
    files, strangers = find_clips(root, without=[out, *replacements.folders])
    if not files and not replacements.files:
        raise UserError(f"{root}: no file named after a YouTube id, such as ID_000010_000020.mp4 or ID.mp4, lies there")
    usual = [root / "annotations", *([root] if root != out else []), root.parent / "annotations"]
    places = [arguments.annotations] if arguments.annotations else usual
    # Kinetics-600's csv files are incomplete (kinetics-dataset#33).
    chosen = find_annotations(places, ".txt" if arguments.set == "k600" else ".csv")
    annotated: dict[Split, list[Annotation]] = {split: read_annotations(file) for split, file in chosen.items()}
    if arguments.annotations and not annotated:
        raise UserError(f"--annotations {arguments.annotations}: no train, val or test .csv or .txt there")
    notes = [f"{len(strangers):,} files are not named after a YouTube id: {first_few(strangers)}"] if strangers else []
    if annotated:
        entries, labels = join(annotated, files, replacements.files, arguments.classes, notes)
    else:
        entries, labels = from_class_folders(files, replacements.files, arguments.classes, root)
    expected = {whose: dict(zip(SPLITS, counts, strict=False)) for whose, counts in EXPECTED[arguments.set].items()}
    num_classes = CLASSES[arguments.set]
    return Listing(tuple(entries), labels, expected, num_classes, USUAL_SEC, tuple(notes))


def find_clips(root: Path, without: Sequence[Path]) -> tuple[list[Found], list[Path]]:
    """The videos below `root`, and those whose name is no id."""
    found, strangers = [], []
    for path in find_files(root, without=without):
        match = CLIP_NAME.fullmatch(path.stem)
        folders = path.relative_to(root).parts[:-1]
        place = next((i for i, name in enumerate(folders) if SPLIT_FOLDER.fullmatch(name)), None)
        if match is None:
            strangers.append(path)
            continue
        # A copy of one split alone names it in the root itself.
        word = SPLIT_FOLDER.fullmatch(folders[place] if place is not None else root.name)
        split: Split = (
            "train" if word is None else "val" if word[1][0] in "vV" else "test" if word[1][1] in "eE" else "train"
        )
        inside = folders[place + 1 :] if place is not None else folders
        times = (int(match[2]), int(match[3])) if match[2] else None
        found.append(Found(path, match[1], times, split, inside[-1] if inside else ""))
    return found, strangers


def join(
    annotated: dict[Split, list[Annotation]],
    files: Sequence[Found],
    replaced: Sequence[Path],
    classes: Path | None,
    notes: list[str],
) -> tuple[list[Entry], Labels]:
    """One entry per annotation. A row takes the replacement of its clip; else its file in the folder of its split; else
    one that has the times of no other row of this id; else one without times."""
    labels = _class_list(annotated, classes)
    by_clip: dict[tuple, Path] = {}
    by_id: dict[tuple, Path] = {}
    for file in files:
        key = (file.video_id, *file.times) if file.times else (file.video_id,)
        by_clip.setdefault((file.split, *key), file.path)
        by_clip.setdefault(("", *key), file.path)
        by_id.setdefault((file.split, file.video_id), file.path)
    fresh = {path.stem: path for path in replaced} | {path.stem[:11]: path for path in replaced}
    there = {file.split for file in files} or set(annotated)
    taken: set[Path] = set()
    entries = []
    for split, rows in annotated.items():
        if split not in there:
            notes.append(f"{split}: {len(rows):,} videos are annotated, but no file of this split is there: left out")
            continue
        clips = {row.clip for row in rows}
        for row in rows:
            path = _file_of(row, split, by_clip, by_id, clips)
            new = fresh.get(row.video_id) if path is not None or split == "train" else None
            taken.update(file for file in (path, new) if file)
            label = _class_of(row, labels, split)
            entries.append(
                Entry(row.video_id, split, label, new or path, row.time_start, row.time_end, new is not None)
            )
    extra = [file for file in files if file.path not in taken and file.split in annotated]
    if extra:
        notes.append(
            f"{len(extra):,} files have no annotation and are left out: {first_few(file.path for file in extra)}"
        )
    return entries, labels


def _file_of(row: Annotation, split: Split, by_clip: dict, by_id: dict, clips: set) -> Path | None:
    if row.clip:
        for key in ((split, *row.clip), (split, row.video_id), ("", *row.clip), ("", row.video_id)):
            if key in by_clip:
                return by_clip[key]
    path = by_id.get((split, row.video_id))
    match = CLIP_NAME.fullmatch(path.stem) if path else None
    # kinetics-dataset#39: some files carry other times than their row; they are its only if no other row claims them.
    claimed = match and match[2] and (match[1], int(match[2]), int(match[3])) in clips
    return None if claimed else path


def from_class_folders(
    files: Sequence[Found], replaced: Sequence[Path], classes: Path | None, root: Path
) -> tuple[list[Entry], Labels]:
    """One entry per file in `train/CLASS/` and so on, with `_` for the blanks of a class."""
    if flat := [file.path for file in files if not file.folder]:
        raise UserError(
            f"{root}: {len(flat):,} files lie in no folder of a class, such as {flat[0]}, and there is no annotation "
            "csv: give --annotations"
        )
    names = {class_of_folder(file.folder) for file in files}
    labels = labels_from(_names(classes) if classes else sorted(names), classes or root)
    by_id = {path.stem[:11]: path for path in replaced}
    entries = []
    for file in files:
        if file.split is None:
            raise UserError(f"{file.path}: no folder below {root} says train, val or test; see data_prep.folder")
        name = class_of_folder(file.folder)
        if (name := _among(name, labels)) is None:
            raise UserError(
                f"{file.path}: its folder {file.folder!r} is none of the {len(labels)} classes of {classes}"
            )
        new = by_id.get(file.video_id)
        times = [str(time) for time in file.times or ("", "")]
        entries.append(Entry(file.video_id, file.split, name, new or file.path, *times, replaced=new is not None))
    return sorted(entries, key=lambda entry: (entry.split, entry.label, str(entry.path))), labels


def _class_list(annotated: dict[Split, list[Annotation]], classes: Path | None) -> Labels:
    """The given names, else those of the training rows (of all, if there are none), sorted as official."""
    if classes:
        return labels_from(_names(classes), classes)
    rows = annotated.get("train") or [row for rows in annotated.values() for row in rows]
    counts = Counter(row.label for row in rows if row.label)
    spelt: dict[str, str] = {}  # the most frequent spelling of each
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        spelt.setdefault(name.casefold(), name)
    return labels_from(sorted(spelt.values()), "the annotations")


def _class_of(row: Annotation, labels: Labels, split: Split) -> str:
    if not row.label and split == "test":
        return ""
    name = _among(row.label, labels)
    if name is None:
        raise UserError(f"{row.where}: label {row.label!r} of {row.video_id} is none of the {len(labels)} classes")
    return name


def _among(name: str, labels: Labels) -> str | None:
    """`name`, or the class that it is but for upper and lower case, as Kinetics-700 writes `american`."""
    if name in labels.index:
        return name
    return next((known for known in labels.names if known.casefold() == name.casefold()), None)


def _names(file: Path) -> list[str]:
    return [plain_label(line) for _, line in read_lines(file)]


if __name__ == "__main__":
    sys.exit(main())
