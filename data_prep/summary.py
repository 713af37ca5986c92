"""Found against expected: the numbers of summary.json, and the lines that say them."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.listing import Listing, Split
from data_prep.manifest_files import Row, duplicates, fingerprints, is_short, kept

COUNTED = ("ok", "short", "replaced", "broken", "missing")


def summarise(listing: Listing, rows: Sequence[Row], folder: Path, about: Mapping[str, object]) -> dict[str, Any]:
    """Everything that is known of the data set; the same for the same files, whoever probed them."""
    splits: dict[str, object] = {}
    for split in listing.splits():
        mine = [row for row in rows if row.entry.split == split]
        statuses = Counter(row.status for row in mine)
        splits[split] = {
            "listed": len(mine),
            "in_manifest": len(kept(mine, split)),
            **{status: statuses[status] for status in COUNTED},
            "expected": {whose: counts[split] for whose, counts in listing.expected.items() if split in counts},
            "verdict": verdict(split, len(kept(mine, split)), len(mine), listing.expected),
            "fingerprints": fingerprints(rows, split, folder),
        }
    return {
        "written_by": "data_prep",
        **about,
        "classes": {
            "found": len(listing.labels),
            "expected": listing.num_classes,
            "fingerprint": listing.labels.fingerprint,
        },
        "splits": splits,
        "duplicates": dict(sorted(Counter(kind for kind, _ in duplicates(rows)).items())),
        "broken": dict(Counter(row.reason for row in rows if row.status == "broken").most_common()),
        "videos": _facts([row for split in listing.splits() for row in kept(rows, split)]),
        "warnings": [*listing.notes, *warnings_of(listing, rows)],
    }


def verdict(split: Split, found: int, listed: int, expected: Mapping[str, Mapping[Split, int]]) -> str:
    """How the number of usable videos compares: `19,761 of 19,906 annotated; as many as the non-local copy`."""
    counts = {whose: by_split[split] for whose, by_split in expected.items() if split in by_split}
    if not counts:
        return f"{found:,} of {listed:,}; no expected count is known"
    first, annotated = next(iter(counts.items()))
    text = f"{found:,} of {annotated:,} {first}"
    if found == annotated:
        return f"{text}: complete"
    copies = {whose: count for whose, count in counts.items() if whose != first}
    if same := [whose for whose, count in copies.items() if count == found]:
        return f"{text}; as many as {' and '.join(same)}"
    if copies:
        whose, count = min(copies.items(), key=lambda item: abs(item[1] - found))
        return f"{text}; {_difference(found, count)} than {whose}, {count:,}"
    return f"{text}: {_difference(found, annotated)}"


def _difference(found: int, expected: int) -> str:
    return f"{abs(found - expected):,} {'fewer' if found < expected else 'more'}"


def warnings_of(listing: Listing, rows: Sequence[Row]) -> list[str]:
    """What a person should look at, though the manifest is written."""
    lines = []
    if listing.num_classes not in (None, len(listing.labels)):
        lines.append(f"{len(listing.labels)} classes, {listing.num_classes} are expected")
    for split in listing.splits():
        present = {name for row in kept(rows, split) for name in row.entry.label.split(";")}
        absent = [name for name in listing.labels.names if name not in present and present != {""}]
        if absent and split != "test":
            lines.append(f"{split}: {len(absent)} classes have no video, first {absent[0]!r}")
    good = [row for row in rows if row.probe and row.status not in ("missing", "broken")]
    if short := sum(row.probe is not None and is_short(row.probe) for row in good):
        lines.append(f"{short:,} videos are shorter than 16x4 frames at 30 fps (2.13 s): their last frame is repeated")
    if uncut := [row for row in good if row.window != ("", "")]:
        lines.append(
            f"{len(uncut):,} files are not cut to their clip (columns start and end), first {uncut[0].entry.path}"
        )
    if listing.usual_sec:
        low, high = listing.usual_sec
        odd = sum(row.probe is not None and not low <= row.probe.duration <= high for row in good)
        if odd:
            lines.append(f"{odd:,} videos last less than {low:g} or more than {high:g} seconds")
    return lines


def lines_of(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """What is printed at the end."""
    splits = summary["splits"]
    columns = ("listed", "in_manifest", *COUNTED)
    lines = ["split  " + "".join(f"{column:>12}" for column in columns)]
    lines += [f"{split:7}" + "".join(f"{counts[name]:12,}" for name in columns) for split, counts in splits.items()]
    lines += [f"{split}: {counts['verdict']}" for split, counts in splits.items()]
    for what in ("duplicates", "broken"):
        lines += [f"{what}: {count:,} {kind}" for kind, count in summary[what].items()]
    lines += [f"warning: {line}" for line in summary["warnings"]]
    if "root" in summary and not Path(summary["root"]).is_relative_to(folder):
        lines.append(f"its videos lie elsewhere: train with data.root={folder} data.also_from={summary['root']}")
    return [*lines, f"written to {folder}"]


def _facts(rows: Sequence[Row]) -> dict[str, object]:
    probes = [row.probe for row in rows if row.probe]
    durations = [probe.duration for probe in probes if probe.duration]
    return {
        "bytes": sum(probe.size for probe in probes),
        "hours": round(sum(durations) / 3600, 3),
        "median_sec": round(statistics.median(durations), 3) if durations else None,
        "codecs": dict(Counter(probe.codec for probe in probes).most_common()),
        "fps": {f"{fps:g}": count for fps, count in Counter(probe.fps for probe in probes).most_common(8)},
        "short_sides": {
            str(side): count for side, count in Counter(min(p.width, p.height) for p in probes).most_common(8)
        },
    }
