"""Evaluations side by side, as in Table 9 of MViT (arXiv 2104.11227): models by rows, frame orders by columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mvit_train.metrics import headline, label_ranks
from mvit_train.predictions import Predictions
from mvit_train.report.summary import p_value, span
from mvit_train.statistics import (
    RESAMPLES_PRECISION,
    interval,
    mcnemar,
    mean_over_classes,
    resampled_precisions,
    resampled_weights,
)
from mvit_train.temporal import CARD_ORDERS

MUST_AGREE = {
    "data_fingerprint": "data fingerprints",
    "label_fingerprint": "class lists",
    "split": "splits",
    "views": "views",
    "ensemble": "combinations of the views",
}


def compare(names: Sequence[str], metrics: Sequence[Mapping[str, Any]], predictions: Sequence[Predictions]) -> str:
    """The table as markdown; below it what makes its numbers incomparable, and of two models their difference.

    names, metrics (content of metrics.json) and predictions: of the same evaluations, in the same order.
    """
    if len({file.multi_label for file in predictions}) > 1:
        raise ValueError("input: videos of one label and of several: accuracy and mAP do not go into one table")
    name = headline(multi_label=predictions[0].multi_label)
    lines = [*table(names, metrics, name), "", legend(name)]
    lines += [f"not comparable: {text}" for text in obstacles(names, metrics, predictions)]
    if len(names) == 2:
        lines.append(difference(*predictions))
    return "\n".join(lines)


def table(names: Sequence[str], metrics: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The lines of the table, columns aligned."""
    orders = [order for order in CARD_ORDERS if any(order in found["orders"] for found in metrics)]
    rows = [["model", "params, M", "G per view", "views", *orders]]
    for title, found in zip(names, metrics, strict=True):
        cost: Mapping[str, Any] = found["model"] or {"params": None, "gflops": None}
        rows.append(
            [
                title,
                "-" if cost["params"] is None else f"{cost['params'] / 1e6:.2f}",
                "-" if cost["gflops"] is None else f"{cost['gflops']:.3g}",
                found["views"],
                *(_cell(found, order, name) for order in orders),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [" | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    aligned.insert(1, "-|-".join("-" * width for width in widths))
    return [f"| {line} |" if place != 1 else f"|-{line}-|" for place, line in enumerate(aligned)]


def _cell(found: Mapping[str, Any], order: str, name: str) -> str:
    if order not in found["orders"]:
        return "-"
    value = f"{found['orders'][order][name]:.1f}"
    if row := found["card"].get(order):
        return f"{value} ({row['change']:+.1f} {span(row['interval'], '+.1f')})"
    return f"{value} {span(found['intervals'][order][name], '.1f')}"


def legend(name: str) -> str:
    """What the cells hold."""
    number = "top-1" if name == "top1" else name
    return (
        f"{number} in percent with its 95 % interval; in brackets the change against forward, in points, with its own. "
        "G: 1e9 multiply-adds of a view."
    )


def obstacles(
    names: Sequence[str], metrics: Sequence[Mapping[str, Any]], predictions: Sequence[Predictions]
) -> list[str]:
    """Why the numbers of the table must not be compared."""
    found = [
        f"{words} differ: " + ", ".join(f"{name} {row[key]}" for name, row in zip(names, metrics, strict=True))
        for key, words in MUST_AGREE.items()
        if len({row[key] for row in metrics}) > 1
    ]
    videos = [{str(file.video_ids[row]) for row in np.flatnonzero(file.evaluated).tolist()} for file in predictions]
    if any(evaluated != videos[0] for evaluated in videos):
        counts = ", ".join(f"{name} {len(evaluated)}" for name, evaluated in zip(names, videos, strict=True))
        found.append(f"not the same videos were evaluated: {counts}, {len(set.intersection(*videos))} by all")
    return found


def difference(first: Predictions, second: Predictions) -> str:
    """The first model less the second, forward, on the videos that both evaluated; or why there is no such number."""
    if "forward" not in first.frame_orders or "forward" not in second.frame_orders:
        return "no difference: one of them was not evaluated forward"
    rows = _common(first, second)
    if rows is None:
        return "no difference: they have no evaluated video in common, or other labels for the same one"
    tables = [
        (torch.from_numpy(file.scores[list(file.frame_orders).index("forward"), row]), file.labels[row])
        for file, row in zip((first, second), rows, strict=True)
    ]
    if first.multi_label:
        return _precision_difference(*[(scores.numpy(), labels) for scores, labels in tables])
    right = [(label_ranks(scores, torch.from_numpy(labels)) == 0).numpy() for scores, labels in tables]
    points = right[0].astype(np.float64) - right[1]
    samples = np.concatenate([weights @ points for weights in resampled_weights(len(points))])
    test = mcnemar(right[0], right[1])
    return (
        f"difference, first - second: {100 * points.mean():+.1f} points of top-1 forward, 95 % interval "
        f"{span(interval(100 * samples / len(points)), '+.1f')}; on {len(points)} videos {test['won']} are right in "
        f"the first alone, {test['lost']} in the second alone, p {p_value(test['p'])} (McNemar's exact test)"
    )


def _common(first: Predictions, second: Predictions) -> tuple[list[int], list[int]] | None:
    """The rows of the videos that both evaluated; None if there are none or a video's classes differ by name."""
    places = {str(second.video_ids[row]): row for row in np.flatnonzero(second.evaluated).tolist()}
    rows = [row for row in np.flatnonzero(first.evaluated).tolist() if str(first.video_ids[row]) in places]
    others = [places[str(first.video_ids[row])] for row in rows]

    def names(file: Predictions, row: int) -> set[str]:
        return {file.class_names[index] for index in file.shown(row)}

    same = all(names(first, row) == names(second, other) for row, other in zip(rows, others, strict=True))
    return (rows, others) if rows and same else None


def _precision_difference(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> str:
    """Of two tables of scores (N, K) and labels (N, K) of the same videos."""

    def change(weights: np.ndarray) -> np.ndarray:
        one, other = (mean_over_classes(resampled_precisions(*table, weights)) for table in (first, second))
        return one - other

    count = len(first[0])
    samples = np.concatenate([change(weights) for weights in resampled_weights(count, RESAMPLES_PRECISION)])
    points = change(np.ones((1, count)))[0]
    return (
        f"difference, first - second: {points:+.1f} points of mAP forward on {count} videos, 95 % interval "
        f"{span(interval(samples), '+.1f')}"
    )
