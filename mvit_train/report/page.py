"""metrics.json and predictions.npz -> one self-contained report.html.

The page is page.html, page.css, charts.js and page.js; Python gives it data only.
"""

import csv
import json
import math
from html import escape
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from mvit_train.predictions import Predictions, load_predictions, replace_file
from mvit_train.report.examples import choose_clips, example
from mvit_train.report.metrics_file import METRICS, PREDICTIONS
from mvit_train.temporal import time_sentence

CURVES, REPORT = "metrics.csv", "report.html"
MAX_CURVE_POINTS = 2000


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
    names = ("page.html", "page.css", "charts.js", "page.js")
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
