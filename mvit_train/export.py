"""`task=export`: writes weights as PySlowFast or torchvision reads them, or as safetensors."""

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mvit_train.checkpoint import read_checkpoint, resolve_checkpoint, saved_labels
from mvit_train.config import build, to_dict
from mvit_train.labels import Labels
from mvit_train.models import MViT, load_pretrained, mvit_b, mvit_v2_s
from mvit_train.models.formats import from_ours
from mvit_train.models.layers import Pool
from mvit_train.models.weight_files import HEAD, METADATA, read_weights

Format = Literal["slowfast", "torchvision", "safetensors"]

SUFFIXES: dict[Format, str] = {"slowfast": ".pyth", "torchvision": ".pth", "safetensors": ".safetensors"}
TORCHVISION_BUILDERS = {"mvit_v1_b": mvit_b, "mvit_v2_s": mvit_v2_s}  # whose graphs are the same


def run(cfg) -> None:
    """Writes the weights of `ckpt`, or of `weights` for the model of `cfg`, in `format`.

    Without `output` the file lies in the run's folder, or beside `weights`.
    """
    if cfg.ckpt:
        source = resolve_checkpoint(Path(cfg.ckpt))
        checkpoint = read_checkpoint(source)
        class_names, epoch = saved_labels(checkpoint, source).names, checkpoint["epoch"]
        model = build(cfg.model, num_classes=len(class_names))
        model.load_state_dict({name.removeprefix("model."): t for name, t in checkpoint["state_dict"].items()})
        folder = source.parent.parent if source.parent.name == "checkpoints" else source.parent
    else:
        source, epoch = Path(cfg.weights), None
        weights = read_weights(source)
        if HEAD[0] not in weights.tensors:
            raise ValueError(f"weights: {source} has no classification layer; only whole models are exported")
        model, class_names = build(cfg.model, num_classes=len(weights.tensors[HEAD[0]])), weights.class_names
        print(load_pretrained(model, source, strict="exact"))
        folder = source.parent
    format: Format = cfg.format or "safetensors"
    output = Path(cfg.output) if cfg.output else folder / f"{source.stem}-{format}{SUFFIXES[format]}"
    if output.exists() and output.samefile(source):
        raise ValueError(f"output: {output} is what the weights are read from")
    print(export(model, output, format, class_names=class_names, epoch=epoch, node=to_dict(cfg.model)))


def export(
    model: MViT,
    output: Path,
    format: Format,
    *,
    class_names: Sequence[str] | None,
    epoch: int | None = None,
    node: Mapping[str, Any] | None = None,
) -> str:
    """Writes the model's weights, whole or not at all, and returns what to tell: the file, and how it is read there.

    `load_pretrained` reads all three back, with the class names. epoch: how often the data was seen, for PySlowFast.
    node: the model as a node of a configuration, for safetensors. ValueError: torchvision has no such model.
    """
    labels = {} if class_names is None else label_entries(class_names)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if format == "slowfast":
        container: dict[str, Any] = {"model_state": state} | ({} if epoch is None else {"epoch": epoch})
        container |= labels
        _write(output, lambda part: torch.save(container, part))
        hint = (
            "PySlowFast: TEST.CHECKPOINT_FILE_PATH; to train on, TRAIN.CHECKPOINT_FILE_PATH and CHECKPOINT_EPOCH_RESET"
        )
    elif format == "torchvision":
        if reasons := torchvision_obstacles(model):
            raise ValueError(f"format=torchvision: torchvision's MViT cannot express this model: {'; '.join(reasons)}")
        _write(output, lambda part: torch.save(_with_labels(from_ours(state, "torchvision"), labels), part))
        hint = _torchvision_hint(model, output)
    else:
        from safetensors.torch import save_file

        ours = json.dumps({**labels, "model": node})
        _write(output, lambda part: save_file(state, part, metadata={"format": "pt", METADATA: ours}))
        hint = f"safetensors.torch.load_file({str(output)!r}); the names are PySlowFast's"
    classes = "no class names" if class_names is None else f"the names of {len(class_names)} classes"
    return f"{output}: {len(state)} tensors, {classes}\n  {hint}"


def label_entries(class_names: Sequence[str]) -> dict[str, Any]:
    """The class list as files carry it: with the fingerprint that betrays a later change of the names."""
    labels = Labels(tuple(class_names))
    return {"class_names": list(labels.names), "label_fingerprint": labels.fingerprint}


def torchvision_obstacles(model: MViT) -> list[str]:
    """What torchvision's MViT cannot express of this model, in words; empty if it can."""
    attention: Any = model.blocks[0].attn
    positions, relative = model.pos_embed_kind, attention.rel_pos_axes
    pools = {name: module.spec for name, module in model.named_modules() if isinstance(module, Pool)}
    whole_patches = all(n % s == 0 for n, s in zip(model.input_size, model.patch_embed.proj.stride, strict=True))
    obstacles = {
        "images for input": len(model.input_size) == 2,
        "no class token": model.cls_token is None,
        "the mean of its tokens before the head": model.mean_pooling,
        f"{positions} position embedding and relative positions in {list(relative) or 'no axis'}": (
            (positions, relative) not in (("separate", ""), ("none", "hwt"))
        ),
        "pooling by maximum or mean": any(
            spec.kind != "conv" for name, spec in pools.items() if not name.endswith("pool_skip")
        ),
        "a pooling kernel of even size": any(k % 2 == 0 for spec in pools.values() for k in spec.kernel),
        f"an input of {model.input_size} that is no multiple of the patch's stride": not whole_patches,
    }
    return [obstacle for obstacle, there in obstacles.items() if there]


def _torchvision_hint(model: MViT, output: Path) -> str:
    num_classes = len(model.get_parameter(HEAD[0]))
    for name, variant in TORCHVISION_BUILDERS.items():
        with torch.device("meta"):
            same = _graph(variant(num_classes=num_classes)) == _graph(model)
        if same:
            call = f"torchvision.models.video.{name}(num_classes={num_classes})"
            return f"{call}.load_state_dict(torch.load({str(output)!r}))"
    return "torchvision: an MViT with the block settings of this graph, docs/weights.md"


def _graph(model: MViT) -> tuple:
    """Equal for models that compute the same from the same weights."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    pools = [(name, module.spec) for name, module in model.named_modules() if isinstance(module, Pool)]
    attention: Any = model.blocks[0].attn
    return model.input_size, shapes, pools, attention.num_heads, attention.residual_pooling


def _with_labels(state: Mapping[str, Tensor], labels: Mapping[str, Any]) -> OrderedDict:
    """A bare state dict; the classes ride on it as PyTorch's own metadata do, which `load_state_dict` leaves alone."""
    bare: Any = OrderedDict(state)
    bare._metadata = OrderedDict({METADATA: dict(labels)})
    return bare


def _write(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
