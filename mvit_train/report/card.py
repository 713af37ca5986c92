"""The temporal report card: what each order of the frames changes, how sure that is, and which classes need time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mvit_train.calibration import negative_log_likelihood
from mvit_train.metrics import headline, label_ranks
from mvit_train.predictions import Predictions
from mvit_train.statistics import (
    RESAMPLES,
    RESAMPLES_PRECISION,
    SEED,
    interval,
    mcnemar,
    mean_over_classes,
    resampled_class_sums,
    resampled_precisions,
    resampled_weights,
)
from mvit_train.temporal import SHUFFLES

ENOUGH_VIDEOS = 10  # for the interval of one class

Samples = dict[str, dict[str, np.ndarray]]  # number -> order -> its value in every resample, (R,)


def card(predictions: Predictions, orders: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The parts of metrics.json that say how sure the others are; docs/evaluation.md lists their keys.

    orders: `metrics.summarize` of each frame order.
    """
    multi_label = predictions.multi_label
    name = headline(multi_label=multi_label)
    ranks = {} if multi_label else _ranks(predictions)
    samples, class_changes = _several_labels(predictions) if multi_label else _one_label(predictions, ranks)
    found: dict[str, Any] = {
        "statistics": {"resamples": RESAMPLES_PRECISION if multi_label else RESAMPLES, "seed": SEED, "level": 95},
        "intervals": {
            order: {number: interval(by_order[order]) for number, by_order in samples.items()} for order in orders
        },
        "card": {},
    }
    if "forward" not in orders:
        return found
    values = {order: summary[name] for order, summary in orders.items()}
    for order in [order for order in orders if order != "forward"]:
        row = {
            "change": values[order] - values["forward"],
            "interval": interval(samples[name][order] - samples[name]["forward"]),
        }
        found["card"][order] = row | (mcnemar(ranks[order] == 0, ranks["forward"] == 0) if ranks else {})
    if shuffles := [order for order in SHUFFLES if order in orders]:
        mean = sum(samples[name][order] for order in shuffles) / len(shuffles)
        alone = [values[order] for order in shuffles]
        found["shuffles"] = {
            "orders": shuffles,
            name: sum(alone) / len(alone),
            "lowest": min(alone),
            "highest": max(alone),
            "change": sum(alone) / len(alone) - values["forward"],
            "interval": interval(mean - samples[name]["forward"]),
        }
        found["classes_that_need_time"] = _classes(orders, shuffles, class_changes, "AP" if multi_label else "top1")
    return found


def _ranks(predictions: Predictions) -> dict[str, np.ndarray]:
    scores, labels = predictions.of_evaluated()
    return {order: label_ranks(table, labels).numpy() for order, table in scores.items()}


def _one_label(predictions: Predictions, ranks: Mapping[str, np.ndarray]) -> tuple[Samples, np.ndarray]:
    """Accuracies in every resample, and (R, K) points that the top-1 of each class changes by, mean of the shuffles;
    NaN where a resample has no video of the class."""
    scores, labels = predictions.of_evaluated()
    truth, orders = labels.numpy(), list(ranks)
    columns = [np.ones(len(truth))]
    for order in orders:
        columns += [ranks[order] < 1, ranks[order] < 5, negative_log_likelihood(scores[order].numpy(), truth)]
    shuffled = [3 * orders.index(order) + 1 for order in SHUFFLES if order in orders]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("top1", "top5", "nll", "mean_class_accuracy", "change")}
    for sums in resampled_class_sums(np.stack(columns, axis=1), truth, len(predictions.class_names)):
        videos, of_orders = sums[:, :, 0], sums[:, :, 1:].reshape(*sums.shape[:2], len(orders), 3)
        totals = of_orders.sum(axis=1) / len(truth)  # (r, O, 3)
        parts["top1"].append(100 * totals[..., 0])
        parts["top5"].append(100 * totals[..., 1])
        parts["nll"].append(totals[..., 2])
        with np.errstate(invalid="ignore"):  # 0 / 0 of a class that a resample lacks
            accuracies = 100 * of_orders[..., 0] / videos[..., None]  # (r, K, O)
            parts["mean_class_accuracy"].append(mean_over_classes(accuracies))
            if shuffled and "forward" in orders:
                lost = sums[:, :, shuffled].mean(axis=2) - sums[:, :, 3 * orders.index("forward") + 1]
                parts["change"].append(100 * lost / videos)
    change = np.concatenate(parts.pop("change") or [np.empty((0, len(predictions.class_names)))])
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return {name: dict(zip(orders, values.T, strict=True)) for name, values in joined.items()}, change


def _several_labels(predictions: Predictions) -> tuple[Samples, np.ndarray]:
    """mAP in every resample, and (R, K) points that the average precision of each class changes by."""
    scores, labels = predictions.of_evaluated()
    precisions: dict[str, list[np.ndarray]] = {order: [] for order in scores}
    for weights in resampled_weights(len(labels), RESAMPLES_PRECISION):
        for order, table in scores.items():
            precisions[order].append(resampled_precisions(table.numpy(), labels.numpy(), weights))
    tables = {order: np.concatenate(parts) for order, parts in precisions.items()}  # (R, K) each
    shuffled = [tables[order] for order in SHUFFLES if order in tables]
    change = np.mean(shuffled, axis=0) - tables["forward"] if shuffled and "forward" in tables else np.empty(0)
    return {"mAP": {order: mean_over_classes(table) for order, table in tables.items()}}, change


def _classes(
    orders: Mapping[str, Mapping[str, Any]], shuffles: Sequence[str], changes: np.ndarray, number: str
) -> dict[str, Any]:
    """Classes with videos, by what they lose under the mean of the shuffles, those that lose most first."""

    def rows() -> Iterator[dict[str, Any]]:
        for index, (name, row) in enumerate(orders["forward"]["per_class"].items()):
            if row["videos"]:
                shuffled = sum(orders[order]["per_class"][name][number] for order in shuffles) / len(shuffles)
                drawn = changes[:, index]
                yield {
                    "class": name,
                    "videos": row["videos"],
                    "forward": row[number],
                    "shuffled": shuffled,
                    "change": shuffled - row[number],
                    "interval": interval(drawn) if row["videos"] >= ENOUGH_VIDEOS else None,
                }

    ranked = sorted(rows(), key=lambda row: row["change"])
    return {"shuffles": list(shuffles), "enough_videos": ENOUGH_VIDEOS, "classes": ranked}
