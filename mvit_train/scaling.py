"""`task=benchmark what=scale`: what training on many GPUs would take, from measured steps and the links of a cluster.

Predicted are training steps alone: no validation, no wait for data, no slow node.
"""

import fnmatch
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mvit_train.benchmarks.cluster import Cluster
from mvit_train.benchmarks.processes import StepTimes, measure
from mvit_train.benchmarks.timing import ITERATIONS, make_step, take_turns
from mvit_train.complexity import ACTIVATIONS, operations
from mvit_train.config import build, compose, conf_dir
from mvit_train.papers.training_plan import NUM_CLASSES, TrainingPlan

BYTES_PER_GRADIENT = 4
REFERENCE = "k400_mvit_b"  # the experiment that clips_per_sec belongs to


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What to predict, and for which cluster.

    Args:
        experiments: patterns of names in conf/experiment.
        gpus: numbers of GPUs; each takes the experiment's batches (data.batch_size).
        gpus_per_node: on one NVLink.
        gpu_link: 1e9 bytes per second, each direction, of a GPU within its node; 360 is four fifths of an H200's.
        node_link: the same of a node to the others; 50 is one port of 400 Gbit/s.
        latency_us: of one message.
        dollars_per_gpu_hour: for the cost.
        clips_per_sec: training clips of one GPU for k400_mvit_b, measured elsewhere; other models follow by their
            multiply-adds. null: every experiment's own steps are measured on the GPU here.
        check: numbers of CPU processes whose measured step is compared with the predicted one; [] for none.
        check_frames, check_crop, check_batch: the clips of that comparison.
        rounds: of every measurement.
    """

    experiments: tuple[str, ...] = ("k400_*",)
    gpus: tuple[int, ...] = (1, 8, 64, 128)
    gpus_per_node: int = 8
    gpu_link: float = 360.0
    node_link: float = 50.0
    latency_us: float = 10.0
    dollars_per_gpu_hour: float = 3.0
    clips_per_sec: float | None = None
    check: tuple[int, ...] = (1, 2)
    check_frames: int = 8
    check_crop: int = 112
    check_batch: int = 2
    rounds: int = 7

    @classmethod
    def check_arguments(cls, arguments: dict[str, Any]) -> dict[str, str]:
        """Mistakes that types do not show; see `mvit_train.config.check`."""
        mistakes = {}
        for name, value in arguments.items():
            numbers = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(number, int | float) and number <= 0 for number in numbers):
                mistakes[name] = "must be more than 0"
        for pattern in arguments.get("experiments", ()):
            if not _experiments([pattern]):
                mistakes["experiments"] = f"no experiment in conf/experiment is called {pattern}"
        return mistakes

    @property
    def cluster(self) -> Cluster:
        return Cluster(
            per_node=self.gpus_per_node, link=self.gpu_link, node_link=self.node_link, latency=self.latency_us / 1e6
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """An experiment on so many GPUs. efficiency: of a GPU, to one alone; hours and dollars: of its training steps."""

    experiment: str
    source: str
    batch_size: int
    gpus: int
    clips_per_sec: float
    efficiency: float
    hours: float
    dollars: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """Steps on processes of this CPU. predicted: from one process and the exchange of two; error: of it."""

    processes: int
    measured: StepTimes
    predicted: float
    error: float


def run(settings: Scaling, file: Path, context: dict[str, str]) -> None:
    """Checks, predicts, prints, and writes all of it as JSON."""
    print("\n".join(f"{name}: {value}" for name, value in context.items()), flush=True)
    checks = compare(settings) if settings.check else []
    if checks:
        print(check_table(checks), flush=True)
    rows, notes = [], []
    if settings.clips_per_sec is None and not torch.cuda.is_available():
        notes.append("no GPU here: give scale.clips_per_sec, measured elsewhere for k400_mvit_b, to predict hours")
    else:
        for name in _experiments(settings.experiments):
            rows += predict(name, settings, notes)
        print(table(rows))
    result = {"context": context, "settings": asdict(settings), "notes": notes}
    result |= {"checks": [asdict(check) for check in checks], "rows": [asdict(row) for row in rows]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(["", *notes, str(file)]))


def predict(name: str, settings: Scaling, notes: list[str]) -> list[Row]:
    """The rows of an experiment; none, with the reason among `notes`, where its step cannot be had."""
    plan = TrainingPlan(compose([f"experiment={name}"]))
    batch_size = plan.data.batch_size
    if settings.clips_per_sec is None:
        try:
            compute_sec = measured_step(plan, settings.rounds)
        except torch.OutOfMemoryError:
            notes.append(f"{name}: {batch_size} clips do not fit into the memory of this GPU")
            return []
        source = "measured"
    else:
        compute_sec = batch_size / settings.clips_per_sec * gflops(name) / gflops(REFERENCE)
        source = f"{settings.clips_per_sec:g} clips/s of {REFERENCE}, by multiply-adds"
    num_bytes = BYTES_PER_GRADIENT * sum(p.numel() for p in plan.model.parameters() if p.requires_grad)
    clips = plan.max_epochs * (plan.num_videos or 0) * plan.data.repeats
    rows = []
    for gpus in settings.gpus:
        step_sec = settings.cluster.step_sec(compute_sec, num_bytes, gpus)
        hours = clips / (gpus * batch_size) * step_sec / 3600
        row = Row(
            experiment=name,
            source=source,
            batch_size=batch_size,
            gpus=gpus,
            clips_per_sec=gpus * batch_size / step_sec,
            efficiency=compute_sec / step_sec,
            hours=hours,
            dollars=hours * gpus * settings.dollars_per_gpu_hour,
        )
        rows.append(row)
    return rows


@cache
def gflops(name: str) -> float:
    """1e9 multiply-adds of a clip of an experiment."""
    counts = operations(TrainingPlan(compose([f"experiment={name}"])).model.eval())
    return sum(number for operation, number in counts.items() if operation != ACTIVATIONS) / 1e9


def measured_step(plan: TrainingPlan, rounds: int) -> float:
    """Seconds of a training step in bf16 with the optimiser's, on this GPU."""
    device = torch.device("cuda")
    model = build(plan.cfg.model, num_classes=NUM_CLASSES).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    video = torch.randn(plan.data.batch_size, 3, *model.input_size, device=device)
    steps = {"step": make_step(model, video, precision="bf16", kind="train", optimizer=optimizer)}
    return median(take_turns(steps, math.ceil(rounds / ITERATIONS), device)["step"])


def compare(settings: Scaling) -> list[Check]:
    """The prediction for processes of this CPU, beside what they take. They share the cores, whose time an exchange
    takes, too: it is not hidden, and more processes than cores take turns."""
    size = dict(num_frames=settings.check_frames, crop_size=settings.check_crop)
    size |= dict(batch_size=settings.check_batch, rounds=settings.rounds)
    found = {number: measure(number, **size) for number in sorted({1, 2, *settings.check})}
    num_bytes = BYTES_PER_GRADIENT * gradients()
    link = num_bytes / found[2].exchange / 1e9  # of two processes, each sends and receives half of it twice
    cluster = Cluster(per_node=max(found), link=link, node_link=link, latency=0.0, overlap=0.0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    checks = []
    for number in settings.check:
        predicted = cluster.step_sec(found[1].step * max(1.0, number / cores), num_bytes, number)
        error = predicted / found[number].step - 1
        checks.append(Check(processes=number, measured=found[number], predicted=predicted, error=error))
    return checks


def gradients() -> int:
    """Of MViT-B, the model of the comparison."""
    return sum(p.numel() for p in TrainingPlan(compose([f"experiment={REFERENCE}"])).model.parameters())


def _experiments(patterns: Sequence[str]) -> list[str]:
    names = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def check_table(checks: Sequence[Check]) -> str:
    """One line per number of processes; seconds."""
    form = "{:>9} {:>10} {:>10} {:>14} {:>14} {:>7}"
    lines = ["", form.format("processes", "computing", "exchange", "step measured", "step predicted", "error")]
    for check in checks:
        times = [f"{value:.3f}" for value in (check.measured.compute, check.measured.exchange, check.measured.step)]
        lines.append(form.format(check.processes, *times, f"{check.predicted:.3f}", f"{100 * check.error:+.0f} %"))
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """One line per experiment and number of GPUs; all of it predicted but what `source` says is measured."""
    form = "{:18} {:>5} {:>5} {:>9} {:>11} {:>8} {:>9}"
    lines = []
    if rows:
        lines = ["", f"predicted, one GPU: {rows[0].source}"]
        lines.append(form.format("experiment", "batch", "GPUs", "clips/s", "efficiency", "hours", "dollars"))
    for row in rows:
        numbers = (
            f"{row.clips_per_sec:.1f}",
            f"{100 * row.efficiency:.1f} %",
            f"{row.hours:.1f}",
            f"{row.dollars:.0f}",
        )
        lines.append(form.format(row.experiment, row.batch_size, row.gpus, *numbers))
    return "\n".join(lines)
