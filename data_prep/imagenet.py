"""ImageNet-1k: folders of synsets, and a validation set in folders or flat with a list of labels."""

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.command import options, run
from data_prep.listing import Entry, Listing, Split, UserError, find_files, first_few, labels_from, read_lines
from data_prep.probe import IMAGE_SUFFIXES
from mvit_train.labels import Labels

SYNSET = re.compile(r"n\d{8}")
EXPECTED: dict[Split, int] = {"train": 1281167, "val": 50000}
NUM_CLASSES = 1000
VAL_LABELS = ("LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt")


def main(argv: Sequence[str] | None = None) -> int:
    parser = options("imagenet", __doc__)
    parser.add_argument(
        "--val-labels",
        type=Path,
        metavar="FILE",
        help=f"of a flat val folder: {VAL_LABELS[0]}, or one synset a line in the order of the files; default: in ROOT",
    )
    return run("imagenet", parser.parse_args(argv), lambda arguments: [list_imagenet(arguments)])


def list_imagenet(arguments: argparse.Namespace) -> Listing:
    """One entry per image of ROOT/train and ROOT/val; classes are the sorted synset ids."""
    train, strangers = in_folders(arguments.root / "train", "train")
    val, flat = in_folders(arguments.root / "val", "val")
    labels = labels_from(sorted({entry.label for entry in train}), arguments.root / "train")
    notes = [f"{len(strangers):,} images lie in no folder of a synset: {first_few(strangers)}"] if strangers else []
    if flat:
        val += flat_images(flat, val_labels(arguments.root, arguments.val_labels), labels)
    if odd := [entry for entry in val if entry.label not in labels.index]:
        raise UserError(f"{odd[0].path}: {odd[0].label} is none of the {len(labels)} classes of train")
    per_class = dict.fromkeys(labels.names, 0)
    for entry in val:
        per_class[entry.label] += 1
    if uneven := [name for name, count in per_class.items() if count != 50]:
        notes.append(
            f"val: {len(uneven):,} classes do not have 50 images, first {uneven[0]} with {per_class[uneven[0]]}"
        )
    return Listing((*train, *val), labels, {"annotated": EXPECTED}, NUM_CLASSES, notes=tuple(notes))


def in_folders(folder: Path, split: Split) -> tuple[list[Entry], list[Path]]:
    """Images of `folder/n########/`, and those that lie elsewhere below it."""
    entries, others = [], []
    for path in find_files(folder, IMAGE_SUFFIXES):
        if SYNSET.fullmatch(path.parent.name):
            entries.append(Entry(path.stem, split, path.parent.name, path))
        else:
            others.append(path)
    return entries, others


def val_labels(root: Path, given: Path | None) -> Path:
    for file in [given] if given else [root / name for name in VAL_LABELS]:
        if file.is_file():
            return file
    raise UserError(
        f"{root / 'val'}: its images lie in no synset folders, and {given or ' or '.join(VAL_LABELS)} is not there: "
        "give --val-labels (the devkit's ground truth numbers classes in another order and will not do)"
    )


def flat_images(paths: Sequence[Path], file: Path, labels: Labels) -> list[Entry]:
    """Labels of flat images: by name from Kaggle's csv, else by place from a list of synsets."""
    lines = read_lines(file)
    if lines and lines[0][1].startswith("ImageId"):
        rows = csv.DictReader(line for _, line in lines)
        by_name = {row["ImageId"]: (row["PredictionString"] or "").partition(" ")[0] for row in rows}
    else:
        if len(lines) != len(paths):
            raise UserError(f"{file}: {len(lines):,} lines for {len(paths):,} images: which is whose cannot be told")
        by_name = {path.stem: line for path, (_, line) in zip(paths, lines, strict=True)}
    entries = []
    for path in paths:
        label = by_name.get(path.stem)
        if label not in labels.index:
            raise UserError(f"{file}: {path.name} has the label {label!r}, none of the {len(labels)} synsets of train")
        entries.append(Entry(path.stem, "val", label, path))
    return entries


if __name__ == "__main__":
    sys.exit(main())
