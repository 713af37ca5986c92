"""A step that is not finite changes nothing, is written down, and ends the run when it comes again and again."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from mvit_train.guard import NonFiniteGuard

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning", "ignore:.*treespec:DeprecationWarning")


class Linear(LightningModule):
    """Its loss is not finite for the values that are not."""

    def __init__(self, optimizer=torch.optim.AdamW):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)
        self.optimizer, self.history = optimizer, []
        manifest = SimpleNamespace(paths=[f"{i}.mp4" for i in range(100)])
        self.data = SimpleNamespace(splits={"train": manifest})

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.1, weight_decay=0.1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch["video"]).square().mean()

    def on_train_batch_end(self, *_):
        self.history.append(self.layer.weight.detach().clone())


def fit(tmp_path, values, *, optimizer=torch.optim.AdamW, max_in_a_row=3, accumulate=1, **arguments):
    torch.manual_seed(1)
    items = [{"video": torch.randn(3) * value, "video_index": torch.tensor(i)} for i, value in enumerate(values)]
    guard, module = NonFiniteGuard(max_in_a_row), Linear(optimizer)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        accumulate_grad_batches=accumulate,
        callbacks=[guard],
        **arguments,
    )
    trainer.fit(module, DataLoader(items, batch_size=2))
    return module, guard, trainer


OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "fused": lambda p, **k: torch.optim.AdamW(p, fused=True, **k),  # as on GPUs; the answer comes a step later
    "SGD": lambda p, **k: torch.optim.SGD(p, momentum=0.9, **k),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(tmp_path, optimizer, bad):
    module, guard, trainer = fit(tmp_path, [1, 1, 1, 1, 1, bad, 1, 1], optimizer=optimizer, gradient_clip_val=1.0)
    assert torch.equal(module.history[1], module.history[2])
    without, clean, _ = fit(tmp_path / "clean", [1, 1, 1, 1, 0, 0], optimizer=optimizer, gradient_clip_val=1.0)
    assert torch.equal(module.history[2], without.history[1])
    assert not torch.equal(module.history[3], module.history[2])
    assert all(weight.isfinite().all() for weight in module.history)
    assert (guard.skipped, clean.skipped, trainer.global_step) == (1, 0, 4)
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1
    written = json.loads((tmp_path / "nonfinite/step2-rank0.json").read_text())
    assert (written["videos"], written["global_step"]) == (["4.mp4", "5.mp4"], 2)
    assert len(written["losses"]) == 1
    assert not math.isfinite(written["losses"][0])
    assert "layer.weight" in written["parameters"]
    assert [file.name for file in (tmp_path / "nonfinite").iterdir()] == ["step2-rank0.json"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_of_accumulated_batches_all_videos_are_named(tmp_path, optimizer):
    _, guard, trainer = fit(tmp_path, [1, 1, math.nan, 1, 1, 1, 1, 1], accumulate=2, optimizer=optimizer)
    assert (guard.skipped, trainer.global_step) == (1, 2)
    written = json.loads((tmp_path / "nonfinite/step0-rank0.json").read_text())
    assert written["videos"] == [f"{i}.mp4" for i in range(4)]
    assert [math.isfinite(loss) for loss in written["losses"]] == [True, False]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_too_many_in_a_row_end_the_run_with_the_file(tmp_path, optimizer):
    with pytest.raises(ValueError, match=r"3 steps in a row .* is in .*nonfinite/step3-rank0\.json"):
        fit(tmp_path, [1, 1, *[math.nan] * 20], optimizer=optimizer)
    apart = [math.nan, 1, math.nan, 1, 1, 1, math.nan, 1]
    _, guard, _ = fit(tmp_path / "apart", apart, max_in_a_row=3, optimizer=optimizer)
    assert guard.skipped == 3


def test_the_last_step_before_a_checkpoint_counts_in_it(tmp_path):
    _, guard, trainer = fit(tmp_path, [1, 1, math.nan, 1], optimizer=OPTIMIZERS["fused"])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt")["callbacks"]["NonFiniteGuard"] == {"skipped": 1}
    assert guard.state_dict() == {"skipped": 1}


def test_the_limit_must_allow_one():
    with pytest.raises(ValueError, match="max_nonfinite is 0"):
        NonFiniteGuard(0)
