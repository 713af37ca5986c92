"""A trained model ready for files: `Predictor.load("runs/motion/a")("clip.mp4").top(3)`."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mvit_train.checkpoint import load_weights, read_checkpoint, resolve_checkpoint, saved_config, saved_labels
from mvit_train.config import build, check, compose, to_dict
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.stream import DecodeError
from mvit_train.data.views import Views
from mvit_train.labels import Labels
from mvit_train.metrics import Ensemble, on_grid
from mvit_train.models import load_pretrained
from mvit_train.models.weight_files import HEAD, read_weights
from mvit_train.module import VideoClassifier
from mvit_train.prediction.reading import Window, evaluation_views, sliding_windows, watched
from mvit_train.prediction.sources import is_image
from mvit_train.prediction.timeline import Segment, segments
from mvit_train.temporal import FrameOrder, reorder

PathLike = str | os.PathLike[str]
THRESHOLD = 0.5


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file.

    Args:
        classes: K names, in the order of the scores.
        probabilities: (K,) float32, as an evaluation with the same views has them.
        view_scores: (V, K) float32, softmax, or with `multi_label` sigmoid scores of each view.
        embedding: (C,) float32, what the classification layer sees, the mean over the views.
        multi_label: whether several classes may apply at once, or none.
        segments: of a timeline, whose views are its windows.
        notice: what to know about this answer; "" if nothing.
        damage: of a timeline that ends early, why; "" if it does not.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: Tensor
    view_scores: Tensor
    embedding: Tensor
    multi_label: bool = False
    segments: tuple[Segment, ...] = ()
    notice: str = ""
    damage: str = ""

    def top(self, k: int = 5, *, threshold: float = THRESHOLD) -> list[tuple[str, float]]:
        """(class, probability) of the k likeliest classes, or with `multi_label` of all that reach the threshold."""
        order = np.argsort(-self.probabilities.numpy(), kind="stable").tolist()
        ranked = [(self.classes[index], float(self.probabilities[index])) for index in order]
        return [row for row in ranked if row[1] >= threshold] if self.multi_label else ranked[:k]

    @property
    def agreement(self) -> float:
        """The share of the views whose likeliest class is the final one."""
        return (self.view_scores.argmax(1) == self.probabilities.argmax()).double().mean().item()


class Predictor:
    """Scores files as `task=evaluate` does: the same reading, views, precision and device.

    Files are read by `data.num_workers` processes of their own; one that hangs or dies costs its file alone. 0: by this
    process, without that protection.
    """

    def __init__(
        self,
        module: VideoClassifier,
        data: VideoDataModule,
        *,
        device: torch.device,
        precision: Callable[[], AbstractContextManager[None]],
        source: Path,
        note: str = "",
    ) -> None:
        """data: how clips are read, its videos are never looked at. precision: the context of a forward pass.
        source: the file that the weights come from; note: what became of them, if there is something to tell."""
        self.module, self.data, self.device, self.source = module.to(device).eval(), data, device, source
        self.labels, self.precision, self.note = module.labels, precision, note

    @classmethod
    def load(
        cls, ckpt: PathLike | None = None, *, weights: PathLike | None = None, overrides: Sequence[str] = ()
    ) -> "Predictor":
        """A predictor of a checkpoint or run folder, or of a file of weights, for the model that `overrides` choose.

        Predictor.load("runs/motion/a", overrides=["trainer.precision=bf16-mixed", "trainer.accelerator=cpu"])
        Predictor.load(weights="mvit_v2_s.pth", overrides=["experiment=k400_mvit_v2_s"])

        Raises:
            ConfigError, ValueError: mistakes in the overrides, or a file that cannot be used.
        """
        saved = None
        if ckpt is not None and Path(ckpt).exists():
            source = resolve_checkpoint(Path(ckpt))
            saved = saved_config(read_checkpoint(source), source)
        cfg = compose([*overrides, "task=predict", "input=[]"], saved=saved)
        cfg.ckpt = None if ckpt is None else os.fspath(ckpt)
        cfg.weights = None if weights is None else os.fspath(weights)
        check(cfg)
        return cls.of(cfg)

    @classmethod
    def of(cls, cfg: Any) -> "Predictor":
        """The predictor of a checked configuration."""
        note = ""
        if cfg.ckpt:
            source = resolve_checkpoint(Path(cfg.ckpt))
            checkpoint = read_checkpoint(source)
            labels, multi_label = saved_labels(checkpoint, source), checkpoint["mvit_train"].get("multi_label", False)
            module = _module(cfg, labels, multi_label=multi_label)
            load_weights(module, checkpoint, source)
        else:
            source = Path(cfg.weights)
            module = _module(cfg, _labels_of(source), multi_label=cfg.threshold is not None)
            note = str(load_pretrained(module.model, source))
        devices = cfg.trainer.devices
        one = {"devices": 1 if isinstance(devices, (int, str)) else list(devices)[:1], "num_nodes": 1}
        node = to_dict(cfg.trainer) | one | {"strategy": "auto", "enable_progress_bar": False}
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # a Trainer advertises
        trainer = build(node, default_root_dir=source.parent, logger=False, callbacks=[])
        module = trainer.precision_plugin.convert_module(module)
        return cls(
            module,
            build(cfg.data),
            device=trainer.strategy.root_device,
            precision=trainer.precision_plugin.forward_context,
            source=source,
            note=note,
        )

    def __call__(self, path: PathLike, views: str = "5x1") -> Prediction:
        """What the model says of a video or image. DecodeError: it cannot be read."""
        (found,) = self.stream([Path(path)], views)
        if isinstance(found, DecodeError):
            raise found
        return found

    def stream(self, paths: Sequence[Path], views: str = "5x1") -> Iterator[Prediction | DecodeError]:
        """The predictions of many files, in order, each as soon as it is there; of an unreadable one, the error."""
        for path, batch in zip(paths, evaluation_views(self.data, paths, Views.parse(views), self.labels), strict=True):
            if batch["failures"]:
                yield DecodeError(str(path), batch["failures"][0][1])
            else:
                yield self._prediction(path, *self.score(cast(Tensor, batch["video"])))

    def scores(
        self,
        path: PathLike,
        views: str = "5x1",
        frame_orders: Sequence[FrameOrder] = ("forward",),
        *,
        video_id: str | None = None,
    ) -> dict[FrameOrder, Tensor]:
        """(V, K) scores for each order of the frames, from one decoding; view v is of clip v // crops.

        video_id: what decides `shuffle`, in an evaluation the path below the data's root; None: the file's name.
        DecodeError: it cannot be read.
        """
        wanted = Views.parse(views)
        (batch,) = evaluation_views(self.data, [Path(path)], wanted, self.labels)
        if batch["failures"]:
            raise DecodeError(os.fspath(path), batch["failures"][0][1])
        name, clips = video_id or Path(path).name, batch["view_index"] // wanted.crops
        return {
            order: self.score(reorder(cast(Tensor, batch["video"]), order, name, clips))[0] for order in frame_orders
        }

    def timeline(self, path: PathLike, *, crops: int = 1, hop_sec: float | None = None) -> Prediction:
        """What the model says of every part of a video: windows of a clip's length, `hop_sec` (half of it) apart.

        The windows are the views of the prediction. Memory does not grow with the frames of the video. Where the file
        cannot be read from some place on, the timeline ends there and `damage` says why.
        DecodeError: nothing of it can be read.
        """
        path, damage = Path(path), ""
        spans: list[tuple[float, float]] = []
        scores, features = [], []
        arguments = (path, self.data, crops, hop_sec)
        found: Iterator[Window] = (
            watched(sliding_windows, *arguments, timeout_sec=self.data.timeout_sec)
            if self.data.num_workers
            else sliding_windows(*arguments)
        )
        for times, views, failure in _chunks(found, max(self.data.eval_batch_size // crops, 1)):
            if times:
                of_views, view_features = self.score(views.flatten(0, 1))
                spans += times
                scores.append(together(of_views.unflatten(0, (-1, crops)), self.module.ensemble))
                features.append(view_features)
            if failure and not spans:
                raise failure
            damage = f"read up to {spans[-1][1]:.1f} s: {failure.reason}" if failure else ""
        table = torch.cat(scores)
        return replace(
            self._prediction(path, table, torch.cat(features)),
            segments=segments(spans, table, self.labels.names),
            damage=damage,
        )

    @torch.inference_mode()
    def score(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 views (V, 3, T, S, S) to scores (V, K) and features (V, C), float32 on the CPU.

        ValueError: a score is not a number.
        """
        scores, features = [], []
        head: Any = self.module.model.head
        hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].float().cpu()))
        try:
            for chunk in views.split(self.data.eval_batch_size):
                with self.precision():
                    logits = self.module(chunk.to(self.device, non_blocking=True))
                scores.append(self.module.probabilities(logits).cpu())
        finally:
            hook.remove()
        if torch.cat(scores).isnan().any():
            raise ValueError(f"{self.source}: the model's scores are not numbers; its training has diverged")
        return torch.cat(scores), torch.cat(features)

    def _prediction(self, path: Path, view_scores: Tensor, features: Tensor) -> Prediction:
        notice = ""
        if is_image(path) and self.data.num_frames > 1:
            notice = f"a still image, shown {self.data.num_frames} times: the model takes videos and sees no motion"
        return Prediction(
            path=path,
            classes=self.labels.names,
            probabilities=together(view_scores, self.module.ensemble),
            view_scores=view_scores,
            embedding=features.mean(0),
            multi_label=self.module.multi_label,
            notice=notice,
        )


def _chunks(
    found: Iterator[Window], size: int
) -> Iterator[tuple[list[tuple[float, float]], Tensor, DecodeError | None]]:
    """Times and views (N, crops, 3, T, S, S) of at most `size` windows, the last with the error that ends them.

    The views lie in one buffer, which the next ones overwrite.
    """
    times: list[tuple[float, float]] = []
    buffer, failure = torch.empty(0, dtype=torch.uint8), None
    try:
        for window in found:
            if not len(buffer):
                buffer = buffer.new_empty((size, *window.views.shape))
            buffer[len(times)] = torch.from_numpy(window.views)
            times.append(window[:2])
            if len(times) == size:
                yield times, buffer, None
                times = []
    except DecodeError as error:
        failure = error
    if times or failure:
        yield times, buffer[: len(times)], failure


def together(view_scores: Tensor, ensemble: Ensemble) -> Tensor:
    """(..., V, K) to (..., K) float32, with the arithmetic of `ViewScores`, which knows no more than 2^13 views."""
    if ensemble == "max":
        return view_scores.amax(-2)
    return (on_grid(view_scores).sum(-2) / view_scores.shape[-2]).float()


def _module(cfg: Any, labels: Labels, *, multi_label: bool) -> VideoClassifier:
    model = build(cfg.model, num_classes=len(labels))
    return build(cfg.module, model=model, labels=labels, multi_label=multi_label, config=None)


def _labels_of(file: Path) -> Labels:
    """The classes of a file of weights, numbered from 0 where it does not name them."""
    weights = read_weights(file)
    if HEAD[0] not in weights.tensors:
        raise ValueError(f"weights: {file} has no classification layer, so it cannot say what a video shows")
    return Labels(weights.class_names or tuple(str(index) for index in range(len(weights.tensors[HEAD[0]]))))
