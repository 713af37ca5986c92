"""The classes of a checkpoint and those of the data: counted in one order, or refused with the reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvit_train.checkpoint import saved_labels
from mvit_train.data.datamodule import VideoDataModule


def follow(data: VideoDataModule, checkpoint: Mapping[str, Any], path: Path, *, resume: bool) -> str | None:
    """Makes the data count its classes as the checkpoint does, before anything is built from them.

    The same classes in another order are taken in the checkpoint's. An evaluation may have fewer of them; its videos
    are then scored among all the checkpoint's classes, so that the number stays comparable. A run that goes on may not.

    Returns what was done, in a sentence; None where there was nothing to do.

    Raises:
        ValueError: the classes do not fit, or one of the two has several classes a video and the other one.
    """
    theirs = saved_labels(checkpoint, path)
    comparison = data.labels.compare(theirs, mine="the data", its="the checkpoint")
    _check_kind(data, checkpoint["mvit_train"].get("multi_label", False), path)
    if comparison.kind == "same":
        return None
    if comparison.kind == "permuted":
        data.use_labels(theirs)
        return f"{comparison.sentence}: they are taken in the checkpoint's"
    if comparison.kind == "subset" and not resume:
        data.use_labels(theirs)
        return f"{comparison.sentence}: scored among all {len(theirs)}"
    if resume:
        raise ValueError(
            f"ckpt: {path}: {comparison.sentence}. A run goes on with the classes it began with; to start a new one "
            f"from these weights, give another run_id and weights={path} in place of ckpt"
        )
    raise ValueError(f"ckpt: {path}: {comparison.sentence}. A model scores only the classes it was trained on")


def _check_kind(data: VideoDataModule, multi_label: bool, path: Path) -> None:
    if data.multi_label == multi_label:
        return
    words = {True: "any number of classes a video (sigmoid scores)", False: "one class a video (softmax scores)"}
    raise ValueError(f"ckpt: {path} was trained on {words[multi_label]}, the data has {words[data.multi_label]}")
