"""The result of an evaluation in a screen of text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvit_train.metrics import headline
from mvit_train.robustness import ROBUSTNESS
from mvit_train.temporal import time_sentence

SHOWN_CLASSES = 4


def print_summary(metrics: Mapping[str, Any], run_dir: Path) -> None:
    """The result in a few lines, and where everything was written."""
    videos = metrics["videos"]
    multi_label = "mAP" in next(iter(metrics["orders"].values()))
    lines = ["", *_orders(metrics, headline(multi_label=multi_label))]
    if probe := metrics["linear_probe"]:
        lines.append(
            f"  one centre view: fine-tuned top-1 {probe['fine_tuned_top1']:.1f} %, linear probe {probe['top1']:.1f} % "
            f"(frozen features of the start, {probe['train_videos']} training videos)"
        )
    if "time" in metrics:
        lines.append(f"  {time_sentence(metrics['time'])}")
    if needy := _needy(metrics):
        lines.append(f"  classes that need time (shuffled): {needy}")
    if curve := _curve(metrics):
        lines.append(f"  {curve}")
    if early := metrics["early_exit"]:
        counts = ", ".join(f"{order} {number:.2f}" for order, number in early["views"].items())
        lines.append(f"  early exit, margin {early['margin']:g}: views scored of a video: {counts}")
    if "robustness" in metrics:
        lines += _robustness(metrics["robustness"], headline(multi_label=multi_label))
    lines.append(
        f"  {videos['evaluated']} of {videos['expected']} videos evaluated, {videos['failed']} failed; "
        f"{metrics['views']} views; {metrics['checkpoint']['path']}"
    )
    lines += [f"    failed: {failure['video']}: {failure['reason']}" for failure in metrics["failures"][:10]]
    names = ["report.html", "metrics.json", "predictions.npz", *([ROBUSTNESS] if "robustness" in metrics else [])]
    lines += [f"  {run_dir / name}" for name in names]
    print("\n".join(lines))


def _orders(metrics: Mapping[str, Any], name: str) -> list[str]:
    """A line for each frame order: its number with the interval, and the change against forward or, of forward, more
    about it."""
    width = max(map(len, metrics["orders"]))
    lines = []
    for order, result in metrics["orders"].items():
        line = f"  {order:{width}}  {'top-1' if name == 'top1' else name} {result[name]:5.1f} %"
        if row := metrics["card"].get(order):
            line += f"   change {row['change']:+6.1f} {span(row['interval'], '+.1f')}"
            line += f"   p {p_value(row['p'])}" if "p" in row else ""
        else:
            line += f" {span(metrics['intervals'][order][name], '.1f')}   {_more(result)}"
            scores = metrics["calibration"][order]
            line += f"   ECE {scores['ece']:.1f} %   NLL {scores['nll']:.3f}"
        lines.append(line)
    if len(shuffles := metrics.get("shuffles", {}).get("orders", [])) > 1:
        row = metrics["shuffles"]
        lines.append(
            f"  mean of {len(shuffles)} shuffles {row[name]:.1f} % ({row['lowest']:.1f} to {row['highest']:.1f})   "
            f"change {row['change']:+.1f} {span(row['interval'], '+.1f')}"
        )
    if metrics["card"]:
        lines.append("  change: points against forward on the same videos, 95 % interval; p: McNemar's exact test")
    return lines


def _more(result: Mapping[str, Any]) -> str:
    if "mAP" in result:
        shown = sum(row["videos"] > 0 for row in result["per_class"].values())
        return f"over {shown} of {len(result['per_class'])} classes"
    return f"top-5 {result['top5']:5.1f} %   mean class {result['mean_class_accuracy']:5.1f} %"


def _needy(metrics: Mapping[str, Any]) -> str:
    """The classes that lose most under shuffling, of those whose interval lies below zero."""
    rows = metrics.get("classes_that_need_time", {}).get("classes", [])
    sure = [row for row in rows if row["interval"] and row["interval"][1] < 0]
    shown = [f"{row['class']} {row['forward']:.0f} -> {row['shuffled']:.0f} %" for row in sure[:SHOWN_CLASSES]]
    rest = f", {len(sure) - SHOWN_CLASSES} more" if len(sure) > SHOWN_CLASSES else ""
    return ", ".join(shown) + rest


def _curve(metrics: Mapping[str, Any]) -> str:
    """Top-1 by the number of views, thinned to the first ones, doublings and the last."""
    if "views_curve" not in metrics or len(metrics["views_curve"]["order"]) == 1:
        return ""
    order, values = next(iter(metrics["views_curve"]["top1"].items()))
    chosen = [n for n in range(1, len(values) + 1) if n <= 3 or n & (n - 1) == 0 or n == len(values)]
    points = ", ".join(f"{n}: {values[n - 1]:.1f}" for n in chosen)
    return f"top-1 by views ({order}): {points} %"


def _robustness(found: Mapping[str, Any], name: str) -> list[str]:
    """A line for each corruption, its number by severity and their mean, and what all of them come to."""
    width = max(map(len, found[name]))
    severities = " ".join(f"{severity:5}" for severity in found["severities"])
    lines = [f"  {'top-1' if name == 'top1' else name} % by severity", f"    {'':{width}} {severities}   mean"]
    for corruption, values in found[name].items():
        numbers = " ".join(f"{value:5.1f}" for value in values)
        lines.append(f"    {corruption:{width}} {numbers}  {found['mean'][corruption]:5.1f}")

    def number(key: str) -> str:
        bounds = found["intervals"] and found["intervals"][key]
        return f"{found[key]:.1f} %" + (f" {span(bounds, '.1f')}" if bounds else "")

    text = f"  mean corruption {'accuracy' if name == 'top1' else name} {number('mean_corruption_accuracy')}"
    if found["relative"] is not None:
        text += f"; relative to clean, {found['clean']:.1f} %: {number('relative')}"
    return [*lines, f"{text}; {found['videos']} videos"]


def span(bounds: Sequence[float], form: str) -> str:
    """[low, high]"""
    return f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def p_value(p: float) -> str:
    """Three places, or the power of ten of a small one."""
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.0e}" if p else "< 5e-324"
