"""From sources to prepared files: what is to be encoded, what goes on from before, and what came of it."""

import argparse
import statistics
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.command import work_through
from data_prep.encode import MARK, EncodeTask, Prepared, Recipe, encode, lost, remove_parts, tag_of
from data_prep.journal import Shard, read_results
from data_prep.listing import Entry, Listing, UserError
from data_prep.manifest_files import (
    FACTS,
    csv_text,
    facts_of,
    judge,
    names_of,
    refuse_foreign,
    refuse_other_command,
    texts_of,
    write_files,
)
from data_prep.probe import Probe, Task
from data_prep.sources import Piece, Sources, find_sources, piece_of, refuse_own_output, targets_of
from data_prep.summary import lines_of, summarise
from mvit_train.data.store import STORES

COMMAND = "videos prepare"
JOURNAL = "prepare"
FILES = "videos.csv"  # every prepared file and where it is from
BROKEN = "broken.csv"
COLUMNS = ("path", "source", "start", "end", *FACTS, "source_bytes", "encode_sec", "psnr", "damage")


def prepare(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Encodes what is not yet; writes manifests and summary once all is."""
    root, out = arguments.root, arguments.out
    sources = find_sources(root)
    refuse_own_output(sources, root, out)
    refuse_other_command(out, COMMAND)
    refuse_foreign(out, [*(names_of(sources.listing) if sources.listing else [BROKEN]), FILES])
    out.mkdir(parents=True, exist_ok=True)
    before = read_results(out, JOURNAL, Prepared)
    if other := next((done.recipe for done in before if done.recipe != str(recipe)), None):
        raise UserError(f"{out} holds files prepared as {other}, not as {recipe}: give another --out")
    of_pieces = tasks_of(sources, recipe, out, arguments.psnr)
    tasks = list(of_pieces.values())
    refuse_foreign_videos(tasks, before)
    remove_parts(out, filter((arguments.shard or Shard()).has, tasks))
    started, earlier = time.monotonic(), {done.key for done in before}
    results = work_through(encode, lost, tasks, (JOURNAL, Prepared), arguments, is_enough=_is_there)
    if results is None:
        return
    found = dict(zip(of_pieces, results, strict=True))
    summary: dict[str, Any] = {"written_by": "data_prep", "command": COMMAND, "root": str(root)}
    lines, texts = [], {FILES: csv_text(COLUMNS, _rows(results))}
    if sources.listing:
        listing, probes = prepared_listing(sources.listing, found, out)
        rows = judge(listing.entries, probes)
        summary = summarise(listing, rows, out, summary)
        texts |= texts_of(listing, rows, out)
        lines = lines_of(summary, out)
    else:
        absent = [[str(piece[0]), "no such file"] for piece in sources.pieces if piece not in of_pieces]  # links
        bad = [[done.path, done.reason] for done in results if done.reason]
        texts[BROKEN] = csv_text(["path", "reason"], sorted([*absent, *bad]))
    store = figures(results, recipe)
    write_files(out, texts, {**summary, "store": store})
    new = [done for done in results if done.key not in earlier and not done.reason]
    print("\n".join([*lines, *sentences(store, new, time.monotonic() - started)]))


def tasks_of(sources: Sources, recipe: Recipe, out: Path, num_measured: int) -> dict[Piece, EncodeTask]:
    """One per piece whose file is there. Which are measured depends on their names alone."""
    targets = targets_of(sources, STORES[recipe.store].suffix)
    by_chance = sorted(targets, key=lambda piece: zlib.crc32(repr(piece).encode(errors="surrogateescape")))
    measured = set(by_chance[:num_measured])
    files = {path: Task.of(path, verify=True) for path in sources.paths}
    return {
        piece: EncodeTask(*file.key, *piece[1], recipe, str(out), target, piece in measured)
        for piece, target in targets.items()
        if (file := files[piece[0]])
    }


def refuse_foreign_videos(tasks: Sequence[EncodeTask], before: Sequence[Prepared]) -> None:
    """UserError if a file stands where one is to go, and is none of ours."""
    ours = {(done.key, done.target) for done in before if not done.reason}
    for task in tasks:
        if (task.key, task.target) in ours:
            continue
        tag = tag_of(task.file)
        if tag is not None and not tag.startswith(MARK):
            raise UserError(f"{task.file} was not written by data_prep, so it is not overwritten: give another --out")


def _is_there(task: EncodeTask, done: Prepared) -> bool:
    if done.reason:
        return True
    return done.target == task.target and task.file.is_file() and task.file.stat().st_size == done.facts["size"]


def prepared_listing(listing: Listing, found: Mapping[Piece, Prepared], out: Path) -> tuple[Listing, dict[str, Probe]]:
    """The entries with their prepared files, each all of its file, and {path: facts}."""
    entries: list[Entry] = []
    probes: dict[str, Probe] = {}
    for entry in listing.entries:
        done = found.get(piece_of(entry))
        if done and not done.reason:
            entry = replace(entry, path=out / done.target, time_start="", time_end="")
        if done:
            probes[str(entry.path)] = done.probe(out)
        entries.append(entry)
    return replace(listing, entries=tuple(entries)), probes


def figures(results: Sequence[Prepared], recipe: Recipe) -> dict[str, Any]:
    """The numbers of all files, whoever encoded them when."""
    good = [done for done in results if not done.reason]
    before = sum(size for _, size in {(done.path, done.size) for done in good})
    after = sum(done.facts["size"] for done in good)
    timed = [done for done in good if done.encode_sec]
    encode_sec = sum(done.encode_sec for done in timed)
    psnrs = [done.psnr for done in good if done.psnr is not None]
    return {
        "recipe": str(recipe),
        "files": len(good),
        "failed": dict(Counter(done.reason for done in results if done.reason).most_common()),
        "damaged": sum(bool(done.damage) for done in good),
        "frames": sum(done.num_frames for done in good),
        "video_sec": round(_video_sec(good), 3),
        "video_sec_per_process_sec": round(_video_sec(timed) / encode_sec, 3) if encode_sec else None,
        "bytes_before": before,
        "bytes_after": after,
        "ratio": round(after / before, 4) if before else None,
        "psnr": {"files": len(psnrs), "min": min(psnrs), "median": round(statistics.median(psnrs), 2)}
        if psnrs
        else None,
    }


def sentences(store: Mapping[str, Any], new: Sequence[Prepared], seconds: float) -> list[str]:
    """What is printed: all of `figures`, and the speed of this run."""
    lines = [
        f"prepared: {store['files']:,} files, {store['video_sec']:,.1f} s of video, {store['frames']:,} frames; "
        f"{store['recipe']}"
    ]
    if store["ratio"] is not None:
        lines.append(f"bytes: {store['bytes_before']:,} -> {store['bytes_after']:,}, {store['ratio']:.2f} of before")
    if store["video_sec_per_process_sec"]:
        lines.append(f"speed: {store['video_sec_per_process_sec']:.1f} s of video per second of a process")
    if new:
        lines.append(f"this run: {len(new):,} files, {_video_sec(new) / seconds:.1f} s of video per second")
    if psnr := store["psnr"]:
        lines.append(f"PSNR of {psnr['files']} sampled files: least {psnr['min']} dB, median {psnr['median']} dB")
    if store["damaged"]:
        lines.append(f"damaged: {store['damaged']:,} files have small losses, which the frames around them bridge")
    return [*lines, *(f"failed: {count:,} {reason}" for reason, count in store["failed"].items())]


def _rows(results: Sequence[Prepared]) -> list[list[str]]:
    """Of FILES, for every prepared file."""
    rows = []
    for done in sorted(results, key=lambda done: done.target):
        if not done.reason:
            psnr = "" if done.psnr is None else f"{done.psnr:.2f}"
            facts = [*facts_of(Probe(**done.facts)), "ok", str(done.size), f"{done.encode_sec:.3f}", psnr, done.damage]
            rows.append([done.target, done.path, done.start, done.end, *facts])
    return rows


def _video_sec(results: Sequence[Prepared]) -> float:
    return sum(done.facts.get("duration", 0.0) for done in results)
