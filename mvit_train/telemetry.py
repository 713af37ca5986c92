"""What training does with its time: clips per second, the share spent waiting for data, and use of the hardware."""

import re
import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from mvit_train.cost import cost

GIB = 2**30
FLOPS_PER_MULTIPLY_ADD = 2
TRAINING_PER_FORWARD = 3  # a backward pass costs two forward ones

PEAK_TFLOPS = {
    "B200": (2250.0, 1125.0, 75.0),
    "GH200": (989.4, 494.7, 66.9),
    "H200": (989.4, 494.7, 66.9),
    "H100 PCIe": (756.0, 378.0, 51.2),
    "H100 NVL": (835.5, 417.7, 60.0),
    "H100": (989.4, 494.7, 66.9),
    "A100": (312.0, 156.0, 19.5),
    "L40S": (362.0, 183.0, 91.6),
    "L4": (121.0, 60.0, 30.3),
    "A40": (149.7, 74.8, 37.4),
    "A10": (125.0, 62.5, 31.2),
    "A6000": (154.8, 77.4, 38.7),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090": (71.0, 35.6, 35.6),
    "V100": (125.0, 15.7, 15.7),
    "T4": (65.0, 8.1, 8.1),
}
"""Dense peaks of the data sheets, 1e12 FLOPs/s, by a word of the device's name: 16 bits, float32 as TF32, float32."""


class Telemetry(Callback):
    """Logs every `log_every_n_steps` steps, over the steps since the last time and without validations:

    - `train/clips_per_sec`, of all processes;
    - `train/data_wait_share`, of the wall time of this process, spent waiting for the loader;
    - `train/mfu`, model FLOPs utilisation: 2 FLOPs per multiply-add, 3 forward passes a step, over the device's peak;
      not where the peak or the model's cost is unknown;
    - `train/memory_gib`, the most so far: of the GPU what PyTorch has allocated, on a CPU this process's own.

    Nothing here waits for a GPU.
    """

    def __init__(self) -> None:
        self._peak: float | None = None
        self._gflops: float | None = None  # 1e9 multiply-adds of a forward pass of one clip
        self._logged_at = self._clips = 0
        self._began = self._waited = self._validating_since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        device = pl_module.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self._peak = peak_flops(name, str(trainer.precision))
        self._gflops = cost(pl_module.model)["gflops"] if self._peak else None
        self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating_since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began += time.perf_counter() - self._validating_since

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clips += len(batch["label"])
        every = getattr(trainer, "log_every_n_steps", 0)
        if every and trainer.global_step % every == 0 and trainer.global_step != self._logged_at:
            pl_module.log_dict(self._values(trainer, pl_module.device))
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self._logged_at, self._clips = trainer.global_step, 0
        self._began, self._waited = time.perf_counter(), _waited_sec(trainer)

    def _values(self, trainer: Trainer, device: torch.device) -> dict[str, float]:
        seconds = time.perf_counter() - self._began
        clips_per_sec = self._clips / seconds  # of this process
        values = {
            "train/clips_per_sec": clips_per_sec * trainer.world_size,
            "train/data_wait_share": min((_waited_sec(trainer) - self._waited) / seconds, 1.0),
            "train/memory_gib": memory_gib(device),
        }
        if self._peak and self._gflops:
            values["train/mfu"] = utilisation(clips_per_sec, self._gflops, self._peak)
        return values


def utilisation(clips_per_sec: float, gflops: float, peak: float) -> float:
    """Model FLOPs utilisation of a device that trains so many clips a second; gflops: 1e9 multiply-adds of a clip."""
    return clips_per_sec * gflops * 1e9 * FLOPS_PER_MULTIPLY_ADD * TRAINING_PER_FORWARD / peak


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOPs/s that a GPU can reach on paper with Lightning's `precision`, or None where that is not known."""
    for name, (half, tf32, full) in PEAK_TFLOPS.items():
        if re.search(rf"\b{name}\b", device_name):
            if "16" in precision:
                return half * 1e12
            if precision.startswith("32"):
                return (full if torch.get_float32_matmul_precision() == "highest" else tf32) * 1e12
    return None


def memory_gib(device: torch.device) -> float:
    """The most memory so far: allocated on a GPU by PyTorch, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def _waited_sec(trainer: Trainer) -> float:
    return getattr(trainer.train_dataloader, "waited_sec", 0.0)
