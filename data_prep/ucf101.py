"""UCF101: three official splits, in which no group of clips is on both sides."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.command import options, run
from data_prep.listing import Entry, Listing, Split, UserError, find_files, find_one, first_few, labels_from, read_lines
from mvit_train.labels import Labels

EXPECTED: dict[int, dict[Split, int]] = {
    1: {"train": 9537, "val": 3783},
    2: {"train": 9586, "val": 3734},
    3: {"train": 9624, "val": 3696},
}
NUM_CLASSES = 101
GROUP = re.compile(r"(.*_g\d+)_c\d+")


def main(argv: Sequence[str] | None = None) -> int:
    parser = options("ucf101", __doc__)
    parser.add_argument(
        "--annotations", type=Path, metavar="FOLDER", help="of classInd.txt, trainlist01.txt, ...; default: below ROOT"
    )
    return run("ucf101", parser.parse_args(argv), list_ucf101)


def list_ucf101(arguments: argparse.Namespace) -> list[Listing]:
    """A listing per official split, in `split1` to `split3`; every file is probed once."""
    places = [arguments.annotations or arguments.root]
    labels = read_classes(find_one(places, ["classInd.txt"], "the class list"))
    found = find_files(arguments.root, without=[arguments.out])
    files = {path.stem.casefold(): path for path in found}  # lists and files differ in case: HandstandPushups
    listings = []
    for number, expected in EXPECTED.items():
        names: dict[Split, str] = {"train": f"trainlist0{number}.txt", "val": f"testlist0{number}.txt"}
        entries = [
            Entry(Path(name).stem, split, label, files.get(Path(name).stem.casefold()))
            for split, file in names.items()
            for name, label in read_list(find_one(places, [file], f"split {number}"), labels)
        ]
        listed = {entry.path for entry in entries}
        unlisted = [path for path in found if path not in listed]
        notes = [f"{len(unlisted):,} files are in no list: {first_few(unlisted)}"] if unlisted else []
        notes += crossing_groups(entries)
        folder, counts = f"split{number}", {"official": expected}
        listings.append(Listing(tuple(entries), labels, counts, NUM_CLASSES, notes=tuple(notes), folder=folder))
    return listings


def read_classes(file: Path) -> Labels:
    """Lines such as `1 ApplyEyeMakeup`, counted from 1."""
    names = []
    for number, line in read_lines(file):
        index, _, name = line.partition(" ")
        if index != str(len(names) + 1) or not name:
            raise UserError(f"{file}, line {number}: {line!r} is not `{len(names) + 1} CLASS`")
        names.append(name.strip())
    return labels_from(names, file)


def read_list(file: Path, labels: Labels) -> list[tuple[str, str]]:
    """(path, class) of lines `Class/v_Class_g08_c01.avi 1`, or without the number."""
    rows = []
    for number, line in read_lines(file):
        name, _, index = line.partition(" ")
        label = name.partition("/")[0]
        if label not in labels.index:
            raise UserError(f"{file}, line {number}: {label!r} is none of the {len(labels)} classes of classInd.txt")
        if index and index.strip() != str(labels.index[label] + 1):
            raise UserError(f"{file}, line {number}: {label} has number {labels.index[label] + 1}, not {index.strip()}")
        rows.append((name, label))
    return rows


def crossing_groups(entries: Sequence[Entry]) -> list[str]:
    """Clips `_g08_c01`, `_g08_c02` are of one recording; the official splits keep them together."""
    splits: dict[str, set[str]] = {}
    for entry in entries:
        if match := GROUP.fullmatch(entry.video_id):
            splits.setdefault(match[1], set()).add(entry.split)
    crossing = sorted(group for group, both in splits.items() if len(both) > 1)
    return [f"{len(crossing):,} groups are in train and val: {first_few(crossing)}"] if crossing else []


if __name__ == "__main__":
    sys.exit(main())
