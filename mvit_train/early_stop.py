"""Training that ends when it no longer helps."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping


class EarlyStop(EarlyStopping):
    """Ends the training after `patience` validations in a row without a higher `monitor`, and says so.

    Of a resumed run the present patience counts, and a run that has ended stays ended.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"module.patience is {patience}, it must be at least 1")
        # Not at the end of the epoch, where Lightning asks it after `last.ckpt`, which holds its state, was written.
        super().__init__(monitor, patience=patience, mode="max", check_on_train_epoch_end=False)

    @property
    def _exhausted(self) -> bool:
        return self.wait_count >= self.patience

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self._exhausted

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._exhausted and trainer.is_global_zero:
            print(
                f"stopped early: {self.monitor} has not risen above {float(self.best_score):.3f} in "
                f"{self.wait_count} validations (module.patience={self.patience})"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})
