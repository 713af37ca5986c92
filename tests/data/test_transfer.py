"""A batch on its way to the device, and the order of its stream and the step's."""

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from mvit_train.data import transfer
from mvit_train.data.transfer import to_device

CPU = torch.device("cpu")


def batch() -> Any:
    return {"video": [torch.zeros(2), torch.ones(3)], "label": torch.arange(2), "drawn": [["a"], ["b"]], "failures": []}


def joined(given: Any) -> Any:
    given["video"] = torch.cat(given["video"])
    return given


def test_tensors_move_also_within_lists_and_what_was_drawn_stays():
    found: Any = to_device(batch(), torch.device("meta"), lambda given: given)
    assert [clip.device.type for clip in found["video"]] == ["meta", "meta"]
    assert found["label"].device.type == "meta"
    assert (found["drawn"], found["failures"]) == ([["a"], ["b"]], [])


class Stream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


def test_the_step_waits_for_the_batch_and_its_memory_for_the_step(monkeypatch):
    log: list[str] = []
    side, present = Stream("side", log), Stream("step", log)

    @contextmanager
    def on(stream):
        log.append(f"on {stream.name}")
        yield
        log.append("off")

    monkeypatch.setattr(transfer, "_side_stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: present)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: log.append(f"{len(x)} for {stream.name}"))
    found: Any = to_device(batch(), CPU, lambda given: log.append("prepared") or joined(given))
    assert log == ["on side", "prepared", "off", "step waits for side", "5 for step", "2 for step"]
    assert found["video"].tolist() == [0, 0, 1, 1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_a_batch_is_whole_when_the_step_sees_it():
    device = torch.device("cuda")
    for number in range(20):
        given: Any = {"video": [torch.full((1 << 22,), float(number)).pin_memory() for _ in range(2)]}
        torch.cuda._sleep(5_000_000)
        found: Any = to_device(given, device, joined)
        assert found["video"].double().mean().item() == number
