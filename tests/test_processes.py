"""Several processes take the steps of one, by replicas and by shards, however they are started."""

import csv
import json
import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from mvit_train import train
from mvit_train.__main__ import main
from mvit_train.checkpoint import read_checkpoint
from mvit_train.data.mixup import Mixup
from mvit_train.module import VideoClassifier

pytestmark = pytest.mark.usefixtures("own_environment")

VIDEOS = 6  # of an optimiser step, over all processes
TINY = [
    *("model=mvit_v2_s", "model.embed_dim=16", "model.num_heads=1", "model.blocks_per_stage=[1,1]", "model.dropout=0"),
    *("model.drop_path_rate=0", "clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "views=1x1"),
    *("data.num_workers=0", "data.eval_batch_size=4", "augment.mixup.mixup_alpha=0", "logger.wandb=off"),
    *("optim.lr=1e-3", "optim.lr_batch=6", "optim.warmup_epochs=1", "trainer.max_epochs=2", "trainer.accelerator=cpu"),
    *("trainer.log_every_n_steps=1", "trainer.gradient_clip_val=0.1"),  # which is less than all norms here
]
DOUBLE = ["trainer.precision=64-true"]
EVERYTHING = ["augment.mixup.mixup_alpha=0.8", "augment.mixup.cutmix_alpha=1", "module.ema_decay=0.5", "data.repeats=2"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def places(launcher, rank, size):
    """The environment of a process, by who has started it."""
    return {
        "start": {"LOCAL_RANK": rank, "NODE_RANK": 0},
        "torchrun": {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "LOCAL_WORLD_SIZE": size, "WORLD_SIZE": size}
        | {"TORCHELASTIC_RUN_ID": "a"},
        "slurm": {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_NTASKS": size}
        | {"SLURM_NTASKS_PER_NODE": size, "SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "a", "SLURM_NODELIST": "n1"},
    }[launcher]


def run(arguments, *, size=1, launcher="start", prepare=lambda: None):
    """Runs a command line in so many processes, each of which calls `prepare` before."""
    port = free_port()

    def work(rank):
        if size > 1:
            here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | places(launcher, rank, size)
            os.environ.update({name: str(value) for name, value in here.items()})
        # After a fork PyTorch makes its pool of threads anew; if two threads of autograd came first, they would fail.
        torch.set_num_threads(torch.get_num_threads())
        prepare()
        os._exit(main([*arguments, f"trainer.devices={size}"]))

    processes = [multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * size


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def recorded(folder, runs, name, *overrides, size=1, launcher="start"):
    """A training; the gradients of its steps, before clipping, and its last checkpoint."""
    gradients = []

    def prepare():
        def keep(self, optimizer):
            gradients.append({key: whole(p.grad) for key, p in self.named_parameters() if p.grad is not None})

        def finish(cfg, module, data, trainer, *_):
            if trainer.is_global_zero:
                torch.save(gradients, runs / f"{name}.pt")
            os._exit(0)

        def loss(self, logits, target):
            return torch.nn.functional.cross_entropy(logits, target.to(logits.dtype))

        def mixed(self, video, label, num_classes, rng):  # by what is in the batch, not by who has it at which step
            return mix(self, video, label, num_classes, np.random.default_rng(int(video.double().square().sum())))

        mix, Mixup.__call__ = Mixup.__call__, mixed
        VideoClassifier.on_before_optimizer_step, VideoClassifier.loss = keep, loss
        train.evaluate_best = finish

    arguments = [*TINY, f"data.root={folder}", f"runs={runs}", f"run_id={name}", *overrides]
    run(arguments, size=size, launcher=launcher, prepare=prepare)
    return torch.load(runs / f"{name}.pt"), read_checkpoint(runs / "motion" / name / "checkpoints" / "last.ckpt")


def distance(first, second):
    """The greatest difference between tensors by name, as a share of the greatest value of all."""
    assert first.keys() == second.keys()
    greatest = max(float(tensor.abs().max()) for tensor in second.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first) / greatest


def distances(found, expected):
    (gradients, last), (others, other) = found, expected
    assert len(gradients) == len(others) == last["global_step"] == other["global_step"] == 6
    steps = max(distance(*pair) for pair in zip(gradients, others, strict=True))
    return steps, distance(last["state_dict"], other["state_dict"])


def batches(size, parts):
    """How a step's videos are shared by processes, each of which adds up so many batches."""
    return [f"data.batch_size={VIDEOS // size // parts}", f"trainer.accumulate_grad_batches={parts}"]


def mixed_batches(size):
    """The same, of batches of one video in two copies, for mixing stays within a batch."""
    return ["data.batch_size=2", f"trainer.accumulate_grad_batches={VIDEOS // size}", *EVERYTHING]


@pytest.fixture(scope="module")
def of_one(folder, tmp_path_factory):
    """`of_one(*overrides)`: `recorded` by one process, once."""
    runs, made = tmp_path_factory.mktemp("one"), {}

    def get(*overrides):
        if overrides not in made:
            made[overrides] = recorded(folder, runs, f"run{len(made)}", *overrides)
        return made[overrides]

    return get


@pytest.mark.parametrize(("digits", "bound"), [("float64", 1e-12), ("float32", 1e-4)])
@pytest.mark.parametrize("recipe", ["plain", "mixup, accumulation, average"])
def test_two_and_three_processes_have_the_gradients_and_weights_of_one(
    folder, tmp_path, of_one, record_measured, recipe, digits, bound
):
    precision = DOUBLE if digits == "float64" else []
    parts = (lambda size: batches(size, 1)) if recipe == "plain" else mixed_batches
    one = of_one(*precision, *parts(1))
    norms = [torch.stack([g.norm() for g in step.values()]).norm() for step in one[0]]
    assert min(norms) > 0.1  # so that all are clipped
    for size, launcher in ((2, "torchrun"), (3, "slurm")):
        found = recorded(folder, tmp_path, f"of{size}", *precision, *parts(size), size=size, launcher=launcher)
        for what, difference in zip(("gradients", "weights after 6 steps"), distances(found, one), strict=True):
            record_measured(f"{size} processes, {digits}, {recipe}: {what}", difference, bound)
            assert difference < bound


def test_shards_have_the_gradients_and_weights_of_one_process(folder, tmp_path, of_one, record_measured):
    one = of_one(*DOUBLE, *batches(1, 1))
    for size, parts, more in ((2, 1, ["model.activation_checkpointing=true"]), (3, 2, [])):
        more = [*DOUBLE, *batches(size, parts), *more, "trainer.strategy=fsdp"]
        found = recorded(folder, tmp_path, f"of{size}", *more, size=size)
        for what, difference in zip(("gradients", "weights after 6 steps"), distances(found, one), strict=True):
            record_measured(f"{size} processes, float64, shards: {what}", difference, 1e-12)
            assert difference < 1e-12
        for mine, theirs in zip(tensors(found[1]), tensors(one[1]), strict=True):
            assert (type(mine), mine.shape, mine.dtype) == (torch.Tensor, theirs.shape, theirs.dtype)


def tensors(checkpoint):
    """Weights and moments, in an order of their own."""
    moments = checkpoint["optimizer_states"][0]["state"]
    return [*checkpoint["state_dict"].values(), *(value for i in sorted(moments) for value in moments[i].values())]


def trained(folder, runs, name, *overrides, size, evaluate=True):
    def prepare():
        if not evaluate:
            train.evaluate_best = lambda *_: os._exit(0)

    arguments = [*TINY, f"data.root={folder}", f"runs={runs}", f"run_id={name}", *overrides]
    run(arguments, size=size, prepare=prepare)
    return runs / "motion" / name


def predictions(run_dir):
    with np.load(run_dir / "predictions.npz") as file:
        return {name: file[name].tobytes() for name in file.files if name != "info"}


def val_losses(run_dir):
    return [float(row["val/loss"]) for row in csv.DictReader((run_dir / "metrics.csv").open()) if row["val/loss"]]


def test_shards_go_on_exactly_and_their_checkpoints_are_those_of_one_process(folder, tmp_path, capsys):
    noise = ["model.dropout=0.3", "model.drop_path_rate=0.2", *batches(2, 1), "trainer.strategy=fsdp"]
    whole = trained(folder, tmp_path, "whole", *noise, size=2)
    trained(
        folder, tmp_path, "halves", *noise, "trainer.max_steps=4", size=2, evaluate=False
    )  # ends within the second epoch
    halves = trained(folder, tmp_path, "halves", *noise, size=2, evaluate=False)
    first, second = (read_checkpoint(path / "checkpoints" / "last.ckpt") for path in (whole, halves))
    assert all(torch.equal(*pair) for pair in zip(tensors(first), tensors(second), strict=True))
    assert first["random_states"][0]["torch"].ne(first["random_states"][1]["torch"]).any()

    alone = ["task=evaluate", f"ckpt={whole}", f"data.root={folder}", "trainer.accelerator=cpu", "trainer.devices=1"]
    assert main(alone) == 0
    assert predictions(whole / "evaluate-1x1-all") == predictions(whole)
    assert main(["task=export", f"ckpt={whole}", f"output={tmp_path}/a.safetensors"]) == 0
    best = read_checkpoint(whole / "checkpoints" / "best.ckpt")["state_dict"]
    exported = load_file(tmp_path / "a.safetensors")
    assert exported.keys() == {name.removeprefix("model.") for name in best}
    assert all(torch.equal(best[f"model.{name}"], tensor) for name, tensor in exported.items())

    one = trained(
        folder, tmp_path, "one", *batches(1, 1), f"ckpt={halves}/checkpoints/last.ckpt", size=1, evaluate=False
    )
    assert read_checkpoint(one / "checkpoints" / "last.ckpt")["global_step"] == 6
    assert "process" not in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_with_fewer_videos_than_others_lose_and_repeat_nothing(folder, tmp_path, strategy):
    few = ["data.eval_batch_size=1", "trainer.max_epochs=1", "data.max_videos_per_class=2"]  # 4 videos: 2, 1 and 1
    one = trained(folder, tmp_path, "one", *few, "data.batch_size=3", size=1)
    three = trained(folder, tmp_path, "three", *few, "data.batch_size=1", f"trainer.strategy={strategy}", size=3)
    metrics = [json.loads((path / "metrics.json").read_text()) for path in (one, three)]
    assert metrics[0]["videos"] == metrics[1]["videos"] == {"expected": 4, "evaluated": 4, "failed": 0}
    assert val_losses(three) == pytest.approx(val_losses(one), rel=1e-4)
    alone = ["task=evaluate", f"ckpt={three}", "trainer.accelerator=cpu", "trainer.devices=1"]
    assert main(alone) == 0
    assert predictions(three / "evaluate-1x1-all") == predictions(three)


def test_what_shards_cannot_do_is_refused_before_anything_starts(folder, tmp_path, capsys):
    arguments = [*TINY, f"data.root={folder}", f"runs={tmp_path}", "trainer.strategy=fsdp", "module.ema_decay=0.9"]
    assert main([*arguments, "trainer.devices=2"]) == 2
    assert "module.ema_decay: is for trainer.strategy=ddp" in capsys.readouterr().err
    assert not (tmp_path / "motion").exists()
    assert main([*TINY, f"data.root={folder}", f"runs={tmp_path}", "trainer.timeout_minutes=0"]) == 1
    assert "trainer.timeout_minutes is 0, it must be more than 0" in capsys.readouterr().err
