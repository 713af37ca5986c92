"""The Lightning module around a video classifier: loss, steps, scores."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.dataset import Batch, Failure
from mvit_train.data.manifest import Manifest
from mvit_train.data.mixup import Mixup, smooth_one_hot
from mvit_train.data.transfer import to_device
from mvit_train.labels import Labels
from mvit_train.metrics import Ensemble, ViewScores, summarize
from mvit_train.optim import WarmupCosine
from mvit_train.temporal import FrameOrder, reorder
from mvit_train.view_curve import ViewRanks
from mvit_train.view_scoring import Passes, Scored

log = logging.getLogger(__name__)


class VideoClassifier(LightningModule):
    """Trains and evaluates a model that turns (B, 3, T, S, S), or images (B, 3, S, S), into logits (B, K).

    A video of one class: cross-entropy and softmax scores. A video of any number of classes: binary cross-entropy, the
    mean over clips and classes (PySlowFast's `bce_logit`), and sigmoid scores.

    Args:
        model: the network; it sees clips normalised with `mean` and `std` per channel of RGB in [0, 1].
        labels: class names in the order of the logits.
        multi_label: whether a video may show several classes, or none.
        mixup: batch mixing and label smoothing for training.
        optim: optimiser and schedule.
        max_unreadable: share of the training videos that may turn out unreadable before training stops.
        max_nonfinite: training stops after so many steps in a row whose gradients are not finite; each is left out.
        ema_decay: what the moving average of the weights keeps of itself at each step, such as 0.9999; validation,
            `best.ckpt` and the final evaluation then take the average. null: no average.
        patience: training ends after so many validations in a row without a new best one. null: it never does.
        frozen_stages: stages that are not trained, counted from the input, with the embeddings before them.
        linear_probe: how many training videos, at most, a linear classifier is fitted to, on frozen features of the
            weights that training started from, to compare with. null: no comparison.
        ensemble: what becomes of the scores of a video's views; "max" is Charades' (MViT, arXiv 2104.11227, Sec. D.3).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: Labels,
        multi_label: bool = False,
        mean: Sequence[float],
        std: Sequence[float],
        mixup: Mixup,
        optim: WarmupCosine,
        max_unreadable: float,
        seed: int,
        max_nonfinite: int = 5,
        ema_decay: float | None = None,
        patience: int | None = None,
        frozen_stages: int = 0,
        linear_probe: int | None = None,
        ensemble: Ensemble = "mean",
        config: dict | None = None,
    ) -> None:
        super().__init__()
        self.model, self.labels, self.multi_label = model, labels, multi_label
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)
        self.mixup, self.optim = mixup, optim
        self.max_unreadable, self.seed = max_unreadable, seed
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"module.ema_decay is {ema_decay:g}, it must be more than 0 and less than 1")
        self.max_nonfinite, self.ema_decay, self.patience = max_nonfinite, ema_decay, patience
        if linear_probe is not None and linear_probe < 1:
            raise ValueError(f"module.linear_probe is {linear_probe}, it must be at least 1, or null for none")
        self.frozen_stages, self.linear_probe = frozen_stages, linear_probe
        self.ensemble: Ensemble = ensemble
        self.config = config
        self.frame_orders: tuple[FrameOrder, ...] = ("forward",)
        self.early_exit: float | None = None  # margin of `Passes`
        self.unreadable: dict[str, str] = {}  # training videos that were replaced: path -> reason
        self.substituted = 0
        self.failures: list[Failure] = []  # of the evaluation under way, on this rank
        self.val_failures: list[Failure] = []  # of the last validation, on all ranks

    def forward(self, video: Tensor) -> Tensor:
        """video: uint8 (B, 3, T, S, S). Returns logits (B, K)."""
        return self.logits(self.normalise(video))

    def logits(self, video: Tensor) -> Tensor:
        """video: normalised (B, 3, T, S, S); a model of images sees the only frame. Returns logits (B, K)."""
        if len(getattr(self.model, "input_size", video.shape[2:])) == 2:
            if video.shape[2] != 1:
                raise ValueError(
                    f"the model takes images, but a clip has {video.shape[2]} frames: set clip.num_frames=1"
                )
            video = video.squeeze(2)  # (B, 3, 1, S, S) -> (B, 3, S, S)
        return self.model(video)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the clips; logits and target, soft or not: (B, K)."""
        function = binary_cross_entropy_with_logits if self.multi_label else cross_entropy
        return function(logits.float(), target)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Scores (B, K) in float32."""
        return logits.float().sigmoid() if self.multi_label else logits.float().softmax(1)

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
        rng = np.random.default_rng([self.seed, self.current_epoch, batch_idx, self.global_rank])
        video, target = self.mixup(self._erased(batch), batch["label"], len(self.labels), rng)
        logits = self.logits(video)
        loss = self.loss(logits, target)
        values = {"train/loss": loss.detach()}
        if not self.multi_label:
            values["train/top1"] = (logits.argmax(1) == target.argmax(1)).float().mean() * 100
        self.log_dict(values, prog_bar=True, batch_size=len(video))
        lr = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)  # the head's
        for name, value in (("optim/lr", lr), ("train/substituted", self.substituted)):
            self.log(name, torch.full((), float(value)))  # a float Lightning would copy to the device, and wait
        return loss

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch, and augments its clips there if the workers have left that to this device."""
        return to_device(batch, device, self._augmented)

    def _augmented(self, batch: Batch) -> Batch:
        clips = batch["video"]
        if isinstance(clips, list):
            transform, drawn = self.data.transform, zip(clips, batch["drawn"], strict=True)
            batch["video"] = torch.stack([transform.apply(clip, plan) for clip, plans in drawn for plan in plans])
        return batch

    def _erased(self, batch: Batch) -> Tensor:
        """Normalised clips (B, 3, T, S, S), in training with what was drawn to be erased."""
        clips = batch["video"]
        assert isinstance(clips, Tensor)  # since `_augmented`
        video = self.normalise(clips)
        for clip, erasure in zip(video, batch["erasures"], strict=bool(batch["erasures"])):
            if erasure is not None:
                erasure.apply(clip)
        return video

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
        logits, label = self(batch["video"]), batch["label"]
        self.scores["forward"].add(batch["video_index"], batch["view_index"], self.probabilities(logits))
        target = label if self.multi_label else smooth_one_hot(label, len(self.labels), 0.0)
        self.loss_sum += self.loss(logits, target).double() * len(logits)

    def on_validation_epoch_end(self) -> None:
        scores = self.scores["forward"]
        scores.gather()
        self._name_failures(gather_failures(self.failures))
        loss = torch.as_tensor(self.all_gather(self.loss_sum)).sum() / max(int(scores.complete.sum()), 1)
        if self.trainer.sanity_checking:
            return
        self.log("val/loss", loss.float())
        self.log("val/failed", float(len(self.val_failures)))
        values = {f"val/{name}": value for name, value in self._summary(scores).items() if name != "per_class"}
        self.log_dict(values, prog_bar=True)

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
        data, views = self.data, self.data.test_views
        self._start_scores(data.splits["val"], views.clips * views.crops, self.frame_orders)
        videos = 0 if self.multi_label else len(data.splits["val"])
        self.view_ranks = {order: ViewRanks(videos, views, ensemble=self.ensemble) for order in self.frame_orders}
        self.passes = {
            order: Passes(self._score, views=views, most=data.eval_batch_size, early_exit=self.early_exit)
            for order in self.frame_orders
        }

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.failures += batch["failures"]
        if len(batch["video"]):
            for order in self.frame_orders:
                self._take(order, self.passes[order].add(self._reordered(batch, order), batch))

    def _score(self, clips: Tensor) -> Tensor:
        return self.probabilities(self(clips))

    def _take(self, order: FrameOrder, found: Iterator[Scored]) -> None:
        for scored in found:
            self.scores[order].add(scored.video, scored.view, scored.scores)
            if not self.multi_label:
                self.view_ranks[order].add(scored.video, scored.view, scored.scores, scored.label)

    def _reordered(self, batch: Batch, order: FrameOrder) -> Tensor:
        parts = []
        for index in batch["video_index"].unique_consecutive():
            rows = batch["video_index"] == index
            clips = batch["view_index"][rows] // self.data.test_views.crops
            parts.append(reorder(batch["video"][rows], order, self.data.splits["val"].paths[index], clips))
        return torch.cat(parts)

    def on_test_epoch_end(self) -> None:
        for order, scores in self.scores.items():
            self._take(order, self.passes[order].flush())
            scores.gather()
            self.view_ranks[order].gather()
        self.failures = gather_failures(self.failures)

    def _start_scores(self, manifest: Manifest, num_views: int, orders: Sequence[FrameOrder]) -> None:
        self.scores: dict[FrameOrder, ViewScores] = {
            order: ViewScores(len(manifest), len(self.labels), num_views, ensemble=self.ensemble) for order in orders
        }
        self.failures = []
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def _summary(self, scores: ViewScores) -> dict:
        manifest = self.data.splits["val"]
        done = scores.complete
        if not done.any():
            raise ValueError(f"none of the {len(manifest)} validation videos below {manifest.root} can be read")
        return summarize(scores.by_video()[done], manifest.target_tensor()[done], self.labels.names)

    # Checkpoints carry what is needed to use them: the configuration and the class list

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["mvit_train"] = {
            "config": self.config,
            "class_names": list(self.labels.names),
            "label_fingerprint": self.labels.fingerprint,
            "multi_label": self.multi_label,
            "data_fingerprint": self.data.splits["train"].fingerprint,
            "unreadable": self.unreadable,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        saved = Labels(tuple(checkpoint["mvit_train"]["class_names"]))
        comparison = self.labels.compare(saved, mine="the model", its="the checkpoint")
        if comparison.kind != "same":  # `class_list.follow` has made them so, or refused
            raise ValueError(comparison.sentence)
        self.unreadable = dict(checkpoint["mvit_train"]["unreadable"])


def gather_failures(failures: list[Failure]) -> list[Failure]:
    """The failures of all ranks, by video."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, failures)
        failures = [failure for part in parts for failure in part]
    return sorted(set(failures))
