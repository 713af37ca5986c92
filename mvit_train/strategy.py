"""How several processes train one model: by replicas (DDP) or by shards (FSDP2), and what ends them if one is stuck."""

import faulthandler
import functools
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal, cast

import torch
import torch.distributed
from lightning import Callback, LightningModule
from lightning import Trainer as LightningTrainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

StrategyName = Literal["auto", "ddp", "fsdp"]

STACK_SEC = 5.0  # after the timeout, a process that is stuck shows where
REARM_SEC = 1.0

REPLICAS: dict[str, Any] = {
    "find_unused_parameters": False,  # drop path multiplies by zero, so that every parameter has a gradient at each
    # step; those of frozen stages ask for none, and DDP leaves them out
    "static_graph": False,  # it would bring nothing: buckets are rebuilt in the order of the first step without it, and
    # activation checkpointing is of the kind that needs none
    "gradient_as_bucket_view": True,  # one copy of the gradients less, and none of them copied
    "broadcast_buffers": False,  # there are none that training changes
    # bucket_cap_mb stays at 25: a new one for about every seventh part of MViT-B's 146 MB of gradients
}


class Trainer(LightningTrainer):
    """Lightning's, but for a question that `mvit_train.preempt` puts in a better way.

    Before each batch of several processes Lightning broadcasts whether SIGTERM has come and waits for the answer, on a
    GPU for all the work before it.
    """

    @functools.wraps(LightningTrainer.__init__)
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def trainer(
    *,
    strategy: StrategyName = "auto",
    timeout_minutes: float = 10.0,
    callbacks: list[Callback] | None = None,
    **arguments: Any,
) -> Trainer:
    """Lightning's Trainer, and how several processes work together.

    Args:
        strategy: "auto" or "ddp": of several processes each holds the model, gradients are averaged; "fsdp": each holds
            a share of the parameters, gradients and moments, in training. One process is alone in any case.
        timeout_minutes: a process that others have waited for so long is stuck, and all end.
        callbacks: as Lightning's.
    """
    if timeout_minutes <= 0:
        raise ValueError(f"trainer.timeout_minutes is {timeout_minutes:g}, it must be more than 0")
    keys = ("accelerator", "devices", "num_nodes", "plugins")
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    found = Trainer(**{key: arguments[key] for key in keys if key in arguments}, **quiet)
    if found.num_devices * found.num_nodes == 1:
        return Trainer(callbacks=callbacks, **arguments)
    timeout = timedelta(minutes=timeout_minutes)
    if strategy == "fsdp":
        chosen: DDPStrategy = Shards(timeout=timeout)
        arguments["inference_mode"] = False  # validation gathers the parameters that training goes on with
    else:
        chosen = DDPStrategy(timeout=timeout, **REPLICAS)
    watch = Watch(timeout.total_seconds())  # first: what a checkpoint restores comes after its seeds
    return Trainer(strategy=chosen, callbacks=[watch, *(callbacks or [])], **arguments)


class Watch(Callback):
    """Ends a process that has begun nothing new for the time that others wait for it, and shows where it is stuck.

    The stacks of its threads go to standard error, by a thread of faulthandler's that needs no interpreter: also of a
    process that hangs in a library. The others have ended by then, by the timeout of their collective.
    """

    def __init__(self, timeout_sec: float) -> None:
        self.timeout_sec = timeout_sec
        self._armed_at = 0.0

    def setup(self, trainer: LightningTrainer, pl_module: LightningModule, stage: str) -> None:
        self._arm(True)

    def on_train_start(self, trainer: LightningTrainer, pl_module: LightningModule) -> None:
        # With one seed for all, the masks of dropout and drop path would be those of the first process everywhere.
        torch.manual_seed(torch.initial_seed() + trainer.global_rank)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self._arm()

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._arm()

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        self._arm()

    def on_save_checkpoint(self, *_: Any, **__: Any) -> None:
        self._arm()

    def teardown(self, trainer: LightningTrainer, pl_module: LightningModule, stage: str) -> None:
        faulthandler.cancel_dump_traceback_later()

    def _arm(self, now: bool = False) -> None:
        if now or time.monotonic() - self._armed_at > REARM_SEC:
            self._armed_at = time.monotonic()
            with suppress(ValueError, OSError):  # standard error is no file
                file = sys.__stderr__ or sys.stderr
                faulthandler.dump_traceback_later(self.timeout_sec + STACK_SEC, exit=True, file=file)


class Shards(DDPStrategy):
    """Parameters, gradients and moments in shards, one for each process (FSDP2), gathered block by block as needed.

    Its checkpoints are those of one process: whole tensors in one file, so that any number of processes goes on from
    them with either strategy. A validation gathers the parameters once and keeps them, for processes may have
    different numbers of batches.
    """

    def configure_ddp(self) -> None:
        """Called by Lightning between the move to the device and the making of the optimiser."""
        model: Any = cast(Any, self.lightning_module).model
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                torch.distributed.broadcast(tensor, src=0)
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for block in getattr(model, "blocks", ()):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Collective. Whole tensors on the first process, none on others."""
        assert self.lightning_module is not None
        return self._whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Collective. As that of an optimiser of whole parameters on the first process."""
        return self._whole(getattr(optimizer, "optimizer", optimizer).state_dict())

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Takes its own shard of each moment."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {i: tree_map(_shard_like(parameters[i]), moments) for i, moments in saved["state"].items()}
            optimizer.load_state_dict({**saved, "state": state})

    def on_validation_start(self) -> None:
        for part in self._parts():
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()

    def on_validation_end(self) -> None:
        for part in self._parts():
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)

    def _parts(self) -> Iterable[FSDPModule]:
        assert self.lightning_module is not None
        return [module for module in self.lightning_module.modules() if isinstance(module, FSDPModule)]

    def _whole(self, tree: Any) -> Any:
        def whole(value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            full = value.full_tensor()
            return full.cpu() if self.is_global_zero else full.new_empty(0)

        return tree_map(whole, tree)


def _shard_like(parameter: nn.Parameter) -> Any:
    """A function that takes this process's shard of a tensor shaped like the parameter; it leaves others whole."""

    def shard(value: Any) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    return shard
