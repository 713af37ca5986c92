"""The Lightning module around a video classifier: loss, steps, scores."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.dataset import Batch, Failure
from mvit_train.data.manifest import Manifest
from mvit_train.data.mixup import Mixup, smooth_one_hot
from mvit_train.labels import Labels
from mvit_train.metrics import ViewScores, summarize
from mvit_train.optim import AdamWCosine
from mvit_train.temporal import FrameOrder, reorder

log = logging.getLogger(__name__)


class VideoClassifier(LightningModule):
    """Trains and evaluates a model that turns (B, 3, T, S, S) into logits (B, K).

    Args:
        model: the network; it sees clips normalised with `mean` and `std` per channel of RGB in [0, 1].
        labels: class names in the order of the logits.
        mixup: batch mixing and label smoothing for training.
        optim: optimiser and schedule.
        max_unreadable: share of the training videos that may turn out unreadable before training stops.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: Labels,
        mean: Sequence[float],
        std: Sequence[float],
        mixup: Mixup,
        optim: AdamWCosine,
        max_unreadable: float,
        seed: int,
        config: dict | None = None,
    ) -> None:
        super().__init__()
        self.model, self.labels = model, labels
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)
        self.mixup, self.optim = mixup, optim
        self.max_unreadable, self.seed = max_unreadable, seed
        self.config = config
        self.frame_orders: tuple[FrameOrder, ...] = ("forward",)
        self.unreadable: dict[str, str] = {}  # training videos that were replaced: path -> reason
        self.substituted = 0
        self.failures: list[Failure] = []  # of the evaluation under way, on this rank
        self.val_failures: list[Failure] = []  # of the last validation, on all ranks

    def forward(self, video: Tensor) -> Tensor:
        """video: uint8 (B, 3, T, S, S). Returns logits (B, K)."""
        return self.model(self.normalise(video))

    @property
    def data(self) -> VideoDataModule:
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - set by Trainer.fit and test

    def normalise(self, video: Tensor) -> Tensor:
        return (video.float() / 255 - self.mean) / self.std

    # Training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        accumulate, max_epochs = self.trainer.accumulate_grad_batches, self.trainer.max_epochs
        assert max_epochs is not None
        optimizer, schedule = self.optim.build(
            self.model,
            clips_per_step=self.data.clips_per_step * accumulate,
            steps_per_epoch=-(-self.data.steps_per_epoch // accumulate),
            max_epochs=max_epochs,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._account(batch["failures"])
        rng = np.random.default_rng([self.seed, self.global_step, self.global_rank])
        video, target = self.mixup(self.normalise(batch["video"]), batch["label"], len(self.labels), rng)
        logits = self.model(video)
        loss = cross_entropy(logits.float(), target)
        hits = (logits.argmax(1) == target.argmax(1)).float().mean() * 100
        self.log_dict({"train/loss": loss.detach(), "train/top1": hits}, prog_bar=True, batch_size=len(video))
        self.log("optim/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("data/substituted", float(self.substituted))
        return loss

    def _account(self, failures: Sequence[Failure]) -> None:
        """Counts and names replaced training videos; stops the run once too many are unreadable."""
        manifest = self.data.splits["train"]
        self.substituted += len(failures)
        for index, reason in failures:
            path = manifest.paths[index]
            if path not in self.unreadable:
                self.unreadable[path] = reason
                log.warning("unreadable training video, replaced by another one: %s: %s", path, reason)
        limit = self.max_unreadable * len(manifest)
        if len(self.unreadable) > limit:
            listed = "\n  ".join(f"{path}: {reason}" for path, reason in list(self.unreadable.items())[:20])
            raise ValueError(
                f"{len(self.unreadable)} of {len(manifest)} training videos cannot be read, more than "
                f"max_unreadable={self.max_unreadable:g} allows ({limit:g}). The first:\n  {listed}"
            )

    # Validation while training: the centre clip, the centre crop

    def on_validation_epoch_start(self) -> None:
        self._start_scores(self.data.splits["val"], num_views=1, orders=("forward",))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.failures += batch["failures"]
        if not len(batch["video"]):
            return
        logits = self(batch["video"]).float()
        self.scores["forward"].add(batch["video_index"], batch["view_index"], logits.softmax(1))
        target = smooth_one_hot(batch["label"], len(self.labels), 0.0)
        self.loss_sum += cross_entropy(logits, target, reduction="sum").double()

    def on_validation_epoch_end(self) -> None:
        scores = self.scores["forward"]
        scores.gather()
        self._name_failures(gather_failures(self.failures))
        loss = torch.as_tensor(self.all_gather(self.loss_sum)).sum() / max(int(scores.complete.sum()), 1)
        if self.trainer.sanity_checking:
            return
        summary = self._summary(scores)
        self.log("val/loss", loss.float())
        self.log("val/failed", float(len(self.val_failures)))
        names = ("top1", "top5", "mean_class_accuracy")
        self.log_dict({f"val/{name}": float(summary[name]) for name in names}, prog_bar=True)

    def _name_failures(self, failures: list[Failure]) -> None:
        for index, reason in failures:
            if (index, reason) not in self.val_failures:
                log.warning(
                    "unreadable validation video, left out of the score: %s: %s",
                    self.data.splits["val"].paths[index],
                    reason,
                )
        self.val_failures = failures

    # Testing: every view of every video, in each frame order

    def on_test_epoch_start(self) -> None:
        views = self.data.test_views
        self._start_scores(self.data.splits["val"], views.clips * views.crops, self.frame_orders)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.failures += batch["failures"]
        if not len(batch["video"]):
            return
        for order, scores in self.scores.items():
            video = self._reordered(batch, order)
            chunks = [self(chunk).float().softmax(1) for chunk in video.split(self.data.eval_batch_size)]
            scores.add(batch["video_index"], batch["view_index"], torch.cat(chunks))

    def _reordered(self, batch: Batch, order: FrameOrder) -> Tensor:
        parts = []
        for index in batch["video_index"].unique_consecutive():
            rows = batch["video_index"] == index
            clips = batch["view_index"][rows] // self.data.test_views.crops
            parts.append(reorder(batch["video"][rows], order, self.data.splits["val"].paths[index], clips))
        return torch.cat(parts)

    def on_test_epoch_end(self) -> None:
        for scores in self.scores.values():
            scores.gather()
        self.failures = gather_failures(self.failures)

    def _start_scores(self, manifest: Manifest, num_views: int, orders: Sequence[FrameOrder]) -> None:
        self.scores: dict[FrameOrder, ViewScores] = {
            order: ViewScores(len(manifest), len(self.labels), num_views) for order in orders
        }
        self.failures = []
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def _summary(self, scores: ViewScores) -> dict:
        manifest = self.data.splits["val"]
        done = scores.complete
        if not done.any():
            raise ValueError(f"none of the {len(manifest)} validation videos below {manifest.root} can be read")
        return summarize(scores.mean()[done], torch.tensor(manifest.targets)[done], self.labels.names)

    # Checkpoints carry what is needed to use them: the configuration and the class list

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["mvit_train"] = {
            "config": self.config,
            "class_names": list(self.labels.names),
            "label_fingerprint": self.labels.fingerprint,
            "data_fingerprint": self.data.splits["train"].fingerprint,
            "unreadable": self.unreadable,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        saved = Labels(tuple(checkpoint["mvit_train"]["class_names"]))
        if difference := saved.difference(self.labels):
            raise ValueError(f"the checkpoint's classes are not the data's: {difference}")
        self.unreadable = dict(checkpoint["mvit_train"]["unreadable"])


def gather_failures(failures: list[Failure]) -> list[Failure]:
    """The failures of all ranks, by video."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, failures)
        failures = [failure for part in parts for failure in part]
    return sorted(set(failures))
