"""Files that torch wrote, read so that a stranger's can neither run code nor take more memory than it is long."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvit_train.archive import refuse_compressed

MAX_VALUES = 2_000_000  # containers, numbers and texts in a file
SLACK = 2**26  # bytes of tensors that small files may share
MAX_REPEATED = 2**32  # bytes that views of few numbers may amount to


def read_torch_file(path: Path, *, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """What `torch.save` wrote: tensors and plain values, nothing else.

    Raises ValueError for what only serves to fill memory: compressed members, tensors larger than the file. torch's own
    errors, of many types, pass: for damage, and for anything that could run code when it is read.
    """
    if zipfile.is_zipfile(path):  # or written before torch 1.6
        refuse_compressed(path)
    content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    _refuse_oversized(content, path.stat().st_size)
    return content


def _refuse_oversized(content: Any, size: int) -> None:
    """ValueError if the tensors need more memory than `size` bytes of a file can fill."""
    waiting, seen, storages = [content], set(), {}
    claimed = 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_meta or value.is_quantized:
                raise ValueError(f"it holds a tensor that is not dense: {value.layout}, on {value.device}")
            claimed += value.numel() * value.element_size()
            storage = value.untyped_storage()
            storages[storage.data_ptr() or id(storage)] = storage.nbytes()
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            waiting += [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        if len(waiting) > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES} values")
    if sum(storages.values()) > size + SLACK or claimed > 4 * size + MAX_REPEATED:
        raise ValueError(f"its tensors claim {claimed} bytes, the file has {size}")
