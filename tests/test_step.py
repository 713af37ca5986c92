"""A training step never waits for its device, and the fused optimiser takes the same step.

Without a GPU its `torch.cuda.set_sync_debug_mode` cannot be asked. Here a tensor's values are not to be had at all: an
operation that needs them on the host, to branch on or to know a shape from, is found by its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mvit_train.data.erasing import Erasure
from mvit_train.data.mixup import Mixup
from mvit_train.data.pixel_ops import histogram_by_scatter
from mvit_train.data.rand_augment import OPS, Op, apply_op
from mvit_train.evaluate import ProgressBar
from mvit_train.models import mvit_b, mvit_v2_s
from mvit_train.module import VideoClassifier

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "randperm", "bincount")
MAKING = ("tensor", "as_tensor", "from_numpy")  # on the host; to the device, which is waited for
READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")
SMALL: dict[str, Any] = dict(embed_dim=16, crop_size=32, num_frames=4, num_classes=5, kv_stride=(1, 4, 4))


class NoWaiting(TorchDispatchMode):
    """Raises where the host would wait for values of the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_", "_index_put_impl_") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        if by_mask or any(name == word or name.startswith(word + "_") for word in WAITING):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


class NoReading(TorchFunctionMode):
    """Raises where Python reads a value; of a CPU tensor it does so without an operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READING + MAKING:
            raise AssertionError(f"{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    with NoReading(), NoWaiting():
        yield


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x[0].item(),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: bool(x[0] > 0),
        lambda x: float(x[1]),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: torch.randperm(3),
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: torch.bincount(x.long()),
    ],
)
def test_the_check_finds_what_waits(waits):
    with pytest.raises(AssertionError, match="waits for the device"), no_waiting():
        waits(torch.arange(3.0))


@pytest.mark.parametrize("build", [mvit_b, mvit_v2_s])
@pytest.mark.parametrize("batch_size", [2, 8])  # stochastic depth by factors, and by leaving out samples
@pytest.mark.parametrize("checkpointing", [False, True])
def test_forward_and_backward_do_not_wait(build, batch_size, checkpointing):
    model = build(
        **SMALL, blocks_per_stage=(1, 2, 1), drop_path_rate=0.5, activation_checkpointing=checkpointing
    ).train()
    video, target = torch.randn(batch_size, 3, 4, 32, 32), torch.randint(0, 5, (batch_size,))
    with no_waiting(), torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(model(video), target)
        loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])  # mixup, cutmix
def test_mixing_and_the_loss_do_not_wait(alphas):
    mixup = Mixup(mixup_alpha=alphas[0], cutmix_alpha=alphas[1], label_smoothing=0.1)
    label = torch.tensor([0, 3, 1, 2])
    with no_waiting():
        video, target = mixup(torch.randn(4, 3, 4, 8, 8), label, 5, np.random.default_rng(0))
        loss = cross_entropy(video.flatten(1)[:, :5], target)
        (logits,) = (video.flatten(1)[:, :5],)
        accuracy = (logits.argmax(1) == target.argmax(1)).float().mean() * 100
    assert loss.isfinite()
    assert 0 <= accuracy <= 100


@pytest.mark.parametrize("name", OPS)
def test_augmentations_do_not_wait(name):
    """On the meta device, which takes the way of a GPU and has no values to read."""
    video = torch.empty(3, 4, 16, 16, dtype=torch.uint8, device="meta")
    value = {"posterize": 4, "solarize": 100, "solarize_add": 50}.get(name, 0.3)
    with no_waiting():
        assert apply_op(video, Op(name, value, "bicubic"), (128, 128, 128)).shape == video.shape


def test_the_histogram_of_gpus_is_that_of_cpus():
    values = torch.randint(0, 500, (1000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    assert torch.equal(histogram_by_scatter(values, minlength=512), torch.bincount(values, minlength=512))


def test_erasing_does_not_wait():
    clip = torch.zeros(3, 4, 16, 16)
    with no_waiting():
        Erasure(2, 3, 5, 6, seed=1).apply(clip)
    assert (clip != 0).sum() == 3 * 4 * 5 * 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("build", [mvit_b, mvit_v2_s])
def test_a_step_on_cuda_does_not_wait(build):
    """By CUDA's own account, with mixing, erasing and the fused optimiser."""
    model = build(**SMALL, blocks_per_stage=(1, 2, 1), drop_path_rate=0.5).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    video = torch.randn(8, 3, 4, 32, 32, device="cuda")
    label = torch.arange(8, device="cuda") % 5
    for number in range(3):  # kernels are compiled and tables made in the first
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            Erasure(2, 3, 5, 6, seed=1).apply(video[0])
            mixed, target = Mixup()(video, label, 5, np.random.default_rng(number))
            with torch.autocast("cuda", torch.bfloat16):
                loss = cross_entropy(model(mixed), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_training_step_does_not_wait(monkeypatch):
    """The module's own step, logging left out: Lightning's is no part of it."""
    model = mvit_b(**SMALL, blocks_per_stage=(1, 1), drop_path_rate=0.1).train()
    logged: dict[str, Any] = {}
    module: Any = VideoClassifier.__new__(VideoClassifier)
    torch.nn.Module.__init__(module)
    module.model, module.multi_label, module.seed, module.substituted = model, False, 0, 0
    module.labels, module.mixup = range(5), Mixup()
    for name, value in (("mean", 0.45), ("std", 0.225)):
        module.register_buffer(name, torch.full((3, 1, 1, 1), value))
    monkeypatch.setattr(VideoClassifier, "_account", lambda self, failures: None)
    monkeypatch.setattr(VideoClassifier, "data", type("Data", (), {"transform": None})())
    monkeypatch.setattr(VideoClassifier, "current_epoch", 0)
    monkeypatch.setattr(VideoClassifier, "global_rank", 0)
    monkeypatch.setattr(VideoClassifier, "log", lambda self, name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(VideoClassifier, "log_dict", lambda self, values, **_: logged.update(values))
    optimizer = type("Optimizer", (), {"param_groups": [{"lr": 0.1}]})()
    monkeypatch.setattr(VideoClassifier, "trainer", type("Trainer", (), {"optimizers": [optimizer]})())
    video = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8)
    batch = dict(video=video, label=torch.tensor([0, 3, 1, 2]), failures=[], erasures=[])
    with no_waiting():
        module.training_step(batch, 0).backward()
    assert set(logged) >= {"train/loss", "train/top1", "optim/lr"}
    assert all(isinstance(value, Tensor) for value in logged.values())  # a float would be copied to the device


def test_the_bar_reads_values_as_often_as_the_log(monkeypatch):
    read: list[int] = []
    loop = SimpleNamespace(batch_idx=0)
    trainer: Any = SimpleNamespace(
        training=True, log_every_n_steps=5, fit_loop=SimpleNamespace(epoch_loop=loop), loggers=[]
    )
    monkeypatch.setattr(
        RichProgressBar, "get_metrics", lambda *_: read.append(loop.batch_idx) or {"loss": loop.batch_idx, "v_num": 1}
    )
    bar = ProgressBar()
    shown = []
    for loop.batch_idx in range(12):
        shown.append(bar.get_metrics(trainer, Any)["loss"])
    assert read == [0, 5, 10]
    assert shown == [0] * 5 + [5] * 5 + [10] * 2
    trainer.training = False  # of a validation all values are there
    assert bar.get_metrics(trainer, Any) == {"loss": 11}


def test_the_fused_optimiser_takes_the_same_steps(record_measured):
    models = [
        torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 5)) for _ in "ab"
    ]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=fused)
        for model, fused in zip(models, (None, True), strict=True)
    ]
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, target = torch.randn(16, 64, generator=random), torch.randint(0, 5, (16,), generator=random)
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            cross_entropy(model(x), target).backward()
            optimizer.step()
    found = max((a - b).abs().max().item() for a, b in zip(*(m.parameters() for m in models), strict=True))
    record_measured("fused AdamW: weights after 20 steps of 1e-3", found, 2e-5)
    assert found <= 2e-5
