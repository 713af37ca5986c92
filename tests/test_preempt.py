"""A run that is asked to leave saves itself, says so, and goes on to the weights of an uninterrupted one."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from mvit_train.__main__ import main
from mvit_train.checkpoint import read_checkpoint
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.module import VideoClassifier
from mvit_train.preempt import Listener, Votes, Wish

pytestmark = pytest.mark.usefixtures("own_environment", "own_signals")

TINY = [
    *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "model.dropout=0.3", "model.drop_path_rate=0.2"),
    *("clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "views=1x1"),
    *("data.num_workers=0", "data.batch_size=2", "data.eval_batch_size=8", "augment.mixup.mixup_alpha=0.8"),
    *("optim.lr=1e-3", "optim.lr_batch=4", "optim.warmup_epochs=1", "logger.wandb=off"),
    *("trainer.max_epochs=2", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.devices=1"),
]


@pytest.fixture
def own_signals():
    """What a run has done to the handlers is undone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def command(folder, runs, run_id, *overrides):
    return [*TINY, f"data.root={folder}", f"runs={runs}", f"run_id={run_id}", *overrides]


def digest(path):
    """sha256 of the last weights of a run."""
    state = read_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()


@pytest.fixture
def signals_at(monkeypatch):
    """`signals_at({5: signal.SIGTERM})` sends this process a signal within its fifth training step."""

    def install(when):
        step, count = VideoClassifier.training_step, 0

        def signalling(self, batch, batch_idx):
            nonlocal count
            count += 1
            if count in when:
                signal.raise_signal(when[count])
            return step(self, batch, batch_idx)

        monkeypatch.setattr(VideoClassifier, "training_step", signalling)

    return install


@pytest.mark.parametrize(("number", "marked"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
@pytest.mark.parametrize(("at", "saved"), [(4, "step_00000004"), (9, "last")], ids=["within", "at the end of an epoch"])
def test_a_signal_saves_and_ends_the_run_which_goes_on(
    folder, tmp_path, capsys, monkeypatch, signals_at, number, marked, at, saved
):
    signals_at({at: number})
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: (signal.raise_signal(number), save(*arguments)))  # once more
    assert main(command(folder, tmp_path, "a")) == 0
    run, printed = tmp_path / "motion" / "a", capsys.readouterr().out
    assert f"preempted at step {at}: saved {run}/checkpoints/{saved}.ckpt; the same command goes on" in printed
    assert "top-1" not in printed  # it left at once
    assert (run / "REQUEUE").exists() == marked
    assert read_checkpoint(run / "checkpoints" / f"{saved}.ckpt")["global_step"] == at


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "train_dataloader"), (signal.SIGUSR1, "val_dataloader")])
def test_a_signal_that_comes_while_lightning_gets_ready_is_remembered(
    folder, tmp_path, monkeypatch, capsys, number, name
):
    """Lightning's handlers, which would be in place then, call collectives."""
    loader = getattr(VideoDataModule, name)

    def signalling(self):
        signal.raise_signal(number)
        return loader(self)

    monkeypatch.setattr(VideoDataModule, name, signalling)
    assert main(command(folder, tmp_path, "a")) == 0
    assert "preempted at step 1: saved " in capsys.readouterr().out
    assert (tmp_path / "motion" / "a" / "REQUEUE").exists() == (number == signal.SIGUSR1)


def test_signals_that_ask_for_a_requeue_are_configured(folder, tmp_path, signals_at, capsys):
    signals_at({2: signal.SIGTERM})
    assert main(command(folder, tmp_path, "a", "checkpoints.requeue_on=[SIGUSR1,SIGTERM]")) == 0
    assert (tmp_path / "motion" / "a" / "REQUEUE").read_text().startswith("preempted at step 2: saved ")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # until the process ends
    assert main(command(folder, tmp_path, "a", "checkpoints.save_on=[SIGSTOP]")) == 1
    assert "checkpoints: SIGSTOP is no signal that can be caught" in capsys.readouterr().err


def test_a_signal_in_the_final_evaluation_is_answered_there(folder, tmp_path, monkeypatch, capsys):
    test_step = VideoClassifier.test_step

    def signalling(self, batch, batch_idx):
        signal.raise_signal(signal.SIGUSR1)
        test_step(self, batch, batch_idx)

    few = ("trainer.max_epochs=1", "data.eval_batch_size=2")
    monkeypatch.setattr(VideoClassifier, "test_step", signalling)
    assert main(command(folder, tmp_path, "a", *few)) == 0
    assert "preempted in the evaluation that ends the run; the same command goes on" in capsys.readouterr().out
    assert (tmp_path / "motion" / "a" / "REQUEUE").exists()
    monkeypatch.undo()
    assert main(command(folder, tmp_path, "a", *few)) == 0
    assert (tmp_path / "motion" / "a" / "metrics.json").exists()
    assert not (tmp_path / "motion" / "a" / "REQUEUE").exists()


def start(folder, runs, run_id, *overrides):
    """A run of two processes with two workers each, in a process group of its own."""
    more = ("trainer.devices=2", "trainer.strategy=ddp", "data.num_workers=2", "module.ema_decay=0.5")
    more += ("trainer.max_epochs=8", *overrides)
    return subprocess.Popen(
        [sys.executable, "-m", "mvit_train", *command(folder, runs, run_id, *more)],
        cwd=runs,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    printed = process.communicate(timeout=240)[0]
    assert process.returncode == 0, printed[-3000:]
    return printed


def wait_for_step(process, run):
    """Until the process has written a checkpoint within an epoch."""
    before = set((run / "checkpoints").glob("step_*.ckpt"))
    while set((run / "checkpoints").glob("step_*.ckpt")) <= before and process.poll() is None:
        time.sleep(0.02)


def test_two_processes_and_their_workers_that_are_killed_and_then_signalled_end_as_if_undisturbed(folder, tmp_path):
    rng = random.Random(0)
    whole = start(folder, tmp_path, "whole")
    killed = start(folder, tmp_path, "storm", "checkpoints.every_steps=1")
    wait_for_step(killed, tmp_path / "motion" / "storm")
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    storm = start(folder, tmp_path, "storm", "checkpoints.every_steps=1")
    wait_for_step(storm, tmp_path / "motion" / "storm")
    for number in [signal.SIGUSR1, *rng.choices([signal.SIGUSR1, signal.SIGTERM], k=9)]:
        if storm.poll() is None:
            os.killpg(storm.pid, number)
            time.sleep(rng.uniform(0, 0.3))
    assert "preempted at step " in finish(storm)
    assert (tmp_path / "motion" / "storm" / "REQUEUE").exists()
    finish(whole)
    finish(start(folder, tmp_path, "storm"))
    assert not (tmp_path / "motion" / "storm" / "REQUEUE").exists()
    assert digest(tmp_path / "motion" / "storm") == digest(tmp_path / "motion" / "whole")


def test_a_listener_remembers_the_strongest_wish_and_puts_earlier_handlers_back_if_there_was_none():
    before = signal.getsignal(signal.SIGUSR1)
    with Listener(["SIGTERM"], ["SIGUSR1"]):
        assert signal.getsignal(signal.SIGUSR1) != before
    assert signal.getsignal(signal.SIGUSR1) == before
    with Listener(["SIGTERM"], ["SIGUSR1"]) as listener:
        assert listener.wish == Wish.NOTHING
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.raise_signal(number)
        assert listener.wish == Wish.REQUEUE
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN


def vote(rank, store, answers):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    votes = Votes()
    votes.open()
    said = [votes.next([rank, 0]), votes.next([0, 5 * rank]), votes.next([0, 0]), votes.now([0, 0])]
    said += [votes.next([3 * rank, 0]), votes.now([0, 7]), votes.settle()]
    answers.put((rank, said))
    torch.distributed.destroy_process_group()


def test_votes_are_answered_at_the_next_one_alike_for_all_and_none_is_lost(tmp_path):
    context = torch.multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [context.Process(target=vote, args=(rank, tmp_path / "store", answers)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(answers.get() for _ in processes)
    for process in processes:
        process.join(60)
    assert found[0] == found[1] == [[0, 0], [1, 0], [0, 5], [0, 0], [0, 0], [3, 7], []]
