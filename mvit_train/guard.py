"""Steps whose gradients are not finite are left out, named, and not endured for long."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

log = logging.getLogger(__name__)


class NonFiniteGuard(Callback):
    """Leaves out an optimiser step if a gradient is infinite or not a number, and says what it was fed with.

    The videos and losses of the step go to `nonfinite/step<global step>-rank<rank>.json` in the run folder. After
    `max_in_a_row` such steps the run ends with a ValueError that names the last file. Weights, moments and decay stay
    as they were; the learning rate goes on. After DDP's reduction all ranks hold the same gradients, so they agree
    without asking each other.

    Scaled float16 meets such steps regularly and has its own remedy, the scaler's; there the guard is idle.
    """

    def __init__(self, max_in_a_row: int) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"module.max_nonfinite is {max_in_a_row}, it must be at least 1")
        self.max_in_a_row = max_in_a_row
        self.skipped = self.in_a_row = 0
        self._videos: list[int] = []  # since the last step
        self._losses: list[torch.Tensor] = []
        self._norm: torch.Tensor | None = None  # of the last step's gradients

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._videos += batch["video_index"].tolist()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            self._norm = torch.nn.utils.get_total_norm(gradients)
            if getattr(trainer.precision_plugin, "scaler", None) is None:
                if self._norm.isfinite():
                    self.in_a_row = 0
                else:
                    self._leave_out(trainer, pl_module, optimizer)
        self._videos, self._losses = [], []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.log("train/skipped_steps", float(self.skipped))
        if self._norm is not None:
            pl_module.log("train/grad_norm", self._norm)  # before clipping

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def _leave_out(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.skipped += 1
        self.in_a_row += 1
        file = self._write(trainer, pl_module, optimizer)
        log.warning("step %d left out, its gradients are not finite; its videos: %s", trainer.global_step, file)
        if self.in_a_row >= self.max_in_a_row:
            raise ValueError(
                f"{self.in_a_row} steps in a row have gradients that are not finite (module.max_nonfinite); what the "
                f"last one was fed with is in {file}. A lower optim.lr, trainer.gradient_clip_val=1 or "
                "trainer.precision=32-true may help"
            )
        optimizer.zero_grad(set_to_none=True)  # the optimiser passes over parameters without a gradient

    def _write(self, trainer: Trainer, pl_module: Any, optimizer: Optimizer) -> Path:
        manifest = pl_module.data.splits["train"]
        file = (
            Path(trainer.default_root_dir) / "nonfinite" / f"step{trainer.global_step}-rank{trainer.global_rank}.json"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        what = {
            "global_step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "rank": trainer.global_rank,
            "lr": max(group["lr"] for group in optimizer.param_groups),
            "losses": [float(loss) for loss in self._losses],
            "videos": [manifest.paths[index] for index in self._videos],
            "parameters": [
                name
                for name, parameter in pl_module.named_parameters()
                if parameter.grad is not None and not parameter.grad.isfinite().all()
            ],
        }
        file.write_text(json.dumps(what, indent=2) + "\n", encoding="utf-8")
        return file
