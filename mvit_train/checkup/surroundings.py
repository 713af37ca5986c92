"""What the machine offers against what a run asks of it: packages, devices, cores, shared memory, disk, W&B, Slurm."""

import importlib.metadata
import os
import platform
import resource
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import torch

from mvit_train.checkup.findings import Finding, failure, ok, size, warning
from mvit_train.tracking import logged_in

PACKAGES = ("torch", "torchvision", "lightning", "av", "pytorchvideo", "wandb")
CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")
PREFETCHED = 2  # batches each worker keeps ready: DataLoader's prefetch_factor
TENSORS = 4  # of a batch, each an open file while it travels to the training process
OTHER_FILES = 200  # of Python, FFmpeg, CUDA, loggers: an allowance
CHECKPOINT_BYTES = 12  # per parameter: float32 weight and AdamW's two moments
CHECKPOINTS = 3  # best, last, and the one being written


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Processes as Lightning would start them here. devices: on each node, one process each."""

    accelerator: Literal["cuda", "cpu"]
    devices: int
    num_nodes: int = 1
    accumulate: int = 1
    precision: str = "32-true"

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes


def read_plan(trainer: Mapping[str, Any]) -> Plan:
    """The plan of a `trainer` node: "auto" takes all GPUs, and without one a single CPU process."""
    asked = str(trainer.get("accelerator", "auto"))
    gpus = torch.cuda.device_count()
    accelerator = "cuda" if asked in ("gpu", "cuda") or (asked == "auto" and gpus) else "cpu"
    devices = trainer.get("devices", "auto")
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part]
    if isinstance(devices, list | tuple):
        devices = len(devices)
    if devices in ("auto", "-1", -1):
        devices = max(gpus, 1) if accelerator == "cuda" else 1
    if not str(devices).isdigit() or int(devices) < 1:
        raise ValueError(f"trainer.devices={devices} must be a number of at least 1, a list of devices, -1 or auto")
    return Plan(
        accelerator=accelerator,
        devices=int(devices),
        num_nodes=int(trainer.get("num_nodes", 1)),
        accumulate=int(trainer.get("accumulate_grad_batches", 1)),
        precision=str(trainer.get("precision", "32-true")),
    )


def packages() -> Iterator[Finding]:
    """Versions, and which codecs PyAV's FFmpeg decodes."""
    versions = {name: _version(name) for name in PACKAGES}
    absent = [name for name, version in versions.items() if version is None]
    found = [f"{name} {version}" for name, version in versions.items() if version]
    yield ok(", ".join([f"python {platform.python_version()}", *found]))
    if absent:
        yield failure(f"not installed: {', '.join(absent)}; pip install {' '.join(absent)}")
    missing = [codec for codec in CODECS if codec not in av.codecs_available]
    library = ".".join(map(str, av.library_versions["libavcodec"]))
    have = " ".join(codec for codec in CODECS if codec not in missing)
    yield ok(f"PyAV's FFmpeg (libavcodec {library}) decodes {have}")
    if missing:
        text = f"it does not decode {' '.join(missing)}; PyAV's wheels from PyPI do: pip install --force-reinstall av"
        yield failure(text) if "h264" in missing else warning(text)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def devices(plan: Plan) -> Iterator[Finding]:
    """GPUs asked for against those that PyTorch can use, and whether they are fast at the precision."""
    with warnings.catch_warnings(record=True) as told:  # PyTorch says there why it cannot use a driver
        warnings.simplefilter("always")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    reason = f"; PyTorch says: {str(told[0].message).splitlines()[0]}" if told else ""
    driver = next(iter(_lines("/proc/driver/nvidia/version")), "")
    if driver and not gpus:
        yield warning(
            f"an NVIDIA driver is here ({driver.partition('Module')[2].split('  ')[0].strip() or driver}), but torch "
            f"{torch.__version__}, built for CUDA {torch.version.cuda}, sees no GPU: too old a driver for that CUDA, "
            f"or CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}{reason}"
        )
    asked = f"trainer.devices={plan.devices}, trainer.precision={plan.precision}"
    if plan.accelerator == "cuda" and not gpus:
        yield failure(f"{asked} on GPUs, none is here; run where they are, or set trainer.accelerator=cpu{reason}")
    elif plan.accelerator == "cuda" and plan.devices > gpus:
        yield failure(f"{asked}: {gpus} GPU{'s' * (gpus != 1)} here; set trainer.devices={gpus}")
    elif plan.accelerator == "cuda":
        names = ", ".join(dict.fromkeys(torch.cuda.get_device_name(i) for i in range(gpus)))
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        yield ok(f"{gpus} x {names}, {asked}; bf16 in hardware: {'yes' if bf16 else 'no'}")
        if plan.precision.startswith("bf16") and not bf16:
            yield warning(
                f"trainer.precision={plan.precision}: this GPU only emulates bf16, slowly; use 16-mixed or 32"
            )
    else:
        yield ok(f"no GPU is asked for or here: {asked}, on the CPU")
        if plan.precision.startswith("16"):
            yield warning(f"trainer.precision={plan.precision} is for GPUs; on a CPU use bf16-mixed or 32-true")


def processes(plan: Plan, num_workers: int, batch_bytes: int) -> Iterator[Finding]:
    """Cores, open files, shared memory and RAM against the loader's processes on this node."""
    cores, workers = num_cores(), plan.devices * num_workers
    text = f"{plan.devices} x data.num_workers={num_workers} decoding and {plan.devices} training on {cores} cores"
    if workers > cores:
        yield warning(
            f"{text}: more only switch; set data.num_workers={max(cores // plan.devices, 1)} or ask for cores"
        )
    elif plan.devices > cores:
        yield warning(f"{text}: set trainer.devices={cores} or less")
    elif num_workers == 0 and plan.accelerator == "cuda":
        yield warning(f"{text}: without workers the GPU waits for every clip; set data.num_workers={cores}")
    else:
        yield ok(text)
    prefetched = workers * PREFETCHED * batch_bytes
    held = f"{workers} workers x {PREFETCHED} batches of {size(batch_bytes)} = {size(prefetched)}"
    if workers and Path("/dev/shm").exists():
        free = shutil.disk_usage("/dev/shm").free
        if free < prefetched:
            advice = "a container's --shm-size, a smaller data.num_workers or data.batch_size"
            yield failure(f"/dev/shm has {size(free)} free, prefetched clips take {held}; {advice}")
        else:
            yield ok(f"prefetched clips: {held}; /dev/shm has {size(free)} free")
    if (available := available_ram()) and available < prefetched:
        yield failure(f"{size(available)} of RAM are free, prefetched clips take {held}; lower data.num_workers")
    files, limit = OTHER_FILES + num_workers * (1 + PREFETCHED * TENSORS), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < files:
        yield failure(f"{limit} open files are allowed, about {files} are needed; ulimit -n 4096, or fewer workers")


def num_cores() -> int:
    """Cores that this process may use: its affinity, and what its control group leaves of them."""
    here = getattr(os, "sched_getaffinity", None)
    cores = len(here(0)) if here else os.cpu_count() or 1
    for line in _control_group("cpu.max"):
        quota, period = line.split()
        if quota != "max":
            cores = min(cores, max(int(quota) // int(period), 1))
    return cores


def available_ram() -> int | None:
    """Bytes, or None where the system does not tell."""
    free = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    for limit, used in zip(_control_group("memory.max"), _control_group("memory.current"), strict=False):
        if limit != "max":
            free.append(int(limit) - int(used))
    return min(free, default=None)


def _control_group(name: str) -> list[str]:
    """The first lines of a control file, of this process's group and those around it (cgroup v2)."""
    own = next((line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "/")
    folders = [Path("/sys/fs/cgroup") / own.lstrip("/")]
    folders += [folder for folder in folders[0].parents if folder.is_relative_to("/sys/fs/cgroup")]
    return [line for folder in folders for line in _lines(folder / name)[:1]]


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def disk(runs: Path, num_params: int) -> Iterator[Finding]:
    """Room for checkpoints where the run folder goes, and whether it can be written."""
    folder = next(parent for parent in (runs.absolute(), *runs.absolute().parents) if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield failure(f"runs={runs}: {folder} is not a folder that this user can write to")
        return
    one, free = CHECKPOINT_BYTES * num_params, shutil.disk_usage(folder).free
    needs = f"checkpoints need {size(CHECKPOINTS * one)} (best, last and one being written, {size(one)} each)"
    if free < CHECKPOINTS * one:
        yield failure(f"runs={runs}: {size(free)} free, {needs}; make room or set runs=FOLDER on another disk")
    elif free < 3 * CHECKPOINTS * one:
        yield warning(f"runs={runs}: {size(free)} free, {needs}: little for more than this run")
    else:
        yield ok(f"runs={runs}: {size(free)} free, {needs}")


def tracking(mode: str) -> Iterator[Finding]:
    """Where W&B's curves go. Whether its server can be reached is not tried."""
    key = logged_in()
    if override := os.environ.get("WANDB_MODE"):
        yield warning(f"WANDB_MODE={override} in the environment overrides logger.wandb={mode}")
    if mode == "online" and not key:
        yield warning("logger.wandb=online without a key: the run would log offline; wandb login, or WANDB_API_KEY")
    elif mode == "off":
        yield ok("W&B off; metrics.csv is always written")
    elif key and mode != "offline":
        yield ok(f"W&B online (logger.wandb={mode}, a key is here; no connection was tried)")
    else:
        why = "no key" if mode == "auto" else "as asked"
        yield ok(f"W&B offline (logger.wandb={mode}, {why}): wandb sync sends it later")


def slurm(environ: Mapping[str, str], plan: Plan, num_workers: int) -> Iterator[Finding]:
    """The job's tasks, nodes, GPUs and cores against trainer and data."""
    if "SLURM_JOB_ID" not in environ:
        yield ok("not in a Slurm job: its settings could not be compared")
        return

    def number(name: str) -> int | None:
        digits = environ.get(name, "").partition("(")[0]  # "4(x2)": 4 on each of 2 nodes
        return int(digits) if digits.isdigit() else None

    tasks, per_node, nodes = number("SLURM_NTASKS"), number("SLURM_NTASKS_PER_NODE"), number("SLURM_JOB_NUM_NODES")
    job = f"Slurm job {environ['SLURM_JOB_ID']}"
    if environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        yield warning(f"{job} is named {environ['SLURM_JOB_NAME']}: Lightning takes it for a shell and ignores Slurm")
    wrong = []
    if tasks and tasks > 1 and per_node is None:
        wrong.append(f"--ntasks={tasks} without --ntasks-per-node, which Lightning refuses")
    for option, found, setting, wanted in (
        ("--ntasks-per-node", per_node, "trainer.devices", plan.devices),
        ("--nodes", nodes, "trainer.num_nodes", plan.num_nodes),
    ):
        if found is not None and found != wanted:
            wrong.append(f"{option}={found} but {setting}={wanted}: set both to the same number")
    gpus, cores = number("SLURM_GPUS_ON_NODE"), number("SLURM_CPUS_PER_TASK")
    if plan.accelerator == "cuda" and gpus is not None and gpus < plan.devices:
        wrong.append(f"{gpus} GPUs on the node but trainer.devices={plan.devices}: --gres=gpu:{plan.devices}")
    yield from (failure(f"{job}: {text}") for text in wrong)
    if cores is not None and cores < num_workers:
        yield warning(
            f"{job}: --cpus-per-task={cores} for data.num_workers={num_workers}: --cpus-per-task={num_workers + 1}"
        )
    if not wrong:
        end = number("SLURM_JOB_END_TIME")
        left = f"; it ends in {(end - time.time()) / 3600:.1f} hours" if end else ""
        yield ok(f"{job}: {nodes or 1} nodes x {per_node or 1} tasks, as trainer.num_nodes and devices ask{left}")
