"""`task=train`: fits a model and evaluates its best checkpoint in several frame orders."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from mvit_train.checkpoint import read_checkpoint, resolve_checkpoint, run_folder
from mvit_train.class_list import follow
from mvit_train.config import build, to_dict, to_yaml
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.flip import stop_flipping
from mvit_train.data.views import Views
from mvit_train.early_stop import EarlyStop
from mvit_train.evaluate import build_module, build_trainer, evaluate, print_summary
from mvit_train.guard import NonFiniteGuard
from mvit_train.linear_probe import linear_probe
from mvit_train.metrics import headline
from mvit_train.models import load_pretrained
from mvit_train.models.compiled import compiled
from mvit_train.models.freeze import freeze_stages
from mvit_train.module import VideoClassifier
from mvit_train.preempt import REQUEUE, Preempted
from mvit_train.resume import Checkpoints, resume_point
from mvit_train.strategy import Shards
from mvit_train.telemetry import Telemetry
from mvit_train.temporal import FrameOrder, frame_orders
from mvit_train.tracking import Tracking


def run(cfg) -> None:
    """Trains what `cfg` describes in a run folder of its own, then evaluates it there.

    Where a signal asks for it, it saves, says so and returns; the same command goes on (`mvit_train.resume`).
    """
    again = "" if cfg.run_id or "SLURM_JOB_ID" in os.environ else " with run_id={}"
    run_dir = run_folder(Path(cfg.runs), cfg.name, cfg.run_id)
    checkpoints: Checkpoints = build(cfg.checkpoints)
    with checkpoints.listener:
        fit_and_evaluate(cfg, run_dir, checkpoints, f"the same command{again.format(run_dir.name)} goes on")


def fit_and_evaluate(cfg, run_dir: Path, checkpoints: Checkpoints, how_to_go_on: str) -> None:
    """Trains in `run_dir`, from where an earlier leg of the run has ended if there is one, and evaluates."""
    data: VideoDataModule = build(cfg.data)
    orders = frame_orders(cfg.frame_order, data.num_frames)
    resume_from = resume_point(run_dir, Path(cfg.ckpt) if cfg.ckpt else None)
    label_note = follow(data, read_checkpoint(resume_from), resume_from, resume=True) if resume_from else None
    run_dir.mkdir(parents=True, exist_ok=True)  # only now: a refused resumption leaves the run as it was
    (run_dir / REQUEUE).unlink(missing_ok=True)
    (run_dir / "config.yaml").write_text(to_yaml(cfg))
    module = build_module(cfg, data)
    if module.frozen_stages and not cfg.weights and resume_from is None:
        raise ValueError(f"module.frozen_stages={module.frozen_stages} would freeze random stages: give weights=FILE")
    freeze_stages(module.model, module.frozen_stages)
    flip_note = None if data.flip_left_right else stop_flipping(data.transform, data.labels.names)
    config = to_dict(cfg) | {"class_names": list(data.labels.names)}
    tracking: Tracking = build(cfg.logger)
    with tracking.open(run_dir, cfg.name, config) as record:
        best = best_checkpoint(run_dir, f"val/{headline(multi_label=data.multi_label)}")
        callbacks = [best, Telemetry(), *record.callbacks, *watchers(module, checkpoints)]
        trainer = build_trainer(cfg, run_dir, logger=record.loggers, callbacks=callbacks, training=True)
        if trainer.is_global_zero:
            print(*filter(None, (label_note, flip_note)), sep="\n", end="\n" if label_note or flip_note else "")
        if cfg.weights:
            start_from(Path(cfg.weights), module, trainer, resume_from=resume_from)
        try:
            with compiled(module.model, cfg.compile):
                train(module, data, trainer, resume_from=resume_from)
            if isinstance(trainer.strategy, Shards):  # the evaluation takes whole models
                unreadable, module = module.unreadable, build_module(cfg, data)
                module.unreadable = unreadable
                trainer = build_trainer(cfg, run_dir, logger=False, callbacks=[checkpoints])
            metrics = evaluate_best(cfg, module, data, trainer, run_dir, label_note, orders)
        except Preempted as preempted:
            if trainer.is_global_zero:
                print(f"{preempted}; {how_to_go_on}", flush=True)
            return
        if trainer.is_global_zero:
            record.finish(metrics, trainer.global_step)
            print_summary(metrics, run_dir)


def evaluate_best(
    cfg,
    module: VideoClassifier,
    data: VideoDataModule,
    trainer: Trainer,
    run_dir: Path,
    label_note: str | None,
    orders: Sequence[FrameOrder],
) -> dict[str, Any]:
    """Evaluates the best checkpoint in the given frame orders, beside a linear probe if one was asked for."""
    best = resolve_checkpoint(run_dir)
    checkpoint = read_checkpoint(best)
    module.load_state_dict(checkpoint["state_dict"])
    probe = None if module.linear_probe is None else compare(cfg, module.linear_probe, data, trainer, checkpoint)
    return evaluate(
        module,
        data,
        trainer,
        views=Views.parse(cfg.views),
        frame_orders=orders,
        run_dir=run_dir,
        weights_from=best,
        checkpoint=checkpoint,
        label_note=label_note,
        linear_probe=probe,
    )


def train(module: VideoClassifier, data: VideoDataModule, trainer: Trainer, *, resume_from: Path | None) -> None:
    """Says what is fitted to what, and fits."""
    splits = data.splits
    if trainer.is_global_zero:
        parameters = sum(p.numel() for p in module.model.parameters())
        frozen = sum(p.numel() for p in module.model.parameters() if not p.requires_grad)
        known = f" ({found})" if (found := data.labels.known()) else ""
        clips = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        print(
            f"{trainer.default_root_dir}: {parameters / 1e6:.2f} M parameters"
            + (f", {frozen / 1e6:.2f} M of them frozen, " if frozen else ", ")
            + f"{len(splits['train'])} training and "
            f"{len(splits['val'])} validation videos of {len(data.labels)} classes{known}; "
            f"{clips} clips per step, peak learning rate {module.optim.scaled_lr(clips):.3g}"
            + (f"; resuming from {resume_from}" if resume_from else "")
        )
    trainer.fit(module, datamodule=data, ckpt_path=resume_from)
    last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    if not last.exists():  # it went on from a run that had nothing left to do
        trainer.save_checkpoint(last)


def start_from(weights: Path, module: VideoClassifier, trainer: Trainer, *, resume_from: Path | None) -> None:
    """Loads published or earlier weights, unless the run has weights of its own to go on with, and says which."""
    if resume_from is not None:
        text = f"weights: {weights} is not read again, the run goes on from {resume_from}"
    else:
        text = str(load_pretrained(module.model, weights, class_names=module.labels.names))
    if trainer.is_global_zero:
        print(text)


def compare(
    cfg, max_videos: int, data: VideoDataModule, trainer: Trainer, best: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What `linear_probe` finds in the weights that training started from, and "fine_tuned_top1", the score that made
    `best` the best checkpoint, of the same views. None, with the reason printed, where there is nothing to compare."""
    if data.multi_label or not cfg.weights:
        why = "videos may have several labels" if data.multi_label else "training started from no weights"
        if trainer.is_global_zero:
            print(f"linear probe: not done, {why}")
        return None
    start = build_module(cfg, data)
    load_pretrained(start.model, Path(cfg.weights), class_names=start.labels.names)
    score = next(state["best_model_score"] for key, state in best["callbacks"].items() if "ModelCheckpoint" in key)
    return linear_probe(start, data, trainer, max_videos=max_videos) | {"fine_tuned_top1": float(score)}


def watchers(module: VideoClassifier, checkpoints: Checkpoints) -> list[Callback]:
    """What looks after the steps: the guard against those that are not finite, the average of the weights, the end of a
    training that no longer helps, and the checkpoints, which come after them because they hold their state."""
    average = [] if module.ema_decay is None else [EMAWeightAveraging(use_buffers=False, decay=module.ema_decay)]
    monitor = f"val/{headline(multi_label=module.multi_label)}"
    end = [] if module.patience is None else [EarlyStop(monitor, module.patience)]
    return [NonFiniteGuard(module.max_nonfinite), *average, *end, checkpoints]


def best_checkpoint(run_dir: Path, monitor: str) -> ModelCheckpoint:
    """Keeps `checkpoints/best.ckpt`, by a number of the validation."""
    return ModelCheckpoint(
        run_dir / "checkpoints",
        filename="best",
        monitor=monitor,
        mode="max",
        enable_version_counter=False,
        save_on_train_epoch_end=False,  # but after the validation, before `last.ckpt`, which so knows the best score
    )
