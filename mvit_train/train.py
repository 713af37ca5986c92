"""`task=train`: fits a model and evaluates its best checkpoint in every frame order."""

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mvit_train.checkpoint import read_checkpoint, resolve_checkpoint, run_folder
from mvit_train.config import build, to_dict, to_yaml
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.views import Views
from mvit_train.evaluate import build_module, build_trainer, evaluate, print_summary
from mvit_train.models import load_pretrained
from mvit_train.module import VideoClassifier
from mvit_train.temporal import FRAME_ORDERS


def run(cfg) -> None:
    """Trains what `cfg` describes in a run folder of its own, then evaluates it there."""
    run_dir = run_folder(Path(cfg.runs), cfg.name, cfg.run_id)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(to_yaml(cfg))
    data: VideoDataModule = build(cfg.data)
    module = build_module(cfg, data.labels)
    config = to_dict(cfg) | {"class_names": list(data.labels.names)}
    trainer = build_trainer(
        cfg, run_dir, logger=build(cfg.logger).loggers(run_dir, cfg.name, config), callbacks=[best_and_last(run_dir)]
    )
    resume_from = resume_point(run_dir, cfg.ckpt)
    if cfg.weights:
        start_from(Path(cfg.weights), module, trainer, resume_from=resume_from)
    train(module, data, trainer, resume_from=resume_from)
    best = resolve_checkpoint(run_dir)
    checkpoint = read_checkpoint(best)
    module.load_state_dict(checkpoint["state_dict"])
    metrics = evaluate(
        module,
        data,
        trainer,
        views=Views.parse(cfg.views),
        frame_orders=FRAME_ORDERS,
        run_dir=run_dir,
        weights_from=best,
        checkpoint=checkpoint,
    )
    if trainer.is_global_zero:
        print_summary(metrics, run_dir)


def train(module: VideoClassifier, data: VideoDataModule, trainer: Trainer, *, resume_from: Path | None) -> None:
    """Fits, and leaves `checkpoints/last.ckpt` at the step it ended on."""
    splits = data.splits
    if trainer.is_global_zero:
        parameters = sum(p.numel() for p in module.model.parameters())
        clips = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        print(
            f"{trainer.default_root_dir}: {parameters / 1e6:.2f} M parameters, {len(splits['train'])} training and "
            f"{len(splits['val'])} validation videos of {len(data.labels)} classes; "
            f"{clips} clips per step, peak learning rate {module.optim.scaled_lr(clips):.3g}"
            + (f"; resuming from {resume_from}" if resume_from else "")
        )
    trainer.fit(module, datamodule=data, ckpt_path=resume_from)
    # A run that max_steps ends within an epoch has met no validation, and so no checkpoint callback.
    trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")


def start_from(weights: Path, module: VideoClassifier, trainer: Trainer, *, resume_from: Path | None) -> None:
    """Loads published or earlier weights, unless the run has weights of its own to go on with, and says which."""
    if resume_from is not None:
        text = f"weights: {weights} is not read again, the run goes on from {resume_from}"
    else:
        text = str(load_pretrained(module.model, weights, class_names=module.labels.names))
    if trainer.is_global_zero:
        print(text)


def best_and_last(run_dir: Path) -> ModelCheckpoint:
    """Keeps `checkpoints/best.ckpt`, by validation top-1, and `checkpoints/last.ckpt`."""
    return ModelCheckpoint(
        run_dir / "checkpoints",
        filename="best",
        monitor="val/top1",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )


def resume_point(run_dir: Path, ckpt: Path | None) -> Path | None:
    """The checkpoint named on the command line, else what an earlier leg of this very run has left, else none."""
    if ckpt is not None:
        return resolve_checkpoint(Path(ckpt))
    last = run_dir / "checkpoints" / "last.ckpt"
    return last if last.exists() else None
