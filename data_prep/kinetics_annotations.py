"""Kinetics annotations: csv files in the spellings that are about, and the text lists of Kinetics-600."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_prep.listing import SPLITS, Split, UserError, read_text

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
CLIP_NAME = re.compile(r"([A-Za-z0-9_-]{11})(?:_(\d+)_(\d+))?")  # the id may hold or begin with `-` and `_`
COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


@dataclass(frozen=True)
class Annotation:
    """One row: a clip of 10 seconds of a YouTube video."""

    video_id: str
    label: str  # as written, without quotes; "" for a test set without labels
    time_start: str  # whole seconds, or "" if not stated
    time_end: str
    where: str = field(default="", compare=False)  # file and line

    @property
    def clip(self) -> tuple[str, int, int] | None:
        """What a file of it is named after."""
        return (self.video_id, int(self.time_start), int(self.time_end)) if self.time_start and self.time_end else None


def find_annotations(places: Iterable[Path], preferred: str) -> dict[Split, Path]:
    """The annotation file of each split in the first place that has any: `train.csv`, `kinetics-400_train.csv`,
    `train.txt`; the shortest name with the preferred suffix."""
    for place in places:
        files = [place] if place.is_file() else sorted(place.glob("*")) if place.is_dir() else []
        found: dict[Split, Path] = {}
        for split in SPLITS:
            words = {"val": "val|validate|validation"}.get(split, split)
            pattern = re.compile(rf"(?:.*[_-])?(?:{words})(?:[_-].*)?\.(txt|csv)")
            fitting = [file for file in files if pattern.fullmatch(file.name) and "path" not in file.stem]
            if fitting:
                found[split] = min(fitting, key=lambda file: (file.suffix != preferred, len(file.name), file.name))
        if found:
            return found
    return {}


def read_annotations(file: Path) -> list[Annotation]:
    """Rows of a csv with the header `label,youtube_id,time_start,time_end,split[,is_cc]` (test: perhaps no label), the
    same without header, or a list `path label`. Raises UserError with file and line for what is none of these."""
    lines = read_text(file).splitlines()
    rows = [(number, row) for number, row in enumerate(csv.reader(lines, skipinitialspace=True), 1) if any(row)]
    if not rows:
        raise UserError(f"{file} has no row")
    header = [name.strip().lower() for name in rows[0][1]]
    if "youtube_id" in header:
        return [_from_columns(dict(zip(header, row, strict=False)), file, number) for number, row in rows[1:]]
    if all(len(row) == 1 for _, row in rows):
        return [_from_list(row[0], file, number) for number, row in rows]
    columns = COLUMNS if len(rows[0][1]) >= len(COLUMNS) else COLUMNS[1:]
    return [_from_columns(dict(zip(columns, row, strict=False)), file, number) for number, row in rows]


def _from_columns(row: dict[str, str], file: Path, number: int) -> Annotation:
    video_id = row.get("youtube_id", "").strip()
    if not YOUTUBE_ID.fullmatch(video_id):
        raise UserError(f"{file}, line {number}: {video_id!r} is not a YouTube id of 11 characters A-Z a-z 0-9 _ -")
    times = [_seconds(row.get(name, ""), name, file, number) for name in ("time_start", "time_end")]
    return Annotation(video_id, plain_label(row.get("label", "")), *times, where=f"{file}, line {number}")


def _from_list(line: str, file: Path, number: int) -> Annotation:
    """`train/abseiling/--abc-_defg_000012_000022.mp4 abseiling`, or the path alone in a folder of its class."""
    path, _, label = line.partition(" ")
    match = CLIP_NAME.fullmatch(PurePosixPath(path).stem)
    if match is None:
        raise UserError(f"{file}, line {number}: {line!r} has neither the column youtube_id nor a path named after one")
    times = [str(int(time)) if time else "" for time in match.groups()[1:]]
    by_name = label and not label.isdigit()  # a number means nothing without the list it counts in
    label = label if by_name else class_of_folder(PurePosixPath(path).parent.name)
    return Annotation(match[1], plain_label(label), *times, where=f"{file}, line {number}")


def plain_label(text: str) -> str:
    """Without the quotes that some files leave in: `"massaging person's head"` twice quoted is one class."""
    return " ".join(text.replace('"', "").split())


def class_of_folder(name: str) -> str:
    """`playing_guitar` -> `playing guitar`: no class has an underscore, so this is exact."""
    return " ".join(name.replace("_", " ").split())


def _seconds(text: str, name: str, file: Path, number: int) -> str:
    if not text.strip():
        return ""
    try:
        return str(int(float(text)))
    except (ValueError, OverflowError):
        raise UserError(f"{file}, line {number}: {name} is {text!r}, not seconds") from None
