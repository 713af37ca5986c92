"""What an evaluation found, video by video, in a file that everything else is computed from."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from mvit_train.archive import read_arrays
from mvit_train.metrics import confusion, predict

INFO_COPIED = (
    *("experiment", "split", "views", "ensemble", "checkpoint", "label_fingerprint", "label_note", "data_fingerprint"),
    *("created", "substituted", "linear_probe"),
)
INFO_KEYS = (*INFO_COPIED, "data_root", "failures", "config")
INFO_LATER = {"ensemble": "mean", "label_note": None, "linear_probe": None}
"""Keys that files of version 0.1 lack, with what they then mean."""
ARRAY_TYPES = {"video_ids": np.str_, "class_names": np.str_, "frame_orders": np.str_}
ARRAY_TYPES |= {"scores": np.float32, "evaluated": np.bool_}
ARRAY_KINDS = {name: np.dtype(kind).kind for name, kind in ARRAY_TYPES.items()} | {"labels": "ib", "info": "U"}


@dataclass(frozen=True)
class Predictions:
    """What an evaluation found, video by video. The npz file has an array for each field, `info` as one JSON string.

    N videos, K classes, O frame orders.

    Args:
        video_ids: (N,) paths relative to the data root.
        labels: (N,) int64, or (N, K) bool where a video may show several classes or none.
        class_names: (K,) in the order of the scores.
        frame_orders: (O,); the page's headline is "forward", or else the first.
        scores: (O, N, K) float32, softmax scores, or sigmoid scores of several labels, put together over the views
            as `info["ensemble"]` says; NaN where a video failed.
        evaluated: (N,) bool, False for videos that failed.
        info: {"experiment", "split", "views": "5x1", "ensemble": "mean" or "max", "data_root",
            "checkpoint": {"path", "fingerprint", "epoch", "global_step"; the last two None for weights of elsewhere},
            "label_fingerprint", "label_note": what was done to make classes agree, or None, "data_fingerprint",
            "failures" and "substituted" (training videos that could not be read, replaced by others):
            [{"video", "reason"}], "linear_probe": of `train.compare`, or None,
            "config": the resolved config as a nested dict, "created",
            and where known "model": {"params", "gflops": of a view}, "view_order": of `label_ranks`, (clip, crop),
            "early_exit": {"margin", "views": how many were scored of a video, by frame order}, or None}.
        label_ranks: (O, N, V) int32, how many classes are ranked above the label after the first 1, 2, ... V views in
            the order `info["view_order"]`; -1 where a video failed. None for several labels a video
            and with an early exit.
    """

    video_ids: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    frame_orders: Sequence[str]
    scores: np.ndarray
    evaluated: np.ndarray
    info: dict[str, Any]
    label_ranks: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.frame_orders), len(self.video_ids), len(self.class_names))
        if not self.frame_orders or self.scores.shape != shape:
            raise ValueError(f"scores have shape {self.scores.shape}, expected (orders, videos, classes) = {shape}")
        if self.labels.shape not in (shape[1:2], shape[1:]) or self.evaluated.shape != shape[1:2]:
            raise ValueError(f"labels {self.labels.shape} and evaluated {self.evaluated.shape}, expected {shape[1:2]}")
        if self.label_ranks is not None and self.label_ranks.shape[:2] != shape[:2]:
            raise ValueError(f"label_ranks have shape {self.label_ranks.shape}, expected {shape[:2]} and the views")
        if missing := [key for key in INFO_KEYS if key not in self.info]:
            raise ValueError(f"info lacks {', '.join(missing)}")
        broken = self.evaluated & np.isnan(self.scores).any(axis=(0, 2))
        if broken.any():
            names = [str(self.video_ids[row]) for row in np.flatnonzero(broken)[:20].tolist()]
            raise ValueError(f"NaN scores of {broken.sum()} evaluated videos (a diverged model?): {', '.join(names)}")

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    def truth(self) -> np.ndarray:
        """(N, K) bool: which classes each video shows."""
        return self.labels if self.multi_label else self.labels[:, None] == np.arange(len(self.class_names))

    def shown(self, row: int) -> list[int]:
        """The classes that one video shows."""
        return np.flatnonzero(self.labels[row]).tolist() if self.multi_label else [int(self.labels[row])]

    def of_evaluated(self) -> tuple[dict[str, Tensor], Tensor]:
        """Scores (M, K) per frame order and labels (M,) or (M, K) of the M videos evaluated."""
        keep = self.evaluated
        scores = (torch.from_numpy(scores[keep]) for scores in self.scores)
        return dict(zip(self.frame_orders, scores, strict=True)), torch.from_numpy(self.labels[keep])

    def confusions(self) -> dict[str, Tensor]:
        """(K, K) counts [label, predicted] per frame order, of videos of one label each."""
        scores, labels = self.of_evaluated()
        classes = len(self.class_names)
        return {order: confusion(predict(table), labels, classes) for order, table in scores.items()}


def save_predictions(path: Path, **fields: Any) -> None:
    """Writes the fields of `Predictions`, whole or not at all."""
    predictions = Predictions(**fields)
    arrays: dict[str, Any] = {name: np.array(getattr(predictions, name), kind) for name, kind in ARRAY_TYPES.items()}
    arrays["labels"] = np.array(predictions.labels, np.bool_ if predictions.multi_label else np.int64)
    if predictions.label_ranks is not None:
        arrays["label_ranks"] = np.array(predictions.label_ranks, np.int32)
    replace_file(path, lambda file: np.savez(file, **arrays, info=np.array(json.dumps(predictions.info))))


def load_predictions(path: Path) -> Predictions:
    """Reads what `save_predictions` wrote, without pickle: a predictions file can never run code.

    ValueError: it is damaged, or holds something else.
    """
    arrays = read_arrays(path, ARRAY_KINDS, {"label_ranks": "i"})
    texts = {name for name, array in arrays.items() if array.dtype.kind == "U"}
    fields: dict[str, Any] = {name: array.tolist() if name in texts else array for name, array in arrays.items()}
    try:
        fields["info"] = INFO_LATER | json.loads(fields["info"])
        found = Predictions(**fields)
        known = found.multi_label or ((found.labels >= 0) & (found.labels < len(found.class_names))).all()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no predictions: {error}") from error
    if not known:
        raise ValueError(f"{path} holds no predictions: labels that are none of its {len(found.class_names)} classes")
    return found


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
