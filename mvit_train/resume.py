"""When a run saves itself, so that the same command goes on as if nothing had happened."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from mvit_train.checkpoint import newest_checkpoint, resolve_checkpoint
from mvit_train.preempt import Listener, Preempted, Votes, say_farewell

RANDOM = "random_states"
"""Of a checkpoint: what `random_state` returns, and `ACCOUNTS`, for each process."""
ACCOUNTS = ("substituted", "unreadable")
"""What a process says of the training videos that it could not read; see `module.VideoClassifier`."""
PACE = "pace"
"""Of a checkpoint: the clips and the epochs of an optimiser step."""


class Checkpoints(Callback):
    """Writes what a run needs to go on, and leaves when the cluster asks for it.

    `checkpoints/last.ckpt` comes after every epoch and its validation, and at the step that `max_steps` ends on: within
    the epoch, for Lightning counts an epoch that max_steps cuts short as done. `checkpoints/step_<global step>.ckpt`
    comes within epochs, after an optimiser step, so that no accumulated gradient is lost. Every checkpoint holds the
    random state of each process.

    On a signal all processes agree at a step, save, and raise `Preempted` before the next one. Between the last step of
    an epoch and the end of its validation they save after the validation.

    Args:
        every_minutes, every_steps: how often a `step_` checkpoint is written; null: never.
        keep: so many `step_` checkpoints stay; none after the end of the training.
        save_on: signals on which the run saves and leaves.
        requeue_on: signals on which it also writes the file REQUEUE into the run folder, for the batch script.
    """

    def __init__(
        self,
        *,
        every_minutes: float | None = 15.0,
        every_steps: int | None = None,
        keep: int = 2,
        save_on: Sequence[str] = ("SIGTERM",),
        requeue_on: Sequence[str] = ("SIGUSR1", "SIGUSR2"),
    ) -> None:
        for name, value in (("every_minutes", every_minutes), ("every_steps", every_steps), ("keep", keep)):
            if value is not None and value <= 0:
                raise ValueError(f"checkpoints.{name} is {value:g}, it must be more than 0")
        self.every_minutes, self.every_steps, self.keep = every_minutes, every_steps, keep
        self.listener = Listener(save_on, requeue_on)
        self._votes = Votes()
        self._random: list[dict[str, Any]] | None = None  # of the checkpoint that was loaded
        self._seen_step = 0
        self._saved_at = 0.0
        self._cut = False  # by max_steps
        self._flush = False
        self._newest: Path | None = None  # of those that this process has written
        self._leave: str | None = None  # why, once everything is saved

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_inexact(trainer)
        # Lightning's handler for SIGTERM calls a collective, and ends a fit by an exception: ours stay in place instead
        trainer._signal_connector.register_signal_handlers = self.listener.install

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._votes.open(getattr(trainer.strategy, "_timeout", None))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._seen_step, self._saved_at = trainer.global_step, time.monotonic()
        if self._random is not None and len(self._random) == trainer.world_size:
            state = self._random[trainer.global_rank]
            set_random_state(state, pl_module.device)
            pl_module.substituted = state["substituted"]
        self._random = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._go_if_asked()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._flush:  # only now: the row of the step that was saved is written after the hooks of its end
            self._flush = False
            write_rows(trainer)
        self._go_if_asked()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self._seen_step = trainer.global_step != self._seen_step, trainer.global_step
        if not stepped or batch_idx + 1 >= trainer.num_training_batches:
            return
        if trainer.global_step == trainer.max_steps:
            self._cut = True
            self._save(trainer, "last")
            return
        due = self.every_minutes is not None and time.monotonic() - self._saved_at >= self.every_minutes * 60
        wish, due = self._votes.next([self.listener.wish, due])
        if wish or due or (self.every_steps and trainer.global_step % self.every_steps == 0):
            self._save(trainer, f"step_{trainer.global_step:08d}")
            self._prepare_to_leave(trainer, wish)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wish, _ = self._votes.now([self.listener.wish, 0])
        if not self._cut:
            self._save(trainer, "last")
        self._prepare_to_leave(trainer, wish)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._votes.settle()
        self._go_if_asked()
        if trainer.is_global_zero:
            for file in step_checkpoints(trainer):
                file.unlink()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leaves the final evaluation, which has nothing to save: each process by itself, as its share may differ."""
        if self.listener.wish:
            self._leave = "preempted in the evaluation that ends the run"
            if trainer.is_global_zero:
                say_farewell(Path(trainer.default_root_dir), self.listener.wish, self._leave)
            self._go_if_asked()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        write_rows(trainer)  # of earlier steps, to which the run does not come again
        states = [random_state(pl_module.device) | {name: getattr(pl_module, name) for name in ACCOUNTS}]
        if self._votes.group is not None:
            states *= trainer.world_size
            torch.distributed.all_gather_object(states, states[0], group=self._votes.group)
        pl_module.unreadable = {path: why for state in states for path, why in state["unreadable"].items()}  # by anyone
        checkpoint[RANDOM], checkpoint[PACE] = states, pace(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint.get(RANDOM)
        if PACE in checkpoint and checkpoint[PACE] != pace(trainer):
            change_pace(checkpoint, trainer)

    def _save(self, trainer: Trainer, name: str) -> None:
        self._newest = Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"
        trainer.save_checkpoint(self._newest)
        self._saved_at, self._flush = time.monotonic(), True
        if trainer.is_global_zero:
            for file in step_checkpoints(trainer)[: -self.keep]:
                file.unlink()

    def _prepare_to_leave(self, trainer: Trainer, wish: int) -> None:
        if not wish:
            return
        self._leave = f"preempted at step {trainer.global_step}: saved {self._newest}"
        if trainer.is_global_zero:
            say_farewell(Path(trainer.default_root_dir), wish, self._leave)

    def _go_if_asked(self) -> None:
        if self._leave is not None:
            self._votes.settle()
            raise Preempted(self._leave)


def refuse_inexact(trainer: Any) -> None:
    """ValueError for a way of ending or validating within an epoch after which a run could not go on exactly."""
    every = trainer.val_check_interval
    if isinstance(every, int) or every != 1.0:
        raise ValueError(
            f"trainer.val_check_interval={every}: a run that is killed in a validation within an epoch would go on "
            "without it; validations come after every trainer.check_val_every_n_epoch epochs"
        )
    if any(isinstance(callback, Timer) for callback in trainer.callbacks):
        raise ValueError(
            "trainer.max_time: Lightning counts the epoch that it cuts short as done; `timeout --signal=TERM 8h "
            "python -m mvit_train ...` ends a run in time, and the same command goes on within the epoch"
        )


def write_rows(trainer: Trainer) -> None:
    """Puts the numbers that the loggers hold back on the disk."""
    for logger in trainer.loggers:
        logger.save()


def step_checkpoints(trainer: Trainer) -> list[Path]:
    """Those written within epochs, the oldest first."""
    return sorted((Path(trainer.default_root_dir) / "checkpoints").glob("step_*.ckpt"))


def resume_point(run_dir: Path, ckpt: Path | None) -> Path | None:
    """What the run goes on from: the newest checkpoint that an earlier leg of it has left, else `ckpt`, else nothing.

    A `ckpt` of the run's own folder is a choice among its checkpoints, and is taken.
    """
    chosen = None if ckpt is None else resolve_checkpoint(ckpt)
    if chosen is not None and run_dir.resolve() in chosen.resolve().parents:
        return chosen
    return newest_checkpoint(run_dir / "checkpoints") or chosen


def pace(trainer: Any) -> dict[str, float]:
    """What the learning rate's size and its schedule depend on, and a batch over all processes, in clips."""
    data, accumulate = trainer.datamodule, trainer.accumulate_grad_batches
    return {
        "clips": data.clips_per_step * accumulate,
        "steps_per_epoch": -(-data.steps_per_epoch // accumulate),
        "clips_per_batch": data.clips_per_step,
    }


def change_pace(checkpoint: dict[str, Any], trainer: Any) -> None:
    """Makes a checkpoint one of a run with as many clips per step as this one, before anything is restored from it.

    The epoch goes on at the batch with which its remaining videos begin; the schedule at the same fraction of an epoch,
    at the learning rate that belongs to the new number of clips.
    """
    old, new = checkpoint[PACE], pace(trainer)
    loop = checkpoint["loops"]["fit_loop"]
    for state in loop["state_dict"].get("combined_loader", []):
        if state["batches"] < state["of"]:
            progress = loop["epoch_loop.batch_progress"]["current"]
            shift = trainer.datamodule.first_step(state["batches"] * state["step_size"]) - state["batches"]
            progress.update({name: count + shift for name, count in progress.items()})
    ratio = new["clips"] / old["clips"]
    for schedule in checkpoint["lr_schedulers"]:
        schedule["last_epoch"] = round(schedule["last_epoch"] * new["steps_per_epoch"] / old["steps_per_epoch"])
        schedule["base_lrs"] = [lr * ratio for lr in schedule["base_lrs"]]
    for optimizer in checkpoint["optimizer_states"]:
        for group in optimizer["param_groups"]:
            group["lr"], group["initial_lr"] = group["lr"] * ratio, group["initial_lr"] * ratio


def random_state(device: torch.device) -> dict[str, Any]:
    """Of torch on the CPU and on this process's GPU, of numpy and of Python, as a checkpoint can hold it."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undoes whatever was drawn since `random_state`."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
