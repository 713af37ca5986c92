"""What a training step of several processes pays for agreeing, beside the gradients.

    python -m mvit_train.benchmarks.sync

prints microseconds of the main thread per step, for 1, 2 and 3 processes on this machine by gloo: the best of several
rounds, for what another program takes away is no cost of ours.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from mvit_train.preempt import Votes
from mvit_train.strategy import Watch

ROUNDS, STEPS = 20, 100
TIMEOUT_SEC = 600.0


def main() -> None:
    """Measures and prints the table."""
    columns = [measure(processes) for processes in (1, 2, 3)]
    print("| microseconds per step | 1 process | 2 | 3 |\n|---|--:|--:|--:|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{column[name]:.0f}" for column in columns) + " |")


def measure(processes: int) -> dict[str, float]:
    """Microseconds by name, of the first of so many processes."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        answer, store = context.SimpleQueue(), (Path(folder) / "store").as_uri()
        others = [context.Process(target=work, args=(rank, processes, store, answer)) for rank in range(processes)]
        for process in others:
            process.start()
        found = answer.get()
        for process in others:
            process.join()
    return found


def work(rank: int, processes: int, store: str, answer) -> None:
    """One process; the first answers."""
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    votes, watch = Votes(), Watch(TIMEOUT_SEC)
    votes.open()
    found = {
        "vote on signals and checkpoints (`preempt.Votes`, read a step later)": microseconds(
            lambda: votes.next([0, 0])
        ),
        "Lightning's broadcast of SIGTERM with its wait, switched off": microseconds(broadcast),
        "watch for a stuck process (`strategy.Watch`)": microseconds(watch.on_train_batch_start),
    }
    votes.settle()
    if rank == 0:
        answer.put(found)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def broadcast() -> None:
    """As `_TrainingEpochLoop._broadcast_sigterm_tensor` does it, on the CPU; of one process it is left out."""
    if dist.is_initialized():
        signalled = torch.tensor([0])
        dist.broadcast(signalled, src=0)
        signalled.item()


def microseconds(step: Callable[[], object]) -> float:
    """Per call, in the best round, with a pause between the calls in which others can answer."""
    best = float("inf")
    for _ in range(ROUNDS):
        spent = 0.0
        for _ in range(STEPS):
            time.sleep(0.0005)
            began = time.perf_counter()
            step()
            spent += time.perf_counter() - began
        best = min(best, spent / STEPS)
    return best * 1e6


if __name__ == "__main__":
    main()
