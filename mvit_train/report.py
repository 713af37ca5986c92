"""Predictions of an evaluation -> metrics.json -> one self-contained report.html.

    predictions.save_predictions -> predictions.npz -> write_metrics -> metrics.json -> write_report -> report.html

Everything in metrics.json is computed from predictions.npz: its numbers can be made again without the data. The page is
report_template.html, report.css, report_charts.js and report.js; Python gives it data only.
"""

import csv
import json
import math
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from mvit_train.examples import choose_clips, example
from mvit_train.labels import Labels
from mvit_train.metrics import predict, summarize
from mvit_train.predictions import INFO_COPIED, Predictions, load_predictions, replace_file
from mvit_train.temporal import paired_change, time_report, time_sentence

PREDICTIONS, METRICS, CURVES, REPORT = "predictions.npz", "metrics.json", "metrics.csv", "report.html"
MAX_CURVE_POINTS = 2000


def write_metrics(run_dir: Path) -> dict[str, Any]:
    """Computes run_dir/metrics.json from run_dir/predictions.npz and returns its content.

    {the keys of INFO_COPIED, "known_labels": `Labels.known`, "videos": {"expected", "evaluated", "failed"},
    "failures": [{"video", "reason"}], "orders": {order: `metrics.summarize`},
    "change": {order: {"top1", "interval"}}: points against forward and half their 95 % interval, where both were run,
    {"mAP", "interval": None} where a video may have several labels,
    "time": `temporal.time_report` if forward and reverse were run on videos of one label each}.
    Accuracies are percent of the videos evaluated, ValueError if there are none.
    """
    predictions = load_predictions(run_dir / PREDICTIONS)
    scores, labels = predictions.of_evaluated()
    if not len(labels):
        raise ValueError(f"{run_dir / PREDICTIONS}: none of {len(predictions.video_ids)} videos was evaluated")
    reasons = {failure["video"]: failure["reason"] for failure in predictions.info["failures"]}
    failed = [predictions.video_ids[row] for row in np.flatnonzero(~predictions.evaluated).tolist()]
    metrics: dict[str, Any] = {key: predictions.info[key] for key in INFO_COPIED}
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
    text = json.dumps(metrics, indent=1, allow_nan=False)
    replace_file(run_dir / METRICS, lambda file: file.write(text.encode()))
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
        "confusions": None if predictions.multi_label else sparse_confusions(predictions),
        "curves": read_curves(run_dir / CURVES),
        "clips": [example(predictions, group, row) for group, row in choose_clips(predictions)],
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
    replace_file(run_dir / REPORT, lambda file: file.write(page.encode()))
    return run_dir / REPORT


def sparse_confusions(predictions: Predictions) -> dict[str, list[list[int]]]:
    """[label, predicted, videos] of every pair that occurs, per frame order."""
    return {
        order: [[*place, int(table[tuple(place)])] for place in table.nonzero().tolist()]
        for order, table in predictions.confusions().items()
    }


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
