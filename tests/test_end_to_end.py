"""The command line from videos to a report, with a tiny model and videos drawn here."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from tiny import TINY

from mvit_train.__main__ import main
from mvit_train.checkpoint import read_checkpoint

SETTINGS = [*TINY, "views=2x1"]


pytestmark = pytest.mark.usefixtures("own_environment")


def run(folder, runs, *overrides, wandb="off"):
    return main([*SETTINGS, f"data.root={folder}", f"runs={runs}", f"logger.wandb={wandb}", *overrides])


def weights(path):
    return read_checkpoint(path)["state_dict"]


def test_a_folder_of_videos_becomes_a_model_a_score_and_a_report(folder, tmp_path, capsys):
    assert run(folder, tmp_path, "run_id=a", wandb="offline") == 0
    done = tmp_path / "motion" / "a"
    found = {path.name for path in done.iterdir()}
    assert {"config.yaml", "metrics.csv", "metrics.json", "predictions.npz", "report.html", "wandb"} <= found
    assert {path.name for path in (done / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    printed = capsys.readouterr().out
    assert str(done / "report.html") in printed
    assert "epoch 2 of 2  train/loss" in printed  # no terminal: lines in place of a bar
    assert "top-1" in printed
    metrics = json.loads((done / "metrics.json").read_text())
    assert set(metrics["orders"]) == {"forward", "shuffle", "reverse", "freeze"}
    assert metrics["videos"] == {"expected": 6, "evaluated": 6, "failed": 0}
    columns = set(csv.DictReader((done / "metrics.csv").open()).fieldnames or ())
    assert {"train/loss", "optim/lr", "val/loss", "val/top1", "epoch", "step"} <= columns
    saved = read_checkpoint(done / "checkpoints" / "best.ckpt")["mvit_train"]
    assert saved["class_names"] == ["high", "low"]
    assert saved["config"]["clip"]["num_frames"] == 4
    assert any((done / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_training_ends_with_the_frame_orders_that_are_asked_for(folder, tmp_path, capsys):
    assert run(folder, tmp_path, "run_id=a", "frame_order=[forward,reverse]", "trainer.max_epochs=1") == 0
    metrics = json.loads((tmp_path / "motion" / "a" / "metrics.json").read_text())
    assert list(metrics["orders"]) == ["forward", "reverse"]


@pytest.mark.parametrize(
    ("order", "status", "message"),
    [
        ("reverse", 2, "frame_order = reverse: a training is reported by its videos played forward"),
        ("[forward,jumble_4]", 1, "frame_order=jumble_4: "),  # clips of 4 frames have one such block
    ],
)
def test_frame_orders_that_cannot_be_reported_are_refused_before_the_training(
    folder, tmp_path, capsys, order, status, message
):
    assert run(folder, tmp_path, "run_id=a", f"frame_order={order}") == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "motion").exists()


def test_evaluation_takes_the_checkpoint_s_configuration_and_the_command_line_s_changes(folder, tmp_path):
    assert run(folder, tmp_path, "run_id=a") == 0
    done = tmp_path / "motion" / "a"
    arguments = [
        "task=evaluate",
        f"ckpt={done}",
        "views=3x3",
        "frame_order=reverse",
    ]
    assert main(arguments) == 0
    metrics = json.loads((done / "evaluate-3x3-reverse" / "metrics.json").read_text())
    assert (metrics["views"], list(metrics["orders"])) == ("3x3", ["reverse"])
    assert metrics["checkpoint"]["path"] == str(done / "checkpoints" / "best.ckpt")
    assert main([*arguments[:2], "views=2x1"]) == 0
    again = np.load(done / "evaluate-2x1-all" / "predictions.npz")
    first = np.load(done / "predictions.npz")
    assert np.array_equal(again["scores"], first["scores"])  # the evaluation that ended the training


@pytest.mark.parametrize("steps", [6, 8], ids=["within an epoch", "after two epochs"])
def test_a_run_that_was_cut_short_ends_with_the_weights_of_an_uninterrupted_one(folder, tmp_path, capsys, steps):
    assert run(folder, tmp_path, "run_id=whole", "trainer.max_epochs=3") == 0
    assert run(folder, tmp_path, "run_id=cut", "trainer.max_epochs=3", f"trainer.max_steps={steps}") == 0
    capsys.readouterr()
    assert run(folder, tmp_path, "run_id=cut", "trainer.max_epochs=3") == 0  # the same command goes on
    cut, whole = (tmp_path / "motion" / name for name in ("cut", "whole"))
    assert f"resuming from {cut / 'checkpoints' / 'last.ckpt'}" in capsys.readouterr().out
    expected, found = weights(whole / "checkpoints" / "last.ckpt"), weights(cut / "checkpoints" / "last.ckpt")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    losses = [
        {
            int(row["step"]): row["train/loss"]
            for row in csv.DictReader((path / "metrics.csv").open())
            if row["train/loss"]
        }
        for path in (whole, cut)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12
    assert run(folder, tmp_path, "run_id=other", "trainer.max_epochs=3", f"ckpt={whole}/checkpoints/last.ckpt") == 0
    assert read_checkpoint(tmp_path / "motion" / "other" / "checkpoints" / "last.ckpt")["global_step"] == 12


@pytest.fixture
def broken(folder, tmp_path):
    """A manifest with every kind of broken file in both splits."""
    root = tmp_path / "broken"
    shutil.copytree(folder, root)
    whole = (root / "low" / "11.mp4").read_bytes()
    (root / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "zero.mp4").touch()
    (root / "text.mp4").write_text("no video")
    bad = [f"{name}.mp4,low\n" for name in ("nowhere", "truncated", "zero", "text")]
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        good = [f"{name}/{i}.mp4,{name}\n" for name in ("low", "high") for i in numbers]
        (root / f"{split}.csv").write_text("path,label\n" + "".join(good + bad))
    return root


def test_broken_videos_are_replaced_in_training_and_reported_in_evaluation(broken, tmp_path, capsys, caplog):
    assert run(broken, tmp_path, "run_id=a", "module.max_unreadable=0.5", "trainer.max_epochs=3") == 0
    metrics = json.loads((tmp_path / "motion" / "a" / "metrics.json").read_text())
    assert metrics["videos"] == {"expected": 12, "evaluated": 8, "failed": 4}
    assert {f["video"] for f in metrics["failures"]} == {"nowhere.mp4", "truncated.mp4", "zero.mp4", "text.mp4"}
    assert {s["video"] for s in metrics["substituted"]} == {"nowhere.mp4", "truncated.mp4", "zero.mp4", "text.mp4"}
    assert all(failure["reason"] for failure in metrics["failures"] + metrics["substituted"])
    assert "unreadable training video, replaced by another one: nowhere.mp4: no such file" in caplog.text
    assert caplog.text.count("unreadable validation video, left out of the score: zero.mp4: empty file") == 1
    assert "8 of 12 videos evaluated, 4 failed" in capsys.readouterr().out


def test_a_validation_split_without_a_readable_video_is_an_error(broken, tmp_path, capsys):
    (broken / "val.csv").write_text("path,label\nzero.mp4,low\ntext.mp4,low\n")
    assert run(broken, tmp_path, "run_id=a", "module.max_unreadable=0.5") == 1
    assert "none of the 2 validation videos" in capsys.readouterr().err


def test_too_many_broken_videos_stop_the_training_with_their_names(broken, tmp_path, capsys):
    assert run(broken, tmp_path, "run_id=a", "trainer.max_epochs=3") == 1
    message = capsys.readouterr().err
    assert "of 20 training videos cannot be read, more than max_unreadable=0.01 allows (0.2)" in message
    assert ".mp4: " in message


def test_classes_that_differ_from_the_checkpoint_s_are_refused_with_the_difference(folder, tmp_path, capsys):
    assert run(folder, tmp_path, "run_id=a") == 0
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "low").rename(other / "lowest")
    assert main(["task=evaluate", f"ckpt={tmp_path}/motion/a", f"data.root={other}"]) == 1
    assert "only in the data: lowest; only in the checkpoint: low." in capsys.readouterr().err


def test_weights_of_elsewhere_are_evaluated_and_trained_on(folder, tmp_path, capsys):
    """The first training's weights go out to torchvision's format and come back in."""
    assert run(folder, tmp_path, "run_id=a", "model=mvit_b") == 0
    done = tmp_path / "motion" / "a"
    assert main(["task=export", f"ckpt={done}", "format=torchvision"]) == 0
    weights_file = done / "best-torchvision.pth"
    assert f"{weights_file}: " in capsys.readouterr().out
    assert main(["task=export", f"ckpt={done}", f"output={tmp_path}/w.safetensors"]) == 0

    assert run(folder, tmp_path, "task=evaluate", "model=mvit_b", "run_id=b", f"weights={weights_file}") == 0
    printed = capsys.readouterr().out
    assert f"weights: {weights_file} (torchvision)" in printed
    evaluated = tmp_path / "motion" / "b" / "evaluate-2x1-all"
    again, first = (np.load(path / "predictions.npz")["scores"] for path in (evaluated, done))
    np.testing.assert_allclose(again, first, atol=1e-6)
    metrics = [json.loads((path / "metrics.json").read_text())["checkpoint"] for path in (evaluated, done)]
    assert (metrics[0]["epoch"], metrics[0]["global_step"]) == (None, None)
    assert metrics[0]["path"] == str(weights_file)
    assert metrics[0]["fingerprint"] == metrics[1]["fingerprint"]
    assert (evaluated / "report.html").exists()

    start = ["run_id=c", "model=mvit_b", f"weights={tmp_path}/w.safetensors"]
    assert run(folder, tmp_path, *start, "trainer.max_epochs=1") == 0
    assert "w.safetensors (mvit_train)" in capsys.readouterr().out
    assert run(folder, tmp_path, *start) == 0  # and goes on
    assert f"w.safetensors is not read again, the run goes on from {tmp_path}/motion/c" in capsys.readouterr().out
    assert main(["task=evaluate", f"ckpt={tmp_path}/motion/c", "frame_order=forward"]) == 0  # started from weights=
    assert main(["task=evaluate", f"ckpt={done}", f"weights={weights_file}"]) == 2
    assert "task=evaluate takes ckpt or weights, not both" in capsys.readouterr().err


def test_an_evaluation_of_weights_without_these_classes_is_refused(folder, tmp_path, capsys):
    from mvit_train.models import mvit_b

    tiny = mvit_b(blocks_per_stage=(1, 1), embed_dim=16, num_frames=4, crop_size=32, num_classes=400)
    torch.save(tiny.state_dict(), tmp_path / "k400.pth")
    evaluation = ["task=evaluate", f"weights={tmp_path}/k400.pth"]
    assert run(folder, tmp_path, *evaluation, "model=mvit_b", "run_id=a") == 1
    message = capsys.readouterr().err
    assert "needs its classification head, but that is replaced: the 2 classes of the model are not the 400" in message
    assert "only in the model: high, low; only in the file: abseiling, " in message


def val_losses(run_dir):
    return [float(row["val/loss"]) for row in csv.DictReader((run_dir / "metrics.csv").open()) if row["val/loss"]]


def test_two_processes_train_and_evaluate_like_one(folder, tmp_path, command_line):
    """Two ranks with batches of 2 take the steps of one process with batches of 4; mixup mixes within a rank."""
    assert run(folder, tmp_path, "run_id=one", "augment.mixup.mixup_alpha=0") == 0
    two_ranks = ["augment.mixup.mixup_alpha=0", "trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2"]
    where = [f"data.root={folder}", f"runs={tmp_path}", "logger.wandb=off", "run_id=two"]
    command_line(*SETTINGS, *two_ranks, *where)
    one, two = tmp_path / "motion" / "one", tmp_path / "motion" / "two"
    assert val_losses(two) == pytest.approx(val_losses(one), rel=1e-3)

    assert main(["task=evaluate", f"ckpt={two}", "trainer.accelerator=cpu"]) == 0
    alone = two / "evaluate-2x1-all"
    scores = [np.load(path / "predictions.npz")["scores"] for path in (alone, two)]
    np.testing.assert_allclose(*scores, atol=2e-6)
    metrics = [json.loads((path / "metrics.json").read_text()) for path in (alone, two)]
    assert metrics[0]["orders"] == metrics[1]["orders"]
    assert metrics[0]["videos"] == metrics[1]["videos"]


def test_the_average_of_the_weights_is_validated_kept_and_resumed(folder, tmp_path):
    plain, averaged = ("run_id=plain",), ("run_id=ema", "module.ema_decay=0.5")
    assert run(folder, tmp_path, *plain) == run(folder, tmp_path, *averaged) == 0
    last = read_checkpoint(tmp_path / "motion/ema/checkpoints/last.ckpt")
    current = last["current_model_state"]
    for name, tensor in weights(tmp_path / "motion/plain/checkpoints/last.ckpt").items():
        assert torch.equal(current[name], tensor), name  # averaging does not touch the training
    assert any(not torch.equal(current[name], tensor) for name, tensor in last["state_dict"].items())
    halves = ("run_id=halves", "module.ema_decay=0.5")
    assert run(folder, tmp_path, *halves, "trainer.max_steps=7") == 0  # ends within the second epoch
    assert run(folder, tmp_path, *halves) == 0
    again = read_checkpoint(tmp_path / "motion/halves/checkpoints/last.ckpt")
    for name, tensor in last["state_dict"].items():
        assert torch.equal(again["state_dict"][name], tensor), name


def test_the_recipe_of_kinetics_gives_the_same_weights_wherever_it_is_augmented(folder, tmp_path):
    recipe = ("augment=k400", "augment.crop.short_side=40", "data.repeats=2", "trainer.max_epochs=1", "module.seed=3")
    for place in ("cpu", "gpu"):  # here the training device is the CPU either way
        assert run(folder, tmp_path, f"run_id={place}", f"augment.device={place}", *recipe) == 0
    expected, found = (weights(tmp_path / f"motion/{place}/checkpoints/last.ckpt") for place in ("cpu", "gpu"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_last_checkpoint_knows_the_best_score_so_that_a_resumed_run_keeps_the_best(folder, tmp_path):
    assert run(folder, tmp_path, "run_id=a", "trainer.max_epochs=3") == 0
    checkpoints = tmp_path / "motion/a/checkpoints"
    (state,) = (v for k, v in read_checkpoint(checkpoints / "last.ckpt")["callbacks"].items() if "ModelCheckpoint" in k)
    rows = csv.DictReader((tmp_path / "motion/a/metrics.csv").open())
    assert float(state["best_model_score"]) == max(float(row["val/top1"]) for row in rows if row["val/top1"])


def test_accumulated_gradients_give_the_update_of_the_large_batch(folder, tmp_path):
    exact = ("model.drop_path_rate=0", "model.dropout=0", "augment.mixup.mixup_alpha=0", "trainer.gradient_clip_val=1")
    exact += ("optim._target_=mvit_train.optim.SGDCosine", "optim.lr=0.1", "trainer.max_epochs=2")
    assert run(folder, tmp_path, "run_id=large", *exact, "data.batch_size=8") == 0
    assert run(folder, tmp_path, "run_id=parts", *exact, "data.batch_size=4", "trainer.accumulate_grad_batches=2") == 0
    large, parts = (read_checkpoint(tmp_path / f"motion/{name}/checkpoints/last.ckpt") for name in ("large", "parts"))
    assert large["global_step"] == parts["global_step"] == 4
    for name, tensor in large["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][name], tensor, rtol=1e-5, atol=1e-6)
