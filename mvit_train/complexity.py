"""`task=complexity`: parameters, multiply-adds, tokens and training memory, beside the papers' numbers.

Nothing is computed and no weights are allocated: fvcore counts a trace on the meta device. A multiply-add is one flop,
as in the papers, and as fvcore counts LayerNorm is 5 per element; softmax, GELU, additions and max pooling are free.
Attention takes the explicit path (`ops.force`), and for other models its fused form has a handler here, since fvcore
itself counts it as nothing.
"""

import json
import math
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import (
    addmm_flop_jit,
    bmm_flop_jit,
    conv_flop_jit,
    einsum_flop_jit,
    get_shape,
    linear_flop_jit,
    matmul_flop_jit,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mvit_train import ops
from mvit_train.config import build, to_dict
from mvit_train.memory import Memory, training_memory
from mvit_train.models import VARIANTS, MViT
from mvit_train.models.attention import Block
from mvit_train.papers.variants import Published, published

ACTIVATIONS = "activations"  # under this name the handlers report what is no flop
# Arguments with which a variant is still the one that the paper counted.
FREE = {"_target_", "num_frames", "crop_size", "drop_path_rate", "dropout", "activation_checkpointing", "stem_init"}


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """Of one view through a model.

    Args:
        gflops: 1e9 multiply-adds and LayerNorm, as the papers count; gmacs: multiply-adds alone.
        by_operation: gflops by operation.
        activations: elements that convolutions, linear layers and matrix products put out (fvcore's count).
        tokens: of each stage, the class token included.
        memory: of a training step in bf16; see `mvit_train.memory`.
    """

    name: str
    input_size: tuple[int, ...]
    num_classes: int
    params: int
    gflops: float
    gmacs: float
    by_operation: dict[str, float]
    activations: int
    tokens: tuple[int, ...]
    memory: Memory
    published: Published | None


def run(cfg) -> None:
    """Counts the model of `cfg`, or all variants with what=all; prints a table and writes it as JSON too."""
    start = time.perf_counter()
    if cfg.what == "all":
        rows = [complexity(variant, variant.__name__) for variant in VARIANTS]
    else:
        node = to_dict(cfg.model)
        name = node["_target_"].rpartition(".")[2]
        rows = [complexity(lambda: build(cfg.model), name, compare=set(node) <= FREE)]
    print(table(rows))
    file = Path(cfg.runs) / "complexity" / f"{'all' if cfg.what == 'all' else cfg.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    found = [asdict(row) | {"differences": differences(row)} for row in rows]
    file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"\n{time.perf_counter() - start:.0f} s on the meta device; {file}")


def complexity(make: Callable[[], MViT], name: str, *, compare: bool = True) -> Complexity:
    """Everything about the model that `make` builds. compare: look for the paper's row of the variant `name`."""
    with torch.device("meta"):
        model = make()
    counts = operations(model.eval())
    activations = int(counts.pop(ACTIVATIONS))
    return Complexity(
        name=name,
        input_size=model.input_size,
        num_classes=len(model.head.get_submodule("projection").get_parameter("weight")),
        params=sum(parameter.numel() for parameter in model.parameters()),
        gflops=sum(counts.values()) / 1e9,
        gmacs=sum(flops for operation, flops in counts.items() if operation != "layer_norm") / 1e9,
        by_operation={operation: flops / 1e9 for operation, flops in counts.items()},
        activations=activations,
        tokens=tuple(dict.fromkeys(_tokens(model))),
        memory=training_memory(model.train()),
        published=published(name, model.input_size) if compare else None,
    )


def operations(model: MViT) -> Counter[str]:
    """The flops of one view by operation, as the official code would have them, and ACTIVATIONS."""
    with ops.force("reference"):
        image = torch.empty(1, 3, *model.input_size, device="meta")
        counts = count(model, image, {"aten::matmul": _attention_products})
    if model.cls_token is not None and not model.mean_pooling:  # the official code normalises all, we the class token
        counts["layer_norm"] += 5 * (_tokens(model)[-1] - 1) * model.norm.normalized_shape[0]
    return counts


def _tokens(model: MViT) -> list[int]:
    """After each block, the class token included."""
    grids = [block.attn.thw_out for block in model.blocks if isinstance(block, Block)]
    return [math.prod(grid) + int(model.cls_token is not None) for grid in grids]


def count(model: nn.Module, inputs: Tensor, handlers: dict[str, Callable] | None = None) -> Counter[str]:
    """fvcore's flops by operation, and under ACTIVATIONS its activations, of a model on any device, "meta" too.

    handlers: others than HANDLERS, by the name of the traced operation.
    """
    analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle(**(HANDLERS | (handlers or {})))
    with torch.no_grad(), _TracedConvolutions():
        return analysis.by_operator()


def _counted(operation: str, flops: Callable) -> Callable:
    """A handler that reports flops, and what comes out as activations: one trace serves for both."""

    def handler(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        found = flops(inputs, outputs)
        number = sum(found.values()) if isinstance(found, Counter) else found
        return Counter({operation: number, ACTIVATIONS: math.prod(get_shape(outputs[0]) or [])})

    return handler


def _fused_attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Two matrix products, queries x keys and weights x values."""
    q, k, v = (get_shape(value) or [] for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


# All that fvcore's ActivationCountAnalysis counts, and fused attention; LayerNorm and others stay fvcore's.
HANDLERS: dict[str, Callable] = {
    "aten::_convolution": _counted("conv", conv_flop_jit),
    "aten::addmm": _counted("addmm", addmm_flop_jit),
    "aten::bmm": _counted("bmm", bmm_flop_jit),
    "aten::einsum": _counted("einsum", einsum_flop_jit),
    "aten::linear": _counted("linear", linear_flop_jit),
    "aten::matmul": _counted("matmul", matmul_flop_jit),
    "aten::scaled_dot_product_attention": _counted("attention", _fused_attention),
}


def _attention_products(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Those of queries, keys and values. Our product with a one-hot matrix, the only one whose right side has two axes,
    places the relative positions; the official code adds slices instead, which costs no multiply-add."""
    placing = len(get_shape(inputs[1]) or []) == 2
    return Counter() if placing else HANDLERS["aten::matmul"](inputs, outputs)


class _TracedConvolutions(TorchFunctionMode):
    """On the meta device a convolution leaves nothing in a trace; the call that it makes on other devices does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return _convolution(*args, **kwargs) if func in (torch.conv2d, torch.conv3d) else func(*args, **kwargs)


def _convolution(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    n = weight.ndim - 2
    stride, padding, dilation = ([v] * n if isinstance(v, int) else list(v) for v in (stride, padding, dilation))
    return torch.ops.aten._convolution(
        x, weight, bias, stride, padding, dilation, False, [0] * n, groups, False, False, True, True
    )


def differences(row: Complexity) -> dict[str, float | None]:
    """Ours less the other number, in its unit; None where there is none, or where it is unresolved."""
    paper = row.published
    if paper is None:
        return {}
    params, gflops = paper.official_params, paper.official_gflops
    return {
        "official_params": None if params is None else row.params - params,
        "official_gflops": None if gflops is None else row.gflops - gflops,
        "params_m": None if "params" in paper.open else row.params / 1e6 - paper.params_m,
        "gflops": None if "gflops" in paper.open else row.gflops - paper.gflops,
    }


HEADER = (
    *("model", "input", "params, M", "-official", "paper", "-paper", "G", "-official", "paper", "-paper"),
    *("MAC, G", "act., M", "MB/clip", "MB state", "tokens per stage"),
)
LEGEND = """\
G: 1e9 multiply-adds, 5 per element of LayerNorm added, as the papers count; MAC: without LayerNorm. act.: elements out
of convolutions, linear layers and matrix products. -official, -paper: ours less what the official code was measured to
have, and less what the paper prints. MB/clip: what a training step in bf16 keeps for the backward pass, predicted (what
that covers: mvit_train/memory.py); MB state: weights, gradients and AdamW's moments, 16 bytes per parameter. Heads are
the variants' own, of 400 classes, or 1000 for images."""


def table(rows: Sequence[Complexity]) -> str:
    """One line per model; below, why some numbers differ from the papers', and what is unresolved."""
    lines = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = (0, len(HEADER) - 1)
    aligned = [
        "  ".join(
            f"{cell:{'<' if i in left else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    notes = []
    for row in rows:
        paper = row.published
        if paper is None:
            notes.append(f"{row.name}: the papers have no row for it with this input and these arguments")
        elif paper.note:
            notes.append(f"{row.name}: {paper.note} ({paper.source})")
        if paper and paper.unresolved:
            notes.append(f"{row.name}, unresolved: {paper.unresolved} ({paper.source})")
    wrapped = [textwrap.fill(note, 118, subsequent_indent="  ") for note in notes]
    return "\n".join([*(line.rstrip() for line in aligned), "", LEGEND, *wrapped])


def _cells(row: Complexity) -> tuple[str, ...]:
    paper, less = row.published, differences(row)

    def signed(key: str, form: str) -> str:
        value = less.get(key)
        unresolved = paper is not None and key in ("params_m", "gflops")
        return format(value, form) if value is not None else "unresolved" if unresolved else "-"

    return (
        row.name,
        "x".join(map(str, row.input_size)),
        f"{row.params / 1e6:.2f}",
        signed("official_params", "+d"),
        f"{paper.params_m:g}" if paper else "-",
        signed("params_m", "+.2f"),
        f"{row.gflops:.2f}",
        signed("official_gflops", "+z.2f"),
        f"{paper.gflops:g}" if paper else "-",
        signed("gflops", "+z.2f"),
        f"{row.gmacs:.2f}",
        f"{row.activations / 1e6:.1f}",
        f"{row.memory.per_clip / 1e6:.0f}",
        f"{row.memory.state / 1e6:.0f}",
        "/".join(map(str, row.tokens)),
    )
