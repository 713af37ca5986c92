"""Time and memory of one step of a model, on a CPU or on CUDA."""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mvit_train.benchmarks.peers import MODELS, build_ours, build_peer

ITERATIONS = 10  # of a step in one measurement on CUDA, where a single one is short

Precision = Literal["fp32", "bf16"]
StepKind = Literal["forward", "train"]


def make_step(
    model: nn.Module,
    video: Tensor,
    *,
    precision: Precision,
    kind: StepKind,
    optimizer: torch.optim.Optimizer | None = None,
) -> Callable[[], None]:
    """One step on `video` (B, 3, T, S, S): "forward" in evaluation, without gradients; "train" is forward, cross
    entropy and backward in training, the step of an `optimizer`, and dropping the gradients. "bf16" is autocast."""
    targets = torch.zeros(len(video), dtype=torch.long, device=video.device)
    bf16 = precision == "bf16"

    def forward() -> None:
        model.eval()
        with torch.no_grad(), torch.autocast(video.device.type, torch.bfloat16, enabled=bf16):
            model(video)

    def train() -> None:
        model.train()
        with torch.autocast(video.device.type, torch.bfloat16, enabled=bf16):
            loss = cross_entropy(model(video), targets)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad(set_to_none=True)

    return {"forward": forward, "train": train}[kind]


def take_turns(steps: Mapping[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step in each round, a, b, c, a, b, c, after each has run once to warm up."""
    for step in steps.values():
        seconds_of(step, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds_of(step, device))
    return times


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """Processor seconds of one run on a CPU; on CUDA the mean over ITERATIONS runs, by the GPU's own clock."""
    if device.type != "cuda":
        start = time.process_time()
        step()
        return time.process_time() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    for _ in range(ITERATIONS):
        step()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000 / ITERATIONS


def cuda_mb_added(step: Callable[[], None], device: torch.device) -> float:
    """1e6 bytes that PyTorch's allocator holds at the peak of the step beyond those before it."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def cpu_mb_added(who: str, model: str, size: Mapping[str, int], batch_size: int, precision: Precision) -> float | None:
    """1e6 bytes that a process grows by at the peak of its first training step, ours or a peer's, weights already there
    and gradients included. In a process of its own, since memory once freed does not always go back to the system; with
    one thread, since each has buffers of its own. None where the system does not tell (other than Linux)."""
    if not Path("/proc/self/status").exists():
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_grow_by_a_step, who, model, dict(size), batch_size, precision).result()


def _grow_by_a_step(who: str, model: str, size: dict[str, int], batch_size: int, precision: Precision) -> float:
    torch.set_num_threads(1)
    tiny: dict[str, Any] = dict(num_frames=2, crop_size=32, embed_dim=16, blocks_per_stage=(1, 1))
    make_step(MODELS[model](**tiny), torch.zeros(1, 3, 2, 32, 32), precision=precision, kind="train")()  # late imports
    ours = build_ours(model, **size)
    network = ours if who == "ours" else build_peer(who, model, ours)
    step = make_step(network, torch.randn(batch_size, 3, *ours.input_size), precision=precision, kind="train")
    del ours
    return mb_grown(step)


def mb_grown(step: Callable[[], None]) -> float:
    """1e6 bytes that this process grows by at the peak of `step`, beyond what is resident before. Linux."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc's; what was freed would otherwise be used again unseen
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # where it is not allowed, the peak so far counts, which building the model hardly moves
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak, to the present
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1e6


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
