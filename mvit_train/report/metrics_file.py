"""predictions.npz -> metrics.json: every number of an evaluation, computed from its predictions alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mvit_train.calibration import calibration
from mvit_train.labels import Labels
from mvit_train.metrics import predict, summarize
from mvit_train.predictions import INFO_COPIED, Predictions, load_predictions, replace_file
from mvit_train.report.card import card
from mvit_train.robustness import ROBUSTNESS, load_robustness, robustness
from mvit_train.temporal import paired_change, time_report

PREDICTIONS, METRICS = "predictions.npz", "metrics.json"


def write_metrics(run_dir: Path) -> dict[str, Any]:
    """Computes run_dir/metrics.json from run_dir/predictions.npz and returns its content.

    {the keys of INFO_COPIED, "early_exit", "known_labels": `Labels.known`,
    "videos": {"expected", "evaluated", "failed"}, "failures": [{"video", "reason"}],
    "orders": {order: `metrics.summarize`},
    "change": {order: {"top1", "interval"}}: points against forward and half their 95 % interval, where both were run,
    {"mAP", "interval": None} where a video may have several labels,
    "time": `temporal.time_report` if forward and reverse were run on videos of one label each,
    "model": {"params", "gflops"} or None, the keys of `card.card`, "calibration": {order: `calibration.calibration`},
    "views_curve": `views_curve` where the file has it, "robustness": `robustness.robustness` of a run_dir with
    predictions_robustness.npz}. docs/evaluation.md explains every key.
    Accuracies are percent of the videos evaluated, ValueError if there are none. Intervals are of 95 %.
    """
    predictions = load_predictions(run_dir / PREDICTIONS)
    scores, labels = predictions.of_evaluated()
    if not len(labels):
        raise ValueError(f"{run_dir / PREDICTIONS}: none of {len(predictions.video_ids)} videos was evaluated")
    reasons = {failure["video"]: failure["reason"] for failure in predictions.info["failures"]}
    failed = [predictions.video_ids[row] for row in np.flatnonzero(~predictions.evaluated).tolist()]
    metrics: dict[str, Any] = {key: predictions.info[key] for key in INFO_COPIED}
    metrics["early_exit"] = predictions.info.get("early_exit")
    metrics["known_labels"] = Labels(tuple(predictions.class_names)).known()
    metrics["videos"] = {"expected": len(predictions.video_ids), "evaluated": len(labels), "failed": len(failed)}
    unscored = "not all of its views were scored"
    metrics["failures"] = [{"video": video, "reason": reasons.get(video, unscored)} for video in failed]
    metrics["orders"] = {order: summarize(table, labels, predictions.class_names) for order, table in scores.items()}
    metrics["change"] = {}
    for order in [order for order in scores if order != "forward" and "forward" in scores]:
        if predictions.multi_label:
            points = metrics["orders"][order]["mAP"] - metrics["orders"]["forward"]["mAP"]
            metrics["change"][order] = {"mAP": points, "interval": None}
            continue
        right, right_forward = (predict(scores[name]) == labels for name in (order, "forward"))
        points, interval = paired_change(right, right_forward)
        metrics["change"][order] = {"top1": points, "interval": interval}
    if {"forward", "reverse"} <= scores.keys() and not predictions.multi_label:
        metrics["time"] = time_report(predictions.confusions(), predictions.class_names)
    metrics["model"] = predictions.info.get("model")
    metrics |= card(predictions, metrics["orders"])
    metrics["calibration"] = {order: calibration(table.numpy(), labels.numpy()) for order, table in scores.items()}
    if predictions.label_ranks is not None:
        metrics["views_curve"] = views_curve(predictions, predictions.label_ranks)
    if (run_dir / ROBUSTNESS).exists():
        metrics["robustness"] = robustness(load_robustness(run_dir / ROBUSTNESS), predictions)
    text = json.dumps(metrics, indent=1, allow_nan=False)
    replace_file(run_dir / METRICS, lambda file: file.write(text.encode()))
    return metrics


def views_curve(predictions: Predictions, label_ranks: np.ndarray) -> dict[str, Any]:
    """Accuracy in percent after the first 1, 2, ... V views of every video: {"order": [[clip, crop], ...] of the V
    views, "top1": {frame order: (V,)}, "top5": {frame order: (V,)}}; the last is that of the evaluation."""
    ranks = dict(zip(predictions.frame_orders, label_ranks[:, predictions.evaluated], strict=True))
    curves = {
        name: {order: (100 * (table < k).sum(axis=0) / len(table)).tolist() for order, table in ranks.items()}
        for name, k in (("top1", 1), ("top5", 5))
    }
    return {"order": predictions.info["view_order"], **curves}
