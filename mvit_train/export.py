"""`task=export`: writes weights (PySlowFast, torchvision, safetensors) or a graph (.pt2, ONNX)."""

import inspect
import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mvit_train.checkpoint import load_weights, read_checkpoint, resolve_checkpoint, saved_labels, weights_fingerprint
from mvit_train.config import build, to_dict
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.transforms import TestCrops
from mvit_train.exporting.check import check_equal, differences, median_ms, table, torch_threads
from mvit_train.exporting.files import GraphFormat, Runner, check_installed, load_graph, write_graph, written_whole
from mvit_train.exporting.program import Deployed, describe, trace
from mvit_train.labels import Labels
from mvit_train.models import MViT, load_pretrained, mvit_b, mvit_v2_s
from mvit_train.models.formats import from_ours
from mvit_train.models.layers import Pool
from mvit_train.models.weight_files import HEAD, METADATA, read_weights

WeightsFormat = Literal["slowfast", "torchvision", "safetensors"]
Format = WeightsFormat | GraphFormat

ENDINGS: dict[Format, str] = {
    "slowfast": "-slowfast.pyth",
    "torchvision": "-torchvision.pth",
    "safetensors": "-safetensors.safetensors",
    "pt2": ".pt2",
    "onnx": ".onnx",
}
TORCHVISION_BUILDERS = {"mvit_v1_b": mvit_b, "mvit_v2_s": mvit_v2_s}  # whose graphs are the same
TEST_FACTS = ("num_frames", "sampling_rate", "target_fps", "sampling", "count", "crop_size", "interpolation")


@dataclass(frozen=True)
class Source:
    """What is exported, and where it comes from.

    Args:
        class_names: None if a file of weights does not say.
        multi_label: whether the scores are of several labels per video, which only our checkpoints say.
        epoch: how often the data was seen; None for weights.
        folder: where the export goes if nothing is said.
    """

    model: MViT
    class_names: Sequence[str] | None
    multi_label: bool
    path: Path
    epoch: int | None
    folder: Path


def run(cfg) -> None:
    """Writes `ckpt`, or `weights` for the model of `cfg`, in `format`.

    Without `output` the file lies in the run's folder, or beside `weights`.
    """
    format: Format = cfg.format or "safetensors"
    if format == "pt2" or format == "onnx":
        check_installed(format)
    source = _of_checkpoint(cfg) if cfg.ckpt else _of_weights(cfg)
    output = Path(cfg.output) if cfg.output else source.folder / f"{source.path.stem}{ENDINGS[format]}"
    if output.exists() and output.samefile(source.path):
        raise ValueError(f"output: {output} is what the weights are read from")
    if format == "pt2" or format == "onnx":
        if output.suffix != ENDINGS[format]:
            raise ValueError(f"output: {output}: the name of a file in format={format} ends in {ENDINGS[format]}")
        model, module = source.model, cfg.module
        deployed = Deployed(model, mean=module.mean, std=module.std, multi_label=source.multi_label)
        weights = {"file": source.path.name, "fingerprint": weights_fingerprint(model.state_dict())}
        clip, epoch = sampling_facts(to_dict(cfg.data)), {"epoch": source.epoch}
        print(
            export_graph(deployed, output, format, class_names=source.class_names, clip=clip, weights=weights | epoch)
        )
    else:
        names, node = source.class_names, to_dict(cfg.model)
        print(export(source.model, output, format, class_names=names, epoch=source.epoch, node=node))


def sampling_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """How the data of a configuration chooses and scales the frames of a test, defaults included."""
    signature = inspect.signature(VideoDataModule).parameters
    facts = {name: data.get(name, signature[name].default) for name in TEST_FACTS}
    return {**facts, "short_side": TestCrops(facts["crop_size"], 1).short_side}


def export_graph(
    deployed: Deployed,
    output: Path,
    format: GraphFormat,
    *,
    class_names: Sequence[str] | None,
    clip: Mapping[str, Any],
    weights: Mapping[str, Any],
) -> str:
    """Writes the graph, whole or not at all, compares the file with the model, and returns what was found, with the
    time that a clip takes on one thread and on all.

    clip, weights: see `describe`. ValueError: the file does not give what the model gives.
    """
    start = time.perf_counter()
    labels = {} if class_names is None else label_entries(class_names)
    with written_whole(output) as part:
        program = trace(deployed)
        write_graph(program, part, format, describe(deployed, labels=labels, clip=clip, weights=weights))
        took = time.perf_counter() - start
        num_bytes = sum(file.stat().st_size for file in part.parent.iterdir())
        found = differences(deployed, load_graph(part, format, torch.get_num_threads()))
        check_equal(found, output.name)
        times = latencies(deployed, program, part, format)
    shape = ", ".join(map(str, ("batch", 3, *deployed.model.input_size)))
    num_classes, scores = len(deployed.model.get_parameter(HEAD[0])), "sigmoid" if deployed.multi_label else "softmax"
    return (
        f"{output}: {num_bytes / 1e6:.1f} MB, {_classes(class_names)}, in {took:.1f} s\n"
        f"  video: uint8 ({shape}), RGB -> probabilities ({scores}), logits: float32 (batch, {num_classes})\n"
        f"  against the model on random clips: {found}\n{table(times)}\n"
        "  docs/export.md: how it runs without this package"
    )


def latencies(
    deployed: Deployed, program: ExportedProgram, path: Path, format: GraphFormat
) -> dict[str, dict[int, float]]:
    """`median_ms` of one clip by what runs it and by the number of threads: one, and as many as torch uses here."""
    clip, milliseconds = deployed.random_clips(1), {}
    for num_threads in sorted({1, torch.get_num_threads()}):
        runners: dict[str, Runner] = {"eager": deployed, "torch.export": program.module()}
        if format == "onnx":
            runners["onnxruntime"] = load_graph(path, format, num_threads)
        with torch_threads(num_threads):
            for name, runner in runners.items():
                milliseconds.setdefault(name, {})[num_threads] = median_ms(runner, clip)
    return milliseconds


def export(
    model: MViT,
    output: Path,
    format: WeightsFormat,
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
        with written_whole(output) as part:
            torch.save(container, part)
        hint = (
            "PySlowFast: TEST.CHECKPOINT_FILE_PATH; to train on, TRAIN.CHECKPOINT_FILE_PATH and CHECKPOINT_EPOCH_RESET"
        )
    elif format == "torchvision":
        if reasons := torchvision_obstacles(model):
            raise ValueError(f"format=torchvision: torchvision's MViT cannot express this model: {'; '.join(reasons)}")
        with written_whole(output) as part:
            torch.save(_with_labels(from_ours(state, "torchvision"), labels), part)
        hint = _torchvision_hint(model, output)
    else:
        from safetensors.torch import save_file

        ours = json.dumps({**labels, "model": node})
        with written_whole(output) as part:
            save_file(state, part, metadata={"format": "pt", METADATA: ours})
        hint = f"safetensors.torch.load_file({str(output)!r}); the names are PySlowFast's"
    return f"{output}: {len(state)} tensors, {_classes(class_names)}\n  {hint}"


def label_entries(class_names: Sequence[str]) -> dict[str, Any]:
    """The class list as files carry it: with the fingerprint that betrays a later change of the names."""
    labels = Labels(tuple(class_names))
    return {"class_names": list(labels.names), "label_fingerprint": labels.fingerprint}


def _classes(class_names: Sequence[str] | None) -> str:
    return "no class names" if class_names is None else f"the names of {len(class_names)} classes"


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


def _of_checkpoint(cfg) -> Source:
    path = resolve_checkpoint(Path(cfg.ckpt))
    checkpoint = read_checkpoint(path)
    class_names = saved_labels(checkpoint, path).names
    model = build(cfg.model, num_classes=len(class_names))
    state = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    load_weights(model, {"state_dict": state}, path)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    multi_label = checkpoint["mvit_train"].get("multi_label", False)
    return Source(model, class_names, multi_label, path, checkpoint["epoch"], folder)


def _of_weights(cfg) -> Source:
    path = Path(cfg.weights)
    weights = read_weights(path)
    if HEAD[0] not in weights.tensors:
        raise ValueError(f"weights: {path} has no classification layer; only whole models are exported")
    model = build(cfg.model, num_classes=len(weights.tensors[HEAD[0]]))
    print(load_pretrained(model, path, strict="exact"))
    return Source(model, weights.class_names, False, path, None, path.parent)
