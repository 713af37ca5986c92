"""HMDB51: three official splits, one list per class and split."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.command import options, run
from data_prep.listing import Entry, Listing, Split, UserError, find_files, first_few, labels_from, read_lines

LIST_NAME = re.compile(r"(.+)_test_split([123])\.txt")
FLAGS: dict[str, Split | None] = {"0": None, "1": "train", "2": "val"}
EXPECTED: dict[Split, int] = {"train": 3570, "val": 1530}
NUM_CLASSES = 51


def main(argv: Sequence[str] | None = None) -> int:
    parser = options("hmdb51", __doc__)
    parser.add_argument(
        "--annotations", type=Path, metavar="FOLDER", help="of CLASS_test_split1.txt, ...; default: below ROOT"
    )
    return run("hmdb51", parser.parse_args(argv), list_hmdb51)


def list_hmdb51(arguments: argparse.Namespace) -> list[Listing]:
    """A listing per official split, in `split1` to `split3`; every file is probed once."""
    place = arguments.annotations or arguments.root
    lists = {tuple(match.groups()): file for file in place.rglob("*.txt") if (match := LIST_NAME.fullmatch(file.name))}
    if not lists:
        raise UserError(f"{place}: no CLASS_test_split1.txt lies in or below it; see --annotations")
    labels = labels_from(sorted({name for name, _ in lists}), place)
    found = find_files(arguments.root, without=[arguments.out])
    if not found and (archives := find_files(arguments.root, (".rar",))):
        raise UserError(f"{arguments.root}: holds no video but {len(archives)} .rar: extract them, `unrar x FILE`")
    files = {(path.parent.name, path.stem): path for path in found}
    listings = []
    for number in "123":
        entries = []
        for label in labels.names:
            if (label, number) not in lists:
                raise UserError(f"{place}: {label}_test_split{number}.txt is missing")
            for stem, split in read_list(lists[label, number]):
                entries.append(Entry(f"{label}/{stem}", split, label, files.get((label, stem))))
        unused = sorted({f"{label}/{stem}" for label, stem in files} - {entry.video_id for entry in entries})
        notes = [f"{len(unused):,} files are used in neither split: {first_few(unused)}"] if unused else []
        folder, counts = f"split{number}", {"official": EXPECTED}
        listings.append(Listing(tuple(entries), labels, counts, NUM_CLASSES, notes=tuple(notes), folder=folder))
    return listings


def read_list(file: Path) -> list[tuple[str, Split]]:
    """(file name without suffix, split) of lines `name.avi FLAG`: 0 unused, 1 train, 2 test."""
    rows = []
    for number, line in read_lines(file):
        name, _, flag = line.rpartition(" ")
        if flag not in FLAGS or not name.strip():
            raise UserError(f"{file}, line {number}: {line!r} is not `FILE FLAG` with flag 0, 1 or 2")
        if split := FLAGS[flag]:
            rows.append((Path(name.strip()).stem, split))
    return rows


if __name__ == "__main__":
    sys.exit(main())
