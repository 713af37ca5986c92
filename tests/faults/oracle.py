"""What a run that was disturbed must be equal to: the same run left alone."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from legs import Run

from mvit_train.checkpoint import read_checkpoint


class Course(NamedTuple):
    """All that a finished run has seen and become."""

    steps: list[dict[str, list[Any]]]  # of each process: place -> videos and loss
    weights: str  # sha256
    rows: dict[int, str]  # train/loss of metrics.csv, by step
    scores: dict[str, Any]  # of the evaluation that ends it


def course(run: Run) -> Course:
    """AssertionError: a step that was taken twice was not the same step."""
    rows = csv.DictReader((run.folder / "metrics.csv").open())
    return Course(
        [steps(file) for file in run.streams],
        weights(run.checkpoints / "last.ckpt"),
        {int(row["step"]): row["train/loss"] for row in rows if row["train/loss"]},
        json.loads((run.folder / "metrics.json").read_text())["orders"],
    )


def steps(file: Path) -> dict[str, list[Any]]:
    """What a process has seen, by place."""
    found: dict[str, list[Any]] = {}
    for line in file.read_text().splitlines():
        place, *what = json.loads(line)
        assert found.setdefault(place, what) == what, f"{place} was replayed as {what}, it was {found[place]}"
    return found


def weights(path: Path) -> str:
    """sha256 of the weights, their average, and the optimiser's moments."""
    checkpoint = read_checkpoint(path)
    digest = hashlib.sha256()
    moments = checkpoint["optimizer_states"][0]["state"]
    for group in (checkpoint["state_dict"], checkpoint["current_model_state"], *moments.values()):
        for name, value in group.items():
            digest.update(name.encode() + torch.as_tensor(value).numpy().tobytes())
    return digest.hexdigest()


def check(found: Course, expected: Course, faults: int) -> None:
    """AssertionError, in words, for the first difference. Each fault may have cost a row of metrics.csv: that of the
    step whose checkpoint was being written."""
    for rank, (mine, its) in enumerate(zip(found.steps, expected.steps, strict=True)):
        assert mine.keys() == its.keys(), (
            f"rank {rank}: lost {its.keys() - mine.keys()}, added {mine.keys() - its.keys()}"
        )
        changed = [place for place in its if mine[place] != its[place]]
        assert not changed, f"rank {rank}: {changed[0]} is {mine[changed[0]]}, it should be {its[changed[0]]}"
    assert found.weights == expected.weights, "other weights, averages or moments"
    other = found.rows.items() - expected.rows.items()
    lost = expected.rows.keys() - found.rows.keys()
    assert not other, f"other rows in metrics.csv: {other}"
    assert len(lost) <= faults, f"rows lost from metrics.csv: {sorted(lost)}"
    assert found.scores == expected.scores, "other scores"


def no_video_twice(found: Course) -> None:
    """AssertionError: a video came twice within an epoch, over all processes."""
    epochs: dict[str, list[int]] = {}
    for process in found.steps:
        for place, (videos, _) in process.items():
            epochs.setdefault(place.partition(".")[0], []).extend(videos)
    for epoch, videos in epochs.items():
        assert len(videos) == len(set(videos)), f"epoch {epoch} repeats a video: {sorted(videos)}"
