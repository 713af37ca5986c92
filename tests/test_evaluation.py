"""An evaluation from the command line: frame orders, processes, and the files from which it is all computed again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY
from torch import nn

from mvit_train.__main__ import main
from mvit_train.config import build, compose
from mvit_train.data.views import Views
from mvit_train.evaluate import build_trainer, evaluate
from mvit_train.predictions import load_predictions
from mvit_train.temporal import CARD_ORDERS, ONE_SET, frame_orders

pytestmark = pytest.mark.usefixtures("own_environment")

FRAMES = 8
HERE = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.enable_progress_bar=false")
SETTINGS = [*TINY, f"clip.num_frames={FRAMES}", "views=3x1", "trainer.max_epochs=1", *HERE]


@pytest.fixture(scope="session")
def two_classes(two_splits):
    return two_splits(num_train=9, num_val=7)


@pytest.fixture(scope="session")
def trained(two_classes, tmp_path_factory):
    """A run folder, trained for one epoch."""
    runs = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVIT_TRAIN_RUN_ID", "a")
        assert main([*SETTINGS, f"data.root={two_classes}", f"runs={runs}", "run_id=a"]) == 0
    torch.set_num_threads(threads)
    return runs / "motion" / "a"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run that a test may write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


class BagOfFrames(nn.Module):
    """The mean over the frames of what a network makes of each of them.

    The outputs are rounded to multiples of 1/4096: sums of them are exact in float32, and so no order of the frames
    changes a digit. A mean of arbitrary floats depends on the order of its additions, in the last digit.
    """

    def __init__(self, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.GELU(), nn.Flatten(), nn.Linear(64, 2))
        self.register_buffer("weights", torch.ones(FRAMES) if weights is None else weights)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        logits = self.network(video.transpose(1, 2).flatten(0, 1))  # (B * T, 2)
        logits = (4096 * logits).round().view(len(video), -1, 2) / 4096  # (B, T, 2)
        return (self.weights[:, None] * logits).mean(1)


def evaluated(model: nn.Module, root: Path, folder: Path) -> dict:
    cfg = compose([*SETTINGS, f"data.root={root}"])
    data = build(cfg.data)
    module = build(cfg.module, model=model, labels=data.labels, multi_label=False, config={"name": "bag"})
    trainer = build_trainer(cfg, folder, logger=False, callbacks=[])
    orders = frame_orders("card", FRAMES)
    arguments = {"views": Views(3, 1), "frame_orders": orders, "run_dir": folder, "weights_from": Path("bag")}
    return evaluate(module, data, trainer, **arguments, checkpoint=None)


def test_a_bag_of_frames_changes_by_nothing_in_any_order_of_the_same_frames(two_classes, tmp_path):
    torch.manual_seed(0)
    metrics = evaluated(BagOfFrames(), two_classes, tmp_path / "bag")
    assert set(metrics["orders"]) == set(CARD_ORDERS)
    for order in ONE_SET:
        assert metrics["card"][order] == {"change": 0.0, "interval": [0.0, 0.0], "lost": 0, "won": 0, "p": 1.0}
        assert metrics["orders"][order] == metrics["orders"]["forward"]
        assert metrics["calibration"][order] == metrics["calibration"]["forward"]
    assert metrics["shuffles"]["change"] == 0.0
    assert {row["change"] for row in metrics["classes_that_need_time"]["classes"]} == {0.0}
    assert metrics["model"] == {"params": 4 * 3 * 64 + 4 + 64 * 2 + 2, "gflops": None}
    saved = load_predictions(tmp_path / "bag" / "predictions.npz")
    scores = dict(zip(saved.frame_orders, saved.scores, strict=True))
    assert all(np.array_equal(scores[order], scores["forward"], equal_nan=True) for order in ONE_SET)
    assert not np.array_equal(scores["freeze"], scores["forward"], equal_nan=True)


def test_a_model_that_weighs_frames_by_their_place_scores_otherwise_in_every_order(two_classes, tmp_path):
    torch.manual_seed(0)
    evaluated(BagOfFrames(10 * torch.randn(FRAMES).exp()), two_classes, tmp_path / "places")
    saved = load_predictions(tmp_path / "places" / "predictions.npz")
    first = saved.scores[0, saved.evaluated]
    assert all(not np.array_equal(table[saved.evaluated], first) for table in saved.scores[1:])


def comparable(folder: Path) -> str:
    """metrics.json without the time at which it was made."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.pop("created")
    return json.dumps(metrics)


def arrays(folder: Path) -> dict[str, bytes]:
    with np.load(folder / "predictions.npz") as file:
        return {name: file[name].tobytes() for name in file.files if name != "info"}


def test_one_two_and_three_processes_with_and_without_workers_agree_to_the_last_digit(
    run, two_classes, tmp_path, command_line
):
    arguments = ["task=evaluate", f"ckpt={run}", f"data.root={two_classes}", "views=3x1", *HERE]
    folder = run / "evaluate-3x1-all"
    assert main([*arguments, "data.num_workers=0"]) == 0
    metrics, scores = comparable(folder), arrays(folder)
    assert json.loads(metrics)["videos"] == {"expected": 15, "evaluated": 14, "failed": 1}
    assert {"scores", "label_ranks"} <= scores.keys()
    assert main([*arguments, "data.num_workers=2"]) == 0
    assert (comparable(folder), arrays(folder)) == (metrics, scores)
    for devices, workers in ((2, 0), (3, 2)):
        command = [*arguments, f"trainer.devices={devices}", "trainer.strategy=ddp", f"data.num_workers={workers}"]
        (folder / "metrics.json").unlink()
        command_line(*command)
        assert (comparable(folder), arrays(folder)) == (metrics, scores), f"{devices} processes"


def test_an_early_exit_calls_the_same_classes_in_one_process_and_in_two(run, two_classes, command_line, capsys):
    arguments = ["task=evaluate", f"ckpt={run}", f"data.root={two_classes}", "views=3x1", *HERE, "data.num_workers=0"]
    assert main([*arguments, "frame_order=[forward,reverse]"]) == 0
    assert main([*arguments, "frame_order=[forward,reverse]", "early_exit=1.0"]) == 0
    assert "early exit, margin 1: views scored of a video: forward" in capsys.readouterr().out
    whole = load_predictions(run / "evaluate-3x1-forward+reverse" / "predictions.npz")
    folder = run / "evaluate-3x1-forward+reverse-early_exit_1"
    early = load_predictions(folder / "predictions.npz")
    assert np.array_equal(early.scores.argmax(2), whole.scores.argmax(2))
    assert early.label_ranks is None  # what the other views would have said is not known
    assert all(2 <= number <= 3 for number in early.info["early_exit"]["views"].values())
    assert np.array_equal(early.evaluated, whole.evaluated)
    scores = arrays(folder)
    command_line(
        *arguments, "frame_order=[forward,reverse]", "early_exit=1.0", "trainer.devices=2", "trainer.strategy=ddp"
    )
    assert arrays(folder) == scores


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["early_exit=-1"], 2, "is a margin, at least 0"),
        (["early_exit=1.0", "module.ensemble=max"], 1, "exclusive classes: not for module.ensemble=max"),
    ],
)
def test_an_early_exit_that_makes_no_sense_is_refused(run, two_classes, overrides, status, message, capsys):
    assert main(["task=evaluate", f"ckpt={run}", f"data.root={two_classes}", *HERE, *overrides]) == status
    assert message in capsys.readouterr().err


def test_every_pass_has_the_same_number_of_clips(two_classes, tmp_path):
    sizes = []

    class Watched(BagOfFrames):
        def forward(self, video):
            sizes.append(len(video))
            return super().forward(video)

    evaluated(Watched(), two_classes, tmp_path / "watched")
    assert set(sizes) == {6}  # of 8 clips at most, two videos of three views
    assert len(sizes) == 8 * len(CARD_ORDERS)  # 15 videos two by two, one of them empty


def test_the_last_point_of_the_curve_is_the_accuracy(run, two_classes, capsys):
    assert main(["task=evaluate", f"ckpt={run}", "views=2x3", "frame_order=[forward,jumble_4]", *HERE]) == 0
    metrics = json.loads((run / "evaluate-2x3-forward+jumble_4" / "metrics.json").read_text())
    assert list(metrics["orders"]) == ["forward", "jumble_4"]
    curve = metrics["views_curve"]
    assert curve["order"] == [[0, 1], [1, 1], [0, 0], [1, 0], [0, 2], [1, 2]]
    for order, result in metrics["orders"].items():
        for name in ("top1", "top5"):
            assert len(curve[name][order]) == 6
            assert curve[name][order][-1] == result[name]
    assert "top-1 by views (forward): 1: " in capsys.readouterr().out
    assert main(["task=evaluate", f"ckpt={run}", "views=2x1", "frame_order=forward", *HERE]) == 0
    alone = json.loads((run / "evaluate-2x1-forward" / "metrics.json").read_text())
    assert (alone["card"], "shuffles" in alone) == ({}, False)


def test_a_report_is_computed_again_from_the_predictions_alone(run, two_classes, tmp_path, capsys):
    before = (run / "metrics.json").read_text()
    metrics = json.loads(before)
    assert metrics["model"]["params"] == load_params(run)
    assert 0 < metrics["model"]["gflops"] < 0.1
    (run / "metrics.json").unlink()
    (run / "report.html").unlink()
    shutil.rmtree(run / "checkpoints")
    capsys.readouterr()
    assert main(["task=report", f"input={run / 'predictions.npz'}"]) == 0
    assert (run / "metrics.json").read_text() == before
    assert (run / "report.html").exists()
    printed = capsys.readouterr().out
    assert "14 of 15 videos evaluated, 1 failed" in printed
    assert "failed: empty.mp4: " in printed
    assert "McNemar's exact test" in printed


def load_params(run: Path) -> int:
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return sum(tensor.numel() for tensor in state.values())


def test_two_reports_stand_side_by_side_with_their_difference(run, two_classes, tmp_path, capsys):
    other = run.with_name("other")
    shutil.copytree(run, other)
    assert main(["task=report", f"input=[{run},{other}]", f"output={tmp_path}/table.md"]) == 0
    printed = capsys.readouterr().out
    table = (tmp_path / "table.md").read_text()
    assert table in printed
    head, line, first, second = table.splitlines()[:4]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        *("model", "params, M", "G per view", "views", "forward", "shuffle", "reverse", "freeze")
    ]
    assert len({len(row) for row in (head, line, first, second)}) == 1
    metrics = json.loads((run / "metrics.json").read_text())
    assert f" {metrics['orders']['shuffle']['top1']:.1f} ({metrics['card']['shuffle']['change']:+.1f} [" in first
    assert "not comparable" not in table
    assert "+0.0 points of top-1 forward, 95 % interval [+0.0, +0.0]; on 14 videos 0 are right" in table


def test_what_cannot_be_compared_is_said(run, two_classes, capsys):
    assert main(["task=evaluate", f"ckpt={run}", "views=1x1", "frame_order=forward", *HERE]) == 0
    assert main(["task=report", f"input=[{run},{run}/evaluate-1x1-forward]"]) == 0
    printed = capsys.readouterr().out
    assert f"not comparable: views differ: {run} 3x1, {run}/evaluate-1x1-forward 1x1" in printed
    assert "difference, first - second: " in printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("input=null", "task=report needs evaluations, folders or predictions.npz: no null"),
        ("input=/nowhere", "no /nowhere"),
        ("frame_order=backward", "one of all, card, forward, shuffle"),
    ],
)
def test_a_report_of_nothing_is_refused_before_anything_starts(given, message, capsys):
    assert main(["task=report", given]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_predictions_is_refused_with_those_inside(run, tmp_path, capsys):
    (run / "evaluate-1x1-all").mkdir()
    (run / "predictions.npz").rename(run / "evaluate-1x1-all" / "predictions.npz")
    assert main(["task=report", f"input={run}"]) == 1
    assert f"there is one in {run / 'evaluate-1x1-all'}" in capsys.readouterr().err
