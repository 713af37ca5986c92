"""Predictions of an evaluation -> metrics.json -> one self-contained report.html.

    save_predictions -> predictions.npz -> write_metrics -> metrics.json -> write_report -> report.html

Everything in metrics.json is computed from predictions.npz: its numbers can be made again without the data. The page is
report_template.html, report.css, report_charts.js and report.js; Python gives it data only.
"""

import base64
import csv
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from pathlib import Path
from string import Template
from typing import IO, Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from plotly.offline import get_plotlyjs
from torch import Tensor

from mvit_train.metrics import confusion, predict, summarize
from mvit_train.temporal import paired_change, time_report, time_sentence

PREDICTIONS, METRICS, CURVES, REPORT = "predictions.npz", "metrics.json", "metrics.csv", "report.html"
INFO_COPIED = (
    *("experiment", "split", "views", "checkpoint", "label_fingerprint", "data_fingerprint", "created"),
    "substituted",
)
INFO_KEYS = (*INFO_COPIED, "data_root", "failures", "config")
ARRAY_TYPES = {"video_ids": np.str_, "labels": np.int64, "class_names": np.str_, "frame_orders": np.str_}
ARRAY_TYPES |= {"scores": np.float32, "evaluated": np.bool_}
MAX_CURVE_POINTS = 2000
CLIPS_PER_GROUP = 8
CLIP_MAX_SEC, CLIP_MAX_FPS, CLIP_SHORT_SIDE, CLIP_MAX_BYTES = 4, 30, 160, 150_000


@dataclass(frozen=True)
class Predictions:
    """What an evaluation found, video by video. The npz file has an array for each field, `info` as one JSON string.

    N videos, K classes, O frame orders.

    Args:
        video_ids: (N,) paths relative to the data root.
        labels: (N,) int64.
        class_names: (K,) in the order of the scores.
        frame_orders: (O,); the page's headline is "forward", or else the first.
        scores: (O, N, K) float32, softmax scores averaged over the views; NaN where a video failed.
        evaluated: (N,) bool, False for videos that failed.
        info: {"experiment", "split", "views": "5x1", "data_root", "checkpoint": {"path", "fingerprint", "epoch",
            "global_step"; the last two None for weights of elsewhere}, "label_fingerprint", "data_fingerprint",
            "failures" and "substituted" (training videos that could not be read, replaced by others):
            [{"video", "reason"}], "config": the resolved config as a nested dict, "created"}.
    """

    video_ids: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    frame_orders: Sequence[str]
    scores: np.ndarray
    evaluated: np.ndarray
    info: dict[str, Any]

    def __post_init__(self) -> None:
        shape = (len(self.frame_orders), len(self.video_ids), len(self.class_names))
        if not self.frame_orders or self.scores.shape != shape:
            raise ValueError(f"scores have shape {self.scores.shape}, expected (orders, videos, classes) = {shape}")
        if self.labels.shape != shape[1:2] or self.evaluated.shape != shape[1:2]:
            raise ValueError(f"labels {self.labels.shape} and evaluated {self.evaluated.shape}, expected {shape[1:2]}")
        if missing := [key for key in INFO_KEYS if key not in self.info]:
            raise ValueError(f"info lacks {', '.join(missing)}")
        broken = self.evaluated & np.isnan(self.scores).any(axis=(0, 2))
        if broken.any():
            names = [str(self.video_ids[row]) for row in np.flatnonzero(broken)[:20].tolist()]
            raise ValueError(f"NaN scores of {broken.sum()} evaluated videos (a diverged model?): {', '.join(names)}")

    def of_evaluated(self) -> tuple[dict[str, Tensor], Tensor]:
        """Scores (M, K) per frame order and labels (M,) of the M videos evaluated."""
        keep = self.evaluated
        scores = (torch.from_numpy(scores[keep]) for scores in self.scores)
        return dict(zip(self.frame_orders, scores, strict=True)), torch.from_numpy(self.labels[keep])

    def confusions(self) -> dict[str, Tensor]:
        """(K, K) counts [label, predicted] per frame order."""
        scores, labels = self.of_evaluated()
        classes = len(self.class_names)
        return {order: confusion(predict(table), labels, classes) for order, table in scores.items()}


def save_predictions(path: Path, **fields: Any) -> None:
    """Writes the fields of `Predictions`, whole or not at all."""
    predictions = Predictions(**fields)
    arrays: dict[str, Any] = {name: np.array(getattr(predictions, name), kind) for name, kind in ARRAY_TYPES.items()}
    _replace(path, lambda file: np.savez(file, **arrays, info=np.array(json.dumps(predictions.info))))


def load_predictions(path: Path) -> Predictions:
    """Reads what `save_predictions` wrote, without pickle: a predictions file can never run code."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ARRAY_TYPES}
        lists = {name: array.tolist() if ARRAY_TYPES[name] is np.str_ else array for name, array in arrays.items()}
        return Predictions(**lists, info=json.loads(str(file["info"])))


def write_metrics(run_dir: Path) -> dict[str, Any]:
    """Computes run_dir/metrics.json from run_dir/predictions.npz and returns its content.

    {the keys of INFO_COPIED, "videos": {"expected", "evaluated", "failed"}, "failures": [{"video", "reason"}],
    "orders": {order: `metrics.summarize`},
    "change": {order: {"top1", "interval"}}: points against forward and half their 95 % interval, where both were run,
    "time": `temporal.time_report` if forward and reverse were run}. Accuracies are percent of the videos evaluated,
    ValueError if there are none.
    """
    predictions = load_predictions(run_dir / PREDICTIONS)
    scores, labels = predictions.of_evaluated()
    if not len(labels):
        raise ValueError(f"{run_dir / PREDICTIONS}: none of {len(predictions.video_ids)} videos was evaluated")
    right = {order: predict(table) == labels for order, table in scores.items()}
    reasons = {failure["video"]: failure["reason"] for failure in predictions.info["failures"]}
    failed = [predictions.video_ids[row] for row in np.flatnonzero(~predictions.evaluated).tolist()]
    metrics: dict[str, Any] = {key: predictions.info[key] for key in INFO_COPIED}
    metrics["videos"] = {"expected": len(predictions.video_ids), "evaluated": len(labels), "failed": len(failed)}
    unscored = "not all of its views were scored"
    metrics["failures"] = [{"video": video, "reason": reasons.get(video, unscored)} for video in failed]
    metrics["orders"] = {order: summarize(table, labels, predictions.class_names) for order, table in scores.items()}
    metrics["change"] = {}
    for order in [order for order in scores if order != "forward" and "forward" in scores]:
        points, interval = paired_change(right[order], right["forward"])
        metrics["change"][order] = {"top1": points, "interval": interval}
    if {"forward", "reverse"} <= scores.keys():
        metrics["time"] = time_report(predictions.confusions(), predictions.class_names)
    text = json.dumps(metrics, indent=1, allow_nan=False)
    _replace(run_dir / METRICS, lambda file: file.write(text.encode()))
    return metrics


def write_report(run_dir: Path) -> Path:
    """Writes run_dir/report.html, one file that needs no network, from the run folder's predictions.npz, metrics.json
    and, for the learning curves, metrics.csv where there is one."""
    predictions = load_predictions(run_dir / PREDICTIONS)
    metrics = json.loads((run_dir / METRICS).read_text())
    data = {
        "metrics": metrics,
        "sentence": time_sentence(metrics["time"]) if "time" in metrics else None,
        "classes": predictions.class_names,
        "confusions": {
            order: [[*place, int(table[tuple(place)])] for place in table.nonzero().tolist()]
            for order, table in predictions.confusions().items()
        },
        "curves": read_curves(run_dir / CURVES),
        "clips": [_clip(predictions, group, row) for group, row in choose_clips(predictions)],
        "config": predictions.info["config"],
    }
    names = ("report_template.html", "report.css", "report_charts.js", "report.js")
    template, style, *scripts = (Path(__file__).with_name(name).read_text("utf-8") for name in names)
    page = Template(template).substitute(
        experiment=escape(str(metrics["experiment"])),
        style=style,
        plotly=get_plotlyjs(),
        data=json.dumps(data).replace("<", "\\u003c"),  # "</script>" in a class name would end the element
        script="".join(scripts),
    )
    _replace(run_dir / REPORT, lambda file: file.write(page.encode()))
    return run_dir / REPORT


def read_curves(path: Path) -> dict[str, dict[str, list[float]]]:
    """{"train/loss": {"step": [...], "value": [...]}} from the file of Lightning's CSVLogger, by step and thinned to
    MAX_CURVE_POINTS; the later row wins where a resumed run wrote a step twice. Empty without the file."""
    points: dict[str, dict[int, float]] = {}
    for row in csv.DictReader(path.read_text().splitlines() if path.exists() else ()):
        for name in row.keys() - {"step", "epoch", None}:
            value = float(row[name] or "nan")
            if row["step"] and math.isfinite(value):
                points.setdefault(name, {})[int(float(row["step"]))] = value
    curves = {}
    for name, by_step in sorted(points.items()):
        steps = sorted(by_step)[:: math.ceil(len(by_step) / MAX_CURVE_POINTS)]
        curves[name] = {"step": steps, "value": [by_step[step] for step in steps]}
    return curves


def choose_clips(predictions: Predictions) -> list[tuple[str, int]]:
    """(group, row) of the example videos, at most CLIPS_PER_GROUP of a group, one per class before a second of any.

    wrong: the surest mistakes; hurt: right, but wrong once shuffled, by the probability lost; right: the surest others.
    """
    scores = dict(zip(predictions.frame_orders, np.nan_to_num(predictions.scores), strict=True))
    labels, evaluated, rows = predictions.labels, predictions.evaluated, np.arange(len(predictions.labels))
    first = scores.get("forward", next(iter(scores.values())))
    right = evaluated & (first.argmax(axis=1) == labels)
    shuffled = scores.get("shuffle", first)
    groups = {
        "wrong": (evaluated & ~right, first.max(axis=1)),
        "hurt": (right & (shuffled.argmax(axis=1) != labels), first[rows, labels] - shuffled[rows, labels]),
        "right": (right, first.max(axis=1)),
    }
    chosen: dict[int, str] = {}
    for group, (mask, value) in groups.items():
        turns: dict[int, int] = {}  # how many of a class came before
        ranked = []
        for row in np.argsort(-value, kind="stable").tolist():
            if mask[row] and row not in chosen:
                label = int(labels[row])
                turns[label] = turns.get(label, 0) + 1
                ranked.append((turns[label], len(ranked), row))
        chosen |= {row: group for *_, row in sorted(ranked)[:CLIPS_PER_GROUP]}
    return [(group, row) for row, group in chosen.items()]


def _clip(predictions: Predictions, group: str, row: int) -> dict[str, Any]:
    """What the page knows of one example: its mp4 in base64, or a note why there is none, and its scores."""
    scores = dict(zip(predictions.frame_orders, predictions.scores[:, row], strict=True))
    first = scores.get("forward", predictions.scores[0, row])
    clip: dict[str, Any] = {
        "group": group,
        "video": predictions.video_ids[row],
        "label": int(predictions.labels[row]),
        "top3": [[int(index), float(first[index])] for index in np.argsort(-first, kind="stable")[:3]],
        "predicted": {order: [int(table.argmax()), float(table.max())] for order, table in scores.items()},
    }
    try:
        mp4 = small_mp4(Path(predictions.info["data_root"]) / clip["video"])
        clip["mp4"] = base64.b64encode(mp4).decode()
    except (FFmpegError, OSError, ValueError) as error:
        clip["note"] = f"This video cannot be shown: {error}"
    return clip


def small_mp4(path: Path) -> bytes:
    """The video as any browser plays it: an H.264 mp4 of at most CLIP_MAX_BYTES as it is, all else encoded anew without
    sound, CLIP_MAX_SEC long, CLIP_SHORT_SIDE small. FFmpegError, OSError or ValueError: it cannot be read."""
    with av.open(str(path)) as container:
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
    with av.open(file, "w", format="mp4") as output:
        options = {"crf": "28", "preset": "veryfast", "maxrate": "300k", "bufsize": "300k"}  # 150 KB at most
        stream = output.add_stream("libx264", rate=CLIP_MAX_FPS, options=options)
        stream.height, stream.width = frames[0][1].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        for time_sec, image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_sec), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
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


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
