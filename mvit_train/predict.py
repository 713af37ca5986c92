"""`task=predict`: what videos and images of your own show, as a table, JSON, CSV, or in the video.

In Python the same: `Predictor.load("runs/motion/a")("clip.mp4")`.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from mvit_train.data.stream import DecodeError
from mvit_train.data.views import Views
from mvit_train.prediction.attention import write_attention
from mvit_train.prediction.overlay import write_overlay
from mvit_train.prediction.predictor import THRESHOLD, Prediction, Predictor
from mvit_train.prediction.reading import upright_frames, watched
from mvit_train.prediction.sources import find_inputs, folder_of
from mvit_train.prediction.timeline import Segment
from mvit_train.prediction.writers import WRITERS
from mvit_train.predictions import replace_file

__all__ = ["Prediction", "Predictor", "Segment", "run"]


def run(cfg) -> int:
    """Predicts `input` with `ckpt` or `weights`. Returns 1 if a file could not be read to its end, else 0."""
    asked = cfg.input
    paths = find_inputs(Path(asked) if isinstance(asked, str) else [Path(entry) for entry in asked])
    overlays = overlay_paths(Path(cfg.overlay), paths, asked) if cfg.overlay else {}
    attention = overlay_paths(Path(cfg.attention), paths, asked, option="attention") if cfg.attention else {}
    predictor = Predictor.of(cfg)
    if predictor.note:
        print(predictor.note, file=sys.stderr)
    threshold = THRESHOLD if cfg.threshold is None else cfg.threshold
    failed: list[str] = []
    embeddings: dict[Path, np.ndarray] = {}

    def report(path: Path, reason: str) -> None:
        failed.append(str(path))
        print(f"mvit_train: {path}: {reason}", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:
        out = stack.enter_context(_open(Path(cfg.output))) if cfg.output else sys.stdout
        writer = WRITERS[cfg.format or "table"](
            out,
            files=paths,
            classes=predictor.labels.names,
            top_k=cfg.top_k,
            threshold=threshold,
            timeline=cfg.timeline,
        )
        for path, found in zip(paths, predictions(predictor, paths, cfg), strict=True):
            if isinstance(found, DecodeError):
                writer.fail(path, found.reason)
                report(path, found.reason)
                continue
            writer.add(found)
            embeddings[path] = found.embedding.numpy()
            problem = found.damage
            if found.notice:
                print(f"mvit_train: {path}: {found.notice}", file=sys.stderr, flush=True)
            if overlays:
                rows = found.top(cfg.top_k, threshold=threshold)
                problem = problem or draw(predictor, found, rows, overlays[path])
            if attention:
                problem = problem or draw_attention(predictor, path, cfg.views, attention[path])
            if problem:
                report(path, problem)
    if cfg.embeddings and embeddings:
        save_embeddings(Path(cfg.embeddings), embeddings)
    if failed:
        print(f"mvit_train: {len(failed)} of {len(paths)} files failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def predictions(predictor: Predictor, paths: Sequence[Path], cfg) -> Iterator[Prediction | DecodeError]:
    """The prediction of each file, in order; with `timeline` one file at a time is read, all of it."""
    if not cfg.timeline:
        yield from predictor.stream(paths, cfg.views)
        return
    for path in paths:
        try:
            yield predictor.timeline(path, crops=Views.parse(cfg.views).crops, hop_sec=cfg.hop_sec)
        except DecodeError as error:
            yield error


def overlay_paths(overlay: Path, paths: Sequence[Path], asked: object, *, option: str = "overlay") -> dict[Path, Path]:
    """Where the overlay of each file goes: to `overlay` itself if it is an .mp4, else below it under the file's name.

    ValueError: one .mp4 for several files, or an overlay would take the place of an input.
    """
    if overlay.suffix.lower() == ".mp4":
        if len(paths) > 1:
            raise ValueError(f"{option}: {overlay} is one file, but input={asked} are {len(paths)}; name a folder")
        targets = {paths[0]: overlay}
    else:
        root = folder_of(paths)
        names = {path: path.absolute().relative_to(root) for path in paths}
        targets = {
            path: overlay / (name if name.suffix == ".mp4" else name.with_name(f"{name.name}.mp4"))
            for path, name in names.items()
        }
    inputs = {path.resolve() for path in paths}
    if clash := next((target for target in targets.values() if target.resolve() in inputs), None):
        raise ValueError(f"{option}: {clash} is an input; choose another name or folder")
    return targets


def draw(predictor: Predictor, prediction: Prediction, rows: Sequence[tuple[str, float]], target: Path) -> str:
    """Writes the video with its answer. Returns what went wrong, "" if nothing."""
    data = predictor.data
    frames = (
        watched(upright_frames, prediction.path, timeout_sec=data.timeout_sec)
        if data.num_workers
        else upright_frames(prediction.path)
    )
    try:
        ended = write_overlay(target, frames, prediction, rows)
    except DecodeError as error:
        return f"no overlay: {error.reason}"
    return f"the overlay ends early: {ended}" if ended else ""


def draw_attention(predictor: Predictor, path: Path, views: str, target: Path) -> str:
    """Writes where the model looks. Returns what went wrong, "" if nothing."""
    try:
        write_attention(predictor.module, predictor.data, path, target, views=views)
    except DecodeError as error:
        return f"no attention: {error.reason}"
    return ""


def save_embeddings(target: Path, embeddings: dict[Path, np.ndarray]) -> None:
    """An npz file: `ids` (N,), the files as they were named, and `embeddings` (N, C) float32."""
    target.parent.mkdir(parents=True, exist_ok=True)
    ids, table = np.array([str(path) for path in embeddings]), np.stack(list(embeddings.values()))
    replace_file(target, lambda file: np.savez(file, ids=ids, embeddings=table))


def _open(target: Path) -> TextIO:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.open("w", encoding="utf-8", newline="")
