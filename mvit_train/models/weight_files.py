"""Files of weights: what is in them, under our names, with their classes. Nothing in a file is ever run."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mvit_train.labels import Labels
from mvit_train.models.formats import to_ours
from mvit_train.torch_file import read_torch_file

HEAD = ("head.projection.weight", "head.projection.bias")
METADATA = "mvit_train"  # our entry in a checkpoint, in safetensors, and in a state dict's `_metadata`


@dataclass(frozen=True)
class Weights:
    """The content of a file.

    Args:
        kind: who named its parameters, `formats.Kind`, or "mvit_train".
        tensors: under our names.
        class_names: in the order of the scores; None if the file does not say.
    """

    kind: str
    tensors: dict[str, Tensor]
    class_names: tuple[str, ...] | None


def read_weights(path: Path) -> Weights:
    """Reads the files of PySlowFast, facebookresearch/mvit, PyTorchVideo, torchvision and ourselves, and safetensors.

    Raises ValueError for a file that is damaged, holds code, or has the parameters of something else.
    """
    container = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    tensors, metadata = _tensors_in(container, path)
    try:
        kind, ours = to_ours(tensors)
    except ValueError as error:
        raise ValueError(f"weights: {path}: {error}") from error
    names = _class_names(container, metadata, path)
    if names is None and kind != "facebookresearch/mvit" and _is_kinetics_400(ours):
        names = KINETICS_400
    num_rows = len(ours[HEAD[0]]) if HEAD[0] in ours else None
    if names is not None and num_rows not in (None, len(names)):
        raise ValueError(f"weights: {path} names {len(names)} classes, but its head has {num_rows}")
    return Weights("mvit_train" if METADATA in container else kind, ours, names)


def read_kinetics_400() -> tuple[str, ...]:
    """The class order of every published Kinetics-400 file read here: alphabetical, as torchvision lists it."""
    return tuple(Path(__file__).with_name("kinetics400.txt").read_text(encoding="utf-8").splitlines())


KINETICS_400 = read_kinetics_400()


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        ours = {METADATA: json.loads(metadata[METADATA])} if METADATA in metadata else {}
        return {"state_dict": tensors, **ours}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"weights: {path} is no complete safetensors file: {error}") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        container = read_torch_file(path)
    except OSError as error:
        raise ValueError(f"weights: {path} cannot be read: {error}") from error
    except Exception as error:  # torch reports damage with many types (RuntimeError, UnpicklingError, KeyError, ...)
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"weights: {path} holds more than tensors and plain values ({code[1]}), which could run code when it "
                "is read; it is refused. A file you trust can be converted: "
                "torch.save({'model_state': torch.load(FILE, weights_only=False)['model_state']}, NEW)"
            ) from error
        reason = f": {error}" if isinstance(error, ValueError) else ""
        raise ValueError(f"weights: {path} is no complete file of weights that torch can read{reason}") from error
    if not isinstance(container, dict):
        raise ValueError(f"weights: {path} holds a {type(container).__name__}, not a state dict")
    return container


def _tensors_in(container: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of a container, or the container itself, and the metadata that PyTorch keeps on it."""
    state = next((container[key] for key in ("model_state", "state_dict", "model") if key in container), container)
    if not isinstance(state, Mapping):
        raise ValueError(f"weights: {path} holds a {type(state).__name__} where its weights should be")
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return tensors, dict(getattr(state, "_metadata", {}))


def _class_names(container: Mapping, metadata: Mapping, path: Path) -> tuple[str, ...] | None:
    """The file's class names. ValueError: they are no list, or not the one their fingerprint was made from."""
    ours = container.get(METADATA) or metadata.get(METADATA) or {}
    source = container if container.get("class_names") else ours if isinstance(ours, Mapping) else {}
    names = source.get("class_names")
    if names is None:
        return None
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"weights: {path} has class_names that are no list of text")
    return Labels.stored(names, source.get("label_fingerprint"), f"weights: {path}").names


def _is_kinetics_400(tensors: Mapping[str, Tensor]) -> bool:
    stem, head = tensors.get("patch_embed.proj.weight"), tensors.get(HEAD[0])
    return stem is not None and stem.ndim == 5 and head is not None and len(head) == len(KINETICS_400)
