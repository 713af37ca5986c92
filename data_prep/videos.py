"""Any videos: measured, decoded from end to end, or encoded anew so that training reads them several times as fast."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep.command import exit_code, work_through, working_options
from data_prep.encode import Recipe
from data_prep.listing import UserError
from data_prep.manifest_files import FACTS, csv_text, facts_of, refuse_foreign, refuse_other_command, write_files
from data_prep.pool import lost_probe
from data_prep.prepare import prepare
from data_prep.probe import Probe, Task, probe
from data_prep.sources import find_sources
from data_prep.verify import Verified, lost, verify
from mvit_train.data.store import STORES

ROOT_HELP = "a folder of videos, a folder of manifests (train.csv, val.csv), or a video; only read"
PROBED, VERIFIED = "videos.csv", "verified.csv"


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    arguments.root = Path(os.path.abspath(arguments.root))
    arguments.out = arguments.out and Path(os.path.abspath(arguments.out))
    if arguments.shard and not arguments.out:
        parser.error("--shard needs --out, where the shares meet")
    return exit_code(f"videos {arguments.action}", arguments, lambda: arguments.run(arguments))


def run_probe(arguments: argparse.Namespace) -> int:
    """What the files are: a table, or OUT/videos.csv."""
    tasks = _tasks(arguments, verify=not arguments.no_verify, name=PROBED)

    def is_enough(task: Task, found: Probe) -> bool:
        return found.verified or not task.verify

    results = work_through(probe, lost_probe, tasks, ("probe", Probe), arguments, is_enough=is_enough)
    if results is None:
        return 0
    header = ["path", *FACTS, "reason"]
    rows = [[found.path, *facts_of(found), "broken" if found.reason else "ok", found.reason] for found in results]
    _report(arguments, PROBED, header, rows, shown=rows)
    good = [found for found in results if not found.reason]
    print(f"{len(good):,} of {len(results):,} can be read; {sum(found.duration for found in good) / 3600:,.3f} hours")
    for what, values in (
        ("codecs", [found.codec for found in good]),
        ("rates", [f"{found.fps:g}" for found in good]),
        ("short sides", [min(found.width, found.height) for found in good]),
    ):
        print(f"{what}: {', '.join(f'{value} ({count:,})' for value, count in Counter(values).most_common(8))}")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Whether every frame decodes: what does not as a table, and all in OUT/verified.csv. 1 if a file is broken."""
    tasks = _tasks(arguments, verify=True, name=VERIFIED)
    results = work_through(verify, lost, tasks, ("verify", Verified), arguments)
    if results is None:
        return 0
    header = ["path", "status", "num_frames", "reason", "damage"]
    rows = [[found.path, found.status, str(found.num_frames), found.reason, found.damage] for found in results]
    _report(arguments, VERIFIED, header, rows, shown=[row for row in rows if row[1] != "ok"])
    counts = Counter(found.status for found in results)
    frames = sum(found.num_frames for found in results)
    print(f"{counts['ok']:,} ok, {counts['damaged']:,} damaged, {counts['broken']:,} broken; {frames:,} frames decoded")
    return 1 if counts["broken"] else 0


def run_prepare(arguments: argparse.Namespace) -> int:
    """Encodes the files for training."""
    store, quality = STORES[arguments.store], arguments.crf
    quality = store.quality if quality is None else quality
    least, most = store.quality_range
    if not least <= quality <= most:
        raise UserError(f"--crf {quality}: {arguments.store} takes {least} to {most}")
    prepare(arguments, Recipe(arguments.store, arguments.short_side, quality))
    return 0


def _tasks(arguments: argparse.Namespace, *, verify: bool, name: str) -> list[Task]:
    """Every file once, also those that a manifest names and that are not there."""
    if arguments.out:
        refuse_other_command(arguments.out, f"videos {arguments.action}")
        refuse_foreign(arguments.out, [name])
        arguments.out.mkdir(parents=True, exist_ok=True)
    paths = find_sources(arguments.root).paths
    return [Task.of(path, verify=verify) or Task(str(path), 0, 0, verify) for path in paths]


def _report(
    arguments: argparse.Namespace, name: str, header: list[str], rows: list[list[str]], shown: list[list[str]]
) -> None:
    """Writes `rows` to OUT; prints those `shown`, unless they are in the file and many."""
    if arguments.out:
        about = {"written_by": "data_prep", "command": f"videos {arguments.action}", "root": str(arguments.root)}
        write_files(arguments.out, {name: csv_text(header, rows)}, about)
        print(f"written to {arguments.out / name}")
        if len(shown) == len(rows):
            return
    below = [
        [os.path.relpath(row[0], arguments.root) if arguments.root.is_dir() else row[0], *row[1:]] for row in shown
    ]
    widths = [max(map(len, column)) for column in zip(header, *below, strict=True)]
    for row in [header, *below] if below else []:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line.encode(errors="backslashreplace").decode())  # names need not be UTF-8


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m data_prep.videos", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for run, text in (
        (run_probe, "length, rate, size, codec of every file, as a table or as OUT/videos.csv"),
        (run_verify, "decode every frame and list what is broken; exit status 1 if anything is"),
        (run_prepare, "encode for training: small, upright, silent, with short groups of pictures"),
    ):
        name = run.__name__.removeprefix("run_")
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(run=run)
        action.add_argument("--root", type=Path, required=True, metavar="PATH", help=ROOT_HELP)
        needed = run is run_prepare
        action.add_argument(
            "--out",
            type=Path,
            required=needed,
            metavar="FOLDER",
            help="where the files go" if needed else "keep the results there, and go on from them",
        )
        working_options(action)
        if run is run_probe:
            action.add_argument("--no-verify", action="store_true", help="read headers only, decode no frame")
        if needed:
            _prepare_options(action)
    return parser


def _prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", choices=STORES, default="b3fast", help="b3fast: least to decode for its size (default); intra, jpeg"
    )
    parser.add_argument(
        "--short-side", type=_side, default=256, metavar="N", help="pixels, even; never enlarged (default %(default)s)"
    )
    qualities = ", ".join(f"{name} {store.quality}" for name, store in STORES.items())
    parser.add_argument(
        "--crf", type=int, metavar="N", help=f"quality, less is better: x264's crf, of jpeg its q (default {qualities})"
    )
    parser.add_argument(
        "--psnr", type=int, default=8, metavar="N", help="measure the PSNR of so many files (default %(default)s)"
    )


def _side(text: str) -> int:
    if not text.isdigit() or int(text) % 2 or int(text) < 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not an even number of pixels from 16")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
