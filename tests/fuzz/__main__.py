"""`make fuzz`: mutated videos and texts, read as training, evaluation and prediction read them, and a table in the end.

make fuzz ARGS="--videos 20000 --texts 5000 --seed 1"

The exit status is 1 after a crash, a hang, an error that is none of ours, or too much memory. Files that a worker died
or hung at are kept in the folder `--keep`.
"""

import argparse
import logging
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import av
from read_videos import MAX_MIB, Row, fuzz_videos
from text_files import MAX_MIB as MAX_MIB_TEXT
from text_files import fuzz_texts
from video_files import seed_videos

SHARED = Path(__file__).parents[3] / "shared" / "videos"
HEAD = ("kind", "cases", "read", "errors", "crashes", "hangs", "unclear", "worst MiB", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser("make fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", type=int, default=20_000, help="mutated video files")
    parser.add_argument("--texts", type=int, default=5_000, help="mutated manifests, configurations, checkpoints, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="reading processes")
    parser.add_argument("--timeout-sec", type=float, default=60.0, help="a video that takes longer hangs")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), metavar="FOLDER")
    arguments = parser.parse_args()
    av.logging.set_level(None)
    logging.disable()
    warnings.simplefilter("ignore")
    began = time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        seeds = seed_videos(SHARED) if arguments.videos else {}
        rows = fuzz_videos(
            seeds,
            arguments.videos,
            arguments.seed,
            Path(folder),
            num_workers=arguments.workers,
            timeout_sec=arguments.timeout_sec,
            keep=arguments.keep,
        )
        rows |= fuzz_texts(arguments.texts, arguments.seed, Path(folder), arguments.keep)
    rows = {name: row for name, row in rows.items() if row.cases}
    show(rows)
    parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"seed {arguments.seed}; {len(seeds)} videos to mutate; parent at most {parent:.0f} MiB; limits above what a "
        f"process had before: {MAX_MIB} MiB for a video, {MAX_MIB_TEXT} for a text; {time.monotonic() - began:.0f} s"
    )
    findings = [f"{name}: {text}" for name, row in rows.items() for text in row.unclear]
    print("\n".join(findings[:50]), end="\n" if findings else "")
    return int(bool(findings) or any(row.crashes or row.hangs for row in rows.values()))


def show(rows: dict[str, Row]) -> None:
    """The table, and the commonest errors of all videos."""
    lines = [HEAD]
    for name, row in rows.items():
        counts = (row.cases, row.read, row.errors.total(), row.crashes, row.hangs, len(row.unclear))
        lines.append((name, *(f"{count:,}" for count in counts), f"{row.worst_mib:.0f}", f"{row.seconds:.1f}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *aligned]))
    print("errors, the commonest of each kind:")
    for name, row in rows.items():
        print(f"  {name}: " + "; ".join(f"{text} ({count:,})" for text, count in row.errors.most_common(3)))


if __name__ == "__main__":
    sys.exit(main())
