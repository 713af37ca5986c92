"""`task=benchmark`: speed and memory against torchvision and PyTorchVideo, with equal weights and outputs.

Before anything is timed all models get the same random weights and must give the same logits. They take turns within
a round, so that what else the machine does meets all alike; a ratio is of two times of one round, and medians over the
rounds are reported. On a CPU time is processor time, which others on the machine change little; on CUDA, events.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import nn

from mvit_train import scaling
from mvit_train.benchmarks import decode as decode_benchmark
from mvit_train.benchmarks import kernels
from mvit_train.benchmarks import loader as loader_benchmark
from mvit_train.benchmarks.peers import HIERA, MODELS, AbsentError, build_ours, build_peer, check_equal
from mvit_train.benchmarks.timing import Precision, StepKind, cpu_mb_added, cuda_mb_added, make_step, take_turns
from mvit_train.config import build

OURS = "ours"
Mode = Literal["eager", "compiled"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure: every combination of models, compile, batch_sizes, precisions and steps.

    Args:
        peers: the implementations to compare with; the first one present is the base of the ratios. "hiera" is Hiera-B,
            another network.
        num_frames, crop_size: of the input.
        precisions: "bf16" is autocast.
        steps: "forward" for evaluation, or "train": forward, cross entropy, backward, gradients dropped.
        compile: "compiled" is torch.compile, ours as one graph; on a CPU it takes minutes for each model.
        rounds: in which each model is measured once.
        num_threads: on the CPU. Processor time adds up over threads, so more than 1 hides what they gain.
        peak_tflops: of the GPU in bf16, for MFU; 790 is what large products reach on an H200.
    """

    models: tuple[Literal["mvit_b", "mvit_v2_s"], ...] = ("mvit_b", "mvit_v2_s")
    peers: tuple[Literal["torchvision", "pytorchvideo", "hiera"], ...] = ("torchvision", "pytorchvideo")
    num_frames: int = 16
    crop_size: int = 224
    batch_sizes: tuple[int, ...] = (1,)
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    steps: tuple[StepKind, ...] = ("forward", "train")
    compile: tuple[Mode, ...] = ("eager",)
    rounds: int = 5
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int = 1
    peak_tflops: float = 790.0

    @classmethod
    def check_arguments(cls, arguments: dict[str, Any]) -> dict[str, str]:
        """Mistakes that types do not show; see `mvit_train.config.check`."""
        lists = ("models", "batch_sizes", "precisions", "steps", "compile")
        mistakes = {name: "names nothing to measure" for name in lists if arguments.get(name) in ((), [])}
        for name in ("num_frames", "crop_size", "batch_sizes", "rounds", "num_threads", "peak_tflops"):
            value = arguments.get(name, 1)
            if any(number <= 0 for number in (value if isinstance(value, list | tuple) else [value])):
                mistakes[name] = "must be more than 0"
        if arguments.get("device") == "cuda" and not torch.cuda.is_available():
            mistakes["device"] = "PyTorch sees no GPU here"
        return mistakes


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in one combination.

    Args:
        who: "ours" or a peer.
        seconds: of one step, median over the rounds; on a CPU processor seconds.
        speed: times as fast as the base, median, least and most over the rounds; 1 for the base itself.
        clips_per_sec: batch_size / seconds.
        added_mb: 1e6 bytes that a step needs at its peak beside what was there before: of CUDA's allocator, or, for an
            eager training step on a CPU, of the process. None where it is not measured.
        mfu: share of peak_tflops that the model's flops per second are, 2 per multiply-add, and 3 times that in
            training; in bf16 on CUDA.
    """

    model: str
    compile: Mode
    batch_size: int
    precision: Precision
    step: StepKind
    who: str
    seconds: float
    speed: tuple[float, float, float]
    clips_per_sec: float
    added_mb: float | None
    mfu: float | None


def run(cfg) -> None:
    """Measures, prints a table as it grows, and writes all of it as JSON. what=decode, loader, scale or kernels: see
    `decode_benchmark`, `loader_benchmark`, `scaling` and `kernels`."""
    file = Path(cfg.runs) / "benchmark" / f"{cfg.run_id or time.strftime('%Y%m%d-%H%M%S')}.json"
    if cfg.what == "decode":
        decode_benchmark.run(Path(cfg.input), file, describe(cfg.what, torch.device("cpu"), threads=1))
        return
    if cfg.what == "loader":
        names = ("num_frames", "sampling_rate", "crop_size", "batch_size", "num_workers")
        work = loader_benchmark.Work(**{name: cfg.data[name] for name in names})
        loader_benchmark.run(work, Path(cfg.input), file, describe(cfg.what, torch.device("cpu")))
        return
    if cfg.what == "scale":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        scaling.run(build(cfg.scale), file, describe(cfg.what, device) | {"clock": "on the wall"})
        return
    settings: Benchmark = build(cfg.benchmark)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if settings.device == "auto" else settings.device)
    torch.set_num_threads(settings.num_threads)
    context = describe(cfg.what, device)
    if cfg.what == "kernels":
        kernels.run(settings, device, context, file)
        return
    print("\n".join(f"{name}: {value}" for name, value in context.items()), flush=True)
    rows: list[Row] = []
    notes: list[str] = []
    for model in settings.models:
        for found in compare(model, settings, device, notes):
            print(table(found, header=not rows), flush=True)
            rows += found
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"context": context, "settings": asdict(settings), "notes": notes, "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(["", *notes, str(file)]))


def compare(model: str, settings: Benchmark, device: torch.device, notes: list[str]) -> Iterator[list[Row]]:
    """The rows of each combination, one for each implementation that is here; see `contestants` for `notes`."""
    size = dict(num_frames=settings.num_frames, crop_size=settings.crop_size)
    networks = contestants(model, settings, device, notes)
    flops = 2 * multiply_adds(model, size) if device.type == "cuda" else 0.0
    for mode, batch_size, precision, kind in product(
        settings.compile, settings.batch_sizes, settings.precisions, settings.steps
    ):
        video = torch.randn(batch_size, 3, settings.num_frames, *2 * (settings.crop_size,), device=device)
        steps = {}
        for who, network in networks.items():
            chosen: Any = torch.compile(network, fullgraph=who == OURS) if mode == "compiled" else network
            steps[who] = make_step(chosen, video, precision=precision, kind=kind)
        torch.compiler.reset()
        times = take_turns(steps, settings.rounds, device)
        rows = []
        for who, seconds in times.items():
            ratios = [base / own for base, own in zip(next(iter(times.values())), seconds, strict=True)]
            clips_per_sec = batch_size / median(seconds)
            flops_per_sec = flops * (3 if kind == "train" else 1) * clips_per_sec
            added_mb = None
            if device.type == "cuda":
                added_mb = cuda_mb_added(steps[who], device)
            elif kind == "train" and mode == "eager":
                added_mb = cpu_mb_added(who, model, size, batch_size, precision)
            row = Row(
                model=model,
                compile=mode,
                batch_size=batch_size,
                precision=precision,
                step=kind,
                who=who,
                seconds=median(seconds),
                speed=(median(ratios), min(ratios), max(ratios)),
                clips_per_sec=clips_per_sec,
                added_mb=added_mb,
                mfu=flops_per_sec / settings.peak_tflops / 1e12
                if flops and precision == "bf16" and who != HIERA
                else None,
            )
            rows.append(row)
        yield rows


def contestants(model: str, settings: Benchmark, device: torch.device, notes: list[str]) -> dict[str, nn.Module]:
    """The peers that are here, and ours last, with equal weights. `notes` gets who is absent and how equal the logits
    are; raises ValueError where they are not equal."""
    ours = build_ours(model, num_frames=settings.num_frames, crop_size=settings.crop_size)
    networks: dict[str, nn.Module] = {}
    for peer in settings.peers:
        try:
            networks[peer] = build_peer(peer, model, ours).to(device)
        except AbsentError as absent:
            notes.append(f"{model}: {peer} is absent: {absent}")
    ours.to(device)
    video = torch.randn(1, 3, *ours.input_size, device=device)
    for peer, network in networks.items():
        if peer == HIERA:
            parameters = sum(parameter.numel() for parameter in network.parameters())
            notes.append(f"{model}: hiera is Hiera-B, another network, of {parameters / 1e6:.1f} M parameters")
            continue
        difference = check_equal(peer, network, ours, video)
        notes.append(f"{model}: the logits of {peer} and ours differ by {difference:.0e} of the largest")
    return networks | {OURS: ours}


def multiply_adds(model: str, size: dict[str, int]) -> float:
    """Per clip, LayerNorm not included."""
    from mvit_train.complexity import ACTIVATIONS, operations

    with torch.device("meta"):
        counts = operations(MODELS[model](**size))
    return sum(number for operation, number in counts.items() if operation not in ("layer_norm", ACTIVATIONS))


def describe(what: str, device: torch.device, threads: int | None = None) -> dict[str, str]:
    """What the numbers depend on besides the models. threads: of torch; None: as it is set now."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "pytorchvideo"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    cpu = next((line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "CPU")
    return {
        "what": what,
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "mvit_train", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "clock": f"CUDA events, {torch.version.cuda}" if device.type == "cuda" else "processor time",
        "threads": str(threads or torch.get_num_threads()),
        "load average": " ".join(f"{load:.1f}" for load in os.getloadavg()) + f" on {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


FORM = "{:10} {:8} {:>5} {:5} {:8} {:13} {:>9} {:>7} {:>13} {:>9} {:>9} {:>6}"


def table(rows: Sequence[Row], *, header: bool = True) -> str:
    """One line per row; the ratios are of times, the base's to its own."""
    names = ("model", "compile", "batch", "prec.", "step", "who", "seconds", "speed", "range", "clips/s", "MB added")
    lines = ["", FORM.format(*names, "MFU")] if header else []
    for row in rows:
        middle, least, most = row.speed
        lines.append(
            FORM.format(
                *(row.model, row.compile, row.batch_size, row.precision, row.step, row.who),
                f"{row.seconds:.4f}",
                f"{middle:.2f}x",
                f"{least:.2f}-{most:.2f}",
                f"{row.clips_per_sec:.2f}",
                "-" if row.added_mb is None else f"{row.added_mb:.0f}",
                "-" if row.mfu is None else f"{100 * row.mfu:.1f} %",
            )
        )
    return "\n".join(lines)
