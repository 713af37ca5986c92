"""Runs that are killed, or end early, and go on: what they see and what they become equals an uninterrupted run."""

import csv
import hashlib
import itertools
import json
import random
import shutil
import signal

import killed_run
import numpy as np
import pytest
import torch

from mvit_train.__main__ import main
from mvit_train.checkpoint import read_checkpoint
from mvit_train.resume import random_state, resume_point, set_random_state

pytestmark = pytest.mark.usefixtures("own_environment")

STEPS, EPOCHS = 4, 3  # steps of an epoch
TINY = [
    *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "model.dropout=0.3", "model.drop_path_rate=0.2"),
    *("clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "views=1x1"),
    *("data.num_workers=0", "data.batch_size=4", "data.eval_batch_size=8", "augment.mixup.mixup_alpha=0.8"),
    *("optim.lr=1e-3", "optim.lr_batch=4", "optim.warmup_epochs=1", "logger.wandb=off"),
    *(f"trainer.max_epochs={EPOCHS}", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.devices=1"),
]
EVERYTHING = ["augment=k400", "augment.crop.short_side=40", "data.repeats=2", "module.ema_decay=0.5"]


def train(folder, runs, run_id, *overrides, kill_at=None):
    arguments = [*TINY, f"data.root={folder}", f"runs={runs}", f"run_id={run_id}", *overrides]
    return killed_run.train(arguments, runs / f"{run_id}.jsonl", kill_at)


def seen(runs, run_id):
    """What the steps have seen, by place; of a step that was taken twice, both times."""
    found = {}
    for line in (runs / f"{run_id}.jsonl").read_text().splitlines():
        place, *what = json.loads(line)
        found.setdefault(place, []).append(what)
    return found


def weights(runs, run_id):
    """A digest of the last weights, averages and moments of a run."""
    checkpoint = read_checkpoint(runs / "motion" / run_id / "checkpoints" / "last.ckpt")
    digest = hashlib.sha256()
    moments = checkpoint["optimizer_states"][0]["state"]
    tensors = [checkpoint["state_dict"], checkpoint.get("current_model_state", {}), *moments.values()]
    for group in tensors:
        for name, value in group.items():
            digest.update(name.encode() + torch.as_tensor(value).numpy().tobytes())
    return digest.hexdigest()


def losses(runs, run_id):
    """train/loss of metrics.csv, by step."""
    rows = csv.DictReader((runs / "motion" / run_id / "metrics.csv").open())
    return {int(row["step"]): row["train/loss"] for row in rows if row["train/loss"]}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_that_is_killed_at_any_step_sees_and_becomes_what_an_uninterrupted_one_does(folder, tmp_path, seed):
    rng = random.Random(seed)
    more = [f"data.num_workers={2 * (seed % 2)}", "checkpoints.every_steps=1"]
    more += [EVERYTHING, [], ["trainer.accumulate_grad_batches=2", "module.ema_decay=0.5"]][seed]
    assert train(folder, tmp_path, "whole", *more) == 0
    assert train(folder, tmp_path, "cut", *more, kill_at=rng.randint(3, 7)) == -signal.SIGKILL
    assert train(folder, tmp_path, "cut", *more, kill_at=rng.randint(3, 4)) == -signal.SIGKILL
    assert train(folder, tmp_path, "cut", *more) == 0
    whole, cut = seen(tmp_path, "whole"), seen(tmp_path, "cut")
    assert list(whole) == list(cut)
    assert len(whole) >= STEPS * EPOCHS
    assert all(again == whole[place][0] for place, times in cut.items() for again in times)
    assert weights(tmp_path, "cut") == weights(tmp_path, "whole")
    assert losses(tmp_path, "cut") == losses(tmp_path, "whole")


def test_any_checkpoint_of_a_run_leads_to_the_same_end(folder, tmp_path):
    more = ["checkpoints.every_steps=1", "checkpoints.keep=100"]
    assert train(folder, tmp_path, "whole", *more) == 0
    assert train(folder, tmp_path, "cut", *more, kill_at=8) == -signal.SIGKILL
    found = tmp_path / "motion" / "cut" / "checkpoints"
    steps = {f"step_{step:08d}.ckpt" for step in (1, 2, 3, 5, 6, 7)}  # 4 ends an epoch
    assert {file.name for file in found.iterdir()} == {"best.ckpt", "last.ckpt", *steps}
    for name in ("best", "step_00000002"):
        copy = tmp_path / "motion" / name / "checkpoints"
        copy.mkdir(parents=True)
        shutil.copy(found / f"{name}.ckpt", copy)
        assert train(folder, tmp_path, name) == 0
        assert weights(tmp_path, name) == weights(tmp_path, "whole"), name
        assert {file.name for file in copy.iterdir()} == {"best.ckpt", "last.ckpt"}  # none within epochs is left


def test_the_newest_complete_checkpoint_of_the_run_goes_on_and_a_truncated_one_is_named(tmp_path, caplog):
    folder = tmp_path / "a" / "checkpoints"
    folder.mkdir(parents=True)
    for name, step in (("last", 8), ("best", 8), ("step_00000010", 10), ("step_00000011", 11)):
        torch.save(
            {"mvit_train": {"class_names": ["a"]}, "global_step": step, "w": torch.zeros(100)}, folder / f"{name}.ckpt"
        )
    other = tmp_path / "other.ckpt"
    torch.save({"mvit_train": {}}, other)
    whole = (folder / "step_00000011.ckpt").read_bytes()
    (folder / "step_00000011.ckpt").write_bytes(whole[:-100])
    assert resume_point(tmp_path / "a", None).name == "step_00000010.ckpt"
    assert "step_00000011.ckpt is no complete checkpoint" in caplog.text
    assert resume_point(tmp_path / "a", other).name == "step_00000010.ckpt"  # the run has got further than that
    assert resume_point(tmp_path / "a", folder / "best.ckpt").name == "best.ckpt"
    content = bytearray((folder / "step_00000010.ckpt").read_bytes())
    content[content.index(bytes(400)) + 200] ^= 1  # one bit of the weights, which torch would not notice
    (folder / "step_00000010.ckpt").write_bytes(content)
    assert resume_point(tmp_path / "a", None).name == "last.ckpt"
    assert "step_00000010.ckpt: its part step_00000010/data/0 is damaged, the checksum differs; it is" in caplog.text
    assert resume_point(tmp_path / "b", other) == other
    assert resume_point(tmp_path / "b", None) is None


def test_a_run_leaves_out_a_truncated_checkpoint_and_goes_on_from_the_one_before(folder, tmp_path, capsys, caplog):
    assert train(folder, tmp_path, "a", "checkpoints.every_steps=1", kill_at=8) == -signal.SIGKILL
    found = tmp_path / "motion" / "a" / "checkpoints"
    (found / "step_00000006.ckpt").unlink()
    newest = found / "step_00000007.ckpt"
    newest.write_bytes(newest.read_bytes()[:10_000])
    assert main([*TINY, f"data.root={folder}", f"runs={tmp_path}", "run_id=a", "trainer.max_epochs=2"]) == 0
    assert f"ckpt: {newest} " in caplog.text
    assert "it is left out" in caplog.text
    assert f"resuming from {found / 'last.ckpt'}" in capsys.readouterr().out


def test_a_run_goes_on_with_other_batches_without_seeing_a_video_twice_or_leaving_one_out(folder, tmp_path):
    """18 videos: two steps of 4, then as on a smaller machine 5 batches of 2, two of them for a step."""
    smaller = ["data.batch_size=2", "trainer.accumulate_grad_batches=2", "data.num_workers=2", "trainer.max_epochs=2"]
    assert train(folder, tmp_path, "a", "checkpoints.every_steps=1", kill_at=3) == -signal.SIGKILL
    assert train(folder, tmp_path, "a", *smaller) == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    places, videos = zip(*((place, videos) for place, videos, _ in lines), strict=True)
    assert places[:7] == ("0.0", "0.1", "0.4", "0.5", "0.6", "0.7", "0.8")
    first, second = (sorted(itertools.chain.from_iterable(epoch)) for epoch in (videos[:7], videos[7:]))
    assert first == second  # as whole as an undisturbed one
    assert len(set(first)) == 18


def test_the_learning_rate_and_the_schedule_follow_the_clips_per_step(folder, tmp_path):
    assert train(folder, tmp_path, "a", "trainer.max_steps=4") == 0  # an epoch of four steps
    assert train(folder, tmp_path, "a", "data.batch_size=8") == 0  # and two epochs of two
    assert train(folder, tmp_path, "b", "data.batch_size=8") == 0  # three epochs of two
    found, expected = (
        [row["optim/lr"] for row in csv.DictReader((tmp_path / "motion" / name / "metrics.csv").open())]
        for name in ("a", "b")
    )
    found, expected = ([float(rate) for rate in rates if rate] for rates in (found, expected))
    assert found[4:] == pytest.approx(expected[2:])


def test_random_streams_continue_where_they_were():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1)

    draw()
    state = random_state(torch.device("cpu"))
    expected = draw()
    assert draw() != expected
    set_random_state(state, torch.device("cpu"))
    assert draw() == expected


@pytest.mark.parametrize(("name", "value"), [("every_minutes", 0), ("every_steps", -1), ("keep", 0)])
def test_counts_that_make_no_sense_are_refused(folder, tmp_path, capsys, name, value):
    assert main([*TINY, f"data.root={folder}", f"runs={tmp_path}", f"checkpoints.{name}={value}"]) == 1
    assert f"checkpoints.{name} is {value}, it must be more than 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("trainer.val_check_interval=0.5", "trainer.val_check_interval=0.5: a run that is killed in a validation"),
        ("trainer.val_check_interval=2", "trainer.val_check_interval=2: a run that is killed in a validation"),
        ('trainer.max_time="00:01:00:00"', "trainer.max_time: Lightning counts the epoch that it cuts short as done"),
    ],
)
def test_what_a_run_could_not_go_on_with_exactly_is_refused(folder, tmp_path, capsys, setting, words):
    assert main([*TINY, f"data.root={folder}", f"runs={tmp_path}", setting]) == 1
    assert words in capsys.readouterr().err
