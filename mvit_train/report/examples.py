"""The example videos of a report: which ones, and small enough to sit in its page."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from mvit_train.data.stream import DecodeError, open_container
from mvit_train.mp4 import write_mp4
from mvit_train.predictions import Predictions

CLIPS_PER_GROUP = 8
CLIP_MAX_SEC, CLIP_MAX_FPS, CLIP_SHORT_SIDE, CLIP_MAX_BYTES = 4, 30, 160, 150_000
ATTENTION_FOLDER, ATTENTION_MAX_BYTES = "attention", 2_000_000  # of all its clips together


def choose_clips(predictions: Predictions) -> list[tuple[str, int]]:
    """(group, row) of the example videos, at most CLIPS_PER_GROUP of a group, one per class before a second of any.

    A video is right if its likeliest class is one that it shows.
    wrong: the surest mistakes; hurt: right, but wrong once shuffled, by the probability lost; right: the surest others.
    """
    scores = dict(zip(predictions.frame_orders, np.nan_to_num(predictions.scores), strict=True))
    truth, evaluated, rows = predictions.truth(), predictions.evaluated, np.arange(len(predictions.labels))
    first = scores.get("forward", next(iter(scores.values())))
    called = first.argmax(axis=1)
    right = evaluated & truth[rows, called]
    shuffled = scores.get("shuffle", first)
    groups = {
        "wrong": (evaluated & ~right, first.max(axis=1)),
        "hurt": (right & ~truth[rows, shuffled.argmax(axis=1)], first[rows, called] - shuffled[rows, called]),
        "right": (right, first.max(axis=1)),
    }
    chosen: dict[int, str] = {}
    for group, (mask, value) in groups.items():
        turns: dict[tuple, int] = {}  # how many of a class came before
        ranked = []
        for row in np.argsort(-value, kind="stable").tolist():
            if mask[row] and row not in chosen:
                label = tuple(predictions.shown(row))
                turns[label] = turns.get(label, 0) + 1
                ranked.append((turns[label], len(ranked), row))
        chosen |= {row: group for *_, row in sorted(ranked)[:CLIPS_PER_GROUP]}
    return [(group, row) for row, group in chosen.items()]


def example(predictions: Predictions, group: str, row: int) -> dict[str, Any]:
    """What the page knows of one example: its mp4 in base64, or a note why there is none, and its scores."""
    scores = dict(zip(predictions.frame_orders, predictions.scores[:, row], strict=True))
    first = scores.get("forward", predictions.scores[0, row])
    clip: dict[str, Any] = {
        "group": group,
        "video": predictions.video_ids[row],
        "labels": predictions.shown(row),
        "top3": [[int(index), float(first[index])] for index in np.argsort(-first, kind="stable")[:3]],
        "predicted": {order: [int(table.argmax()), float(table.max())] for order, table in scores.items()},
    }
    try:
        mp4 = small_mp4(Path(predictions.info["data_root"]) / clip["video"])
        clip["mp4"] = base64.b64encode(mp4).decode()
    except (DecodeError, FFmpegError, OSError, ValueError) as error:
        clip["note"] = f"This video cannot be shown: {error}"
    return clip


def add_attention(clips: Sequence[dict[str, Any]], rows: Sequence[int], folder: Path) -> None:
    """Gives a clip its "attention" in base64, where folder/<row>.mp4 exists, or an "attention_note" why it has none.

    The files are `attention_overlay.attention_clip` of the videos of these rows of predictions.npz (`choose_clips` says
    which); the page shows them as they are. The first of every group come before the second of any until
    ATTENTION_MAX_BYTES are spent.
    """
    places: dict[str, int] = {}
    turns = []
    for clip, row in zip(clips, rows, strict=True):
        places[clip["group"]] = places.get(clip["group"], 0) + 1
        turns.append((places[clip["group"]], len(turns), clip, folder / f"{row}.mp4"))
    left = ATTENTION_MAX_BYTES
    for *_, clip, file in sorted(turns, key=lambda turn: turn[:2]):
        if not file.is_file():
            continue
        size = file.stat().st_size
        if size <= left:
            clip["attention"] = base64.b64encode(file.read_bytes()).decode()
            left -= size
        else:
            clip["attention_note"] = f"{file.parent.name}/{file.name} ({size / 1e6:.1f} MB) is too large for this page."


def small_mp4(path: Path) -> bytes:
    """The video as any browser plays it: an H.264 mp4 of at most CLIP_MAX_BYTES as it is, all else encoded anew without
    sound, CLIP_MAX_SEC long, CLIP_SHORT_SIDE small.

    DecodeError, FFmpegError, OSError or ValueError: it cannot be read.
    """
    with open_container(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no video stream")
        codec = container.streams.video[0].codec_context
        frames = _small_frames(container)
    if (
        path.suffix == ".mp4"
        and path.stat().st_size <= CLIP_MAX_BYTES
        and (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    ):
        return path.read_bytes()
    file = io.BytesIO()
    write_mp4(file, frames, crf=28, max_bits_per_sec=300_000)  # 150 KB at most
    return file.getvalue()


def _small_frames(container: InputContainer) -> Sequence[tuple[float, np.ndarray]]:
    """(time from the first frame in seconds, (H, W, 3) uint8) of the first seconds, upright, all of one size."""
    stream = container.streams.video[0]
    rate = float(stream.average_rate or CLIP_MAX_FPS)
    frames: list[tuple[float, np.ndarray]] = []
    start_sec = 0.0
    try:
        for count, frame in enumerate(container.decode(stream)):
            time_sec = count / rate if frame.time is None else frame.time
            start_sec = time_sec if count == 0 else start_sec
            if time_sec - start_sec > CLIP_MAX_SEC or count > 120 * CLIP_MAX_SEC:
                break
            if not frames or time_sec - start_sec > frames[-1][0] + 0.9 / CLIP_MAX_FPS:
                scale = min(1.0, CLIP_SHORT_SIDE / min(frame.width, frame.height))
                width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
                image = frame.reformat(width, height, format="rgb24").to_ndarray()
                image = np.ascontiguousarray(np.rot90(image, k=frame.rotation // 90))
                if not frames or image.shape == frames[0][1].shape:
                    frames.append((time_sec - start_sec, image))
    except FFmpegError:
        if not frames:  # what came before a broken packet is worth showing
            raise
    if not frames:
        raise ValueError("no frame can be decoded")
    return frames
