"""A trained model as one graph, from pixels to probabilities, and what it has to say about itself."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mvit_train import ops
from mvit_train.models import MViT

INPUT, OUTPUTS = "video", ("probabilities", "logits")


class Deployed(nn.Module):
    """A model with what training and evaluation put around it: pixels / 255, mean and std before it, softmax or, for
    videos of several labels, sigmoid behind it. It evaluates, in float32, and learns no more.

    Args:
        mean, std: per channel of RGB in [0, 1].
    """

    def __init__(self, model: MViT, *, mean: Sequence[float], std: Sequence[float], multi_label: bool) -> None:
        super().__init__()
        self.model, self.multi_label = model.float(), multi_label
        self.mean: Tensor
        self.std: Tensor
        axes = (3, *(1 for _ in model.input_size))
        self.register_buffer("mean", torch.tensor(mean).view(axes))
        self.register_buffer("std", torch.tensor(std).view(axes))
        self.eval().requires_grad_(False)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video: uint8 (B, 3, T, S, S), RGB, or images (B, 3, S, S). Returns probabilities and logits, (B, K) each."""
        logits = self.model((video.float() / 255 - self.mean) / self.std)
        return logits.sigmoid() if self.multi_label else logits.softmax(1), logits

    def random_clips(self, batch_size: int) -> Tensor:
        """Noise as an input, the same in every call."""
        generator = torch.Generator().manual_seed(batch_size)
        size = (batch_size, 3, *self.model.input_size)
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def trace(deployed: Deployed) -> ExportedProgram:
    """The graph for batches of any size. T and S stay those of the model, whose tables of positions have their length.

    The operations take their reference path: the fast ones are written for PyTorch on a CPU, and in onnxruntime their
    convolutions are slower.
    """
    clips = deployed.random_clips(2)  # sizes of 0 and 1 would become constants
    dynamic_shapes = {INPUT: {0: Dim("batch", min=1)}}
    with ops.force("reference"), torch.no_grad():
        program = torch.export.export(deployed, (clips,), dynamic_shapes=dynamic_shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would tell the paths of this machine
    program.example_inputs = None  # they would be written too
    return program


def describe(
    deployed: Deployed, *, labels: Mapping[str, Any], clip: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """What travels inside of the file, as plain values.

    labels: class names and their fingerprint. clip: how frames are chosen and scaled for a test. weights: where the
    weights come from.
    """
    model = deployed.model
    return {
        "version": _version(),
        "torch": torch.__version__,
        "input": {"name": INPUT, "type": "uint8, RGB", "shape": ["batch", 3, *model.input_size]},
        "outputs": {"probabilities": "sigmoid" if deployed.multi_label else "softmax", "logits": "float32"},
        "multi_label": deployed.multi_label,
        "class_names": None,
        **labels,
        "mean": [round(value, 7) for value in deployed.mean.flatten().tolist()],  # what float32 knows of them
        "std": [round(value, 7) for value in deployed.std.flatten().tolist()],
        "clip": dict(clip),
        "weights": dict(weights),
    }


def _version() -> str | None:
    try:
        return importlib.metadata.version("mvit_train")
    except importlib.metadata.PackageNotFoundError:
        return None
