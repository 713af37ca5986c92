"""Videos of several labels, or none, and images, from the command line to the report."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mvit_train.__main__ import main
from mvit_train.average_precision import average_precisions
from mvit_train.checkpoint import read_checkpoint
from mvit_train.data.mixup import Mixup
from mvit_train.labels import Labels
from mvit_train.models import mvit_b_image
from mvit_train.module import VideoClassifier
from mvit_train.optim import AdamWCosine
from mvit_train.predictions import load_predictions

SMALL = [
    *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "clip.crop_size=32"),
    *("data.num_workers=0", "data.batch_size=4", "data.eval_batch_size=8"),
    *("optim.lr=1e-3", "optim.lr_batch=4", "optim.warmup_epochs=1"),
    *("trainer.max_epochs=2", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.devices=1"),
    "logger.wandb=off",
]
CLIPS = ["clip.num_frames=4", "clip.sampling_rate=2", "views=2x1"]


pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture(scope="session")
def several(tmp_path_factory, video):
    """Videos that show "dark", "bright", both or neither; a third class is shown by none."""
    root = tmp_path_factory.mktemp("several")
    (root / "classes.txt").write_text("dark\nbright\nnever")
    shown = ("dark", "bright", "dark;bright", "")
    for split, first in (("train", 0), ("val", 20)):
        rows = []
        for i in range(12 if split == "train" else 8):
            name = f"{split}{i}.mp4"
            shutil.copy(video("a.mp4", 24, first_index=(first + i) % 4 * 1000 + i), root / name)
            rows.append(f"{name},{shown[(first + i) % 4]}\n")
        (root / f"{split}.csv").write_text("path,label\n" + "".join(rows))
    return root


def run(root, runs, *overrides):
    return main([*SMALL, f"data.root={root}", f"runs={runs}", *overrides])


def test_videos_of_several_labels_become_a_model_and_its_average_precision(several, tmp_path, capsys):
    assert run(several, tmp_path, *CLIPS, "run_id=a", "module.ensemble=max") == 0
    done = tmp_path / "motion" / "a"
    metrics = json.loads((done / "metrics.json").read_text())
    predictions = load_predictions(done / "predictions.npz")
    assert (metrics["ensemble"], "time" in metrics, set(metrics["change"])) == (
        "max",
        False,
        {*metrics["orders"]} - {"forward"},
    )
    assert predictions.labels.dtype == bool
    assert predictions.labels.tolist() == [[i % 4 in (0, 2), i % 4 in (1, 2), False] for i in range(20, 28)]
    sums = predictions.scores[0].sum(axis=1)
    assert ((sums < 0.999) | (sums > 1.001)).any()  # sigmoid: the scores of a video are no distribution
    for order, table in zip(predictions.frame_orders, predictions.scores, strict=True):
        expected = average_precisions(torch.from_numpy(table), torch.from_numpy(predictions.labels))
        assert metrics["orders"][order]["mAP"] == pytest.approx(expected[:2].mean().item(), abs=1e-4)
    rows = metrics["orders"]["forward"]["per_class"]
    assert {name: row["videos"] for name, row in rows.items()} == {"dark": 4, "bright": 4, "never": 0}
    assert rows["never"]["AP"] is None
    printed = capsys.readouterr().out
    assert "val/mAP" in printed
    assert "over 2 of 3 classes" in printed
    assert "top" not in printed
    columns = set(csv.DictReader((done / "metrics.csv").open()).fieldnames or ())
    assert {"train/loss", "val/loss", "val/mAP"} <= columns
    assert not [name for name in columns if "top" in name]
    best = read_checkpoint(done / "checkpoints" / "best.ckpt")
    assert best["mvit_train"]["multi_label"] is True
    saved = next(state for name, state in best["callbacks"].items() if name.startswith("ModelCheckpoint"))
    assert saved["monitor"] == "val/mAP"

    assert main(["task=evaluate", f"ckpt={done}", "module.ensemble=mean", "frame_order=forward"]) == 0
    mean = load_predictions(done / "evaluate-2x1-forward" / "predictions.npz")
    assert mean.info["ensemble"] == "mean"
    assert (mean.scores[0] <= predictions.scores[0] + 1e-6).all()
    assert (mean.scores[0] < predictions.scores[0] - 1e-6).any()


def test_several_labels_in_another_class_order_give_the_same_numbers(several, tmp_path):
    assert run(several, tmp_path, *CLIPS, "run_id=a", "trainer.max_epochs=1") == 0
    done, other = tmp_path / "motion" / "a", tmp_path / "other"
    shutil.copytree(several, other)
    (other / "classes.txt").write_text("never\nbright\ndark")
    for root in (several, other):
        assert main(["task=evaluate", f"ckpt={done}", f"data.root={root}"]) == 0
        metrics = json.loads((done / "evaluate-2x1-all" / "metrics.json").read_text())
        if root == several:
            expected = metrics
    assert metrics["orders"] == expected["orders"]
    assert (metrics["label_fingerprint"], expected["label_note"]) == (expected["label_fingerprint"], None)


def test_two_processes_evaluate_several_labels_like_one(several, tmp_path, command_line):
    assert run(several, tmp_path, *CLIPS, "run_id=a", "module.ensemble=max", "trainer.max_epochs=1") == 0
    done = tmp_path / "motion" / "a"
    arguments = ["task=evaluate", f"ckpt={done}", "views=3x1", "trainer.accelerator=cpu", "data.num_workers=0"]
    assert main([*arguments, "trainer.devices=1"]) == 0
    folder = done / "evaluate-3x1-all"
    alone = json.loads((folder / "metrics.json").read_text())
    scores = np.load(folder / "predictions.npz")["scores"]
    command_line(*arguments, "trainer.devices=2", "trainer.strategy=ddp")
    np.testing.assert_allclose(np.load(folder / "predictions.npz")["scores"], scores, atol=1e-6)
    assert json.loads((folder / "metrics.json").read_text())["videos"] == alone["videos"]


def test_a_model_of_one_label_a_video_is_not_evaluated_on_several(several, tmp_path, capsys):
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(several / "classes.txt", one)
    for split in ("train", "val"):
        rows = (several / f"{split}.csv").read_text().replace(",dark;bright", ",dark").replace(",\n", ",never\n")
        (one / f"{split}.csv").write_text(
            rows.replace("\ntrain", f"\n{several}/train").replace("\nval", f"\n{several}/val")
        )
    assert run(one, tmp_path, *CLIPS, f"data.also_from={several}", "run_id=a", "trainer.max_epochs=1") == 0
    capsys.readouterr()
    assert main(["task=evaluate", f"ckpt={tmp_path}/motion/a", f"data.root={several}"]) == 1
    message = capsys.readouterr().err
    assert "was trained on one class a video (softmax scores), the data has any number of classes a video" in message


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Two class folders of ten images each."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (root / name).mkdir()
        for i in range(10):
            pixels = generator.integers(level - 30, level + 30, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_a_folder_of_images_trains_an_image_model_and_has_one_frame_order(images, tmp_path, capsys):
    still = ["model=mvit_b_image", "clip.num_frames=1", "clip.sampling_rate=1", "views=1x1"]
    assert run(images, tmp_path, *still, "run_id=a", "trainer.max_epochs=3") == 0
    done = tmp_path / "motion" / "a"
    metrics = json.loads((done / "metrics.json").read_text())
    assert list(metrics["orders"]) == ["forward"]
    assert metrics["videos"] == {"expected": 4, "evaluated": 4, "failed": 0}
    assert "shuffle" not in capsys.readouterr().out
    assert main(["task=evaluate", f"ckpt={done}", "frame_order=shuffle"]) == 1
    assert "a clip of clip.num_frames=1 has no order of frames" in capsys.readouterr().err


def test_the_built_in_images_train_by_imagenets_recipe_scaled_down(tmp_path, monkeypatch):
    monkeypatch.setenv("MVIT_TRAIN_CACHE", str(tmp_path / "cache"))
    images = ["data.built_in.num_train=20", "data.built_in.num_val=10", "data.built_in.frame_size=32"]
    assert main(["experiment=shapes", *SMALL, *images, f"runs={tmp_path}", "run_id=a", "trainer.max_epochs=1"]) == 0
    metrics = json.loads((tmp_path / "shapes" / "a" / "metrics.json").read_text())
    assert metrics["videos"] == {"expected": 10, "evaluated": 10, "failed": 0}
    assert (metrics["experiment"], list(metrics["orders"])) == ("shapes", ["forward"])


def classifier(model, *, multi_label=False):
    fixed = dict(
        mean=[0.45] * 3, std=[0.225] * 3, mixup=Mixup(), optim=AdamWCosine(lr=1e-3), max_unreadable=0.1, seed=0
    )
    return VideoClassifier(model, labels=Labels(("a", "b", "c")), multi_label=multi_label, **fixed)


def test_an_image_model_sees_the_only_frame_of_a_clip_and_no_other():
    model = mvit_b_image(embed_dim=16, blocks_per_stage=(1, 1), crop_size=32, num_classes=3).eval()
    module = classifier(model)
    video = torch.randint(0, 256, (2, 3, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(module(video), model(module.normalise(video)[:, :, 0]))
    with pytest.raises(ValueError, match=r"takes images, but a clip has 4 frames: set clip\.num_frames=1"):
        module(video.expand(-1, -1, 4, -1, -1))


def test_a_checkpoint_of_other_classes_never_gets_into_a_module():
    saved = {"mvit_train": {"class_names": ["b", "a", "c"], "unreadable": {}}}
    with pytest.raises(ValueError, match="the 3 classes of the model are those of the checkpoint in another order"):
        classifier(nn.Identity()).on_load_checkpoint(saved)


def test_the_loss_of_several_labels_is_the_mean_over_clips_and_classes():
    module = classifier(nn.Identity(), multi_label=True)
    logits, target = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [0.3, 0.7, 0]])
    by_hand = [
        -(t * torch.sigmoid(x).log() + (1 - t) * torch.sigmoid(-x).log())
        for x, t in zip(logits.flatten(), target.flatten(), strict=True)
    ]
    torch.testing.assert_close(module.loss(logits, target), torch.stack(by_hand).mean())
    torch.testing.assert_close(module.loss(logits, target), binary_cross_entropy_with_logits(logits, target))
    torch.testing.assert_close(module.probabilities(logits), 1 / (1 + (-logits).exp()))
    torch.testing.assert_close(classifier(nn.Identity()).probabilities(logits).sum(1), torch.ones(4))
