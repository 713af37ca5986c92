"""Charades: several actions a video, with times."""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.command import options, run
from data_prep.listing import (
    SEPARATOR,
    Entry,
    Listing,
    Split,
    UserError,
    find_files,
    find_one,
    first_few,
    labels_from,
    read_lines,
    read_text,
)

FILES: dict[Split, str] = {"train": "Charades_v1_train.csv", "val": "Charades_v1_test.csv"}
EXPECTED: dict[Split, int] = {"train": 7985, "val": 1863}
NUM_CLASSES = 157


def main(argv: Sequence[str] | None = None) -> int:
    parser = options("charades", __doc__)
    parser.add_argument(
        "--annotations", type=Path, metavar="FOLDER", help="of Charades_v1_train.csv, ...; default: below ROOT"
    )
    return run("charades", parser.parse_args(argv), lambda arguments: [list_charades(arguments)])


def list_charades(arguments: argparse.Namespace) -> Listing:
    """One entry per video: its distinct classes joined by ";" (none: a negative for all), its actions as segments."""
    places = [arguments.annotations or arguments.root]
    classes = find_one(places, ["Charades_v1_classes.txt"], "the class list")
    codes = read_classes(classes)
    labels = labels_from(codes.values(), classes)
    files = {path.stem: path for path in find_files(arguments.root, without=[arguments.out])}
    entries: list[Entry] = []
    clamped = 0
    for split, name in FILES.items():
        for video_id, segments, late in read_actions(find_one(places, [name], split), codes):
            clamped += late
            label = SEPARATOR.join(sorted({segment[0] for segment in segments}, key=labels.index.__getitem__))
            entries.append(Entry(video_id, split, label, files.get(video_id), segments=segments))
    notes = [f"{clamped:,} actions end after their video: cut to its length"] if clamped else []
    ids = {entry.video_id for entry in entries}
    if unlisted := [path for stem, path in files.items() if stem not in ids]:
        notes.append(f"{len(unlisted):,} files are in no annotation: {first_few(unlisted)}")
    return Listing(tuple(entries), labels, {"annotated": EXPECTED}, NUM_CLASSES, notes=tuple(notes))


def read_classes(file: Path) -> dict[str, str]:
    """code -> name in the order of the codes, from lines such as `c000 Holding some clothes`."""
    codes: dict[str, str] = {}
    for number, line in read_lines(file):
        code, _, name = line.partition(" ")
        if code != f"c{len(codes):03d}" or not name.strip():
            raise UserError(f"{file}, line {number}: {line!r} is not `c{len(codes):03d} NAME`")
        if SEPARATOR in name:
            raise UserError(f"{file}, line {number}: {name!r} holds {SEPARATOR!r}, which separates classes")
        codes[code] = name.strip()
    return codes


def read_actions(file: Path, codes: dict[str, str]) -> list[tuple[str, tuple[tuple[str, float, float], ...], int]]:
    """(id, segments, how many were cut to the length) of every row; `actions` is `c092 11.90 21.20;c147 0.00 12.60`."""
    reader = csv.DictReader(read_text(file).splitlines())
    if lacking := {"id", "actions", "length"} - set(reader.fieldnames or ()):
        raise UserError(f"{file}: has no column {', '.join(sorted(lacking))}")
    found = []
    for row in reader:
        segments, late = [], 0
        try:
            length = float(row["length"])
            for action in filter(None, (row["actions"] or "").split(SEPARATOR)):
                code, start, end = action.split()
                late += float(end) > length
                segments.append((codes[code], min(float(start), length), min(float(end), length)))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{file}, line {reader.line_num}: {row['id']}: actions {row['actions']!r:.80} with length "
                f"{row['length']!r} are not `CODE START END;...` and seconds ({error})"
            ) from error
        found.append((row["id"], tuple(segments), late))
    return found


if __name__ == "__main__":
    sys.exit(main())
