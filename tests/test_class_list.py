"""The class lists of checkpoints and data, from the command line: permuted, contained, other, edited."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny import TINY

from mvit_train.__main__ import main
from mvit_train.checkpoint import read_checkpoint
from mvit_train.models.weight_files import KINETICS_400

CLASSES = ["low", "mid", "high"]


pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture
def data(tmp_path, video):
    """`data("a", classes)`: the same nine videos in every folder, those of `classes`, counted in that order."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, first in zip(CLASSES, (0, 1000, 3000), strict=True):
        for i in range(3):
            shutil.copy(video("a.mp4", 20 + i, first_index=first + i), videos / f"{name}{i}.mp4")

    def make(folder, classes, others=()):
        root = tmp_path / folder
        root.mkdir()
        (root / "classes.txt").write_text("\n".join([*classes, *others]))
        for split, numbers in (("train", (0, 1)), ("val", (2,))):
            rows = [f"{videos}/{name}{i}.mp4,{name}\n" for name in CLASSES if name in classes for i in numbers]
            (root / f"{split}.csv").write_text("path,label\n" + "".join(rows))
        return root

    return make


@pytest.fixture
def run(tmp_path):
    """`run("id", folder, ...)` trains; its exit code."""

    def train(run_id, root, *overrides):
        places = [f"data.root={root}", f"data.also_from={tmp_path}/videos", f"runs={tmp_path}", f"run_id={run_id}"]
        return main([*TINY, *places, *overrides])

    return train


def evaluated(run_dir, root, *overrides):
    """metrics.json and predictions of an evaluation of a run on other data."""
    assert main(["task=evaluate", f"ckpt={run_dir}", f"data.root={root}", *overrides]) == 0
    folder = run_dir / "evaluate-1x1-all"
    return json.loads((folder / "metrics.json").read_text()), np.load(folder / "predictions.npz")


def test_the_data_s_classes_in_another_order_give_the_same_numbers(data, run, tmp_path, capsys):
    assert run("a", data("one", CLASSES)) == 0
    run_dir, keys = tmp_path / "motion" / "a", ("orders", "label_fingerprint", "data_fingerprint", "videos")
    expected, first = evaluated(run_dir, tmp_path / "one")
    assert expected["label_note"] is None
    capsys.readouterr()
    found, again = evaluated(run_dir, data("two", CLASSES[::-1]))
    assert [found[key] for key in keys] == [expected[key] for key in keys]
    for name in ("scores", "labels", "class_names"):
        assert np.array_equal(again[name], first[name])
    sentence = (
        "the 3 classes of the data are those of the checkpoint in another order, first at 0: 'high' against 'low'"
    )
    assert f"{sentence}: they are taken in the checkpoint's" in capsys.readouterr().out
    assert found["label_note"].startswith(sentence)


def test_fewer_classes_are_scored_among_all_of_the_checkpoint_s(data, run, tmp_path, capsys):
    assert run("a", data("one", CLASSES)) == 0
    whole = np.load(tmp_path / "motion" / "a" / "predictions.npz")
    metrics, found = evaluated(tmp_path / "motion" / "a", data("few", ["high", "low"]))
    assert "the 2 classes of the data are among the 3 of the checkpoint: scored among all 3" in capsys.readouterr().out
    assert found["scores"].shape == (4, 2, 3)
    rows = {path: row for row, path in enumerate(whole["video_ids"])}
    for row, path in enumerate(found["video_ids"]):
        np.testing.assert_allclose(found["scores"][:, row], whole["scores"][:, rows[path]], atol=1e-6)
        assert found["labels"][row] == whole["labels"][rows[path]]
    per_class = metrics["orders"]["forward"]["per_class"]
    assert list(per_class) == CLASSES
    assert per_class["mid"]["videos"] == 0
    tops = [per_class[name]["top1"] for name in ("low", "high")]
    assert metrics["orders"]["forward"]["mean_class_accuracy"] == pytest.approx(sum(tops) / 2)


def test_a_run_resumed_with_permuted_classes_ends_as_with_its_own(data, run, tmp_path, capsys):
    one, two = data("one", CLASSES), data("two", CLASSES[::-1])
    assert run("whole", one, "trainer.max_epochs=3") == 0
    for run_id, root in (("own", one), ("other", two)):
        assert run(run_id, one, "trainer.max_epochs=3", "trainer.max_steps=2") == 0
        capsys.readouterr()
        assert run(run_id, root, "trainer.max_epochs=3") == 0
        said = "they are taken in the checkpoint's" in capsys.readouterr().out
        assert said == (root == two)
    last = [tmp_path / "motion" / name / "checkpoints" / "last.ckpt" for name in ("whole", "own", "other")]
    whole, *rest = (read_checkpoint(path) for path in last)
    for checkpoint in rest:
        assert checkpoint["mvit_train"]["class_names"] == CLASSES
        assert all(torch.equal(checkpoint["state_dict"][name], t) for name, t in whole["state_dict"].items())


@pytest.mark.parametrize(
    ("classes", "others", "words"),
    [
        (["low", "mid"], (), "the 2 classes of the data are among the 3 of the checkpoint. A run goes on with"),
        (["low", "mid", "high"], ["more"], "the 4 classes of the data are the 3 of the checkpoint and more: more."),
    ],
)
def test_a_run_is_not_resumed_with_fewer_or_more_classes(classes, others, words, data, run, tmp_path, capsys):
    assert run("a", data("one", CLASSES), "trainer.max_epochs=1") == 0
    capsys.readouterr()
    config = tmp_path / "motion" / "a" / "config.yaml"
    before = config.read_text()
    assert run("a", data("two", classes, others)) == 1
    assert config.read_text() == before
    message = capsys.readouterr().err
    last = tmp_path / "motion" / "a" / "checkpoints" / "last.ckpt"
    assert words in message
    assert f"give another run_id and weights={last} in place of ckpt" in message
    assert run("b", tmp_path / "two", f"weights={last}", "trainer.max_epochs=1") == 0  # as it says
    head = (
        "replaced: the 4 classes of the model" if others else "rows by class name: the 2 classes of the model are among"
    )
    assert head in capsys.readouterr().out


@pytest.mark.parametrize("order", [1, -1])
def test_a_published_class_order_is_named_and_another_order_of_its_classes_is_doubted(
    order, data, tmp_path, capsys, caplog
):
    root = data("one", CLASSES)
    (root / "classes.txt").write_text("\n".join(KINETICS_400[::order]))
    for split in ("train", "val"):
        text = (root / f"{split}.csv").read_text()
        (root / f"{split}.csv").write_text(
            text.replace(",low", ",zumba").replace(",mid", ",yoga").replace(",high", ",vault")
        )
    places = [f"data.root={root}", f"data.also_from={tmp_path}/videos", f"runs={tmp_path}"]
    assert main([*TINY, *places, "run_id=a", "trainer.max_epochs=1"]) == 0
    known = "Kinetics-400, alphabetical (PySlowFast, torchvision, mmaction2)"
    metrics = json.loads((tmp_path / "motion" / "a" / "metrics.json").read_text())
    assert metrics["known_labels"] == (known if order == 1 else None)
    assert (f"of 400 classes ({known}); " in capsys.readouterr().out) == (order == 1)
    assert ("the 400 classes are those of Kinetics-400, in an order" in caplog.text) == (order == -1)


def test_other_classes_are_refused_by_name(data, run, tmp_path, capsys):
    assert run("a", data("one", ["low", "mid"]), "trainer.max_epochs=1") == 0
    capsys.readouterr()
    assert main(["task=evaluate", f"ckpt={tmp_path}/motion/a", f"data.root={data('two', ['mid', 'high'])}"]) == 1
    message = capsys.readouterr().err
    assert "are not the 2 of the checkpoint: only in the data: high; only in the checkpoint: low" in message
    assert "A model scores only the classes it was trained on" in message


def test_a_checkpoint_whose_class_list_was_edited_is_refused(data, run, tmp_path, capsys):
    assert run("a", data("one", CLASSES), "trainer.max_epochs=1") == 0
    path = tmp_path / "motion" / "a" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["mvit_train"]["class_names"] = CLASSES[::-1]
    torch.save(checkpoint, path)
    capsys.readouterr()
    for task in (["task=evaluate"], ["task=export"]):
        assert main([*task, f"ckpt={path}"]) == 1
        assert f"ckpt: {path}: its 3 class names have the fingerprint" in capsys.readouterr().err
