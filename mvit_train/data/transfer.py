"""A batch's way to the device: on CUDA beside the step before it, which the device still computes."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from mvit_train.data.dataset import Batch


def to_device(batch: Batch, device: torch.device, prepare: Callable[[Batch], Batch]) -> Batch:
    """Moves the tensors of a batch, also within lists, and applies `prepare` there.

    On CUDA both happen on a stream of their own: they wait for nothing of the step before, and the step after waits for
    them on the device. The host waits for neither, if the batch is in pinned memory.
    """
    stream = _side_stream(device)
    if stream is None:
        return prepare(_moved(batch, device))
    with torch.cuda.stream(stream):
        batch = prepare(_moved(batch, device))
    present = torch.cuda.current_stream(device)
    present.wait_stream(stream)
    for tensor in _tensors(batch):
        tensor.record_stream(present)  # its memory is not given to the next batch before the step has used it
    return batch


@cache
def _side_stream(device: torch.device) -> Any:
    """The stream of a CUDA device for its batches; None for other devices."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def _moved(batch: Batch, device: torch.device) -> Batch:
    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        return [moved(item) for item in value] if isinstance(value, list) else value

    return cast(Batch, {key: moved(value) for key, value in batch.items()})


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
