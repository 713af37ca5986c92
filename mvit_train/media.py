"""What a validation looked like: its clips with the model's answers, and which classes it takes for each other."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from PIL import Image
from torch import Tensor

from mvit_train.data.views import TARGET_FPS
from mvit_train.metrics import confusion, predict
from mvit_train.mp4 import write_mp4
from mvit_train.wandb_run import Picture, Table, WandbRun

MAX_SIDE, MAX_SEC = 160, 2.0
ENCODE_SEC = 60.0  # for all clips together
TABLES_WITH_CLIPS = 20  # of a run, after the first, evenly spread: W&B keeps a copy of each clip with each table
NUM_PAIRS = 20
PICTURE_SIDE = 640
COLUMNS = ["clip", "video", "truth", "prediction 1", "score 1", "prediction 2", "score 2", "prediction 3", "score 3"]


class ValidationMedia(Callback):
    """Sends W&B, after each validation, `val/clips`, a table of the same at most `num_clips` videos with the model's
    answers, and, of videos of one class each, `val/confusion` and `val/confused_pairs`.

    The clips are those that were scored. They are copied from the first validation, and encoded by W&B's thread.
    """

    def __init__(self, run: WandbRun, folder: Path, num_clips: int) -> None:
        self.run, self.folder, self.num_clips = run, folder, num_clips
        self._clips: dict[int, np.ndarray] | None = None  # until they are encoded: video index -> (T, S, S, 3) uint8
        self._chosen: list[int] = []
        self._files: dict[int, Path] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self._active(trainer) and not self._chosen:
            mine = range(0, len(pl_module.data.splits["val"]), trainer.world_size)  # rank 0's share
            count = min(self.num_clips, len(mine))
            self._chosen, self._clips = [mine[i * len(mine) // count] for i in range(count)], {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._clips is None or len(self._clips) == len(self._chosen) or not self._active(trainer):
            return
        for row, index in enumerate(batch["video_index"].tolist()):
            if index in self._chosen:
                self._clips[index] = thumbnail(batch["video"][row])

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self._active(trainer):
            return
        clips, self._clips = self._clips or {}, None
        scores, complete = pl_module.scores["forward"].by_video().cpu(), pl_module.scores["forward"].complete.cpu()
        manifest, names = pl_module.data.splits["val"], pl_module.labels.names
        targets = manifest.target_tensor()
        every = math.ceil((trainer.max_epochs or 1) / TABLES_WITH_CLIPS)
        with_clips = (trainer.current_epoch + 1) % every == 0 or trainer.current_epoch == 0
        frame_sec = pl_module.data.sampling_rate / (pl_module.data.target_fps or TARGET_FPS)
        shown = [index for index in self._chosen if complete[index]]

        def make() -> dict[str, Table | Picture]:
            self._encode(clips, frame_sec)
            found: dict[str, Table | Picture] = {}
            if shown:
                files = self._files if with_clips else {}
                rows = [[files.get(i), manifest.paths[i], *answer(scores[i], targets[i], names)] for i in shown]
                found["val/clips"] = Table([*COLUMNS[: 3 + 2 * min(3, len(names))], "loss"], rows)
            if targets.ndim == 1 and complete.any():
                found |= confusions(scores[complete], targets[complete], names)
            return found

        self.run.log_media(make, trainer.global_step)

    def _active(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and not trainer.sanity_checking and self.run.on and self.num_clips > 0

    def _encode(self, clips: dict[int, np.ndarray], frame_sec: float) -> None:
        began = time.monotonic()
        for index, clip in clips.items():
            if time.monotonic() - began > ENCODE_SEC:
                raise TimeoutError(f"{len(clips)} clips take longer than {ENCODE_SEC:g} s to encode")
            path = self.folder / f"clip-{index}.mp4"
            period = min(frame_sec, MAX_SEC / len(clip))
            write_mp4(path, [(t * period, frame) for t, frame in enumerate(clip)])
            self._files[index] = path


def thumbnail(video: Tensor) -> np.ndarray:
    """A clip (3, T, S, S) as frames (T, S, S, 3), at most `MAX_SIDE` wide; uint8 both."""
    side = min(MAX_SIDE, video.shape[-1])
    frames = video.transpose(0, 1)  # (T, 3, S, S)
    if side < video.shape[-1]:
        frames = torch.nn.functional.interpolate(frames.float(), size=(side, side), mode="area").round().byte()
    return frames.permute(0, 2, 3, 1).cpu().numpy()


def answer(scores: Tensor, target: Tensor, names: tuple[str, ...]) -> list[Any]:
    """What `val/clips` says of a video after its name: truth, the top three classes and their scores, loss.

    scores (K,); target: the class, or (K,) which classes are shown.
    """
    top, classes = scores.topk(min(3, len(names)))
    ranked = [cell for score, i in zip(top.tolist(), classes.tolist(), strict=True) for cell in (names[i], score)]
    if target.ndim == 0:
        truth, loss = names[int(target)], -scores[int(target)].clamp_min(1e-12).log()
    else:
        truth = ";".join(names[i] for i in target.nonzero().flatten().tolist())
        loss = torch.nn.functional.binary_cross_entropy(scores, target.float())
    return [truth, *ranked, float(loss)]


def confusions(scores: Tensor, labels: Tensor, names: tuple[str, ...]) -> dict[str, Table | Picture]:
    """The confusion matrix as a picture, and the pairs of classes that are most often confused; scores (N, K)."""
    counts = confusion(predict(scores), labels, len(names)).cpu().numpy()
    order = chain(counts)
    listed = ", ".join(names[i] for i in order[:40]) + (", ..." if len(order) > 40 else "")
    caption = f"rows: truth, columns: prediction; classes in order: {listed}"
    return {
        "val/confusion": Picture(matrix_picture(counts[np.ix_(order, order)]), caption),
        "val/confused_pairs": Table(["truth", "prediction", "videos", "percent of truth"], confused(counts, names)),
    }


def confused(counts: np.ndarray, names: tuple[str, ...]) -> list[list[Any]]:
    """The most frequent mistakes as rows (truth, prediction, videos, percent of the truth's videos); counts (K, K)."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:NUM_PAIRS]
    pairs = [divmod(int(place), len(counts)) for place in largest if wrong.flat[place]]
    return [[names[t], names[p], int(counts[t, p]), 100 * counts[t, p] / counts[t].sum()] for t, p in pairs]


def chain(counts: np.ndarray) -> list[int]:
    """Classes in an order that sets those that are confused side by side: from the first one on, always the one that
    shares most mistakes with the one before. counts (K, K)."""
    shared = (counts + counts.T).astype(float)
    order, left = [0], set(range(1, len(counts)))
    while left:
        order.append(min(left, key=lambda i: (-shared[order[-1], i], i)))
        left.remove(order[-1])
    return order


def matrix_picture(counts: np.ndarray) -> Image.Image:
    """counts (K, K) as shares of their rows, white 0 to dark blue 1, in squares of whole pixels."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    dark, cell = np.array([8, 48, 107]), max(1, PICTURE_SIDE // len(counts))
    colours = 255 - shares[..., None] * (255 - dark)  # (K, K, 3)
    return Image.fromarray(colours.round().astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1))
