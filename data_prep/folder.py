"""Your own class folders: a split that keeps the clips of one recording together, and an experiment that runs."""

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep.command import options, run
from data_prep.groups import group_rule, merge_copies, split_groups
from data_prep.listing import SPLITS, Entry, Listing, Split, UserError, find_files, first_few, labels_from, read_lines

MAX_SHOWN = 20

EXPERIMENT = """\
# @package _global_
# {num_classes} classes of {root}: {num_train} training and {num_val} validation videos, by data_prep.folder.
#
#   {command}
#
# Hardware: any; a small model of 0.16 M parameters. For MViT-B on GPUs: `override /model: mvit_b`, clip 16 x 4 at 224.
# Expected: not known; compare with the share of the most frequent class, {majority:.1f} % of the validation videos.
defaults:
  - override /model: mvit_small
  - override /data: folder
  - override /augment: motion
  - override /optim: motion

name: {name}
clip:
  num_frames: 8
  sampling_rate: 4
  crop_size: 64
data:
  root: {data_root}
  also_from: {root_quoted}
  batch_size: {batch_size}
  eval_batch_size: 50
trainer:
  max_epochs: 40
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = options("folder", __doc__)
    parser.add_argument(
        "--val-share", type=_share, default=0.2, metavar="X", help="of every class's videos (default %(default)s)"
    )
    parser.add_argument(
        "--group-by",
        default="prefix",
        metavar="RULE",
        help="prefix (default): the file name up to a trailing clip number, or a YouTube id; parent: the folder; none; "
        "or a regular expression whose first group names the recording",
    )
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names in score order; default: sorted")
    return run("folder", parser.parse_args(argv), lambda arguments: [list_folder(arguments)])


def list_folder(arguments: argparse.Namespace) -> Listing:
    """One entry per video of ROOT/CLASS/, split here, or of ROOT/train/CLASS/ and ROOT/val/CLASS/, left as they are."""
    root, rule = arguments.root, group_rule(arguments.group_by)
    has_split = (root / "train").is_dir() and (root / "val").is_dir()
    tops: list[tuple[Split | None, Path]] = [(split, root / split) for split in SPLITS if (root / split).is_dir()]
    videos: list[tuple[Path, Path, Split | None]] = [
        (path, path.relative_to(top), split)
        for split, top in (tops if has_split else [(None, root)])
        for path in find_files(top, without=[arguments.out])
    ]
    if loose := [path for path, below, _ in videos if len(below.parts) < 2]:
        raise UserError(f"{len(loose):,} videos lie in no folder of a class: {first_few(loose)}")
    if not videos:
        raise UserError(f"{root}: no folders CLASS/video.mp4 lie there")
    names = sorted({below.parts[0] for _, below, _ in videos})
    labels = labels_from((line for _, line in read_lines(arguments.classes)) if arguments.classes else names, root)
    if strange := [name for name in names if name not in labels.index]:
        raise UserError(f"{root}: the folder {strange[0]!r} is no class of {arguments.classes}")
    groups = merge_copies({path: rule(below) for path, below, _ in videos})
    share = arguments.val_share
    val = set() if has_split else split_groups([(below.parts[0], groups[path]) for path, below, _ in videos], share)
    entries, group_of = [], {}
    for path, below, split in videos:
        name = str(path.relative_to(root))
        chosen: Split = "val" if groups[path] in val else "train"
        entries.append(Entry(name, split or chosen, below.parts[0], path))
        group_of[name] = groups[path]
    if not any(entry.split == "val" for entry in entries):
        raise UserError(
            f"{root}: by --group-by {arguments.group_by} every class is a single recording, so that none can validate; "
            "if each file is its own recording, say --group-by none"
        )
    notes = report(entries, group_of)
    return Listing(tuple(entries), labels, {}, notes=tuple(notes), extra_files=experiment(entries, arguments))


def experiment(entries: Sequence[Entry], arguments: argparse.Namespace) -> dict[str, str]:
    """`experiment.yaml`, in the form of those in conf/experiment/."""
    counts = Counter(entry.split for entry in entries)
    most = Counter(entry.label for entry in entries if entry.split == "val").most_common(1)[0][1]
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in arguments.root.name)
    facts = {
        "name": name if name[:1].isalpha() else f"videos_{name}",  # or YAML might take it for a number
        "root": arguments.root,
        "data_root": json.dumps(str(arguments.out), ensure_ascii=False),
        "root_quoted": json.dumps(str(arguments.root), ensure_ascii=False),
        "num_classes": len({entry.label for entry in entries}),
        "num_train": counts["train"],
        "num_val": counts["val"],
        "majority": 100 * most / counts["val"],
        "batch_size": max(1, min(16, counts["train"] // 2)),
        "command": f"python -m mvit_train {shlex.quote(f'experiment={arguments.out}/experiment.yaml')}",
    }
    return {"experiment.yaml": EXPERIMENT.format(**facts)}


def report(entries: Sequence[Entry], groups: dict[str, str]) -> list[str]:
    """Prints the split class by class; returns what to warn of."""
    table: dict[str, dict[str, set[str]]] = {}
    videos = Counter((entry.label, entry.split) for entry in entries)
    for entry in entries:
        table.setdefault(entry.label, {}).setdefault(entry.split, set()).add(groups[entry.video_id])
    print("class                             train: videos groups   val: videos groups")
    for label in sorted(table)[:MAX_SHOWN]:
        cells = [(videos[label, split], len(table[label].get(split, ()))) for split in ("train", "val")]
        print(f"{label[:32]:32}{cells[0][0]:15,}{cells[0][1]:7,}{cells[1][0]:14,}{cells[1][1]:7,}")
    if len(table) > MAX_SHOWN:
        print(f"and {len(table) - MAX_SHOWN} more classes")
    splits: dict[str, set[str]] = {}
    for entry in entries:
        splits.setdefault(groups[entry.video_id], set()).add(entry.split)
    crossing = sorted(group for group, both in splits.items() if len(both) > 1)
    lonely = sorted(label for label, by_split in table.items() if len(set().union(*by_split.values())) == 1)
    notes = [f"{len(crossing):,} recordings have clips in two splits: {first_few(crossing)}"] if crossing else []
    return notes + ([f"{len(lonely)} classes are one recording, none validates: {first_few(lonely)}"] if lonely else [])


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1, such as 0.2")
    return share


if __name__ == "__main__":
    sys.exit(main())
