"""The numbers of a training run that follow from its configuration, before anything is read but manifests."""

from functools import cached_property

import torch

from mvit_train.checkup.surroundings import read_plan
from mvit_train.config import build, to_dict
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.mixup import Mixup
from mvit_train.data.views import Views
from mvit_train.models import MViT
from mvit_train.models.freeze import freeze_stages
from mvit_train.optim import WarmupCosine
from mvit_train.papers.differences import as_recipe
from mvit_train.papers.recipes import Recipe, data_set

NUM_CLASSES = 400  # of the model, where nothing says how many there are
# What the headers of conf/experiment predict hours from: MViT-B 16x4 on one H200 in eager bf16.
PREDICTED_FROM_GFLOPS, PREDICTED_CLIPS_PER_SEC = 70.8, (130, 230)


class TrainingPlan:
    """A configuration, what it builds, and its numbers; None where they need data that nothing tells of.

    ValueError: `trainer.max_epochs` is no number of epochs.
    """

    def __init__(self, cfg) -> None:
        self.cfg, self.settings = cfg, to_dict(cfg)
        self.name: str = cfg.name
        self.data: VideoDataModule = build(cfg.data)
        self.optim: WarmupCosine = build(cfg.optim)
        self.mixup: Mixup = build(cfg.augment.mixup)
        self.processes = read_plan(self.settings["trainer"])
        self.published = data_set(self.name)
        self.views = Views.parse(cfg.views)
        epochs = self.settings["trainer"].get("max_epochs")
        if not epochs or epochs < 1:
            raise ValueError(f"trainer.max_epochs={epochs}: the schedule needs a number of epochs")
        self.max_epochs: int = epochs

    @cached_property
    def model(self) -> MViT:
        """On the meta device."""
        with torch.device("meta"):
            model = build(self.cfg.model, num_classes=self.num_classes or NUM_CLASSES)
        freeze_stages(model, self.settings["module"].get("frozen_stages") or 0)
        return model

    @cached_property
    def num_classes(self) -> int | None:
        if self.data.root is not None:
            return len(self.data.labels)
        if self.data.built_in:
            return len(self.data.built_in.CLASSES)
        return self.published.num_classes if self.published else None

    @cached_property
    def num_videos(self) -> int | None:
        """Of the training split; without the data, the published number."""
        if self.data.root is not None:
            return len(self.data.splits["train"])
        if self.data.built_in:
            return self.data.built_in.num_train
        return self.published.num_videos if self.published else None

    @property
    def clips_per_step(self) -> int:
        """Clips of an optimiser step, repeats included."""
        return self.data.batch_size * self.processes.world_size * self.processes.accumulate

    @property
    def peak_lr(self) -> float:
        return self.optim.scaled_lr(self.clips_per_step)

    def lr(self, epoch: float) -> float:
        return self.peak_lr * self.optim.factor(epoch, self.max_epochs)

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimiser steps; videos that do not fill a batch are left for another epoch."""
        if self.num_videos is None:
            return None
        videos = self.data.batch_size // self.data.repeats * self.processes.world_size
        return -(-max(self.num_videos // videos, 1) // self.processes.accumulate)

    @property
    def num_steps(self) -> int | None:
        if self.steps_per_epoch is None:
            return None
        steps, max_steps = self.steps_per_epoch * self.max_epochs, self.settings["trainer"].get("max_steps", -1)
        return steps if max_steps == -1 else min(steps, max_steps)

    @property
    def num_clips(self) -> int | None:
        """Clips that the run trains on, repeats included."""
        return None if self.num_steps is None else self.num_steps * self.clips_per_step

    def gpu_hours(self, gflops: float) -> tuple[float, float] | None:
        """At most and at least so fast: hours of one H200, scaled by the multiply-adds of a view."""
        if self.num_clips is None:
            return None
        slow, fast = (rate * PREDICTED_FROM_GFLOPS / gflops for rate in PREDICTED_CLIPS_PER_SEC)
        return self.num_clips / fast / 3600, self.num_clips / slow / 3600

    @cached_property
    def recipe(self) -> Recipe:
        return as_recipe(
            self.settings,
            model=self.model,
            data=self.data,
            mixup=self.mixup,
            optim=self.optim,
            clips_per_step=self.clips_per_step,
        )
