"""Data-parallel training steps and exchanges of gradients, measured on processes of this machine's CPU."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from mvit_train.models import mvit_b

TIMEOUT_SEC = 600


@dataclass(frozen=True)
class StepTimes:
    """Seconds by the clock on the wall, medians: of a step, of one whose gradients stay at home, and of an all-reduce
    of as many bytes by itself."""

    step: float
    compute: float
    exchange: float


def measure(processes: int, *, num_frames: int, crop_size: int, batch_size: int, rounds: int) -> StepTimes:
    """MViT-B in so many processes of one thread each. RuntimeError if one of them fails."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        answers = context.SimpleQueue()
        sizes = (processes, num_frames, crop_size, batch_size, rounds)
        workers = [context.Process(target=_work, args=(rank, folder, answers, *sizes)) for rank in range(processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(TIMEOUT_SEC)
            if worker.exitcode != 0:
                for other in workers:
                    other.kill()
                raise RuntimeError(f"a process of {processes} that measure steps ended with {worker.exitcode}")
        return StepTimes(*answers.get())


def _work(
    rank: int, folder: str, answers, processes: int, num_frames: int, crop_size: int, batch_size: int, rounds: int
) -> None:
    torch.set_num_threads(1)
    store = (Path(folder) / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    torch.manual_seed(0)
    model = DistributedDataParallel(mvit_b(num_frames=num_frames, crop_size=crop_size))
    video = torch.randn(batch_size, 3, num_frames, crop_size, crop_size)
    targets = torch.zeros(batch_size, dtype=torch.long)
    gradients = torch.zeros(sum(p.numel() for p in model.parameters()))

    def step() -> None:
        cross_entropy(model(video), targets).backward()
        model.zero_grad(set_to_none=True)

    def compute() -> None:
        with model.no_sync():
            step()

    times = _take_turns([step, compute, lambda: dist.all_reduce(gradients)], rounds)
    if rank == 0:
        answers.put(times)
    dist.destroy_process_group()


def _take_turns(steps: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each, from a common start to the end of the slowest process; after one round to warm up."""
    found = []
    for _ in range(rounds + 1):
        seconds = []
        for step in steps:
            dist.barrier()
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        slowest = Tensor(seconds)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        found.append(slowest.tolist())
    return [median(values) for values in zip(*found[1:], strict=True)]
