"""metrics.json from predictions made up here: changes, intervals, classes that need time, models side by side."""

import json
from pathlib import Path

import numpy as np
import pytest

from mvit_train.predictions import load_predictions, save_predictions
from mvit_train.report import write_metrics
from mvit_train.report.comparison import compare
from mvit_train.statistics import RESAMPLES, resampled_weights

INFO = dict.fromkeys(("experiment", "split", "data_root", "created", "label_note", "linear_probe"), "x")
INFO |= {"views": "2x1", "ensemble": "mean", "checkpoint": {"path": "a.ckpt"}, "failures": [], "substituted": []}
INFO |= {"label_fingerprint": "l", "data_fingerprint": "d", "config": {}, "linear_probe": None}
INFO |= {"model": {"params": 36_600_000, "gflops": 70.8}, "view_order": [[0, 0], [1, 0]]}
CLASSES = ["rest", "open", "close"]


def made_up(folder: Path, right: dict[str, np.ndarray], labels: np.ndarray, /, **changed) -> Path:
    """An evaluation in which the videos are right where `right` says so, else called the next class; one failed."""
    called = [np.where(hits, labels, (labels + 1) % 3) for hits in right.values()]
    scores = np.stack([np.eye(3, dtype=np.float32)[classes] * 0.7 + 0.1 for classes in called])
    scores = np.concatenate([scores, np.full((len(right), 1, 3), np.nan, np.float32)], axis=1)
    fields = {
        "video_ids": [f"{row}.mp4" for row in range(len(labels) + 1)],
        "labels": np.append(labels, 0),
        "class_names": CLASSES,
        "frame_orders": list(right),
        "scores": scores,
        "evaluated": np.append(np.ones(len(labels), bool), False),
        "info": INFO,
    }
    folder.mkdir()
    save_predictions(folder / "predictions.npz", **(fields | changed))
    return folder


LABELS = np.repeat([0, 1, 2], (5, 20, 15))
FORWARD = np.arange(40) % 10 != 0  # 36 of 40
SHUFFLE = FORWARD & ((LABELS != 1) | (np.arange(40) % 3 == 0))
SECOND = SHUFFLE | (np.arange(40) == 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("card")
    ranks = np.full((3, 41, 2), 0)
    ranks[0, :10, 0], ranks[:, 40] = 2, -1
    right = {"forward": FORWARD, "shuffle": SHUFFLE, "shuffle_2": SECOND}
    return made_up(place / "a", right, LABELS, label_ranks=ranks)


def test_changes_and_their_test_equal_counting_by_hand(folder):
    metrics = write_metrics(folder)
    lost = int((FORWARD & ~SHUFFLE).sum())
    assert metrics["card"]["shuffle"] == {
        "change": pytest.approx(-100 * lost / 40),
        "interval": metrics["card"]["shuffle"]["interval"],
        "lost": lost,
        "won": 0,
        "p": pytest.approx(2 / 2**lost),
    }
    assert (metrics["card"]["shuffle_2"]["lost"], metrics["card"]["shuffle_2"]["won"]) == (lost, 1)
    assert metrics["shuffles"]["change"] == pytest.approx(-100 * (lost - 0.5) / 40)
    assert metrics["shuffles"]["highest"] - metrics["shuffles"]["lowest"] == pytest.approx(100 / 40)
    assert metrics["statistics"] == {"resamples": RESAMPLES, "seed": 0, "level": 95}


def test_intervals_are_percentiles_over_the_same_resamples_in_every_order(folder):
    metrics = write_metrics(folder)
    weights = np.concatenate(list(resampled_weights(40)))  # the labels are sorted already
    accuracy = {order: 100 * weights @ right / 40 for order, right in (("forward", FORWARD), ("shuffle", SHUFFLE))}
    expected = np.percentile(accuracy["forward"], (2.5, 97.5))
    assert metrics["intervals"]["forward"]["top1"] == pytest.approx(expected.tolist())
    paired = np.percentile(accuracy["shuffle"] - accuracy["forward"], (2.5, 97.5))
    assert metrics["card"]["shuffle"]["interval"] == pytest.approx(paired.tolist())
    with np.errstate(invalid="ignore"):  # a resample may lack a class
        by_class = [(weights[:, c == LABELS] @ FORWARD[c == LABELS]) / weights[:, c == LABELS].sum(1) for c in range(3)]
    expected = np.percentile(100 * np.nanmean(by_class, axis=0), (2.5, 97.5))
    assert metrics["intervals"]["forward"]["mean_class_accuracy"] == pytest.approx(expected.tolist())
    assert metrics["intervals"]["forward"]["top5"] == [100.0, 100.0]


def test_classes_that_need_time_come_by_their_loss_and_small_ones_have_no_interval(folder):
    rows = write_metrics(folder)["classes_that_need_time"]["classes"]
    assert [(row["class"], row["videos"]) for row in rows] == [("open", 20), ("close", 15), ("rest", 5)]
    mine = LABELS == 1
    lost = 100 * (SHUFFLE[mine].mean() + SECOND[mine].mean()) / 2 - 100 * FORWARD[mine].mean()
    assert rows[0]["change"] == pytest.approx(lost)
    assert rows[0]["interval"][0] < lost < rows[0]["interval"][1] < 0
    assert (rows[1]["change"], rows[1]["interval"]) == (0.0, [0.0, 0.0])
    assert rows[2]["change"] == pytest.approx(10)  # the second shuffle alone has one of five right again
    assert rows[2]["interval"] is None


def test_the_curve_counts_the_videos_evaluated(folder):
    curve = write_metrics(folder)["views_curve"]
    assert curve["order"] == [[0, 0], [1, 0]]
    assert curve["top1"]["forward"] == [75.0, 100.0]
    assert curve["top5"]["forward"] == [100.0, 100.0]


def several(folder: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(0).random((30, 3)) < (0.4, 0.3, 0)
    forward = np.clip(rng.random((30, 3)) * 0.5 + labels * 0.3, 0, 1)
    scores = np.stack([forward, rng.random((30, 3)), forward]).astype(np.float32)
    fields = {"labels": labels, "scores": scores, "evaluated": np.ones(30, bool)}
    right = dict.fromkeys(("forward", "shuffle", "reverse"), np.ones(30, bool))
    return made_up(folder, right, np.zeros(30, int), **fields, video_ids=[f"{row}.mp4" for row in range(30)])


def test_average_precisions_have_paired_intervals_too(tmp_path):
    metrics = write_metrics(several(tmp_path / "a", 1))
    assert metrics["card"]["reverse"] == {"change": 0.0, "interval": [0.0, 0.0]}
    low, high = metrics["card"]["shuffle"]["interval"]
    assert low < metrics["card"]["shuffle"]["change"] < high < 0
    low, high = metrics["intervals"]["forward"]["mAP"]
    assert low < metrics["orders"]["forward"]["mAP"] < high
    assert [row["class"] for row in metrics["classes_that_need_time"]["classes"]] in (CLASSES[:2], CLASSES[1::-1])
    assert "views_curve" not in metrics


def compared(*folders: Path) -> str:
    files = [load_predictions(folder / "predictions.npz") for folder in folders]
    return compare([folder.name for folder in folders], [write_metrics(folder) for folder in folders], files)


def test_two_models_are_compared_on_the_videos_that_both_evaluated(folder, tmp_path):
    worse = FORWARD & (np.arange(40) % 4 != 1)
    other = made_up(tmp_path / "b", {"forward": worse}, LABELS, info=INFO | {"data_fingerprint": "e", "model": None})
    lines = compared(folder, other).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")][1:5] == ["a", "36.60", "70.8", "2x1"]
    assert [cell.strip() for cell in lines[3].split("|")][-3:] == ["-", "-", ""]
    assert "not comparable: data fingerprints differ: a d, b e" in lines
    lost = int((FORWARD & ~worse).sum())
    assert lines[-1].startswith(f"difference, first - second: +{100 * lost / 40:.1f} points of top-1 forward")
    assert f"on 40 videos {lost} are right in the first alone, 0 in the second alone" in lines[-1]


def test_other_labels_of_the_same_video_leave_no_difference(folder, tmp_path):
    other = made_up(tmp_path / "b", {"forward": FORWARD}, (LABELS + 1) % 3)
    assert "no difference: they have no evaluated video in common, or other labels" in compared(folder, other)


def test_two_models_of_several_labels_differ_by_points_of_map(tmp_path):
    one, two = several(tmp_path / "a", 1), several(tmp_path / "b", 2)
    values = [json.loads(json.dumps(write_metrics(place)))["orders"]["forward"]["mAP"] for place in (one, two)]
    line = compared(one, two).splitlines()[-1]
    assert line.startswith(
        f"difference, first - second: {values[0] - values[1]:+.1f} points of mAP forward on 30 videos"
    )
    assert "+0.0 points of mAP" in compared(one, one)


def test_accuracy_and_map_do_not_share_a_table(folder, tmp_path):
    with pytest.raises(ValueError, match="accuracy and mAP do not go into one table"):
        compared(folder, several(tmp_path / "b", 1))
