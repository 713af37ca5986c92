"""Run folders and checkpoints: where a run lives, what is written, and how it is read back."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from mvit_train.labels import Labels, fingerprint

log = logging.getLogger(__name__)

RUN_ID_VARIABLE = "MVIT_TRAIN_RUN_ID"


class DiskFullError(OSError):
    """A checkpoint found no room; what was there before is intact."""


def run_folder(runs: Path, name: str, run_id: str | None) -> Path:
    """`runs/<name>/<run id>`; the id is, in this order: given, the Slurm job's (requeues keep it), or the time.

    The id is left in the environment, so that the processes Lightning starts for further devices use the same folder.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    slurm_id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
    run_id = run_id or os.environ.get(RUN_ID_VARIABLE) or slurm_id or time.strftime("%Y%m%d-%H%M%S")
    os.environ[RUN_ID_VARIABLE] = run_id
    return runs / name / run_id


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the final name, syncs, renames: a reader or a crash never meets half a checkpoint.

    Reads with `weights_only=True`: a checkpoint cannot run code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch's writer raises a RuntimeError in place of the file's OSError
            part.unlink(missing_ok=True)
            if not {getattr(e, "errno", None) for e in (error, error.__context__)} & {errno.ENOSPC, errno.EDQUOT}:
                raise
            free, needed = shutil.disk_usage(path.parent).free, num_bytes(checkpoint)
            raise DiskFullError(
                f"no room for the checkpoint {path}: its tensors alone are {needed} bytes, {free} are free there. What "
                "was saved before is intact; make room, and the same command goes on"
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> dict:
        return read_checkpoint(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


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
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except OSError as error:
        raise ValueError(f"ckpt: {path} cannot be read: {error}") from error
    except Exception as error:  # torch reports damage with many types (RuntimeError, UnpicklingError, EOFError, ...)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"ckpt: {path} is no complete checkpoint of weights: {reason}") from error
    if not isinstance(checkpoint, dict) or "mvit_train" not in checkpoint:
        raise ValueError(f"ckpt: {path} was not written by mvit_train (it has no `mvit_train` entry)")
    return checkpoint


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, whatever its kind; `last.ckpt` among equals. None: there is none.

    Others are left out with a warning. Of each only the structure is read, not the weights.
    """
    found = []
    for file in folder.glob("*.ckpt"):
        try:
            step = read_checkpoint(file, mmap=True)["global_step"]
        except (ValueError, KeyError) as error:
            log.warning("%s; it is left out", error)
        else:
            found.append((step, file.name == "last.ckpt", file.name.startswith("step_"), file))
    return max(found)[-1] if found else None


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
    return Labels.stored(ours["class_names"], ours.get("label_fingerprint"), f"ckpt: {path}")


def weights_fingerprint(state_dict: dict[str, torch.Tensor]) -> str:
    """Identifies weights by name, shape and value."""
    return fingerprint(
        f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r} {tensor.double().abs().sum().item()!r}"
        for name, tensor in sorted(state_dict.items())
    )
