"""A training in a process of its own, which writes down what each step sees and may be killed within one.

The process is forked from one that has imported everything and computed nothing: PyTorch's autograd does not outlive a
fork once it has started threads.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mvit_train.__main__ import main
from mvit_train.module import VideoClassifier

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["killed_run", "mvit_train.train"])
TIMEOUT_SEC = 240


def train(arguments: Sequence[str], stream: Path, kill_at: int | None = None) -> int | None:
    """Runs a command line, each of whose steps adds a line to `stream`: its place, its videos, its loss. The process is
    killed when its kill_at-th step begins. Returns its exit code, None if it has not ended in time."""
    process = CONTEXT.Process(target=_work, args=(list(arguments), stream, kill_at, dict(os.environ)))
    process.start()
    process.join(TIMEOUT_SEC)
    return process.exitcode


def _work(arguments: Sequence[str], stream: Path, kill_at: int | None, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as on Linux, for the reading workers
    torch.set_num_threads(1)
    step, count = VideoClassifier.training_step, 0

    def watched(self, batch, batch_idx):
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = step(self, batch, batch_idx)
        with stream.open("a") as file:
            place = f"{self.current_epoch}.{batch_idx}"
            file.write(json.dumps([place, batch["video_index"].tolist(), float(loss)]) + "\n")
        return loss

    VideoClassifier.training_step = watched
    os._exit(main(arguments))
