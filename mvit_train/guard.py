"""Steps whose gradients are not finite are left out, named, and not endured for long."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

log = logging.getLogger(__name__)


@dataclass
class Step:
    """What an optimiser step was fed with, until it is known whether its gradients were finite."""

    trainer: Trainer
    module: Any
    global_step: int
    epoch: int
    lr: float
    videos: list[Tensor]
    losses: list[Tensor]
    parameters: list[Tensor]  # that have gradients
    finite: Tensor  # of each gradient, on the CPU; on its way there until `arrived`
    arrived: Any  # an event of CUDA's, or None


class NonFiniteGuard(Callback):
    """Leaves out an optimiser step if a gradient is infinite or not a number, and says what it was fed with.

    The videos and losses of the step go to `nonfinite/step<global step>-rank<rank>.json` in the run folder. After
    `max_in_a_row` such steps the run ends with a ValueError that names the last file. Weights, moments and decay stay
    as they were; the learning rate goes on. After DDP's reduction all ranks hold the same gradients, so they agree
    without asking each other.

    A fused AdamW, that of GPUs, leaves the step out on the device; the file and the end come one step later, when the
    answer is on the CPU anyway, so that the CPU never waits for the step under way. Other optimisers wait for it.

    Scaled float16 meets such steps regularly and has its own remedy, the scaler's; there the guard is idle.
    """

    def __init__(self, max_in_a_row: int) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"module.max_nonfinite is {max_in_a_row}, it must be at least 1")
        self.max_in_a_row = max_in_a_row
        self.skipped = self.in_a_row = 0
        self._videos: list[Tensor] = []  # since the last step
        self._losses: list[Tensor] = []
        self._norm: Tensor | None = None  # of the last step's gradients
        self._unknown: Step | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._videos.append(batch["video_index"])

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._judge()
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parameters:
            norms = gradient_norms(parameters)
            self._norm = torch.linalg.vector_norm(norms)
            if getattr(trainer.precision_plugin, "scaler", None) is None:
                lr = max(group["lr"] for group in optimizer.param_groups)
                when, fed = (trainer.global_step, trainer.current_epoch, lr), (self._videos, self._losses, parameters)
                finite = norms.isfinite()
                self._unknown = Step(trainer, pl_module, *when, *fed, *on_its_way(finite))
                if skips_on_device(optimizer):
                    optimizer.found_inf = (~finite.all()).float()  # pyright: ignore[reportAttributeAccessIssue]
                elif self._judge():
                    optimizer.zero_grad(set_to_none=True)  # the optimiser passes over parameters without a gradient
        self._videos, self._losses = [], []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.log("train/skipped_steps", float(self.skipped))
        if self._norm is not None:
            pl_module.log("train/grad_norm", self._norm)  # before clipping

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._judge()

    def state_dict(self) -> dict[str, Any]:
        self._judge()
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def _judge(self) -> bool:
        """Whether the last step was to be left out; counts it, once."""
        step, self._unknown = self._unknown, None
        if step is None:
            return False
        if step.arrived is not None:
            step.arrived.synchronize()
        if bool(step.finite.all()):
            self.in_a_row = 0
            return False
        self.skipped += 1
        self.in_a_row += 1
        file = write(step)
        log.warning("step %d left out, its gradients are not finite; its videos: %s", step.global_step, file)
        if self.in_a_row >= self.max_in_a_row:
            raise ValueError(
                f"{self.in_a_row} steps in a row have gradients that are not finite (module.max_nonfinite); what the "
                f"last one was fed with is in {file}. A lower optim.lr, trainer.gradient_clip_val=1 or "
                "trainer.precision=32-true may help"
            )
        return True


def gradient_norms(parameters: list[Tensor]) -> Tensor:
    """The norm of each gradient (P,), of whole parameters also where each process holds a shard."""
    gradients = [p.grad for p in parameters]
    norms = torch.stack(torch._foreach_norm(gradients))  # pyright: ignore[reportPrivateImportUsage, reportArgumentType]
    return norms.full_tensor() if isinstance(norms, DTensor) else norms


def skips_on_device(optimizer: Optimizer) -> bool:
    """Whether a step reads `found_inf`. Not SGD's: its first step would take uninitialised memory for momentum."""
    return isinstance(optimizer, torch.optim.AdamW) and all(group.get("fused") for group in optimizer.param_groups)


def on_its_way(tensor: Tensor) -> tuple[Tensor, Any]:
    """A copy on the CPU, and the event after which it is complete, or None if it is."""
    if tensor.device.type != "cuda":
        return tensor.cpu(), None
    copy, event = tensor.to("cpu", non_blocking=True), torch.cuda.Event()
    event.record()
    return copy, event


def write(step: Step) -> Path:
    """The file about a step that was left out."""
    trainer, manifest = step.trainer, step.module.data.splits["train"]
    file = Path(trainer.default_root_dir) / "nonfinite" / f"step{step.global_step}-rank{trainer.global_rank}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    names = {id(parameter): name for name, parameter in step.module.named_parameters()}
    what = {
        "global_step": step.global_step,
        "epoch": step.epoch,
        "rank": trainer.global_rank,
        "lr": step.lr,
        "losses": [float(loss) for loss in step.losses],
        "videos": [manifest.paths[index] for videos in step.videos for index in videos.tolist()],
        "parameters": [
            names[id(parameter)]
            for parameter, finite in zip(step.parameters, step.finite.tolist(), strict=True)
            if not finite
        ],
    }
    file.write_text(json.dumps(what, indent=2) + "\n", encoding="utf-8")
    return file
