"""`task=benchmark what=kernels`: each operation with a kernel, or near to one, at shapes of MViT-B and MViTv2-S.

Backends take turns, as in `task=benchmark`. Those that this machine has not, Triton's on a CPU above all, are left out
and said so. Before an operation is timed its backends must agree with the first one.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from mvit_train import ops
from mvit_train.benchmarks.timing import take_turns
from mvit_train.ops.attention import attend
from mvit_train.ops.pooling import pool_norm, pool_output

HEAD_DIM = 96
TOLERANCE = 0.03  # of the largest value, in 16 bits

POOLINGS = [  # grid, heads, stride; docs: the five pooling shapes of a forward pass
    ((8, 56, 56), 1, (1, 8, 8)),
    ((8, 56, 56), 1, (1, 1, 1)),
    ((8, 28, 28), 4, (1, 2, 2)),
    ((8, 14, 14), 4, (1, 2, 2)),
    ((8, 14, 14), 4, (1, 1, 1)),
]
ATTENTIONS = [  # queries, keys, heads, columns of the relative term in MViTv2; each with and without that term
    (25089, 393, 1, 22),
    (6273, 1569, 2, 36),
    (1569, 393, 4, 22),
    (393, 1569, 8, 36),
]
JOINS = [(25089, 96), (6273, 192), (1569, 384), (393, 768)]  # tokens, channels

Pass = Literal["forward", "both"]
Tensors = list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation on one shape.

    Args:
        inputs: new random tensors; those of them that need a gradient say so.
        backends: the ways to compute it, the reference first.
        megabytes, gflop: 1e6 bytes that a forward pass reads and writes at least, and 1e9 operations, 2 per
            multiply-add; both passes count three times that.
    """

    name: str
    inputs: Callable[[], Tensors]
    backends: dict[str, Callable[..., Any]]
    megabytes: float
    gflop: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One backend on one shape. seconds: median over the rounds, on a CPU processor seconds; speed: the reference's
    time over its own, median, least and most."""

    case: str
    passes: Pass
    backend: str
    seconds: float
    speed: tuple[float, float, float]
    gb_per_sec: float
    tflop_per_sec: float


def run(settings: Any, device: torch.device, context: dict[str, str], file: Path) -> None:
    """Measures, prints and writes; of `settings`, a `Benchmark`: batch_sizes, precisions, rounds and compile."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    notes = [] if device.type == "cuda" else ["triton: absent, it needs an NVIDIA GPU: not measured"]
    print("\n".join(f"{name}: {value}" for name, value in context.items()), flush=True)
    print("", FORM.format("case", "passes", "backend", "ms", "speed", "range", "GB/s", "TFLOP/s"), sep="\n", flush=True)
    rows: list[Row] = []
    for precision in settings.precisions:
        for batch_size in settings.batch_sizes:
            for case in cases(batch_size, dtypes[precision], device, compiled="compiled" in settings.compile):
                check_equal(case)
                for row in measure(case, settings.rounds, device):
                    rows.append(row)
                    print(line(row), flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"context": context, "settings": asdict(settings), "notes": notes, "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(["", *notes, str(file)]))


def measure(case: Case, rounds: int, device: torch.device) -> Iterator[Row]:
    """A row for each backend, forward, and forward with backward."""
    inputs = case.inputs()
    for passes in ("forward", "both"):
        steps = {name: step(function, inputs, passes) for name, function in case.backends.items()}
        times = take_turns(steps, rounds, device)
        factor = 3 if passes == "both" else 1
        for backend, seconds in times.items():
            ratios = [base / own for base, own in zip(next(iter(times.values())), seconds, strict=True)]
            yield Row(
                case=case.name,
                passes=passes,
                backend=backend,
                seconds=median(seconds),
                speed=(median(ratios), min(ratios), max(ratios)),
                gb_per_sec=factor * case.megabytes / 1e3 / median(seconds),
                tflop_per_sec=factor * case.gflop / 1e3 / median(seconds),
            )


def step(function: Callable[..., Any], inputs: Tensors, passes: Pass) -> Callable[[], None]:
    """One run of `function`; "both": with the gradients of all inputs that need one, dropped afterwards."""

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    def both() -> None:
        out = function(*inputs)
        out = out if isinstance(out, tuple) else (out,)
        torch.autograd.backward(out, [torch.ones_like(x) for x in out])
        for x in inputs:
            x.grad = None

    return forward if passes == "forward" else both


def check_equal(case: Case) -> None:
    """Raises ValueError where a backend's output is not the reference's."""
    inputs = case.inputs()
    with torch.no_grad():
        outputs = {name: function(*inputs) for name, function in case.backends.items()}
    expected, *others = [(out[-1] if isinstance(out, tuple) else out).float() for out in outputs.values()]
    for name, found in zip(list(outputs)[1:], others, strict=True):
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{case.name}: {name} differs by {difference:.1e} of the largest value from the reference, more than "
                f"{TOLERANCE:g}; nothing was timed"
            )


def cases(batch_size: int, dtype: torch.dtype, device: torch.device, *, compiled: bool) -> Iterator[Case]:
    """All shapes; compiled: with the reference by torch.compile as a backend."""
    make: dict[str, Any] = dict(batch_size=batch_size, dtype=dtype, device=device)
    for shape in POOLINGS:
        yield with_backends(pooling(*shape, **make), device, compiled, kernel=True)
    for queries, keys, heads, columns in ATTENTIONS:
        for p in (0, columns):
            yield with_backends(attention(queries, keys, heads, p, **make), device, compiled, kernel=True)
    for tokens, channels in JOINS:
        yield with_backends(join(tokens, channels, **make), device, compiled, kernel=False)


def with_backends(case: Case, device: torch.device, compiled: bool, *, kernel: bool) -> Case:
    """The case with the backends that are here, made of its only one. kernel: whether it has paths besides."""
    (function,) = case.backends.values()
    paths: list[ops.Implementation] = ["reference", *(["fast"] if kernel else [])]
    if kernel and device.type == "cuda" and ops.KERNELS:
        paths.append("triton")
    backends = {path: forced(function, path) for path in paths}
    if compiled:
        backends["compiled"] = torch.compile(forced(function, "reference"), fullgraph=True, dynamic=False)
    return Case(**{**vars(case), "backends": backends})


def forced(function: Callable[..., Any], path: ops.Implementation) -> Callable[..., Any]:
    def run_forced(*inputs: Tensor) -> Any:
        with ops.force(path):
            return function(*inputs)

    return run_forced


def pooling(thw: Any, heads: int, stride: Any, *, batch_size: int, dtype: torch.dtype, device: torch.device) -> Case:
    """One of q, k and v out of the packed projection, with a class token."""
    tokens = 1 + thw[0] * thw[1] * thw[2]
    t, h, w = pool_output(thw, (3, 3, 3), stride)

    def inputs() -> Tensors:
        packed = torch.randn(batch_size, tokens, 3 * heads * HEAD_DIM, device=device, dtype=dtype)
        part = packed.chunk(3, -1)[1].requires_grad_()
        weights = [torch.randn(HEAD_DIM, 1, 3, 3, 3), torch.randn(HEAD_DIM), torch.randn(HEAD_DIM)]
        return [part, *(x.to(device, dtype).requires_grad_() for x in weights)]

    def function(x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return pool_norm(x, thw, weight, gamma, beta, stride, num_cls=1, eps=1e-6)

    channels = batch_size * heads * HEAD_DIM
    read = 1 + t * h * w * min(thw[1] // h, 3) * min(thw[2] // w, 3)  # a stride of 8 leaves most of the tokens alone
    return Case(
        name=f"pool_norm {'x'.join(map(str, thw))}x{heads * HEAD_DIM} stride {stride[1]} {_name(dtype)} B{batch_size}",
        inputs=inputs,
        backends={"": function},
        megabytes=channels * (min(read, tokens) + 1 + t * h * w) * dtype.itemsize / 1e6,
        gflop=2 * 27 * channels * t * h * w / 1e9,
    )


def attention(
    queries: int, keys: int, heads: int, columns: int, *, batch_size: int, dtype: torch.dtype, device: torch.device
) -> Case:
    """MViT's attention; with columns of a relative term and residual pooling MViTv2's."""

    def inputs() -> Tensors:
        q, k, v = (
            torch.randn(batch_size, n, heads, HEAD_DIM, device=device, dtype=dtype).transpose(1, 2)
            for n in (queries, keys, keys)
        )
        relative = [torch.randn(batch_size, heads, queries, columns, device=device, dtype=dtype)] if columns else []
        return [x.requires_grad_() for x in (q, k, v, *relative)]

    k_rel = torch.eye(max(columns, 1), device=device).repeat(-(-keys // max(columns, 1)), 1)[:keys]

    def function(q: Tensor, k: Tensor, v: Tensor, q_rel: Tensor | None = None) -> Tensor:
        if q_rel is None:
            return attend(q, k, v)
        return attend(q, k, v, q_rel=q_rel, k_rel=k_rel, residual_from=1)

    elements = batch_size * heads * (2 * (queries + keys) * HEAD_DIM + queries * columns)
    return Case(
        name=f"attention {queries}x{keys}x{heads} P{columns} {_name(dtype)} B{batch_size}",
        inputs=inputs,
        backends={"": function},
        megabytes=elements * dtype.itemsize / 1e6,
        gflop=2 * batch_size * heads * queries * keys * (2 * HEAD_DIM + columns) / 1e9,
    )


def join(tokens: int, channels: int, *, batch_size: int, dtype: torch.dtype, device: torch.device) -> Case:
    """The residual addition and the LayerNorm after it, for which there is no kernel: torch.compile makes one."""

    def inputs() -> Tensors:
        streams = [torch.randn(batch_size, tokens, channels, device=device, dtype=dtype) for _ in range(2)]
        weights = [torch.randn(channels, device=device, dtype=dtype) for _ in range(2)]
        return [x.requires_grad_() for x in (*streams, *weights)]

    def function(skip: Tensor, branch: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        x = skip + branch
        return x, layer_norm(x, gamma.shape, gamma, beta, 1e-6)

    return Case(
        name=f"add, LayerNorm {tokens}x{channels} {_name(dtype)} B{batch_size}",
        inputs=inputs,
        backends={"": function},
        megabytes=4 * batch_size * tokens * channels * dtype.itemsize / 1e6,
        gflop=9 * batch_size * tokens * channels / 1e9,
    )


FORM = "{:46} {:8} {:10} {:>9} {:>7} {:>13} {:>8} {:>8}"


def line(row: Row) -> str:
    middle, least, most = row.speed
    return FORM.format(
        *(row.case, row.passes, row.backend, f"{1000 * row.seconds:.3f}", f"{middle:.2f}x", f"{least:.2f}-{most:.2f}"),
        *(f"{row.gb_per_sec:.1f}", f"{row.tflop_per_sec:.3f}"),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
