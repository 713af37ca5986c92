"""Fine-tuning from the command line: frozen stages, flips, the early end, and the probe it is compared with."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tiny import TINY

from mvit_train.__main__ import main
from mvit_train.checkpoint import read_checkpoint
from mvit_train.models import mvit_b
from mvit_train.models.freeze import freeze_stages
from mvit_train.optim import parameter_groups
from mvit_train.train import compare

SETTINGS = [*TINY, "views=2x1", "optim.warmup_epochs=0"]
FROZEN = ("patch_embed.", "pos_embed", "cls_token", "blocks.0.")


pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, video):
    """Two class folders of ten short videos, told apart by black and white."""
    folder = tmp_path_factory.mktemp("sides")
    for name, first in (("turn_left", 0), ("turn_right", 4060)):
        (folder / name).mkdir()
        for i in range(10):
            shutil.copy(video("a.mp4", 12, first_index=first + i), folder / name / f"{i}.mp4")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Of a tiny MViT-B with five classes."""
    torch.manual_seed(0)
    model = mvit_b(embed_dim=16, blocks_per_stage=(1, 1), num_frames=4, crop_size=32, num_classes=5)
    file = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(model.state_dict(), file)
    return file


def run(folder, runs, *overrides):
    return main([*SETTINGS, f"data.root={folder}", f"runs={runs}", "run_id=a", *overrides])


def result(runs, name="finetune"):
    return json.loads((runs / name / "a" / "metrics.json").read_text())


def test_fine_tuning_ends_with_a_linear_probe_of_the_same_weights(folder, weights, tmp_path, capsys):
    assert run(folder, tmp_path, "experiment=finetune", f"weights={weights}", "module.frozen_stages=1") == 0
    printed = capsys.readouterr().out
    assert "head replaced: 5 classes in the file, 2 here" in printed
    assert "flip: switched off, because a mirror image of 'turn_left' and 'turn_right' is no longer that" in printed
    assert "M of them frozen, 16 training and 4 validation videos" in printed
    probe = result(tmp_path)["linear_probe"]
    assert (probe["train_videos"], probe["top1"]) == (16, 100.0)  # brightness survives any random features
    assert f"fine-tuned top-1 {probe['fine_tuned_top1']:.1f} %, linear probe 100.0 %" in printed
    rows = csv.DictReader((tmp_path / "finetune" / "a" / "metrics.csv").open())
    assert max(float(row["val/top1"]) for row in rows if row["val/top1"]) == pytest.approx(probe["fine_tuned_top1"])
    assert "Linear probe" in (tmp_path / "finetune" / "a" / "report.html").read_text()

    before = torch.load(weights, weights_only=True)
    after = read_checkpoint(tmp_path / "finetune" / "a" / "checkpoints" / "last.ckpt")["state_dict"]
    for name, tensor in before.items():
        if not name.startswith("head."):
            assert torch.equal(after[f"model.{name}"], tensor) == name.startswith(FROZEN), name


def test_without_weights_nothing_is_frozen_nor_probed(folder, tmp_path, capsys):
    assert run(folder, tmp_path, "experiment=small", "model=mvit_b", "trainer.max_epochs=1") == 0
    assert "linear probe: not done, training started from no weights" in capsys.readouterr().out
    assert result(tmp_path, "small")["linear_probe"] is None
    assert run(folder, tmp_path, "experiment=small", "run_id=b", "module.frozen_stages=1") == 1
    assert run(folder, tmp_path, "experiment=small", "run_id=b", "module.linear_probe=0") == 1
    assert "module.frozen_stages=1 would freeze random stages: give weights=FILE" in (errors := capsys.readouterr().err)
    assert "module.linear_probe is 0, it must be at least 1" in errors


def test_several_labels_are_not_probed(capsys):
    several, first = SimpleNamespace(multi_label=True), SimpleNamespace(is_global_zero=True)
    assert compare(SimpleNamespace(weights="w.pth"), 9, cast(Any, several), cast(Any, first), {}) is None
    assert "linear probe: not done, videos may have several labels" in capsys.readouterr().out


def test_training_ends_early_and_stays_ended(folder, tmp_path, capsys):
    """With a learning rate of next to nothing the first validation is never surpassed."""
    still = ["optim.lr=1e-12", "module.patience=2", "trainer.max_epochs=9"]
    still += ["augment.crop.flip=0.5", "data.flip_left_right=true"]
    assert run(folder, tmp_path, *still) == 0
    printed = capsys.readouterr().out
    assert "flip:" not in printed
    assert "stopped early: val/top1 has not risen above " in printed
    assert "in 2 validations (module.patience=2)" in printed
    last = tmp_path / "motion" / "a" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["epoch"] == 2
    assert result(tmp_path, "motion")["checkpoint"]["epoch"] == 0  # the best is evaluated
    assert run(folder, tmp_path, *still) == 0
    assert read_checkpoint(last)["epoch"] == 2
    assert run(folder, tmp_path, *still, "module.patience=4") == 0  # more patience than before
    assert read_checkpoint(last)["epoch"] == 4
    assert run(folder, tmp_path, "run_id=b", "module.patience=0") == 1
    assert "module.patience is 0, it must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("num_stages", [0, 1, 2, 4])
def test_frozen_stages_get_no_gradient_and_no_place_in_the_optimiser(num_stages):
    model = mvit_b(embed_dim=16, blocks_per_stage=(1, 2, 1, 1), num_frames=4, crop_size=32, num_classes=3)
    freeze_stages(model, num_stages)
    num_blocks = (0, 1, 3, 4, 5)[num_stages]
    frozen = {*FROZEN[:3], *(f"blocks.{i}." for i in range(num_blocks))} if num_stages else ()
    kept_graph = []
    hooks = [
        block.register_forward_hook(lambda *args: kept_graph.append(args[2].requires_grad)) for block in model.blocks
    ]
    model(torch.rand(2, 3, 4, 32, 32)).square().sum().backward()
    assert len(hooks) == 5
    assert kept_graph == [not num_stages or i >= num_blocks for i in range(5)]
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(tuple(frozen)), name
    trained = sum(len(group["params"]) for group in parameter_groups(model, 0.05, 0.75, 1.0))
    assert trained == sum(parameter.requires_grad for parameter in model.parameters())


def test_more_frozen_stages_than_there_are_are_refused():
    model = mvit_b(embed_dim=16, blocks_per_stage=(1, 1), num_frames=4, crop_size=32)
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"module.frozen_stages is {wrong}, the model has 2 stages"):
            freeze_stages(model, wrong)
    with pytest.raises(ValueError, match="of an MViT, not of a Linear"):
        freeze_stages(torch.nn.Linear(1, 1), 1)
