"""`task=evaluate`: scores all views of the validation videos, frames in order, shuffled, reversed."""

import logging
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.callbacks import RichProgressBar

from mvit_train.checkpoint import (
    AtomicCheckpointIO,
    load_weights,
    read_checkpoint,
    resolve_checkpoint,
    run_folder,
    weights_fingerprint,
)
from mvit_train.class_list import follow
from mvit_train.config import build, to_dict
from mvit_train.cost import cost
from mvit_train.data.corruptions import Corruption
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.views import Views
from mvit_train.example_attention import write_example_attention
from mvit_train.metrics import headline
from mvit_train.models import LoadReport, load_pretrained
from mvit_train.module import VideoClassifier
from mvit_train.predictions import save_predictions
from mvit_train.report import print_summary, write_metrics, write_report
from mvit_train.robustness import (
    ROBUSTNESS,
    SAME_EVALUATION,
    CorruptedPredictions,
    corruption_names,
    outcome,
    save_robustness,
)
from mvit_train.temporal import FrameOrder, frame_orders
from mvit_train.view_curve import view_order
from mvit_train.view_scoring import scored_views

log = logging.getLogger(__name__)


def run(cfg) -> None:
    """Evaluates `ckpt` or `weights` on the validation videos.

    With a checkpoint `cfg` is its own configuration, changed by what the command line says, and the result goes beside
    it; with weights of elsewhere it is the command line's, and the result goes to runs/<name>/<run id>.
    """
    data: VideoDataModule = build(cfg.data)
    orders = frame_orders(cfg.frame_order, data.num_frames)
    corruptions = corruption_names(cfg.corruptions or (), data.num_frames)
    checkpoint = None
    if cfg.ckpt:
        path = resolve_checkpoint(Path(cfg.ckpt))
        checkpoint = read_checkpoint(path)
        text = note = follow(data, checkpoint, path, resume=False)
        module = build_module(cfg, data)
        module.on_load_checkpoint(checkpoint)
        load_weights(module, checkpoint, path)
        run_dir = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    else:
        path = Path(cfg.weights)
        module = build_module(cfg, data)
        loaded = load_with_head(module, path)
        text, note = str(loaded), None if loaded.head == "loaded" else f"classification head {loaded.head}"
        run_dir = run_folder(Path(cfg.runs), cfg.name, cfg.run_id)
    views = Views.parse(cfg.views)
    if cfg.early_exit is not None and (data.multi_label or module.ensemble != "mean"):
        why = (
            "these videos may have several labels" if data.multi_label else f"not for module.ensemble={module.ensemble}"
        )
        raise ValueError(f"early_exit={cfg.early_exit:g} compares the means of the scores of exclusive classes: {why}")
    asked = cfg.frame_order if isinstance(cfg.frame_order, str) else "+".join(orders)
    parts = [asked, *["corruptions"] * bool(corruptions)]
    parts += [] if cfg.early_exit is None else [f"early_exit_{cfg.early_exit:g}"]
    folder = run_dir / f"evaluate-{views}-{'-'.join(parts)}"
    trainer = build_trainer(cfg, run_dir, logger=False, callbacks=[EndedBySignals()])
    if text and trainer.is_global_zero:
        print(text)
    metrics = evaluate(
        module,
        data,
        trainer,
        views=views,
        frame_orders=orders,
        run_dir=folder,
        weights_from=path,
        checkpoint=checkpoint,
        label_note=note,
        corruptions=corruptions,
        severities=sorted(set(cfg.severities)),
        early_exit=cfg.early_exit,
    )
    if trainer.is_global_zero:
        print_summary(metrics, folder)


def load_with_head(module: VideoClassifier, weights: Path) -> LoadReport:
    """Loads a file of weights. ValueError if it does not classify into the data's classes."""
    report = load_pretrained(module.model, weights, class_names=module.labels.names)
    if not report.has_head:
        raise ValueError(f"weights: {weights}: an evaluation needs its classification head, but that is {report.head}")
    return report


def build_module(cfg, data: VideoDataModule) -> VideoClassifier:
    """The module of `cfg` for the data's classes."""
    if doubt := data.labels.doubt():
        log.warning(doubt)
    model = build(cfg.model, num_classes=len(data.labels))
    return build(
        cfg.module,
        model=model,
        labels=data.labels,
        multi_label=data.multi_label,
        config=to_dict(cfg, resolve=False),
    )


def build_trainer(cfg, run_dir: Path, *, logger, callbacks: list, training: bool = False) -> Trainer:
    """The trainer of `cfg`, writing below `run_dir`, with our checkpoint files and progress bar.

    training: whether it shall also train; else each process holds the whole model, whatever `trainer.strategy` says.
    """
    if cfg.trainer.get("enable_progress_bar", True):
        callbacks = [*callbacks, ProgressBar() if sys.stdout.isatty() else ProgressLines()]
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():  # as Lightning chooses
        plugins.append(SLURMEnvironment(auto_requeue=False))  # its handlers can deadlock; ours: mvit_train.preempt
    node = to_dict(cfg.trainer) | ({} if training else {"strategy": "auto"})
    return build(node, default_root_dir=run_dir, logger=logger, callbacks=callbacks, plugins=plugins)


class EndedBySignals(Callback):
    """SIGTERM ends the process: Lightning's handler calls a collective wherever the process is just then, and hangs."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def register() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        trainer._signal_connector.register_signal_handlers = register


class ProgressBar(RichProgressBar):
    """Lightning's bar without the logger's version number. In training its values are those of every
    `log_every_n_steps`-th batch: reading one waits until the device has computed it."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict:
        batch, every = trainer.fit_loop.epoch_loop.batch_idx, getattr(trainer, "log_every_n_steps", 1)
        if not trainer.training or not self._shown or batch % max(every, 1) == 0:
            metrics = super().get_metrics(trainer, pl_module)
            metrics.pop("v_num", None)
            self._shown = metrics
        return self._shown


class ProgressLines(LightningProgressBar):
    """One line per validation, for logs and batch jobs, where a bar would leave nothing or thousands of lines."""

    def disable(self) -> None:
        """Lightning calls it on all ranks but the first; there is nothing to switch off."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            multi_label = getattr(pl_module, "multi_label", False)
            names = ("train/loss", "val/loss", f"val/{headline(multi_label=multi_label)}")
            values = "  ".join(f"{name} {trainer.callback_metrics.get(name, math.nan):.3f}" for name in names)
            print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}  {values}", flush=True)


def evaluate(
    module: VideoClassifier,
    data: VideoDataModule,
    trainer: Trainer,
    *,
    views: Views,
    frame_orders: Sequence[FrameOrder],
    run_dir: Path,
    weights_from: Path,
    checkpoint: Mapping[str, Any] | None,
    label_note: str | None = None,
    linear_probe: dict[str, Any] | None = None,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (),
    early_exit: float | None = None,
) -> dict[str, Any]:
    """Scores the validation videos with the module's weights and writes predictions, metrics.json and report.html.

    weights_from: the file that the module's weights come from. checkpoint: its content, if it is one of ours.
    label_note: what was done to make the classes of the data and of the weights agree.
    linear_probe: what a linear classifier on frozen features reached, see `train.compare`.
    corruptions, severities: what to score the videos under as well, each corruption at each severity.
    early_exit: the margin at which the further views of a video are left out, see `view_scoring.Passes`.
    Each video is decoded once for all its views and frame orders, and again for each corruption and severity. Videos
    that cannot be read are reported as failed.
    """
    data.test_views, module.frame_orders, module.early_exit = views, tuple(frame_orders), early_exit
    began = time.perf_counter()
    trainer.test(module, datamodule=data, verbose=False)
    seconds = time.perf_counter() - began
    scored = {order: scored_views(module.passes[order]) for order in frame_orders}
    manifest = data.splits["val"]
    evaluated = torch.stack([module.scores[order].complete for order in frame_orders]).all(0)
    config = module.config or {}
    whole = early_exit is None and not data.multi_label  # what the views after the exit would have said is not known
    ranks = None if not whole else torch.stack([module.view_ranks[order].ranks for order in frame_orders])
    scores = torch.stack([module.scores[order].by_video() for order in frame_orders])
    info = {
        "experiment": config.get("name", ""),
        "split": "val",
        "views": str(views),
        "ensemble": module.ensemble,
        "data_root": str(manifest.root),
        "checkpoint": {
            "path": str(weights_from),
            "fingerprint": weights_fingerprint(module.model.state_dict()),
            "epoch": checkpoint["epoch"] if checkpoint else None,
            "global_step": checkpoint["global_step"] if checkpoint else None,
        },
        "label_fingerprint": data.labels.fingerprint,
        "label_note": label_note,
        "linear_probe": linear_probe,
        "data_fingerprint": manifest.fingerprint,
        "failures": [{"video": manifest.paths[i], "reason": reason} for i, reason in module.failures],
        "substituted": [{"video": path, "reason": reason} for path, reason in module.unreadable.items()],
        "config": config,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "view_order": view_order(views),
        "early_exit": None
        if early_exit is None
        else {
            "margin": early_exit,
            "views": {order: clips / max(videos, 1) for order, (clips, videos) in scored.items()},
        },
    }
    corrupted = score_corrupted(module, data, trainer, [Corruption(c, s) for c in corruptions for s in severities])
    if not trainer.is_global_zero:
        return {}
    clips = sum(clips for clips, _ in scored.values())
    print(f"  {clips} clips scored in {seconds:.1f} s, {clips / seconds:.1f} per second, reading included", flush=True)
    info["model"] = cost(module.model)
    run_dir.mkdir(parents=True, exist_ok=True)
    save_predictions(
        run_dir / "predictions.npz",
        video_ids=list(manifest.paths),
        labels=manifest.target_tensor().numpy(),
        class_names=data.labels.names,
        frame_orders=frame_orders,
        scores=scores.numpy(),
        evaluated=evaluated.numpy(),
        info=info,
        label_ranks=None if ranks is None else ranks.numpy(),
    )
    if corruptions:
        found = CorruptedPredictions.of(
            corrupted,
            corruptions=corruptions,
            severities=severities,
            video_ids=manifest.paths,
            info={key: info[key] for key in SAME_EVALUATION},
        )
        save_robustness(run_dir / ROBUSTNESS, found)
    metrics = write_metrics(run_dir)
    write_example_attention(module, data, run_dir)
    write_report(run_dir)
    return metrics


def score_corrupted(
    module: VideoClassifier, data: VideoDataModule, trainer: Trainer, conditions: Sequence[Corruption]
) -> list[dict[str, np.ndarray]]:
    """`robustness.outcome` of each condition, frames forward: one pass over the validation videos for each, with the
    views of the last evaluation."""
    found = []
    module.frame_orders = ("forward",)
    for number, condition in enumerate(conditions, 1):
        if trainer.is_global_zero:
            print(f"  corrupted {number} of {len(conditions)}: {condition}", flush=True)
        data.corruption = condition
        trainer.test(module, datamodule=data, verbose=False)
        found.append(outcome(module.scores["forward"].by_video(), multi_label=data.multi_label))
    data.corruption = None
    return found
