"""The files that a command leaves: manifests, class list, what is missing, broken or twice, and a summary of it all."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from data_prep.listing import Entry, Listing, Split, UserError
from data_prep.probe import Probe
from mvit_train.labels import fingerprint

Status = Literal["ok", "missing", "broken", "short", "replaced"]
FACTS = ("duration", "num_frames", "fps", "width", "height", "codec", "bytes", "status")
COLUMNS = ("path", "label", "start", "end", *FACTS)
SHORT_SEC = 64 / 30  # the span of 16x4 frames: of a shorter video the last frame is repeated
UNCUT_SEC = 5.0  # a file this much longer than its annotated clip has not been cut
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Row:
    """An entry and what became of it."""

    entry: Entry
    probe: Probe | None  # None: missing
    status: Status
    reason: str = ""

    @property
    def window(self) -> tuple[str, str]:
        """Start and end in seconds of the file, for a file that was not cut to its clip; else empty: all of it."""
        entry, probe = self.entry, self.probe
        if not (probe and entry.time_start and entry.time_end):
            return "", ""
        start, end = float(entry.time_start), float(entry.time_end)
        uncut = probe.duration > end - start + UNCUT_SEC and probe.duration >= end - 1
        return (entry.time_start, entry.time_end) if uncut else ("", "")


def judge(entries: Sequence[Entry], probes: Mapping[str, Probe]) -> list[Row]:
    """One row per entry, in their order."""
    rows = []
    for entry in entries:
        probe = probes.get(str(entry.path)) if entry.path else None
        if probe is None:
            reason = "no file of this id" if entry.path is None else "no such file"
            rows.append(Row(entry, None, "missing", reason))
        elif reason := probe.reason or _unwritable(probe.path):
            rows.append(Row(entry, probe, "broken", reason))
        elif entry.replaced:
            rows.append(Row(entry, probe, "replaced"))
        else:
            rows.append(Row(entry, probe, "short" if is_short(probe) else "ok"))
    return rows


def is_short(probe: Probe) -> bool:
    """Whether it is a video that lasts less than a clip."""
    return bool(probe.codec) and 0 < probe.duration < SHORT_SEC


def kept(rows: Sequence[Row], split: Split) -> list[Row]:
    """The rows that go into `split`.csv."""
    return [row for row in rows if row.entry.split == split and row.status not in ("missing", "broken")]


def texts_of(listing: Listing, rows: Sequence[Row], folder: Path) -> dict[str, str]:
    """name -> content of every file but the summary."""
    texts = {"classes.txt": "".join(f"{name}\n" for name in listing.labels.names)}
    for split in listing.splits():
        texts[f"{split}.csv"] = csv_text(COLUMNS, [_manifest_row(row, folder) for row in kept(rows, split)])
    annotated = ["split", "video_id", "time_start", "time_end", "label"]
    lost = {status: [row for row in rows if row.status == status] for status in ("missing", "broken")}
    texts["missing.csv"] = csv_text([*annotated, "reason"], [[*_annotated(row), row.reason] for row in lost["missing"]])
    texts["broken.csv"] = csv_text(
        [*annotated, "path", "reason"], [[*_annotated(row), str(row.entry.path), row.reason] for row in lost["broken"]]
    )
    texts["duplicates.csv"] = csv_text(
        ["kind", *annotated, "path"],
        [[kind, *_annotated(row), str(row.entry.path)] for kind, row in duplicates(rows)],
    )
    if any(entry.segments for entry in listing.entries):
        texts["segments.csv"] = csv_text(
            ["path", "label", "start", "end"],
            [
                [path_in(folder, row.entry.path), *map(str, segment)]
                for split in listing.splits()
                for row in kept(rows, split)
                for segment in row.entry.segments
            ],
        )
    return texts | dict(listing.extra_files)


def facts_of(probe: Probe) -> list[str]:
    """The columns FACTS, but for the status."""
    facts = [probe.duration, probe.num_frames, probe.fps, probe.width, probe.height]
    texts = [str(value) if isinstance(value, int) else f"{value:.3f}".rstrip("0").rstrip(".") for value in facts]
    return [*texts, probe.codec, str(probe.size)]


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a csv file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def duplicates(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """(kind, row) for every file that is there twice: by its id, else by its content; members of a group together."""
    found: list[tuple[str, Row]] = []
    by_id: dict[str, list[Row]] = {}
    by_content: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.probe:
            by_id.setdefault(row.entry.video_id, []).append(row)
            if row.probe.digest:
                by_content.setdefault(row.probe.digest, {})[row.probe.path] = row
    for what, groups in (("id", by_id.values()), ("content", [list(group.values()) for group in by_content.values()])):
        for group in groups:
            if len(group) > 1 and (what == "id" or len({row.entry.video_id for row in group}) > 1):
                where = "in two splits" if len({row.entry.split for row in group}) > 1 else "twice in a split"
                found += [(f"{what} {where}", row) for row in group]
    return found


def fingerprints(rows: Sequence[Row], split: Split, folder: Path) -> dict[str, str]:
    """`videos`: of ids and labels, the same wherever the files lie; `manifest`: the one that training reports."""
    lines = [(row.entry, path_in(folder, row.entry.path)) for row in kept(rows, split)]
    return {
        "videos": fingerprint(sorted(f"{entry.video_id}\t{entry.label}" for entry, _ in lines)),
        "manifest": fingerprint(sorted(f"{path}\t{entry.label}" for entry, path in lines)),
    }


def path_in(folder: Path, path: Path | None) -> str:
    """As a manifest in `folder` names it: relative if below it, else absolute."""
    assert path is not None
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def names_of(listing: Listing) -> list[str]:
    """The files that `texts_of` gives."""
    segments = ["segments.csv"] if any(entry.segments for entry in listing.entries) else []
    always = ["classes.txt", "missing.csv", "broken.csv", "duplicates.csv"]
    return [*(f"{split}.csv" for split in listing.splits()), *always, *segments, *listing.extra_files]


def refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Raises UserError for a file of ours-to-be that data_prep did not write, or that was changed since."""
    ours = _written(folder)
    for name in sorted({*names, *ours}):
        file = folder / name
        if file.exists() and (total := _sha256(file.read_bytes())) not in ours.get(name, ()):
            if total in _written(folder).get(name, ()):
                continue  # another share has written it meanwhile
            what = "was changed since data_prep wrote it" if name in ours else "was not written by data_prep"
            raise UserError(f"{file} {what}, so it is not overwritten: rename it, or give another --out")


def refuse_other_command(folder: Path, command: str) -> None:
    """Raises UserError if another command wrote the folder's summary: its files would be taken for old ones of ours."""
    file = folder / SUMMARY
    if _written(folder) and (other := json.loads(file.read_text(encoding="utf-8")).get("command")) != command:
        raise UserError(f"{folder} holds what data_prep.{other} wrote: give another --out")


def write_files(folder: Path, texts: Mapping[str, str], summary: Mapping[str, object]) -> None:
    """Replaces each file at once, never half; a crash in between leaves files that the next run knows for its own."""
    folder.mkdir(parents=True, exist_ok=True)
    refuse_foreign(folder, texts)
    contents = {name: text.encode("utf-8", errors="backslashreplace") for name, text in texts.items()}
    sums = {name: _sha256(content) for name, content in contents.items()}
    before = _written(folder)
    either = {name: [*before.get(name, []), *([sums[name]] if name in sums else [])] for name in {**before, **sums}}
    _replace(folder / SUMMARY, _json({**summary, "files": either}))
    for name, content in contents.items():
        _replace(folder / name, content)
    for name in before.keys() - sums.keys():  # ours, of an earlier run with other splits
        (folder / name).unlink(missing_ok=True)
    _replace(folder / SUMMARY, _json({**summary, "files": {name: [total] for name, total in sorted(sums.items())}}))


def _written(folder: Path) -> dict[str, list[str]]:
    """name -> SHA-256 of what data_prep wrote; {} if the folder has no summary of it."""
    file = folder / SUMMARY
    if not file.exists():
        return {}
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        ours = summary["written_by"] == "data_prep"
        return {name: list(sums) for name, sums in summary["files"].items()} if ours else {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} was not written by data_prep: rename it, or give another --out") from None


def _unwritable(path: str) -> str:
    """Why a manifest cannot name the file, or ""."""
    if len(path.splitlines()) > 1:
        return "its name holds a line break: rename it"
    return "" if path.encode(errors="ignore").decode() == path else "its name is not UTF-8: rename it"


def _manifest_row(row: Row, folder: Path) -> list[str]:
    entry, probe = row.entry, row.probe
    assert probe is not None
    return [path_in(folder, entry.path), entry.label, *row.window, *facts_of(probe), row.status]


def _annotated(row: Row) -> list[str]:
    entry = row.entry
    return [entry.split, entry.video_id, entry.time_start, entry.time_end, entry.label]


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", errors="backslashreplace")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _replace(file: Path, content: bytes) -> None:
    part = file.with_name(f".{file.name}.{uuid4().hex}.part")  # shares on two machines may have one process id
    part.write_bytes(content)
    os.replace(part, file)
