"""Windows of your own videos, labelled by what was done to time: a test of whether a model looks at it.

Every window is written forward, reversed, and with the window after it at double speed, so that all classes show the
same scenes. Everyday scenes look much alike in both directions: --pan lets the picture move to the right, backwards in
reversed clips, so that there is a direction to see. The last part of every video validates, and no frame of it is in a
training clip. All frames of the clips are key frames: the order in which they were encoded leaves no trace.
"""

import argparse
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame

from data_prep.command import exit_code
from data_prep.listing import UserError, find_files
from data_prep.manifest_files import csv_text, write_files
from data_prep.pictures import Pictures, with_pictures
from data_prep.probe import Task, probe
from data_prep.sources import WHOLE
from mvit_train.data.store import STORES
from mvit_train.data.stream import DecodeError

COMMAND = "time_labels"
LABELS = ("double_speed", "forward", "reversed")
SPLITS = ("train", "val")
STORE, QUALITY = STORES["intra"], 18
MAX_PAN = 0.4


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(f"python -m data_prep.{COMMAND}", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER", help="a folder of videos; only read")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where clips and manifests go")
    parser.add_argument("--sec", type=float, default=1.0, help="length of a clip (default %(default)g)")
    parser.add_argument("--step-sec", type=float, default=0.5, help="from window to window (default %(default)g)")
    parser.add_argument("--val-share", type=float, default=0.25, help="of every video, its end (default %(default)g)")
    parser.add_argument("--short-side", type=int, default=96, help="pixels, never enlarged (default %(default)s)")
    parser.add_argument("--pan", type=float, default=0.0, help="share of the width per clip (default %(default)g)")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    arguments = parser.parse_args(argv)
    if min(arguments.sec, arguments.step_sec) <= 0 or not 0 < arguments.val_share < 1 or arguments.short_side < 2:
        parser.error("--sec, --step-sec and --short-side must be positive, --val-share between 0 and 1")
    if not 0 <= arguments.pan <= MAX_PAN:
        parser.error(f"--pan is 0 to {MAX_PAN}: at double speed twice as much of the width goes by")
    return exit_code(COMMAND, arguments, lambda: cut(arguments))


def cut(arguments: argparse.Namespace) -> None:
    """Writes OUT/videos/, train.csv, val.csv and classes.txt; says which videos gave nothing, and why."""
    root, out = arguments.root, Path(os.path.abspath(arguments.out))
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty; give a new folder")
    (out / "videos").mkdir(parents=True)
    rows: dict[str, list[list[str]]] = {split: [] for split in SPLITS}
    for number, path in enumerate(find_files(root, without=[out])):
        write = partial(write_clips, path=path, stem=out / "videos" / f"{number:04d}", arguments=arguments)
        try:
            clips = with_pictures(str(path), STORE, arguments.short_side, WHOLE, write)
        except DecodeError as error:
            print(f"{path.name}: left out, {error.reason}")
            continue
        for split, file, label in clips:
            rows[split].append([f"videos/{file.name}", label])
        counts = Counter(split for split, _, _ in clips)
        print(f"{path.name}: {counts['train']} training clips, {counts['val']} validation clips")
    if not all(rows.values()):
        raise UserError(f"{root}: too short for windows of 2 x {arguments.sec:g} s in both splits")
    texts = {f"{split}.csv": csv_text(["path", "label"], rows[split]) for split in SPLITS}
    texts["classes.txt"] = "".join(f"{label}\n" for label in LABELS)
    options = {name: getattr(arguments, name) for name in ("sec", "step_sec", "val_share", "short_side", "pan")}
    write_files(out, texts, {"written_by": "data_prep", "command": COMMAND, "root": str(root), **options})
    print(f"{out}: {len(rows['train'])} training and {len(rows['val'])} validation clips, as many of each class")


def write_clips(
    pictures: Pictures, *, path: Path, stem: Path, arguments: argparse.Namespace
) -> list[tuple[str, Path, str]]:
    """(split, file, label) of every clip of a video, all written."""
    task = Task.of(path, verify=False)
    assert task is not None
    total = round(probe(task).duration * float(pictures.fps))
    length = max(round(arguments.sec * pictures.fps), 1)
    step = max(round(arguments.step_sec * pictures.fps), 1)
    border = round(total * (1 - arguments.val_share))
    written = []
    for start, whole in windows((frame.to_ndarray(format="rgb24") for _, frame in pictures), 2 * length, step):
        if start < border < start + len(whole):
            continue  # its frames are of both splits
        split = "train" if start < border else "val"
        frames = panned(whole, arguments.pan)
        shown = {"forward": frames[:length], "reversed": frames[length - 1 :: -1], "double_speed": frames[::2]}
        for label in LABELS:
            file = stem.with_name(f"{stem.name}_{start:06d}_{label}{STORE.suffix}")
            write_clip(file, shown[label], pictures.fps)
            written.append((split, file, label))
    return written


def windows(frames: Iterator[np.ndarray], length: int, step: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(start, frames) of every whole window: length 4, step 2 -> 0..3, 2..5, 4..7."""
    held: deque[np.ndarray] = deque(maxlen=length)
    for index, frame in enumerate(frames):
        held.append(frame)
        start = index + 1 - length
        if start >= 0 and start % step == 0:
            yield start, list(held)


def panned(frames: Sequence[np.ndarray], share: float) -> list[np.ndarray]:
    """Cut-outs of frames (H, W, 3) that move from the left edge to the right one, by `share` of W in half of them."""
    width = frames[0].shape[1]
    cut_width = round(width * (1 - 2 * share)) // 2 * 2
    lefts = np.linspace(0, width - cut_width, len(frames)).round().astype(int)
    return [frame[:, left : left + cut_width] for frame, left in zip(frames, lefts.tolist(), strict=True)]


def write_clip(file: Path, frames: Sequence[np.ndarray], fps: Fraction) -> None:
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream(STORE.codec, rate=fps, options=STORE.encoder_options(QUALITY))
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], STORE.pix_fmt
        for place, picture in enumerate(frames):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = place, 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    sys.exit(main())
