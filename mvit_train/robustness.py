"""How much of a model's accuracy is left on corrupted videos: which conditions, what was found, the numbers.

Mean corruption accuracy is the mean over the corruptions of the mean over the severities, relative robustness its share
of the accuracy on clean videos: mPC and rPC of Michaelis et al. (arXiv 1907.07484), with accuracy for performance.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvit_train.archive import read_arrays
from mvit_train.average_precision import summarize_multi_label
from mvit_train.data.corruptions import CORRUPTIONS, NEED_FRAMES
from mvit_train.metrics import headline, predict
from mvit_train.predictions import Predictions, replace_file
from mvit_train.statistics import interval, resampled_class_sums

ROBUSTNESS = "predictions_robustness.npz"
SAME_EVALUATION = ("views", "ensemble", "checkpoint", "label_fingerprint", "data_fingerprint")


def corruption_names(asked: str | Sequence[str], num_frames: int) -> tuple[str, ...]:
    """The corruptions to evaluate: those named, or "all" that clips of so many frames have.

    ValueError for a named one that such clips do not have.
    """
    if asked == "all":
        return tuple(name for name in CORRUPTIONS if num_frames > 1 or name not in NEED_FRAMES)
    named = (asked,) if isinstance(asked, str) else tuple(dict.fromkeys(asked))
    for name in named:
        if num_frames == 1 and name in NEED_FRAMES:
            raise ValueError(f"corruptions={name}: a clip of clip.num_frames=1 has no other frame to show")
    return named


@dataclass(frozen=True)
class CorruptedPredictions:
    """What an evaluation found on corrupted videos. The npz file has an array for each field that is not None, `info`
    as one JSON string.

    C corruptions, S severities, N videos, K classes.

    Args:
        corruptions: (C,) names.
        severities: (S,) of each of them.
        video_ids: (N,) as in the `Predictions` of the clean videos.
        info: the keys SAME_EVALUATION of the `Predictions`.
        predicted: (C, S, N) int64, the class called, in the order of the `Predictions`; -1 where a video failed.
        probability: (C, S, N) float32, the score of that class, over the views; NaN where a video failed.
        scores: (C, S, N, K) float32, NaN where a video failed: in place of the other two for several labels a video.
    """

    corruptions: Sequence[str]
    severities: Sequence[int]
    video_ids: Sequence[str]
    info: dict[str, Any]
    predicted: np.ndarray | None = None
    probability: np.ndarray | None = None
    scores: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        outcomes: Sequence[dict[str, np.ndarray]],
        *,
        corruptions: Sequence[str],
        severities: Sequence[int],
        **fields: Any,
    ) -> "CorruptedPredictions":
        """outcomes: `outcome` of each condition, all severities of the first corruption first."""
        grid = (len(corruptions), len(severities))
        arrays = {}
        for name in outcomes[0]:
            rows = np.stack([found[name] for found in outcomes])
            arrays[name] = rows.reshape(*grid, *rows.shape[1:])
        return cls(corruptions=corruptions, severities=severities, **fields, **arrays)

    @property
    def complete(self) -> np.ndarray:
        """(N,) bool: the videos that did not fail in any condition."""
        if self.scores is not None:
            return np.all(~np.isnan(self.scores), axis=(0, 1, 3), keepdims=True)[0, 0, :, 0]
        assert self.predicted is not None, "either predicted or scores"
        return np.min(self.predicted, axis=(0, 1), keepdims=True)[0, 0] >= 0


def outcome(scores: Tensor, *, multi_label: bool) -> dict[str, np.ndarray]:
    """What is kept of a condition, of scores (N, K) that are NaN where a video failed."""
    if multi_label:
        return {"scores": scores.numpy()}
    probability, predicted = scores.max(dim=1)  # the first of several maxima, as `metrics.predict`; NaN passes through
    return {"predicted": predicted.masked_fill(probability.isnan(), -1).numpy(), "probability": probability.numpy()}


ARRAYS = ("predicted", "probability", "scores")


def save_robustness(path: Path, found: CorruptedPredictions) -> None:
    """Writes predictions_robustness.npz, whole or not at all."""
    arrays = {name: getattr(found, name) for name in ARRAYS if getattr(found, name) is not None}
    arrays |= {"corruptions": np.array(found.corruptions), "severities": np.array(found.severities)}
    arrays |= {"video_ids": np.array(found.video_ids, np.str_), "info": np.array(json.dumps(found.info))}
    replace_file(path, lambda file: np.savez(file, **arrays))


def load_robustness(path: Path) -> CorruptedPredictions:
    """Reads what `save_robustness` wrote, without pickle. ValueError: it is damaged, or holds something else."""
    kinds = {"corruptions": "U", "severities": "i", "video_ids": "U", "info": "U"}
    found = read_arrays(path, kinds, {"predicted": "i", "probability": "f", "scores": "f"})
    fields: dict[str, Any] = {name: array.tolist() if name in kinds else array for name, array in found.items()}
    try:
        fields["info"] = json.loads(fields["info"])
        return CorruptedPredictions(**fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no predictions: {error}") from error


def robustness(found: CorruptedPredictions, clean: Predictions) -> dict[str, Any]:
    """The numbers in percent, of the videos that were evaluated clean and in every condition, ready for JSON.

    {"severities", "videos": how many, "clean": top-1 with the frames forward, "top1": {corruption: [by severity]},
    "mean": {corruption: over the severities}, "mean_corruption_accuracy", "relative": to clean, None if that is 0,
    "intervals": {"clean", "top1", "mean", "mean_corruption_accuracy", "relative"} as these, with [low, high] for each
    number}. Of several labels a video: mAP and "mAP" for top-1 and "top1", "intervals" None.
    ValueError if the files are of different evaluations, or no video came through.
    """
    _check_same(found, clean)
    keep = clean.evaluated & found.complete
    if not keep.any():
        raise ValueError(f"{ROBUSTNESS}: no video was evaluated in every condition")
    forward = clean.scores[list(clean.frame_orders).index("forward"), keep]
    name, labels = headline(multi_label=clean.multi_label), torch.from_numpy(clean.labels[keep])
    intervals = None
    if found.scores is not None:
        tables = [[_mean_precision(table[keep], labels, clean.class_names) for table in row] for row in found.scores]
        reference = _mean_precision(forward, labels, clean.class_names)
        numbers = _numbers(np.array(tables), np.array(reference))
    else:
        assert found.predicted is not None, "either predicted or scores"
        right = found.predicted[..., keep] == labels.numpy()  # (C, S, N)
        right_clean = (predict(torch.from_numpy(forward)) == labels).numpy()
        numbers = _numbers(100 * right.sum(axis=-1) / len(labels), np.array(100 * right_clean.sum() / len(labels)))
        intervals = _named(_intervals(right, right_clean, labels.numpy()), found.corruptions, name)
    counts = {"severities": list(found.severities), "videos": int(keep.sum())}
    return counts | _named(numbers, found.corruptions, name) | {"intervals": intervals}


def _check_same(found: CorruptedPredictions, clean: Predictions) -> None:
    differ = [key for key in SAME_EVALUATION if found.info[key] != clean.info[key]]
    if list(found.video_ids) != list(clean.video_ids):
        differ.append("video_ids")
    if differ:
        raise ValueError(f"{ROBUSTNESS} is of another evaluation than predictions.npz: {', '.join(differ)} differ")


Numbers = dict[str, Any]  # arrays, or None for what cannot be said


def _numbers(table: np.ndarray, clean: np.ndarray) -> Numbers:
    """table: (C, S, ...) accuracies; clean: (...). "relative" is None where `clean` is 0 throughout."""
    means = table.mean(axis=1)
    overall = means.mean(axis=0)
    numbers = {"clean": clean, "table": table, "mean": means, "mean_corruption_accuracy": overall}
    relative = 100 * overall / np.where(clean > 0, clean, np.nan)
    return numbers | {"relative": relative if np.any(clean > 0) else None}


def _intervals(right: np.ndarray, right_clean: np.ndarray, labels: np.ndarray) -> Numbers:
    """`_numbers` with [low, high] in place of each. right: (C, S, N) bool; right_clean: (N,) bool."""
    drawn = _resampled(np.concatenate([right_clean[None], right.reshape(-1, len(labels))]), labels)
    samples = _numbers(drawn[:, 1:].T.reshape(*right.shape[:2], -1), drawn[:, 0])
    return {key: None if value is None else np.apply_along_axis(interval, -1, value) for key, value in samples.items()}


def _named(numbers: Numbers, corruptions: Sequence[str], name: str) -> dict[str, Any]:
    """As lists, what has a row for each corruption by its name; the table under `name`."""
    lists: dict[str, Any] = {key: None if value is None else value.tolist() for key, value in numbers.items()}
    rows = {key: dict(zip(corruptions, lists.pop(key), strict=True)) for key in ("table", "mean")}
    return lists | {name: rows["table"], "mean": rows["mean"]}


def _resampled(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(R, M) accuracies in percent of M rows (M, N) in every resample, the draws of the report card: it has the videos
    in the order of their classes."""
    values = right[:, np.argsort(labels, kind="stable")].T  # (N, M)
    sums = resampled_class_sums(values, np.zeros(len(labels), np.int64), 1)
    return 100 * np.concatenate([part[:, 0] for part in sums]) / len(labels)


def _mean_precision(scores: np.ndarray, labels: Tensor, names: Sequence[str]) -> float:
    return summarize_multi_label(torch.from_numpy(scores), labels, names)["mAP"]
