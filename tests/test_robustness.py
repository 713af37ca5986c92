"""Accuracy on corrupted videos: the conditions, the numbers, and an evaluation from the command line."""

import json
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from tiny import TINY
from torch import nn

from mvit_train.__main__ import main
from mvit_train.average_precision import average_precisions
from mvit_train.config import ConfigError, build, check, compose
from mvit_train.data.corruptions import CORRUPTIONS, NEED_FRAMES, Corruption
from mvit_train.data.dataset import TestViews
from mvit_train.data.transforms import TestCrops
from mvit_train.data.views import Views
from mvit_train.evaluate import build_module, build_trainer, evaluate
from mvit_train.predictions import Predictions, load_predictions
from mvit_train.report.card import card
from mvit_train.robustness import (
    ROBUSTNESS,
    SAME_EVALUATION,
    CorruptedPredictions,
    corruption_names,
    load_robustness,
    outcome,
    robustness,
    save_robustness,
)
from mvit_train.schema import CorruptionName

pytestmark = pytest.mark.usefixtures("own_environment")

HERE = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.enable_progress_bar=false")
SETTINGS = [*TINY, "augment.crop.flip=0", "data.eval_batch_size=4", "trainer.max_epochs=1", *HERE]


@pytest.fixture(scope="session")
def two_classes(two_splits):
    return two_splits(num_train=4, num_val=3)


@pytest.fixture(scope="session")
def trained_run(two_classes, tmp_path_factory):
    """A run folder, trained for one epoch."""
    runs = tmp_path_factory.mktemp("robust_runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVIT_TRAIN_RUN_ID", "a")
        assert main([*SETTINGS, f"data.root={two_classes}", f"runs={runs}", "run_id=a"]) == 0
    torch.set_num_threads(threads)
    return runs / "motion" / "a"


INFO = {"views": "1x1", "ensemble": "mean", "checkpoint": {"fingerprint": "c"}}
INFO |= {"label_fingerprint": "l", "data_fingerprint": "d"}


def clean_predictions(labels: np.ndarray, scores: np.ndarray, evaluated: np.ndarray) -> Predictions:
    rest = ("experiment", "split", "label_note", "created", "substituted", "linear_probe", "data_root", "failures")
    return Predictions(
        video_ids=[f"{i}.mp4" for i in range(len(labels))],
        labels=labels,
        class_names=["a", "b", "c"][: scores.shape[-1]],
        frame_orders=["shuffle", "forward"],
        scores=np.stack([1 - scores, scores]),
        evaluated=evaluated,
        info=INFO | dict.fromkeys((*rest, "config")),
    )


def one_hot(predicted: list[int]) -> torch.Tensor:
    """Scores of 0.8 for the class of each video, all NaN for -1."""
    scores = torch.full((len(predicted), 3), 0.1)
    for row, label in enumerate(predicted):
        scores[row, label] = 0.8
        scores[row] = torch.nan if label < 0 else scores[row]
    return scores


def corrupted(tables: list[torch.Tensor], multi_label: bool = False) -> CorruptedPredictions:
    outcomes = [outcome(table, multi_label=multi_label) for table in tables]
    names = [f"{i}.mp4" for i in range(len(tables[0]))]
    return CorruptedPredictions.of(
        outcomes, corruptions=["noise", "freeze"], severities=[1, 4], video_ids=names, info=INFO
    )


LABELS = np.array([0, 1, 2, 0, 1, 2])
CLEAN = one_hot([0, 1, 2, 0, 2, 0])
TABLES = [one_hot([0, 1, 2, 0, 1, 2]), one_hot([0, 1, 1, 0, 2, 2]), one_hot([0, 0, 0, -1, 0, 0]), one_hot([1] * 6)]


def test_the_numbers_are_those_of_the_videos_that_came_through_everywhere(tmp_path):
    clean = clean_predictions(LABELS, CLEAN.numpy(), np.array([True] * 5 + [False]))
    found = corrupted(TABLES)
    assert found.predicted is not None
    assert found.probability is not None
    assert found.predicted.tolist()[1][0] == [0, 0, 0, -1, 0, 0]
    assert found.probability[1, 0].tolist() == pytest.approx([0.8, 0.8, 0.8, np.nan, 0.8, 0.8], nan_ok=True)
    numbers = robustness(found, clean)
    # Videos 0, 1, 2 and 4: the fourth failed under freeze, the last was not evaluated clean.
    assert numbers["videos"] == 4
    assert numbers["clean"] == 75.0
    assert numbers["severities"] == [1, 4]
    assert numbers["top1"] == {"noise": [100.0, 50.0], "freeze": [25.0, 50.0]}
    assert numbers["mean"] == {"noise": 75.0, "freeze": 37.5}
    assert numbers["mean_corruption_accuracy"] == 56.25
    assert numbers["relative"] == 75.0
    save_robustness(tmp_path / ROBUSTNESS, found)
    assert robustness(load_robustness(tmp_path / ROBUSTNESS), clean) == numbers


def test_intervals_are_of_the_same_draws_as_the_report_card():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    clean = clean_predictions(labels, rng.dirichlet(np.ones(3), 40).astype(np.float32), np.ones(40, bool))
    tables = [torch.tensor(rng.dirichlet(np.ones(3), 40), dtype=torch.float32) for _ in range(4)]
    tables[0] = torch.from_numpy(clean.scores[1])
    numbers = robustness(corrupted(tables), clean)
    bounds = numbers["intervals"]
    orders = {"shuffle": {"top1": 0.0, "per_class": {}}, "forward": {"top1": numbers["clean"], "per_class": {}}}
    orders["forward"]["per_class"] = orders["shuffle"]["per_class"] = {
        name: {"videos": 1, "top1": 0.0} for name in clean.class_names
    }
    assert bounds["clean"] == pytest.approx(card(clean, orders)["intervals"]["forward"]["top1"])
    assert bounds["top1"]["noise"][0] == bounds["clean"], "a condition that changes nothing"
    for key in ("mean_corruption_accuracy", "relative"):
        low, high = bounds[key]
        assert low < numbers[key] < high
    wide = bounds["top1"]["noise"][1]
    assert bounds["mean_corruption_accuracy"][1] - bounds["mean_corruption_accuracy"][0] < wide[1] - wide[0]


def test_no_share_of_nothing():
    clean = clean_predictions((LABELS + 1) % 3, one_hot(LABELS.tolist()).numpy(), np.ones(6, bool))
    numbers = robustness(corrupted([*TABLES[:2], TABLES[3], TABLES[3]]), clean)
    assert (numbers["clean"], numbers["relative"], numbers["intervals"]["relative"]) == (0.0, None, None)
    assert numbers["mean_corruption_accuracy"] > 0


def test_of_several_labels_it_is_the_mean_average_precision(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]], bool)
    scores = torch.tensor(rng.random((4, 5, 3)), dtype=torch.float32)
    clean = clean_predictions(labels, scores[0].numpy(), np.ones(5, bool))
    found = corrupted(list(scores), multi_label=True)
    save_robustness(tmp_path / ROBUSTNESS, found)
    numbers = robustness(load_robustness(tmp_path / ROBUSTNESS), clean)
    wanted = [average_precisions(table, torch.from_numpy(labels)).mean().item() for table in scores]
    assert numbers["mAP"]["noise"] + numbers["mAP"]["freeze"] == pytest.approx(wanted)
    assert numbers["clean"] == pytest.approx(wanted[0])
    assert numbers["mean_corruption_accuracy"] == pytest.approx(np.mean(wanted))
    assert numbers["intervals"] is None


@pytest.mark.parametrize("key", SAME_EVALUATION)
def test_files_of_different_evaluations_are_refused(key):
    clean = clean_predictions(LABELS, CLEAN.numpy(), np.ones(6, bool))
    clean.info[key] = "other"
    with pytest.raises(ValueError, match=f"another evaluation .*: {key} differ"):
        robustness(corrupted(TABLES), clean)


def test_a_condition_in_which_every_video_failed_has_no_accuracy():
    clean = clean_predictions(LABELS, CLEAN.numpy(), np.ones(6, bool))
    with pytest.raises(ValueError, match="no video was evaluated in every condition"):
        robustness(corrupted([*TABLES[:3], one_hot([-1] * 6)]), clean)


def test_clips_of_one_frame_have_no_lost_frames():
    assert corruption_names("all", 8) == tuple(CORRUPTIONS)
    assert set(CORRUPTIONS) - set(corruption_names("all", 1)) == set(NEED_FRAMES)
    assert corruption_names(["jpeg", "noise", "jpeg"], 1) == ("jpeg", "noise")
    with pytest.raises(ValueError, match="corruptions=freeze: a clip of clip"):
        corruption_names("freeze", 1)


def test_the_configuration_knows_the_corruptions_that_there_are():
    assert get_args(CorruptionName) == tuple(CORRUPTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["corruptions=fog"], "corruptions = fog: must be one of all, noise"),
        (["corruptions=[]"], "names no corruption"),
        (["corruptions=all", "severities=[]"], "severities = .*: must be some of 1, 2, 3, 4, 5"),
        (["corruptions=all", "severities=[1,6]"], "severities = .*: must be some of 1, 2, 3, 4, 5"),
        (["corruptions=noise", "frame_order=[shuffle,reverse]"], "frame_order must have forward"),
        (["corruptions=noise", "task=train"], "corruptions = noise: is for task=evaluate"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_starts(given, message, trained_run):
    with pytest.raises(ConfigError, match=message):
        check(compose(["task=evaluate", f"ckpt={trained_run}", *given]))


def expected(run: Path, root: Path, condition: Corruption) -> list[tuple[int, float]]:
    """(class, its score) of the videos that can be read, without Lightning or the file of results."""
    cfg = compose([*SETTINGS, f"data.root={root}", "model.drop_path_rate=0"])
    data = build(cfg.data)
    module = build_module(cfg, data).eval()
    module.load_state_dict(torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"])
    dataset = TestViews(
        data.splits["val"],
        clip_sampler=data.val_dataloader().dataset.kinetics._clip_sampler,
        num_frames=4,
        transform=TestCrops(32, 1),
        corruption=condition,
    )
    found = []
    for item in (dataset[i] for i in range(len(dataset))):
        if len(item["video"]):
            with torch.no_grad():
                scores = module(item["video"]).softmax(1)[0]
            found.append((int(scores.argmax()), float(scores.max())))
    return found


def everything(folder: Path) -> tuple[str, dict[str, bytes]]:
    """metrics.json without its time, and the arrays of both files."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.pop("created")
    arrays = {}
    for name in ("predictions.npz", ROBUSTNESS):
        with np.load(folder / name) as file:
            arrays |= {f"{name} {key}": file[key].tobytes() for key in file.files if key != "info"}
    return json.dumps(metrics), arrays


def test_an_evaluation_on_corrupted_videos_is_the_same_again_and_in_two_processes(
    trained_run, two_classes, tmp_path, capsys, command_line
):
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    arguments = ["task=evaluate", f"ckpt={run}", f"data.root={two_classes}", "views=1x1", *HERE]
    corruptions = ["corruptions=[noise,freeze]", "severities=[5,1]", "data.num_workers=0"]
    assert main([*arguments, "frame_order=forward", "data.num_workers=0"]) == 0
    assert "robustness" not in json.loads((run / "evaluate-1x1-forward" / "metrics.json").read_text())
    capsys.readouterr()
    assert main([*arguments, "frame_order=[forward,reverse]", *corruptions]) == 0
    printed = capsys.readouterr().out
    folder = run / "evaluate-1x1-forward+reverse-corruptions"
    metrics = json.loads((folder / "metrics.json").read_text())
    numbers = metrics["robustness"]
    clean = json.loads((run / "evaluate-1x1-forward" / "metrics.json").read_text())
    assert metrics["orders"]["forward"] == clean["orders"]["forward"], "the clean pass stays clean"
    assert list(metrics["orders"]) == ["forward", "reverse"]
    assert numbers["clean"] == clean["orders"]["forward"]["top1"]
    assert numbers["intervals"]["clean"] == pytest.approx(clean["intervals"]["forward"]["top1"])
    assert (numbers["severities"], numbers["videos"]) == ([1, 5], 6)

    found = load_robustness(folder / ROBUSTNESS)
    assert found.predicted is not None
    assert found.probability is not None
    kept = load_predictions(folder / "predictions.npz").evaluated
    assert kept.tolist() == [True, True, False, True, True, True, True]
    assert (found.predicted[..., ~kept] == -1).all()
    for row, name in enumerate(found.corruptions):
        for column, severity in enumerate(found.severities):
            wanted = expected(run, two_classes, Corruption(name, severity))
            assert found.predicted[row, column, kept].tolist() == [label for label, _ in wanted]
            assert found.probability[row, column, kept].tolist() == pytest.approx([p for _, p in wanted], abs=1e-5)
    assert "top-1 % by severity" in printed
    assert f"mean corruption accuracy {numbers['mean_corruption_accuracy']:.1f} % [" in printed
    assert f"{folder / ROBUSTNESS}" in printed
    assert "corrupted 4 of 4: freeze 5" in printed

    first, before = everything(folder), (folder / "metrics.json").read_text()
    (folder / "metrics.json").unlink()
    assert main(["task=report", f"input={folder}"]) == 0
    assert (folder / "metrics.json").read_text() == before
    command = [*arguments, "frame_order=[forward,reverse]", *corruptions, "trainer.devices=2", "trainer.strategy=ddp"]
    shutil.rmtree(folder)
    command_line(*command)
    assert everything(folder) == first


class Brightness(nn.Module):
    """Logits by the mean of the frames alone."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        mean = video.mean((1, 2, 3, 4))
        return torch.stack([mean, -mean], dim=1)


def test_several_labels_are_scored_by_their_mean_average_precision(two_classes, tmp_path):
    for split in ("train", "val"):
        lines = (two_classes / f"{split}.csv").read_text().replace(",high", ",high;low")
        (tmp_path / f"{split}.csv").write_text(lines)
    for file in two_classes.glob("*.mp4"):
        shutil.copy(file, tmp_path)
    cfg = compose([*SETTINGS, f"data.root={tmp_path}"])
    data = build(cfg.data)
    module = build(cfg.module, model=Brightness(), labels=data.labels, multi_label=True, config={"name": "x"})
    metrics = evaluate(
        module,
        data,
        build_trainer(cfg, tmp_path, logger=False, callbacks=[]),
        views=Views(1, 1),
        frame_orders=("forward",),
        run_dir=tmp_path / "run",
        weights_from=Path("x"),
        checkpoint=None,
        corruptions=["darkness", "frame_drop"],
        severities=[2],
    )
    assert metrics["robustness"]["clean"] == metrics["orders"]["forward"]["mAP"]
    assert list(metrics["robustness"]["mAP"]) == ["darkness", "frame_drop"]
    found = load_robustness(tmp_path / "run" / ROBUSTNESS)
    assert found.scores is not None
    assert found.scores.shape == (2, 1, 7, 2)
    clean = load_predictions(tmp_path / "run" / "predictions.npz").scores[0]
    darker = found.scores[0, 0, found.complete] - clean[found.complete]
    assert (darker[:, 0] < 0).all()
    assert (darker[:, 1] > 0).all()
    assert data.corruption is None
