"""Will the loader feed the model: time per stage of reading, clips/s of the loader, clips/s of a training step."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

import torch

from mvit_train.benchmarks.timing import make_step
from mvit_train.checkup.findings import Finding, failure, ok, size, warning
from mvit_train.checkup.sample import MANY_PACKETS, PATIENCE_SEC, STAGES, Reading
from mvit_train.checkup.surroundings import Plan, available_ram
from mvit_train.complexity import ACTIVATIONS, operations
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.memory import Memory, training_memory
from mvit_train.models import MViT

LOADER_SEC = 4.0  # after the warm-up
MODEL_SEC = 4.0
MEASURED_BATCH = 8  # clips; the loader's rate hardly depends on it, and large batches would take long to come
WAIT_WORTH_TELLING = 0.05
# What a GPU reaches is assumed: large products in bf16 run at 790 TFLOP/s on an H200; eager video transformers reach a
# tenth of such a number, well written ones a quarter. Below a few GFLOP a clip neither is to be expected.
ASSUMED_GPU, ASSUMED_TFLOPS, ASSUMED_SHARE = "H200", 790.0, (0.10, 0.25)
SMALL_GFLOP = 10.0


@dataclass(frozen=True)
class LoaderRate:
    """Of one process's loader: clips per second once it runs, seconds until its first batch, batches of an epoch."""

    clips_per_sec: float
    first_batch_sec: float
    num_workers: int
    num_batches: int


@dataclass(frozen=True)
class ModelRate:
    """Clips per second of training steps, and the bytes that PyTorch held at their peak (CUDA; else None)."""

    clips_per_sec: float
    batch_size: int
    device: torch.device
    peak_bytes: int | None

    @property
    def place(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "this CPU"


def stages(readings: Sequence[Reading]) -> Iterator[Finding]:
    """Milliseconds per clip, the mean of each stage; the first reading, which also loads code, is left out."""
    timed = [reading.seconds for reading in readings if reading.seconds][1:]
    if timed:
        each = {stage: 1000 * mean(seconds[stage] for seconds in timed) for stage in STAGES}
        parts = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in each.items())
        whole = sum(each.values())
        yield ok(
            f"ms per clip, means of {len(timed)}: {parts}; together {whole:.0f}, {_rate(1000 / whole)} clips/s a core"
        )


def measure_loader(data: VideoDataModule, max_sec: float = LOADER_SEC) -> LoaderRate:
    """The training loader with its workers, in smaller batches, epoch after epoch until the time is over."""
    data, num_batches_asked = copy.copy(data), data.steps_per_epoch
    data.timeout_sec = min(data.timeout_sec, PATIENCE_SEC)
    data.batch_size = min(data.batch_size, max(MEASURED_BATCH // data.repeats, 1) * data.repeats)
    loader: Any = data.train_dataloader()
    started = time.perf_counter()
    warm_up = max(data.num_workers, 1)  # batches, one for each worker
    first_batch_sec = since = 0.0
    num_batches = num_clips = epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            now = time.perf_counter()
            num_batches += 1
            if num_batches == 1:
                first_batch_sec = now - started
            if num_batches <= warm_up:
                since = now
                continue
            num_clips += len(batch["video_index"])
            # As many from every worker: they hand over in turns.
            if now - since > max_sec and (num_batches - warm_up) % warm_up == 0:
                return LoaderRate(num_clips / (now - since), first_batch_sec, data.num_workers, num_batches_asked)
        epoch += 1


def measure_model(model: MViT, batch_size: int, precision: str, device: torch.device) -> ModelRate:
    """Forward, loss and backward on random clips. On a CPU with as many of the batch as fit the time."""
    kind = "bf16" if precision.startswith(("bf16", "16")) else "fp32"
    model = model.to(device)

    def seconds(num_clips: int) -> float:
        video = torch.randn(num_clips, 3, *model.input_size, device=device)
        step = make_step(model, video, precision=kind, kind="train")
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    alone = seconds(1)
    peak_bytes = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        batch_size = max(min(int(MODEL_SEC / 2 / alone), batch_size), 1)
    if alone > MODEL_SEC:
        return ModelRate(1 / alone, 1, device, None)
    steps, end = [seconds(batch_size)], time.perf_counter() + MODEL_SEC / 2
    while time.perf_counter() < end:
        steps.append(seconds(batch_size))
    if device.type == "cuda":
        peak_bytes = torch.cuda.max_memory_allocated(device)
    return ModelRate(batch_size / median(steps[1:] or steps), batch_size, device, peak_bytes)


def forecast(
    loader: LoaderRate, model: ModelRate, plan: Plan, *, cores: int, packets_per_frame: float | None
) -> Iterator[Finding]:
    """What share of the time the model would wait for clips, and what would help."""
    share = waiting_share(loader, model.clips_per_sec, plan.devices, cores)
    rates = (
        f"the loader gives {_rate(supply(loader, plan.devices, cores))} clips/s to each process, "
        f"a training step on {model.place} takes {_rate(model.clips_per_sec)} (batch {model.batch_size})"
    )
    if share <= WAIT_WORTH_TELLING:
        yield ok(f"{rates}: fed; first batch after {loader.first_batch_sec:.1f} s")
        return
    who = "the GPU" if model.device.type == "cuda" else "the model"
    helps = advice(loader, model.clips_per_sec, plan, cores, packets_per_frame)
    yield warning(f"{who} would wait {_percent(share)} of the time: {rates}; {helps}")


def advice(loader: LoaderRate, demand: float, plan: Plan, cores: int, packets_per_frame: float | None) -> str:
    """What would feed processes that take `demand` clips/s each."""
    per_worker = loader.clips_per_sec / min(max(loader.num_workers, 1), cores)
    wanted = math.ceil(1.1 * demand / per_worker)
    num_batches = max(loader.num_batches // plan.world_size, 1)
    text = f"data.num_workers={wanted} would feed it"
    if num_batches < 2 * loader.num_workers:
        text = f"an epoch has too few batches, {num_batches}, to keep {loader.num_workers} workers busy"
    elif wanted * plan.devices > cores:
        text = f"{plan.devices * wanted} cores would feed it, {cores} are here"
        if (most := max(cores // plan.devices, 1)) > loader.num_workers:
            best = replace(loader, clips_per_sec=most * per_worker, num_workers=most)
            text += f" (data.num_workers={most}: {_percent(waiting_share(best, demand, plan.devices, cores))})"
    if packets_per_frame and packets_per_frame > MANY_PACKETS:
        text += (
            f"; {packets_per_frame:.1f} packets are decoded for a frame, about 2 in prepared files: "
            "python -m data_prep.videos prepare"
        )
    return text


def supply(loader: LoaderRate, devices: int, cores: int) -> float:
    """Clips per second for each of a node's processes, when all of them load at once on its cores."""
    workers = max(loader.num_workers, 1) * devices
    return loader.clips_per_sec * min(1.0, max(cores, loader.num_workers) / workers)


def waiting_share(loader: LoaderRate, demand: float, devices: int, cores: int) -> float:
    """Share of its time that a process which takes `demand` clips/s waits: 20 of 100 clips/s come -> 0.8. Without
    workers it waits whenever it reads: 100 and 100 -> 0.5."""
    given = supply(loader, devices, cores)
    return max(1 - given / demand, 0.0) if loader.num_workers else demand / (demand + given)


def prediction(
    model: MViT, loader: LoaderRate | None, plan: Plan, *, cores: int, packets_per_frame: float | None = None
) -> Iterator[Finding]:
    """For a GPU that is not here: operations, and what an assumed utilisation would make of them. `model`: on meta."""
    counts = operations(model.eval())
    multiply_adds = sum(n for operation, n in counts.items() if operation not in ("layer_norm", ACTIVATIONS))
    per_clip = 6 * multiply_adds  # 2 operations each, forward once and backward twice
    low, high = (share * ASSUMED_TFLOPS * 1e12 / per_clip for share in ASSUMED_SHARE)
    text = f"a training step is {per_clip / 1e9:.3g} GFLOP a clip"
    if per_clip < SMALL_GFLOP * 1e9:
        yield ok(f"{text}: too small to predict what a GPU would make of it")
        return
    text = (
        f"prediction, not measured: {text}; a GPU that reached {_percent(ASSUMED_SHARE[0])} to "
        f"{_percent(ASSUMED_SHARE[1])} of {ASSUMED_TFLOPS:.0f} TFLOP/s ({ASSUMED_GPU}, bf16) would take {low:.0f} to "
        f"{high:.0f} clips/s"
    )
    if loader is None:
        yield ok(text)
        return
    waits = [waiting_share(loader, demand, plan.devices, cores) for demand in (low, high)]
    given = supply(loader, plan.devices, cores)
    text += f" and, with this loader's {_rate(given)}, wait {_percent(waits[0])} to {_percent(waits[1])} of the time"
    if plan.accelerator == "cuda" and waits[0] > WAIT_WORTH_TELLING:
        yield warning(f"{text}; for the lower, {advice(loader, low, plan, cores, packets_per_frame)}")
    else:
        yield ok(text)


def memory(model: MViT, plan: Plan, batch_size: int, measured: ModelRate | None) -> Iterator[Finding]:
    """A training step's memory against the device's. `model` may be on meta."""
    found = training_memory(model.train())
    scale = 1 if plan.precision.startswith(("bf16", "16")) else 2  # what is predicted is kept in bf16, mostly
    needed, source = (
        predicted_bytes(found, batch_size, scale),
        f"predicted for {plan.precision}, temporaries not counted",
    )
    if measured is not None and measured.peak_bytes is not None and measured.batch_size == batch_size:
        moments = found.state // 2  # of AdamW, which the measured step did not have
        needed, source = measured.peak_bytes + moments, "measured, AdamW's moments added"
    if plan.accelerator == "cuda" and torch.cuda.is_available():
        limit, where = torch.cuda.get_device_properties(0).total_memory, "the GPU"
    elif plan.accelerator == "cuda":
        yield ok(f"a training step of {batch_size} clips: {size(needed)} ({source}); no GPU here to compare with")
        return
    else:
        limit, where = available_ram(), "free RAM"
        needed *= plan.devices
    text = f"a training step of {batch_size} clips: {size(needed)} ({source})"
    if limit is None:
        yield ok(text)
    elif needed > limit:
        fixed = predicted_bytes(found, 0, scale)
        fits = max(int((limit - fixed) / (scale * found.per_clip)), 0)
        yield failure(
            f"{text}, {where} has {size(limit)}: about {fits} clips fit; lower data.batch_size, raise "
            "trainer.accumulate_grad_batches, or model.activation_checkpointing=true"
        )
    else:
        yield (warning if needed > 0.9 * limit else ok)(f"{text}, {where} has {size(limit)}")


def predicted_bytes(memory: Memory, batch_size: int, scale: int) -> int:
    """Weights, gradients, moments, and what a step keeps; scale: 1 in bf16, 2 in float32."""
    return memory.state + scale * (memory.per_step + batch_size * memory.per_clip)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _rate(clips_per_sec: float) -> str:
    return f"{clips_per_sec:.0f}" if clips_per_sec >= 10 else f"{clips_per_sec:.2g}"
