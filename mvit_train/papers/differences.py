"""A configuration as a recipe, and where it differs from a published one: `task=explain`."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mvit_train.data.clip_augment import ClipAugment
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.mixup import Mixup
from mvit_train.data.rand_augment import RandAugment
from mvit_train.data.transforms import ClipTransform, JitteredCrop, RandomResizedCrop
from mvit_train.data.views import Views
from mvit_train.models import MViT
from mvit_train.optim import AdamWCosine, SGDCosine, WarmupCosine
from mvit_train.papers.recipes import Recipe

# The setting that a field of `Recipe` comes from, as the command line names it.
SETTINGS = {
    "model": "model",
    "num_frames": "clip.num_frames",
    "sampling_rate": "clip.sampling_rate",
    "crop_size": "clip.crop_size",
    "sampling": "data.sampling",
    "optimizer": "optim",
    "betas": "optim.betas",
    "momentum": "optim.momentum",
    "batch_size": "data.batch_size",
    "clips_per_step": "clips of an optimiser step",
    "lr": "optim.lr",
    "warmup_epochs": "optim.warmup_epochs",
    "start_factor": "optim.start_factor",
    "end_factor": "optim.end_factor",
    "max_epochs": "trainer.max_epochs",
    "repeats": "data.repeats",
    "weight_decay": "optim.weight_decay",
    "drop_path_rate": "model.drop_path_rate",
    "dropout": "model.dropout",
    "gradient_clip": "trainer.gradient_clip_val",
    "precision": "trainer.precision",
    "short_side": "augment.crop.short_side",
    "rand_augment": "augment.crop.pixels",
    "crop": "augment.crop.crop",
    "crop_area": "augment.crop.crop.area",
    "crop_aspect": "augment.crop.crop.aspect",
    "crop_short_side": "augment.crop.crop.short_side",
    "flip": "augment.crop.crop.flip",
    "erasing": "augment.erasing",
    "mixup_alpha": "augment.mixup.mixup_alpha",
    "cutmix_alpha": "augment.mixup.cutmix_alpha",
    "label_smoothing": "augment.mixup.label_smoothing",
    "mean": "module.mean",
    "std": "module.std",
    "views": "views",
    "ensemble": "module.ensemble",
}
FROM_ROW = ("model", "num_frames", "sampling_rate", "crop_size", "views")
# Arguments of a model with fields of their own, and those that change no published number.
NOT_GRAPH = {
    "_target_",
    "num_frames",
    "crop_size",
    "drop_path_rate",
    "dropout",
    "activation_checkpointing",
    "stem_init",
}


def as_recipe(
    settings: Mapping[str, Any],
    *,
    model: MViT,
    data: VideoDataModule,
    mixup: Mixup,
    optim: WarmupCosine,
    clips_per_step: int,
) -> Recipe:
    """The recipe that a configuration, as plain values and with what its nodes build, states."""
    trainer, module = settings["trainer"], settings["module"]
    views, images = Views.parse(settings["views"]), len(model.input_size) == 2
    precision = str(trainer.get("precision", "32-true"))
    return Recipe(
        model=_graph(settings["model"]),
        num_frames=None if images else data.num_frames,
        sampling_rate=None if images or data.sampling == "segment" else data.sampling_rate,
        crop_size=data.crop_size,
        sampling=None if images else data.sampling,
        optimizer=type(optim).__name__.removesuffix("Cosine"),
        betas=optim.betas if isinstance(optim, AdamWCosine) else None,
        momentum=optim.momentum if isinstance(optim, SGDCosine) else None,
        batch_size=data.batch_size,
        clips_per_step=clips_per_step,
        lr=(optim.lr, optim.lr_batch),
        warmup_epochs=optim.warmup_epochs,
        start_factor=optim.start_factor if optim.warmup_epochs else None,
        end_factor=optim.end_factor,
        max_epochs=trainer["max_epochs"],
        repeats=data.repeats,
        weight_decay=optim.weight_decay,
        drop_path_rate=model.blocks[-1].drop_path.rate,  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        dropout=model.head.get_submodule("dropout").p,  # pyright: ignore[reportArgumentType]
        gradient_clip=trainer.get("gradient_clip_val") or 0.0,
        precision="32-true" if precision in ("32", "32-true") else precision,
        erasing=data.erasing.probability if data.erasing else 0.0,
        mixup_alpha=mixup.mixup_alpha,
        cutmix_alpha=mixup.cutmix_alpha,
        label_smoothing=mixup.label_smoothing,
        mean=tuple(module["mean"]),
        std=tuple(module["std"]),
        views=(views.clips, views.crops),
        ensemble=module.get("ensemble", "mean"),
        **_crop(data.transform, settings),
    )


def _graph(node: Mapping[str, Any]) -> str:
    """mvit_b, and what makes it another graph: mvit_b pool=max."""
    changes = [f"{name}={value}" for name, value in node.items() if name not in NOT_GRAPH]
    return " ".join([node["_target_"].rpartition(".")[2], *changes])


def _crop(transform: ClipTransform, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields about what training makes of frames."""
    whole = isinstance(transform, ClipAugment)
    crop = transform.crop if whole else transform
    pixels = transform.pixels if whole else None
    # The notation is read from the node: the object keeps its numbers alone.
    policy = settings["data"]["transform"]["pixels"]["policy"] if isinstance(pixels, RandAugment) else "none"
    return {
        "crop": type(crop).__name__,
        "crop_area": tuple(crop.area) if isinstance(crop, RandomResizedCrop) else None,
        "crop_aspect": tuple(crop.aspect) if isinstance(crop, RandomResizedCrop) else None,
        "crop_short_side": tuple(crop.short_side) if isinstance(crop, JitteredCrop) else None,
        "flip": getattr(crop, "flip", None),
        "short_side": transform.short_side if whole else None,
        "rand_augment": policy,
    }


def differences(ours: Recipe, theirs: Recipe, whose: str) -> list[str]:
    """One line for each field that both state and that is not the same; `whose`: "paper" or "PySlowFast".

    optim.lr: here 0.001 for 512 clips, paper 0.0016 for 512 clips (MViT, Sec. D.1)
    """
    lines = []
    mine, its = asdict(ours), asdict(theirs)
    for name, setting in SETTINGS.items():
        if mine[name] is None or its[name] is None or _same(name, mine[name], its[name]):
            continue
        place = theirs.row if name in FROM_ROW and theirs.row else theirs.section
        cited = f" ({place})" if whose == "paper" else ""
        remark = "; the learning rate is scaled with it" if name == "clips_per_step" else ""
        lines.append(f"{setting}: here {_show(name, mine[name])}, {whose} {_show(name, its[name])}{cited}{remark}")
    return lines


def not_stated(ours: Recipe, theirs: Recipe) -> list[str]:
    """The settings that the other recipe does not state, though they mean something here."""
    mine, its = asdict(ours), asdict(theirs)
    return [setting for name, setting in SETTINGS.items() if mine[name] is not None and its[name] is None]


def _same(name: str, ours: Any, theirs: Any) -> bool:
    if name == "lr":
        return math.isclose(ours[0] / ours[1], theirs[0] / theirs[1], rel_tol=1e-6)
    if name == "rand_augment":
        return set(theirs.split("-")) <= set(ours.split("-"))
    if name == "views":
        return all(its in (mine, None) for mine, its in zip(ours, theirs, strict=True))
    if isinstance(ours, tuple):
        return len(ours) == len(theirs) and all(map(math.isclose, ours, theirs))
    return math.isclose(ours, theirs, rel_tol=1e-6) if isinstance(ours, int | float) else ours == theirs


def _show(name: str, value: Any) -> str:
    if name == "lr":
        per_512 = "" if value[1] == 512 else f" (for 512: {value[0] * 512 / value[1]:.3g})"
        return f"{value[0]:g} for {value[1]} clips{per_512}"
    if name == "gradient_clip" and not value:
        return "none"
    if name == "views":
        return f"{value[0]} clips" if value[1] is None else "x".join(map(str, value))
    if isinstance(value, tuple):
        return ", ".join(f"{number:.4g}" for number in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
