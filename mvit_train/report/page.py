"""metrics.json and predictions.npz -> one self-contained report.html.

The page is page.html, page.css and the scripts of SCRIPTS; Python gives it data only.
"""

import csv
import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from mvit_train.papers.header import Header
from mvit_train.predictions import Predictions, load_predictions, replace_file
from mvit_train.report.confusions import similar_order, sparse_confusions
from mvit_train.report.examples import ATTENTION_FOLDER, add_attention, choose_clips, example
from mvit_train.report.metrics_file import METRICS, PREDICTIONS
from mvit_train.temporal import time_sentence

SCRIPTS = ("elements.js", "charts.js", "orders.js", "classes.js", "confusion.js", "clips.js", "page.js")
CURVES, REPORT = "metrics.csv", "report.html"
MAX_CURVE_POINTS = 2000


def write_report(run_dir: Path) -> Path:
    """Writes run_dir/report.html, one file that needs no network, from the run folder's predictions.npz, metrics.json
    and, where they are there, metrics.csv (the learning curves; that of the run if `run_dir` is the folder of an
    evaluation in it) and attention/<row>.mp4 (where the model looks in an example, see `examples.add_attention`).
    """
    predictions = load_predictions(run_dir / PREDICTIONS)
    metrics = json.loads((run_dir / METRICS).read_text())
    data = {
        "metrics": metrics,
        "sentence": time_sentence(metrics["time"]) if "time" in metrics else None,
        "expected": expected(metrics),
        "classes": predictions.class_names,
        **_confusions(predictions),
        "curves": read_curves(run_dir / CURVES) or read_curves(run_dir.parent / CURVES),
        "clips": _clips(predictions, run_dir / ATTENTION_FOLDER),
        "config": predictions.info["config"],
    }
    names = ("page.html", "page.css", *SCRIPTS)
    template, style, *scripts = (Path(__file__).with_name(name).read_text("utf-8") for name in names)
    page = Template(template).substitute(
        experiment=escape(str(metrics["experiment"])),
        style=style,
        plotly=get_plotlyjs(),
        data=json.dumps(data).replace("<", "\\u003c"),  # "</script>" in a class name would end the element
        script="\n".join(scripts),
    )
    replace_file(run_dir / REPORT, lambda file: file.write(page.encode()))
    return run_dir / REPORT


def expected(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """{"text", "file", "band": (low, high) or None}: what the experiment's file expects; None if it says nothing."""
    name = str(metrics["experiment"])
    header = Header.read(name)
    if header.expected is None:
        return None
    multi_label = "mAP" in next(iter(metrics["orders"].values()))
    band = header.band("mAP" if multi_label else "top-1", str(metrics["views"]))
    return {"text": header.expected, "file": f"conf/experiment/{name}.yaml", "band": band}


def _confusions(predictions: Predictions) -> dict[str, Any]:
    if predictions.multi_label:
        return {"confusions": None, "similar": None}
    tables = predictions.confusions()
    first = tables.get("forward", next(iter(tables.values())))
    return {"confusions": sparse_confusions(tables), "similar": similar_order(first.numpy())}


def _clips(predictions: Predictions, attention: Path) -> list[dict[str, Any]]:
    chosen = choose_clips(predictions)
    clips = [example(predictions, group, row) for group, row in chosen]
    add_attention(clips, [row for _, row in chosen], attention)
    return clips


def read_curves(path: Path) -> dict[str, dict[str, list[float]]]:
    """{"train/loss": {"step": [...], "value": [...]}} from the file of `MetricsLog`, by step and thinned to
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
