"""What every command of data_prep has in common: its options, and the way from a listing to a manifest."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress

from data_prep.journal import HasKey, Journal, Result, Shard, read_journals, read_results
from data_prep.listing import Listing, UserError
from data_prep.manifest_files import SUMMARY, judge, names_of, refuse_foreign, texts_of, write_files
from data_prep.pool import TIMEOUT_SEC, probe_all, run_all
from data_prep.probe import Key, Probe, Task
from data_prep.summary import lines_of, summarise

R = TypeVar("R", bound=Result)
T = TypeVar("T", bound=HasKey)
S = TypeVar("S")
LISTER = Callable[[argparse.Namespace], Sequence[Listing]]
LINE_EVERY_SEC = 30.0


def options(command: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all commands share."""
    parser = argparse.ArgumentParser(f"python -m data_prep.{command}", description=description)
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER", help="the data set; only read")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the manifest goes")
    working_options(parser)
    parser.add_argument("--no-verify", action="store_true", help="read headers only, decode no frame")
    return parser


def working_options(parser: argparse.ArgumentParser) -> None:
    """How the work over files is done."""
    parser.add_argument(
        "--workers",
        type=_count,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes that work on files (default %(default)s; 0: this one)",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="do only share I of N, counted from 0; whoever comes last writes the manifest",
    )
    parser.add_argument("--retry", action="store_true", help="do files again that were found broken")
    parser.add_argument(
        "--timeout-sec",
        type=_seconds,
        default=TIMEOUT_SEC,
        metavar="S",
        help="give a file up that stands still for so long (default %(default)g; 0: never)",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")


def run(command: str, arguments: argparse.Namespace, find: LISTER) -> int:
    """Lists, probes, writes; the exit code."""
    return exit_code(command, arguments, lambda: prepare(command, arguments, find))


def exit_code(command: str, arguments: argparse.Namespace, work: Callable[[], int | None]) -> int:
    """What `work` returns, None being 0; 1 for a mistake, which is said in a line; 130 for an interruption."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # Slurm's end of time is an interruption too
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"data_prep.{command}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        if arguments.traceback:
            raise
        print(f"data_prep.{command}: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare(command: str, arguments: argparse.Namespace, find: LISTER) -> None:
    """Probes what is not in a journal yet; writes every manifest once all of it is known."""
    arguments.root, arguments.out = (Path(os.path.abspath(path)) for path in (arguments.root, arguments.out))
    listings = find(arguments)
    for listing in listings:
        if not listing.entries:
            raise UserError(f"{arguments.root}: nothing is listed")
        refuse_foreign(arguments.out / listing.folder, names_of(listing))
    arguments.out.mkdir(parents=True, exist_ok=True)
    paths = sorted({entry.path for listing in listings for entry in listing.entries if entry.path})
    tasks = [task for path in paths if (task := Task.of(path, verify=not arguments.no_verify))]
    shard = arguments.shard or Shard()
    known = read_journals(arguments.out)
    if arguments.retry:
        known = {key: result for key, result in known.items() if not result.reason}
    todo = [task for task in _unknown(tasks, known) if shard.has(task)]
    share = f" in share {shard}" if arguments.shard else ""
    print(f"{len(tasks):,} files; {len(tasks) - len(_unknown(tasks, known)):,} known, {len(todo):,} to probe{share}")
    with Journal(arguments.out, shard) as journal:
        for result in shown(probe_all(todo, arguments.workers, timeout_sec=arguments.timeout_sec), len(todo)):
            journal.append(result)
    known = read_journals(arguments.out)
    if left := len(_unknown(tasks, known)):
        print(f"share {shard} is done; {left:,} files remain for other shares. The last of them writes the manifest,")
        print("and so does the same command without --shard")
        return
    for listing in listings:
        write_manifest(command, listing, {task.path: known[task.key] for task in tasks}, arguments)


def work_through(
    work: Callable[[T], R],
    lost: Callable[[T, str], R],
    tasks: Sequence[T],
    journal: tuple[str, type[R]],
    arguments: argparse.Namespace,
    *,
    is_enough: Callable[[T, R], bool] = lambda task, result: True,
) -> list[R] | None:
    """A result per task, in their order: from the journals in OUT as far as they are `is_enough`, else by `work`.

    None: other shares are not done yet. Without --out nothing is kept.
    """
    stem, _ = journal
    shard = arguments.shard or Shard()
    known = _kept(tasks, journal, arguments.out, is_enough)
    if arguments.retry:
        known = {key: result for key, result in known.items() if not result.reason}
    todo = [task for task in tasks if task.key not in known and shard.has(task)]
    share = f" in share {shard}" if arguments.shard else ""
    print(f"{len(tasks):,} files; {len(known):,} known, {len(todo):,} to do{share}", flush=True)
    results = run_all(work, todo, arguments.workers, timeout_sec=arguments.timeout_sec, lost=lost)
    with closing(results), Journal(arguments.out, shard, stem) if arguments.out else nullcontext() as kept:
        for result in shown(results, len(todo), "done"):
            known[result.key] = result
            if kept:
                kept.append(result)
    known = {**_kept(tasks, journal, arguments.out, is_enough), **known}  # what other shares have done meanwhile
    if left := [task for task in tasks if task.key not in known]:
        print(f"share {shard} is done; {len(left):,} files remain for other shares. The last of them puts everything")
        print("together, and so does the same command without --shard")
        return None
    return [known[task.key] for task in tasks]


def _kept(
    tasks: Sequence[T], journal: tuple[str, type[R]], out: Path | None, is_enough: Callable[[T, R], bool]
) -> dict[Hashable, R]:
    """By key, what the journals of all shares have of these tasks."""
    found = {result.key: result for result in read_results(out, *journal)} if out else {}
    return {task.key: found[task.key] for task in tasks if task.key in found and is_enough(task, found[task.key])}


def write_manifest(command: str, listing: Listing, probes: dict[str, Probe], arguments: argparse.Namespace) -> None:
    """Writes and prints one listing's files; `probes` by path."""
    folder = arguments.out / listing.folder
    rows = judge(listing.entries, probes)
    about = {"command": command, "set": getattr(arguments, "set", command), "root": str(arguments.root)}
    summary = summarise(listing, rows, folder, about)
    write_files(folder, texts_of(listing, rows, folder), summary)
    print("\n".join(lines_of(summary, folder)))
    if any(counts["in_manifest"] == 0 for counts in summary["splits"].values()):
        print(f"warning: a split has no usable video; see missing.csv, broken.csv and {SUMMARY}", file=sys.stderr)


def _unknown(tasks: Iterable[Task], known: dict[Key, Probe]) -> list[Task]:
    return [task for task in tasks if task.key not in known or (task.verify and not known[task.key].verified)]


def shown(results: Iterable[S], total: int, what: str = "probed") -> Iterator[S]:
    """The results, with a bar on a terminal and a line every half minute elsewhere."""
    if not total:
        return
    if sys.stdout.isatty():
        with Progress() as progress:
            yield from progress.track(results, total, description=what)
        return
    start = last = time.monotonic()
    for count, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        if now - last > LINE_EVERY_SEC or count == total:
            last = now
            rate = count / max(now - start, 1e-3)
            print(f"{what} {count:,} of {total:,}, {rate:.3g}/s, {(total - count) / rate:.0f} s left", flush=True)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0")
    return seconds


def _shard(text: str) -> Shard:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1, such as 0/4")
    return Shard(int(index), int(count))
