"""Run folders and checkpoints: where a run lives, what is written, and how it is read back."""

import contextlib
import errno
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from mvit_train.labels import Labels, fingerprint
from mvit_train.torch_file import read_torch_file

log = logging.getLogger(__name__)

RUN_ID_VARIABLE = "MVIT_TRAIN_RUN_ID"


class SaveError(OSError):
    """A checkpoint could not be written; what was there before is intact."""


class DiskFullError(SaveError):
    """There was no room for it."""


def run_folder(runs: Path, name: str, run_id: str | None) -> Path:
    """`runs/<name>/<run id>`; the id is, in this order: given, the Slurm job's (requeues keep it), or the time.

    The id is left in the environment, so that the processes Lightning starts for further devices use the same folder.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    slurm_id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
    run_id = run_id or os.environ.get(RUN_ID_VARIABLE) or slurm_id
    if run_id is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("run_id is not set, but these processes were started separately: give all of them the same")
    run_id = run_id or time.strftime("%Y%m%d-%H%M%S")
    os.environ[RUN_ID_VARIABLE] = run_id
    return runs / name / run_id


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the final name, syncs, renames: a reader or a crash never meets half a checkpoint.

    Reads with `weights_only=True`: a checkpoint cannot run code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(exist_ok=True)  # in a run folder that is there
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch's writer raises a RuntimeError in place of the file's OSError
            with contextlib.suppress(OSError):
                part.unlink()  # which makes room
            if (told := save_error(path, checkpoint, error)) is None:
                raise
            raise told from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> dict:
        return read_checkpoint(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def save_error(path: Path, checkpoint: dict[str, Any], error: Exception) -> SaveError | None:
    """What to tell the user about a failed save; None for an error that is not the file system's."""
    causes = [cause for cause in (error, error.__context__) if isinstance(cause, OSError)]
    found = {cause.errno for cause in causes if cause.errno is not None}
    intact = "What was saved before is intact"
    if found & {errno.ENOSPC, errno.EDQUOT}:
        there = path.parent if path.parent.is_dir() else path.parent.parent
        free, needed = shutil.disk_usage(there).free, num_bytes(checkpoint)
        return DiskFullError(
            f"no room for the checkpoint {path}: its tensors alone are {needed} bytes, {free} are free there. "
            f"{intact}; make room, and the same command goes on"
        )
    if errno.ENOENT in found:
        return SaveError(f"{path.parent} is gone, with all that was saved there; the same command begins anew")
    if not found:
        return None
    return SaveError(f"the checkpoint {path} cannot be written: {os.strerror(found.pop())}. {intact}")


def resolve_checkpoint(path: Path) -> Path:
    """The file itself, or of a run folder its best checkpoint, or its last where no validation has run."""
    candidates = [path] if path.is_file() else [path / "checkpoints" / f"{kind}.ckpt" for kind in ("best", "last")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ValueError(f"ckpt: {path} is neither a checkpoint file nor a run folder with checkpoints/best.ckpt")


def read_checkpoint(path: Path, map_location: Any = "cpu", *, mmap: bool = False) -> dict[str, Any]:
    """Reads one of our checkpoints; with `mmap` tensors are read when they are used.

    Raises ValueError for a file that is damaged, foreign or holds code.
    """
    try:
        if not mmap:
            check_sums(path)
        checkpoint = read_torch_file(path, map_location=map_location, mmap=mmap)
    except OSError as error:
        raise ValueError(f"ckpt: {path} cannot be read: {error}") from error
    except Exception as error:  # torch reports damage with many types (RuntimeError, UnpicklingError, EOFError, ...)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"ckpt: {path} is no complete checkpoint of weights: {reason}") from error
    if not isinstance(checkpoint, dict) or "mvit_train" not in checkpoint:
        raise ValueError(f"ckpt: {path} was not written by mvit_train (it has no `mvit_train` entry)")
    _refuse_malformed(checkpoint, path)
    return checkpoint


def _refuse_malformed(checkpoint: dict[str, Any], path: Path) -> None:
    """ValueError where an entry is not of the kind that the readers of a checkpoint count on."""
    ours = checkpoint["mvit_train"] if isinstance(checkpoint["mvit_train"], dict) else {}
    state, names = checkpoint.get("state_dict", {}), ours.get("class_names", [])
    good = {
        "mvit_train": bool(ours) and isinstance(ours.get("config", {}), dict | None),
        "global_step": isinstance(checkpoint.get("global_step", 0), int),
        "class_names": isinstance(names, list) and all(isinstance(name, str) for name in names),
        "state_dict": isinstance(state, dict)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()),
        "unreadable": isinstance(ours.get("unreadable", {}), dict),
        "label_fingerprint": isinstance(ours.get("label_fingerprint", ""), str | None),
    }
    if wrong := [name for name, is_good in good.items() if not is_good]:
        raise ValueError(f"ckpt: {path} is malformed: what it has as {wrong[0]} is not what mvit_train writes there")


def saved_config(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The configuration of the run that wrote a checkpoint. ValueError: it has none."""
    if not (config := checkpoint["mvit_train"].get("config")):
        raise ValueError(f"ckpt: {path} has no configuration")
    return config


def load_weights(module: torch.nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """The checkpoint's weights into the module. ValueError: they do not fit."""
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines()[:3]]
        raise ValueError(f"ckpt: {path} does not fit the model of its configuration: {' '.join(lines)}") from error


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, whatever its kind; `last.ckpt` among equals. None: there is none.

    Others are left out with a warning. All of the newest is read, of others only the structure.
    """
    found = []
    for file in folder.glob("*.ckpt"):
        try:
            step = read_checkpoint(file, mmap=True)["global_step"]
        except (ValueError, KeyError) as error:
            log.warning("%s; it is left out", error)
        else:
            found.append((step, file.name == "last.ckpt", file.name.startswith("step_"), file))
    for *_, file in sorted(found, reverse=True):
        try:
            check_sums(file)
        except (ValueError, OSError) as error:
            log.warning("ckpt: %s: %s; it is left out", file, error)
        else:
            return file
    return None


def check_sums(path: Path) -> None:
    """ValueError where the content of a file is not what was written: torch does not look at its checksums."""
    if zipfile.is_zipfile(path):  # what is none is no checkpoint, as torch will say
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():
                raise ValueError(f"its part {damaged} is damaged, the checksum differs")


def num_bytes(content: Any) -> int:
    """What the tensors in nested containers take."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, Mapping):
        return sum(map(num_bytes, content.values()))
    return sum(map(num_bytes, content)) if isinstance(content, list | tuple) else 0


def saved_labels(checkpoint: Mapping[str, Any], path: Path) -> Labels:
    """The classes that a checkpoint scores. ValueError: the list is not the one its fingerprint was made from."""
    ours = checkpoint["mvit_train"]
    if not ours.get("class_names"):
        raise ValueError(f"ckpt: {path} names no classes")
    return Labels.stored(ours["class_names"], ours.get("label_fingerprint"), f"ckpt: {path}")


def weights_fingerprint(state_dict: dict[str, torch.Tensor]) -> str:
    """Identifies weights by name, shape and value."""
    return fingerprint(
        f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r} {tensor.double().abs().sum().item()!r}"
        for name, tensor in sorted(state_dict.items())
    )
