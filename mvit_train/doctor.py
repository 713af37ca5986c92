"""`task=doctor`: one screen before a long run: what would fail, be slow, or leave the recipe.

Nothing is trained, and nothing that stays is written. Every check stands alone: one that breaks off is a line of the
screen and hides no other. The exit status is 1 if anything would fail.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mvit_train.checkup import data_findings, forecast, surroundings
from mvit_train.checkup.findings import Finding, failure, guarded, ok, show, verdict, warning
from mvit_train.checkup.sample import Reading, read_sample
from mvit_train.checkup.surroundings import Plan, read_plan
from mvit_train.config import ConfigError, build, compose, to_dict
from mvit_train.data.datamodule import VideoDataModule, cache_folder
from mvit_train.data.manifest import Manifest, Split
from mvit_train.models import MViT
from mvit_train.optim import AdamWCosine

NUM_CLASSES = 400  # of the model, where the data could not be read
FAR_OFF = 2.0  # times the experiment's learning rate, or its inverse


def run(cfg) -> int:
    """Examines what `cfg` would train, prints the screen, and returns the exit status."""
    if int(os.environ.get("SLURM_PROCID", "0")):
        return 0  # under srun the first task speaks for all
    patient = Patient(cfg)
    print(f"mvit_train doctor: {cfg.name}, {patient.plan.world_size} x {cfg.data.batch_size} clips a step")
    findings: list[Finding] = []
    for title, checks in patient.checks().items():
        print(f"\n{title}")
        for name, check in checks.items():
            for finding in guarded(name, check):
                findings.append(finding)
                if finding.level == "failure":
                    patient.failed.add(name)
                print(show(finding), flush=True)
    print(verdict(findings))
    return int(any(finding.level == "failure" for finding in findings))


class Patient:
    """What would be trained. Facts that one check finds and others need stay None where it has failed."""

    def __init__(self, cfg) -> None:
        self.cfg = cfg
        self.settings = to_dict(cfg)
        self.data: VideoDataModule | None = None
        self.splits: dict[Split, Manifest] | None = None
        self.failed: set[str] = set()  # names of checks
        self.readings: list[Reading] = []
        self.loader_rate: forecast.LoaderRate | None = None
        self.model_rate: forecast.ModelRate | None = None

    @cached_property
    def plan(self) -> Plan:
        return read_plan(self.settings["trainer"])

    def model(self, device: str) -> MViT:
        num_classes = len(self.splits["train"].labels) if self.splits else NUM_CLASSES
        with torch.device(device):
            return build(self.cfg.model, num_classes=num_classes)

    def checks(self) -> dict[str, dict[str, Callable[[], Iterable[Finding]]]]:
        """By heading, in the order in which they need each other."""
        data, plan = self.settings["data"], self.plan
        batch_bytes = data["batch_size"] * 3 * self.cfg.clip.num_frames * self.cfg.clip.crop_size**2
        return {
            "Machine": {
                "packages": surroundings.packages,
                "devices": lambda: surroundings.devices(plan),
                "processes": lambda: surroundings.processes(plan, data.get("num_workers", 2), batch_bytes),
            },
            "Data": {"data": self.look_at_data, "sample": self.read_videos},
            "Speed": {
                "stages": lambda: forecast.stages(self.readings),
                "loader": self.run_loader,
                "model": self.run_model,
                "forecast": self.compare_rates,
            },
            "Recipe": {"recipe": self.compare_recipe, "memory": self.estimate_memory},
            "Around the run": {
                "disk": lambda: surroundings.disk(Path(self.cfg.runs), self.num_params),
                "W&B": lambda: surroundings.tracking(self.settings["logger"].get("wandb", "auto")),
                "Slurm": lambda: surroundings.slurm(os.environ, plan, data.get("num_workers", 2)),
                "trainer": self.make_trainer,
            },
        }

    @property
    def num_params(self) -> int:
        return sum(parameter.numel() for parameter in self.model("meta").parameters())

    def look_at_data(self) -> Iterator[Finding]:
        node = self.settings["data"]
        for name, message in VideoDataModule.check_arguments(node).items():
            yield failure(f"data.{name} {message}")
            return
        data: VideoDataModule = build(self.cfg.data)
        if data.root is None and data.built_in and not (cache_folder() / data.built_in.folder_name).exists():
            yield ok("the built-in videos are not made yet: training makes them first, in the user's cache folder")
            return
        with data_findings.collected_warnings() as told:
            splits = data.splits
        yield from map(warning, told)
        self.data, self.splits = data, splits
        yield from data_findings.manifests(splits)

    def read_videos(self) -> Iterator[Finding]:
        if self.data is None or self.splits is None:
            return
        datasets: dict[Split, Any] = {
            "train": self.data.train_dataloader().dataset,
            "val": self.data.val_dataloader().dataset,
        }
        self.readings = read_sample(datasets, data_findings.SAMPLED)
        clip = self.cfg.clip
        yield from data_findings.sampled(
            self.readings,
            self.splits,
            max_unreadable=self.cfg.module.max_unreadable,
            clip_sec=clip.num_frames * clip.sampling_rate / 30 if self.data.sampling == "window" else None,
            crop_size=clip.crop_size,
            num_frames=clip.num_frames,
        )

    def run_loader(self) -> Iterator[Finding]:
        """Measures; a line only where that goes wrong, for the forecast tells the rate."""
        if self.data is not None and any(reading.reason is None for reading in self.readings):
            with data_findings.collected_warnings() as told:
                self.loader_rate = forecast.measure_loader(self.data)
            yield from map(warning, told)

    def run_model(self) -> Iterator[Finding]:
        """Measures; a line only where that goes wrong. A CPU in the place of the GPUs asked for would say nothing."""
        cuda = self.plan.accelerator == "cuda"
        if cuda and not torch.cuda.is_available():
            return
        batch_size = self.settings["data"]["batch_size"]
        try:
            self.model_rate = forecast.measure_model(
                self.model("cpu"), batch_size, self.plan.precision, torch.device("cuda" if cuda else "cpu")
            )
        except torch.OutOfMemoryError as error:
            yield failure(
                f"a training step of data.batch_size={batch_size} clips does not fit the GPU: lower it, raise "
                f"trainer.accumulate_grad_batches, or model.activation_checkpointing=true ({str(error).split('. ')[0]})"
            )

    def compare_rates(self) -> Iterator[Finding]:
        cores, rate = surroundings.num_cores(), self.model_rate
        work = [reading.packets[1] for reading in self.readings if reading.reason is None and reading.packets]
        per_frame = sum(work) / len(work) / self.cfg.clip.num_frames if work else None
        if self.loader_rate and rate:
            yield from forecast.forecast(self.loader_rate, rate, self.plan, cores=cores, packets_per_frame=per_frame)
        elif rate:
            yield ok(
                f"a training step on {rate.place} takes {rate.clips_per_sec:.2g} clips/s (batch {rate.batch_size})"
            )
        if rate is None or rate.device.type != "cuda":
            yield from forecast.prediction(
                self.model("meta"), self.loader_rate, self.plan, cores=cores, packets_per_frame=per_frame
            )

    def compare_recipe(self) -> Iterator[Finding]:
        num_videos = len(self.splits["train"]) if self.splits else None
        repeats = self.settings["data"].get("repeats", 1)
        clips = self.settings["data"]["batch_size"] * self.plan.world_size * self.plan.accumulate
        trainer = self.settings["trainer"]
        optim: AdamWCosine = build(self.cfg.optim)
        recipe, epochs = recipe_of(self.cfg.name)
        yield from learning_rate(optim, recipe, clips, self.cfg.name)
        yield from schedule(optim, trainer, clips // repeats, num_videos, self.plan.accumulate, epochs)

    def estimate_memory(self) -> Iterator[Finding]:
        yield from forecast.memory(self.model("meta"), self.plan, self.settings["data"]["batch_size"], self.model_rate)

    def make_trainer(self) -> Iterator[Finding]:
        """Lightning's own checks of its settings, where ours have not said what it would say."""
        if self.failed & {"devices", "Slurm"}:
            return
        with tempfile.TemporaryDirectory() as folder:
            trainer = build(self.cfg.trainer, default_root_dir=folder, logger=False, callbacks=[], plugins=[])
        kind = type(trainer.strategy).__name__
        yield ok(f"Lightning accepts the trainer's settings: world size {trainer.world_size}, {kind}")


def recipe_of(name: str) -> tuple[AdamWCosine | None, int | None]:
    """Optimiser and epochs of conf/experiment/NAME.yaml as it is written, None if there is no such experiment."""
    try:
        cfg = compose([f"experiment={name}"])
    except ConfigError:
        return None, None
    return build(cfg.optim), cfg.trainer.max_epochs


def learning_rate(optim: AdamWCosine, recipe: AdamWCosine | None, clips: int, name: str) -> Iterator[Finding]:
    """The peak actually used, and how far it is from the experiment's at the same batch."""
    rule = f"optim.lr={optim.lr:g} for optim.lr_batch={optim.lr_batch}, scaled linearly"
    text = f"{clips} clips an optimiser step: peak learning rate {optim.scaled_lr(clips):.3g} ({rule})"
    if recipe is None:
        yield ok(text)
        return
    ratio = optim.scaled_lr(clips) / recipe.scaled_lr(clips)
    theirs = (
        f"the recipe of experiment={name} takes {recipe.scaled_lr(clips):.3g} ({recipe.lr:g} for {recipe.lr_batch})"
    )
    if max(ratio, 1 / ratio) > FAR_OFF:
        hint = "optim.lr is for optim.lr_batch clips, not for yours" if ratio < 1 else "training may diverge"
        yield warning(f"{text}; {theirs}, {ratio:.2g} times as much is asked for: {hint}")
    else:
        yield ok(f"{text}; {theirs}")
    if optim.weight_decay != recipe.weight_decay:
        yield ok(f"optim.weight_decay={optim.weight_decay:g}, in the recipe {recipe.weight_decay:g}")


def schedule(
    optim: AdamWCosine,
    trainer: Mapping[str, Any],
    videos: int,
    num_videos: int | None,
    accumulate: int,
    recipe_epochs: int | None = None,
) -> Iterator[Finding]:
    """Epochs, steps and warm-up. videos: taken by an optimiser step; num_videos: in the training split, if known."""
    max_epochs, max_steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    if not max_epochs or max_epochs < 1:
        yield failure(f"trainer.max_epochs={max_epochs}: the schedule needs a number of epochs")
        return
    if optim.warmup_epochs > max_epochs:
        yield failure(f"optim.warmup_epochs={optim.warmup_epochs:g} is more than trainer.max_epochs={max_epochs}")
    if num_videos is None:
        yield ok(f"{max_epochs} epochs, {optim.warmup_epochs:g} of warm-up; steps are not known without the data")
        return
    per_epoch = -(-max(num_videos // (videos // accumulate), 1) // accumulate)
    steps = per_epoch * max_epochs if max_steps == -1 else min(per_epoch * max_epochs, max_steps)
    warm_up = round(optim.warmup_epochs * per_epoch)
    recipe = f" (recipe: {recipe_epochs})" if recipe_epochs not in (None, max_epochs) else ""
    yield ok(
        f"{max_epochs} epochs{recipe} x {per_epoch} optimiser steps = {steps} steps, {warm_up} of them warm-up, "
        f"{steps * videos} videos seen"
    )
    if max_steps != -1 and steps < warm_up:
        yield warning(f"trainer.max_steps={max_steps} ends before the warm-up of {warm_up} steps does")
    if videos > num_videos:
        yield warning(
            f"an optimiser step takes {videos} videos, the training split has {num_videos}: it is repeated to fill a "
            "step; lower data.batch_size or trainer.accumulate_grad_batches"
        )
