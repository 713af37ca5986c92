import csv
import time
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from mvit_train import telemetry
from mvit_train.cost import cost
from mvit_train.data.loader import ResilientLoader
from mvit_train.metrics_log import MetricsLog
from mvit_train.models import mvit_b
from mvit_train.telemetry import Telemetry, memory_gib, peak_flops, utilisation

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning", "ignore:.*treespec:DeprecationWarning")


class Clock:
    """Time that passes only where the test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


class Slow(LightningModule):
    """Steps take 3 seconds, validations 100."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.layer = clock, torch.nn.Linear(1, 1)
        self.model = self.layer

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        self.clock.now += 3
        return self.layer(batch["video"]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.clock.now += 100


class Waiting(DataLoader):
    """Batches take a second to come."""

    def __init__(self, clock, items, **arguments):
        super().__init__(items, **arguments)
        self.clock, self.waited_sec = clock, 0.0

    def __iter__(self):
        for batch in super().__iter__():
            self.clock.now += 1
            self.waited_sec += 1
            yield batch


def fit(tmp_path, monkeypatch, **arguments):
    clock = Clock(monkeypatch)
    items = [{"video": torch.ones(1), "label": torch.zeros(())} for _ in range(24)]
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=MetricsLog(tmp_path),
        callbacks=[Telemetry()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **arguments,
    )
    loader = Waiting(clock, items, batch_size=3)
    trainer.fit(Slow(clock), loader, DataLoader(items, batch_size=24))
    return [row for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["train/clips_per_sec"]]


@pytest.mark.parametrize(("accumulate", "steps"), [(1, [3, 7, 11, 15]), (2, [3, 7])])
def test_rates_are_those_of_the_steps_since_the_last_row_without_validations(tmp_path, monkeypatch, accumulate, steps):
    rows = fit(tmp_path, monkeypatch, log_every_n_steps=4, accumulate_grad_batches=accumulate)
    assert [int(row["step"]) for row in rows] == steps
    for row in rows:  # 3 clips, 1 second of waiting and 3 of work each
        assert float(row["train/clips_per_sec"]) == pytest.approx(0.75)
        assert float(row["train/data_wait_share"]) == pytest.approx(0.25)
        assert 0.01 < float(row["train/memory_gib"]) < 1000
        assert "train/mfu" not in row  # there is no peak of a CPU


def test_utilisation_appears_where_the_peak_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(telemetry, "peak_flops", lambda *_: 9e9)
    monkeypatch.setattr(telemetry, "cost", lambda model: {"gflops": 0.5})
    (row, *_) = fit(tmp_path, monkeypatch, log_every_n_steps=4)
    assert float(row["train/mfu"]) == pytest.approx(0.75 * 0.5e9 * 6 / 9e9)


def test_mvit_b_at_100_clips_a_second_uses_so_much_of_an_a100():
    gflops = cost(mvit_b(num_classes=400))["gflops"]
    assert gflops == pytest.approx(70.8, abs=0.1)  # multiply-adds; the paper's 70.5 G
    assert utilisation(100, gflops, 312e12) == pytest.approx(100 * 70.8e9 * 6 / 312e12, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16-mixed", 312),
        ("NVIDIA A100-SXM4-80GB", "32-true", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989.4),
        ("NVIDIA H100 PCIe", "16-mixed", 756),
        ("NVIDIA H200", "bf16-true", 989.4),
        ("NVIDIA L40S", "bf16-mixed", 362),
        ("NVIDIA L4", "bf16-mixed", 121),
        ("NVIDIA A10", "bf16-mixed", 125),
        ("Tesla V100-SXM2-16GB", "16-mixed", 125),
        ("NVIDIA GeForce RTX 3090", "bf16-mixed", 71),
        ("NVIDIA A100-SXM4-80GB", "64-true", None),
        ("NVIDIA Something New", "bf16-mixed", None),
        ("", "bf16-mixed", None),
    ],
)
def test_peaks_are_those_of_the_device_and_the_precision(name, precision, teraflops):
    peak = peak_flops(name, precision)
    assert peak == (None if teraflops is None else teraflops * 1e12)


def test_float32_counts_as_tf32_once_it_is_allowed():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert peak_flops("NVIDIA A100-SXM4-80GB", "32-true") == 156e12
    finally:
        torch.set_float32_matmul_precision(before)


def test_memory_of_a_cpu_run_is_that_of_the_process():
    before = memory_gib(torch.device("cpu"))
    block = torch.ones(300 * 2**20 // 4)
    assert block.sum() > 0
    assert memory_gib(torch.device("cpu")) >= before
    assert 0.1 < memory_gib(torch.device("cpu")) < 1000


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_counts_how_long_it_was_waited_for(workers):
    loader = ResilientLoader(
        Dataset(),
        batch_size=2,
        sampler=torch.utils.data.SequentialSampler(Dataset()),
        collate_fn=list,
        num_workers=workers,
        timeout_sec=60,
    )
    began = time.perf_counter()
    batches = list(loader)
    assert (batches, 0 < loader.waited_sec <= time.perf_counter() - began) == ([[0, 1], [2, 3]], True)
    before = loader.waited_sec
    list(loader)
    assert loader.waited_sec > before


class Dataset(SimpleNamespace):
    condemned: dict = {}
    place = None

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index

    def name(self, video):
        return str(video)
