"""The W&B workspace of a project, as code: `python -m mvit_train.dashboard ENTITY/PROJECT`, or `--print` for the plan.

The plan is plain data; `workspace` turns it into objects of wandb-workspaces (`pip install 'mvit_train[dashboards]'`).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

X_AXIS = "trainer/global_step"


@dataclass(frozen=True)
class Panel:
    """One panel of the page.

    Args:
        kind: "line": curves over the training steps; "bar": the last values; "number": the last value, large;
            "image", "table": what the last step logged.
        log_y: whether the y-axis is logarithmic.
    """

    title: str
    metrics: tuple[str, ...]
    kind: Literal["line", "bar", "number", "image", "table"] = "line"
    log_y: bool = False


@dataclass(frozen=True)
class Section:
    name: str
    panels: tuple[Panel, ...] = field(default_factory=tuple)
    is_open: bool = True


ORDERS = ("forward", "shuffle", "reverse", "freeze")

SECTIONS = (
    Section(
        "Health",
        (
            Panel("Loss", ("train/loss", "val/loss")),
            Panel("Learning rate of the head", ("optim/lr",)),
            Panel("Gradient norm before clipping", ("train/grad_norm",), log_y=True),
            Panel("Steps left out (gradients not finite)", ("train/skipped_steps",)),
        ),
    ),
    Section(
        "Throughput",
        (
            Panel("Clips per second", ("train/clips_per_sec",)),
            Panel("Share of the time spent waiting for data", ("train/data_wait_share",)),
            Panel("Model FLOPs utilisation (GPUs)", ("train/mfu",)),
            Panel("Memory, GiB", ("train/memory_gib",)),
        ),
    ),
    Section(
        "Validation",
        (
            Panel("Accuracy, %", ("val/top1", "val/top5", "val/mean_class_accuracy")),
            Panel("Several labels: mean average precision, %", ("val/mAP",)),
            Panel("Training batches, %", ("train/top1",)),
        ),
    ),
    Section(
        "Temporal",
        (
            Panel("Top-1 by frame order, %", tuple(f"test/{order}/top1" for order in ORDERS), kind="bar"),
            Panel("Forward", ("test/forward/top1",), kind="number"),
            Panel("Shuffled", ("test/shuffle/top1",), kind="number"),
            Panel("Reversed", ("test/reverse/top1",), kind="number"),
        ),
    ),
    Section(
        "Errors",
        (
            Panel("Clips and answers", ("val/clips",), kind="table"),
            Panel("Confusion", ("val/confusion",), kind="image"),
            Panel("Confused pairs", ("val/confused_pairs",), kind="table"),
        ),
    ),
    Section(
        "Data",
        (
            Panel("Training clips replaced, their video being unreadable", ("train/substituted",)),
            Panel("Unreadable validation videos", ("val/failed",)),
        ),
    ),
)


def plan() -> list[dict[str, Any]]:
    """The sections as plain data."""
    return [asdict(section) for section in SECTIONS]


def workspace(entity: str, project: str) -> Any:
    """The plan as an object of wandb-workspaces, not saved yet."""
    try:
        from wandb_workspaces import workspaces
    except ImportError as error:
        raise ValueError("dashboards need wandb-workspaces: pip install 'mvit_train[dashboards]'") from error
    sections = [
        workspaces.Section(
            name=section.name, panels=[_converted(panel) for panel in section.panels], is_open=section.is_open
        )
        for section in SECTIONS
    ]
    return workspaces.Workspace(name="mvit_train", entity=entity, project=project, sections=sections)


def _converted(panel: Panel) -> Any:
    from wandb_workspaces.reports import v2

    metrics: list[Any] = list(panel.metrics)
    if panel.kind == "bar":
        return v2.BarPlot(title=panel.title, metrics=metrics)
    if panel.kind == "number":
        return v2.ScalarChart(title=panel.title, metric=metrics[0])
    if panel.kind == "image":
        return v2.MediaBrowser(title=panel.title, media_keys=metrics)
    if panel.kind == "table":
        return v2.WeavePanelSummaryTable(table_name=metrics[0])  # it is headed by the key
    return v2.LinePlot(title=panel.title, x=X_AXIS, y=metrics, log_y=panel.log_y)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mvit_train.dashboard", description="Saves a workspace in W&B.")
    parser.add_argument("project", nargs="?", metavar="ENTITY/PROJECT")
    parser.add_argument("--print", action="store_true", dest="show", help="print the sections as JSON and stop")
    arguments = parser.parse_args(argv)
    if arguments.show:
        print(json.dumps(plan(), indent=2))
        return 0
    entity, _, project = (arguments.project or "").partition("/")
    if not entity or not project:
        parser.error("give ENTITY/PROJECT, such as my-team/mvit_train, or --print")
    try:
        saved = workspace(entity, project).save()
    except Exception as error:  # the package, the login, the network or the server
        print(f"the dashboard was not saved: {error}", file=sys.stderr)
        return 1
    print(f"saved: {saved.url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
