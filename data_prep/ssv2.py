"""Something-Something V2: webm videos named by number, labels by template."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.command import options, run
from data_prep.listing import (
    Entry,
    Listing,
    Split,
    UserError,
    find_files,
    find_one,
    first_few,
    labels_from,
    read_text,
)
from mvit_train.labels import Labels

FILES: dict[Split, str] = {"train": "train.json", "val": "validation.json", "test": "test.json"}
EXPECTED: dict[Split, int] = {"train": 168913, "val": 24777, "test": 27157}
NUM_CLASSES = 174
PREFIX = "something-something-v2-"  # of the same files in later downloads


def main(argv: Sequence[str] | None = None) -> int:
    parser = options("ssv2", __doc__)
    parser.add_argument(
        "--annotations", type=Path, metavar="FOLDER", help="of labels.json, train.json, ...; default: below ROOT"
    )
    return run("ssv2", parser.parse_args(argv), lambda arguments: [list_ssv2(arguments)])


def list_ssv2(arguments: argparse.Namespace) -> Listing:
    """One entry per annotated id of the splits whose json is there; test ids have no label."""
    places = [arguments.annotations or arguments.root]
    labels = read_labels(find_one(places, ["labels.json", f"{PREFIX}labels.json"], "the class list"))
    files = {path.stem: path for path in find_files(arguments.root, (".webm", ".mp4"), without=[arguments.out])}
    entries: list[Entry] = []
    notes: list[str] = []
    split_of: dict[str, Split] = {}
    for split, name in FILES.items():
        try:
            file = find_one(places, [name, PREFIX + name], split)
        except UserError:
            if split != "test":
                raise
            continue
        listed = [Entry(*row, files.get(row[0])) for row in read_annotations(file, split, labels)]
        if split == "test" and not any(entry.path for entry in listed):
            notes.append(f"test: {len(listed):,} ids are listed, but no file of them is there: left out")
            continue
        for entry in listed:
            if entry.video_id in split_of:
                raise UserError(f"{file}: id {entry.video_id} is in {split_of[entry.video_id]} already")
            split_of[entry.video_id] = split
        entries += listed
    if unlisted := [path for stem, path in files.items() if stem not in split_of]:
        notes.append(f"{len(unlisted):,} files are in none of the lists: {first_few(unlisted)}")
    return Listing(tuple(entries), labels, {"annotated": EXPECTED}, NUM_CLASSES, notes=tuple(notes))


def read_labels(file: Path) -> Labels:
    """`{"Approaching something with your camera": "0", ...}` in the order of the numbers, which are strings there."""
    table = _read_json(file, dict)
    try:
        names = {int(index): str(name) for name, index in table.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: not every class has a number: {error}") from error
    if sorted(names) != list(range(len(table))):
        raise UserError(f"{file}: the numbers of its {len(table)} classes are not 0 to {len(table) - 1}, each once")
    return labels_from((names[index] for index in sorted(names)), file)


def read_annotations(file: Path, split: Split, labels: Labels) -> list[tuple[str, Split, str]]:
    """(id, split, class) of every row. The class is the template without its brackets."""
    rows = []
    for number, row in enumerate(_read_json(file, list), 1):
        video_id = str(row.get("id", "")) if isinstance(row, dict) else ""
        if not video_id.isdigit():
            raise UserError(f"{file}, entry {number}: {row!r:.80} has no id that is a number")
        label = str(row.get("template", "")).replace("[", "").replace("]", "")
        if label not in labels.index and (label or split != "test"):
            raise UserError(
                f"{file}, entry {number}: template {label!r} of {video_id} is none of the {len(labels)} classes"
            )
        rows.append((video_id, split, label))
    return rows


def _read_json(file: Path, kind: type) -> Any:
    try:
        value = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: no JSON: {error.msg}") from error
    if not isinstance(value, kind):
        raise UserError(f"{file}: holds a {type(value).__name__}, expected is a {kind.__name__}")
    return value


if __name__ == "__main__":
    sys.exit(main())
