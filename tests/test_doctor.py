"""The screen before a long run: what would fail is listed and makes the exit status 1, and one check hides no other."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from mvit_train import doctor
from mvit_train.__main__ import main
from mvit_train.checkup import forecast, surroundings
from mvit_train.checkup.data_findings import chance_of, in_both, manifests, unreadable
from mvit_train.checkup.findings import WIDTH, failure, guarded, named, ok, show, size, verdict
from mvit_train.checkup.forecast import LoaderRate, ModelRate, waiting_share
from mvit_train.checkup.sample import STAGES, Reading, Stopwatch, read_sample, spread
from mvit_train.checkup.surroundings import Plan, read_plan
from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.stream import VideoStream
from mvit_train.data.transforms import RandomResizedCrop
from mvit_train.models import mvit_b
from mvit_train.optim import AdamWCosine

CPU = torch.device("cpu")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def clips(tmp_path, video):
    """Two classes of readable videos, four to train with and one to validate with in each."""
    for name in ("jump", "sit"):
        for split, count in (("train", 4), ("val", 1)):
            folder = tmp_path / "clips" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                shutil.copy(video("a.mp4", 60), folder / f"{name}_{split}_{i}.mp4")
    return tmp_path / "clips"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(forecast, "LOADER_SEC", 0.05)
    monkeypatch.setattr(forecast, "MODEL_SEC", 0.05)
    monkeypatch.setenv("WANDB_MODE", "")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def levels(findings):
    return [finding.level for finding in findings]


def texts(findings, level):
    return [finding.text for finding in findings if finding.level == level]


def test_a_good_set_up_is_one_screen_and_leaves_nothing_behind(clips, tmp_path, quick, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(["task=doctor", f"data.root={clips}", f"runs={tmp_path / 'runs'}", "data.batch_size=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= WIDTH
    for title in ("Machine", "Data", "Speed", "Recipe", "Around the run"):
        assert title in lines
    screen = " ".join(" ".join(lines).split())
    assert "8 training and 2 validation videos of 2 classes" in screen
    assert "8 sampled training videos: all can be read" in screen
    assert all(f"{stage} " in screen for stage in STAGES)
    assert "peak learning rate 0.00025" in screen
    assert "Nothing would fail" in lines[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_everything_that_would_fail_is_listed_at_the_end(clips, tmp_path, quick, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 1000, 1000))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    (clips / "train" / "sit" / "text.mp4").write_text("no video")
    settings = ["trainer.accelerator=gpu", "trainer.devices=8", "trainer.max_epochs=1", f"runs={tmp_path}"]
    assert main(["task=doctor", f"data.root={clips}", *settings]) == 1
    screen, _, end = capsys.readouterr().out.partition("6 things would fail")
    assert "Traceback" not in screen
    found = [line.strip() for line in end.splitlines()[1:]]
    for line, start in zip(
        found,
        [
            "FAIL trainer.devices=8, trainer.precision=32-true on GPUs, none is here",
            "FAIL /dev/shm has 1 kB free",
            "FAIL 1 of 9 sampled training videos cannot be read: text.mp4 (not a video, or its header is damaged",
            "FAIL optim.warmup_epochs=2 is more than trainer.max_epochs=1",
            f"FAIL runs={tmp_path}: 1 kB free, checkpoints need",
            "FAIL Slurm job 7: --ntasks-per-node=4 but trainer.devices=8",
        ],
        strict=True,
    ):
        assert line.startswith(start[: WIDTH - 10]), line


@pytest.mark.parametrize(
    ("override", "text"),
    [("data.root=/nowhere", "data.root /nowhere is not a folder"), ("data.root=null", "data.root is not set")],
)
def test_a_folder_that_is_not_there_is_listed_with_everything_else(override, text, quick, capsys, tmp_path):
    settings = ["experiment=k400_mvit_b", "model=mvit_small", "clip.crop_size=32", "clip.num_frames=8"]
    assert main(["task=doctor", *settings, override, f"runs={tmp_path}"]) == 1
    out = capsys.readouterr().out
    assert f"FAIL {text}" in out
    assert "Around the run" in out


def test_other_mistakes_of_the_configuration_start_nothing(capsys):
    assert main(["task=doctor", "data.root=/nowhere", "data.batchsize=4"]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "data.batchsize = 4" in streams.err
    assert "/nowhere" not in streams.err


def test_built_in_videos_are_not_made_for_it(tmp_path, quick, capsys, monkeypatch):
    monkeypatch.setenv("MVIT_TRAIN_CACHE", str(tmp_path / "cache"))
    assert main(["task=doctor", f"runs={tmp_path}"]) == 0
    assert "the built-in videos are not made yet" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_under_srun_only_the_first_task_speaks(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert main(["task=doctor", f"runs={tmp_path}"]) == 0
    assert capsys.readouterr().out == ""


def test_a_check_that_breaks_off_is_a_failure_and_keeps_what_it_found():
    def check():
        yield ok("before")
        raise KeyError("secret\nlines")

    assert list(guarded("disk", check)) == [ok("before"), failure("disk: KeyError: 'secret\\nlines'")]
    assert list(guarded("disk", lambda: 1 / 0)) == [failure("disk: ZeroDivisionError: division by zero")]


def test_the_screen_wraps_and_hides_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert show(ok("runs=/home/ada/runs, not /mnt/home/ada/x")) == "  ok   runs=~/runs, not /mnt/home/ada/x"
    lines = show(failure("word " * 60)).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= WIDTH
    assert verdict([failure("word " * 60)]).splitlines()[-1].endswith("...")
    assert (named("abcde"), named("ab")) == ("a, b, c and 2 more", "a, b")
    assert [size(n) for n in (9e3, 39e6, 1.25e9, 2e11, 3e12)] == ["9 kB", "39 MB", "1.2 GB", "200 GB", "3.0 TB"]


# Data


def data_module(root: Path, **changes) -> VideoDataModule:
    settings = dict(num_frames=8, sampling_rate=4, crop_size=32, batch_size=4, eval_batch_size=4, num_workers=2)
    crop = RandomResizedCrop(crop_size=32)
    return VideoDataModule(root=root, transform=crop, **{**settings, **changes})  # pyright: ignore[reportArgumentType]


def test_classes_and_videos_that_the_splits_do_not_share_as_they_should(clips):
    shutil.move(clips / "train" / "sit", clips / "train" / "stand")
    (clips / "train.csv").write_text(
        "path,label\ntrain/jump/jump_train_0.mp4,jump\nval/sit/../sit/sit_val_0.mp4,jump\n"
    )
    (clips / "val.csv").write_text("path,label\nval/jump/jump_val_0.mp4,jump\nval/sit/sit_val_0.mp4,sit\n")
    (clips / "classes.txt").write_text("jump\nsit\nstand\n")
    splits = data_module(clips).splits
    assert in_both(splits["train"], splits["val"]) == ["val/sit/sit_val_0.mp4"]
    found = list(manifests(splits))
    assert texts(found, "failure") == []
    warned = texts(found, "warning")
    assert warned[0].startswith("1 of 3 classes validated but have no training video, and are always wrong: sit")
    assert warned[1].startswith("1 of 3 classes in the class list have no video at all: stand")
    assert warned[2].startswith("in both splits, so that the score is too high: 1 videos")


@pytest.mark.parametrize(
    ("bad", "sampled", "videos", "level"),
    [(0, 24, 24, "ok"), (1, 24, 24, "failure"), (1, 24, 9000, "warning"), (2, 24, 9000, "failure")],
)
def test_a_sample_tells_whether_too_many_videos_are_unreadable(bad, sampled, videos, level):
    readings = [Reading(split="train", path=f"{i}.mp4", reason="damaged" if i < bad else None) for i in range(sampled)]
    assert levels(unreadable(readings, "train", videos, 0.01)) == [level]
    assert levels(unreadable(readings, "val", videos, 0.01)) == ["warning" if bad else "ok"]


def test_the_chance_of_a_sample():
    assert chance_of(2, 24, 0.01) == pytest.approx(0.0239, abs=1e-4)
    assert chance_of(0, 24, 0.01) == pytest.approx(1)


def test_a_sample_is_read_with_a_stopwatch_that_the_normal_path_does_not_have(clips):
    module = data_module(clips)
    datasets = {"train": module.train_dataloader().dataset, "val": module.val_dataloader().dataset}
    readings = read_sample(datasets, {"train": 3, "val": 8})  # pyright: ignore[reportArgumentType]
    assert [reading.split for reading in readings] == ["train"] * 3 + ["val"] * 2
    assert [reading.path.rsplit("/")[-1] for reading in readings[:2]] == ["jump_train_0.mp4", "sit_train_0.mp4"]
    for reading in readings:
        assert (reading.reason, reading.fps, reading.duration_sec, reading.short_side) == (None, 30, 2, 48)
        assert set(reading.seconds) == set(STAGES)
        assert all(seconds > 0 for seconds in reading.seconds.values())
        assert reading.packets is not None
        assert 8 <= reading.packets[1] <= reading.packets[0] <= 60
    assert VideoStream.decode.__qualname__ == "VideoStream.decode"
    assert "video_from_path" not in vars(datasets["train"].handler)


def test_a_video_that_kills_its_reader_is_reported_and_the_next_one_is_read(clips, monkeypatch):
    dataset = data_module(clips).train_dataloader().dataset
    read = dataset.read
    monkeypatch.setattr(dataset, "read", lambda index, rng: os._exit(1) if index == 0 else read(index, rng))
    first, last = read_sample({"train": dataset}, {"train": 2, "val": 0}, patience_sec=1.0)
    assert (first.reason, last.reason) == ("could not be read within 1 s, or killed the process that read it", None)


def test_the_stopwatch_gives_time_to_the_innermost_stage(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    watch = Stopwatch()
    with watch.stage("read"):
        watch.timed("decode", lambda: None)()
    assert watch.seconds == {"read": 5.0, "decode": 2.0}


def test_a_sample_is_spread_evenly():
    assert [spread(10, 4), spread(3, 8), spread(1, 2)] == [[0, 3, 6, 9], [0, 1, 2], [0]]


# Speed


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_is_measured_as_it_is_but_for_the_batch(clips, num_workers):
    module = data_module(clips, num_workers=num_workers)
    rate = forecast.measure_loader(module, max_sec=0.05)
    assert rate.clips_per_sec > 0
    assert (rate.num_workers, rate.num_batches, module.batch_size) == (num_workers, 2, 4)


@pytest.mark.parametrize(
    ("loaded", "workers", "demand", "devices", "cores", "share"),
    [
        (20, 2, 100, 1, 16, 0.8),
        (200, 2, 100, 1, 16, 0.0),
        (20, 2, 20, 8, 16, 0.0),  # 8 x 2 workers on 16 cores do not meet
        (20, 2, 20, 8, 8, 0.5),
        (100, 0, 100, 1, 16, 0.5),  # without workers nothing is read meanwhile
    ],
)
def test_the_share_of_time_that_a_process_waits(loaded, workers, demand, devices, cores, share):
    assert waiting_share(LoaderRate(loaded, 1.0, workers, 100), demand, devices, cores) == pytest.approx(share)


def test_a_hungry_model_is_a_warning_that_says_what_would_feed_it():
    model, plan = ModelRate(99.0, 4, CPU, None), Plan(accelerator="cpu", devices=1)
    (found,) = forecast.forecast(LoaderRate(20, 1.0, 2, 99), model, plan, cores=16, packets_per_frame=8.0)
    assert found.level == "warning"
    assert "would wait 80 % of the time" in found.text
    assert "data.num_workers=11 would feed it; 8.0 packets are decoded for a frame" in found.text
    assert "python -m data_prep.videos prepare" in found.text
    (found,) = forecast.forecast(LoaderRate(20, 1.0, 2, 99), model, plan, cores=4, packets_per_frame=2.0)
    assert found.text.endswith("11 cores would feed it, 4 are here (data.num_workers=4: 60 %)")
    (found,) = forecast.forecast(LoaderRate(120, 1.0, 2, 99), model, plan, cores=4, packets_per_frame=8.0)
    assert found.level == "ok"
    assert ": fed;" in found.text


def test_a_gpu_that_is_not_here_gets_a_prediction_called_so():
    with torch.device("meta"):
        model = mvit_b()
    (found,) = forecast.prediction(model, LoaderRate(20, 1.0, 2, 99), Plan(accelerator="cpu", devices=1), cores=2)
    assert found.level == "ok"
    assert found.text.startswith("prediction, not measured: a training step is 424 GFLOP a clip")
    assert "wait 89 % to 96 % of the time" in found.text


def test_memory_that_is_not_there_is_a_failure_that_says_what_fits(monkeypatch):
    with torch.device("meta"):
        model = mvit_b()
    monkeypatch.setattr(forecast, "available_ram", lambda: int(4e9))
    plan = Plan(accelerator="cpu", devices=1, precision="bf16-mixed")
    (found,) = forecast.memory(model, plan, 8, None)
    assert found.level == "failure"
    assert "a training step of 8 clips: 4.8 GB" in found.text
    assert "about 6 clips fit" in found.text
    assert levels(forecast.memory(model, plan, 4, None)) == ["ok"]


def test_memory_that_was_measured_on_a_gpu_counts_before_a_prediction(monkeypatch):
    with torch.device("meta"):
        model = mvit_b()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: namedtuple("Card", "total_memory")(int(40e9)))
    plan, rate = Plan(accelerator="cuda", devices=1), ModelRate(100.0, 8, CPU, int(39.8e9))
    (found,) = forecast.memory(model, plan, 8, rate)
    assert found.level == "failure"
    assert "8 clips: 40.1 GB (measured, AdamW's moments added), the GPU has 40.0 GB" in found.text
    assert levels(forecast.memory(model, plan, 8, None)) == ["ok"]


# Recipe


@pytest.mark.parametrize(
    ("lr", "level", "text"),
    [
        (1.6e-3, "ok", "32 clips an optimiser step: peak learning rate 0.0001 (optim.lr=0.0016 for optim.lr_batch=512"),
        (1e-4, "warning", "0.062 times as much is asked for: optim.lr is for optim.lr_batch clips, not for yours"),
        (1e-2, "warning", "6.2 times as much is asked for: training may diverge"),
    ],
)
def test_a_learning_rate_far_from_the_recipe_is_a_warning(lr, level, text):
    recipe, epochs = doctor.recipe_of("k400_mvit_b")
    assert epochs == 200
    (found,) = doctor.learning_rate(AdamWCosine(lr=lr), recipe, 32, "k400_mvit_b")
    assert found.level == level
    assert text in found.text


def test_an_experiment_of_ones_own_has_no_recipe_to_compare_with():
    assert doctor.recipe_of("no_such_experiment") == (None, None)
    assert levels(doctor.learning_rate(AdamWCosine(lr=1.0), None, 32, "mine")) == ["ok"]


@pytest.mark.parametrize(
    ("trainer", "videos", "num_videos", "expected"),
    [
        ({"max_epochs": 200}, 512, 240_000, ["ok"]),
        ({"max_epochs": 200, "max_steps": 100}, 512, 240_000, ["ok", "warning"]),
        ({"max_epochs": 20}, 8, 800, ["failure", "ok"]),
        ({"max_epochs": -1}, 8, 800, ["failure"]),
        ({"max_epochs": 200}, 32, 30, ["ok", "warning"]),
        ({"max_epochs": 200}, 32, None, ["ok"]),
    ],
)
def test_the_schedule_against_the_data(trainer, videos, num_videos, expected):
    found = list(doctor.schedule(AdamWCosine(lr=1e-3), trainer, videos, num_videos, 1))
    assert levels(found) == expected
    if expected == ["ok"] and num_videos:
        assert "200 epochs x 468 optimiser steps = 93600 steps, 14040 of them warm-up" in found[0].text


# Machine and surroundings


@pytest.mark.parametrize(
    ("trainer", "gpus", "expected"),
    [
        ({}, 0, ("cpu", 1)),
        ({}, 4, ("cuda", 4)),
        ({"devices": -1, "accelerator": "gpu"}, 2, ("cuda", 2)),
        ({"devices": "0,1", "accelerator": "gpu"}, 2, ("cuda", 2)),
        ({"devices": [1]}, 2, ("cuda", 1)),
        ({"devices": "8", "accelerator": "cpu"}, 2, ("cpu", 8)),
        ({"devices": 8}, 0, ("cpu", 8)),
    ],
)
def test_devices_are_counted_as_lightning_does(trainer, gpus, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    plan = read_plan(trainer | {"num_nodes": 2})
    assert ((plan.accelerator, plan.devices), plan.world_size) == (expected, 2 * expected[1])


@pytest.mark.parametrize("devices", ["many", 0, [], "-3"])
def test_devices_that_are_no_number_are_refused(devices):
    with pytest.raises(ValueError, match=r"trainer\.devices=.* must be a number of at least 1"):
        read_plan({"devices": devices})


def test_gpus_that_are_not_there_are_a_failure(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    plan = Plan(accelerator="cuda", devices=8)
    (text,) = texts(surroundings.devices(plan), "failure")
    assert text == "trainer.devices=8, trainer.precision=32-true: 1 GPU here; set trainer.devices=1"


def test_a_gpu_without_bf16_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "V100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    plan = Plan(accelerator="cuda", devices=1, precision="bf16-mixed")
    found = list(surroundings.devices(plan))
    assert "1 x V100" in texts(found, "ok")[0]
    assert "only emulates bf16" in texts(found, "warning")[0]


def test_more_workers_than_cores_and_too_little_shared_memory_are_told(monkeypatch):
    monkeypatch.setattr(surroundings, "num_cores", lambda: 16)
    plan = Plan(accelerator="cuda", devices=8)
    (text,) = texts(surroundings.processes(plan, 8, 1000), "warning")
    assert "8 x data.num_workers=8 decoding" in text
    assert "set data.num_workers=2" in text
    assert levels(surroundings.processes(plan, 2, 1000))[0] == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 64e6))
    (text,) = texts(surroundings.processes(plan, 2, 10_000_000), "failure")
    assert text.startswith("/dev/shm has 64 MB free, prefetched clips take 16 workers x 2 batches of 10 MB = 320 MB")


def test_a_full_or_forbidden_disk_is_a_failure(monkeypatch, tmp_path):
    assert levels(surroundings.disk(tmp_path / "a" / "b", 1000)) == ["ok"]
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    assert levels(surroundings.disk(tmp_path / "file", 1000)) == ["failure"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1e9))
    (found,) = surroundings.disk(tmp_path / "runs", 36_610_672)
    assert found.level == "failure"
    assert "1.0 GB free, checkpoints need 1.3 GB (best, last and one being written, 439 MB each)" in found.text


@pytest.mark.parametrize(
    ("mode", "key", "level", "text"),
    [
        ("auto", False, "ok", "W&B offline (logger.wandb=auto, no key)"),
        ("auto", True, "ok", "W&B online"),
        ("offline", True, "ok", "W&B offline (logger.wandb=offline, as asked)"),
        ("online", False, "warning", "without a key"),
        ("off", True, "ok", "W&B off"),
    ],
)
def test_where_the_curves_go(mode, key, level, text, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(surroundings, "logged_in", lambda: key)
    (found,) = surroundings.tracking(mode)
    assert found.level == level
    assert text in found.text


JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_NUM_NODES": "2"}


@pytest.mark.parametrize(
    ("changes", "expected", "text"),
    [
        ({}, ["ok"], "2 nodes x 8 tasks"),
        ({"SLURM_NTASKS_PER_NODE": "4(x2)"}, ["failure"], "--ntasks-per-node=4 but trainer.devices=8"),
        ({"SLURM_JOB_NUM_NODES": "1"}, ["failure"], "--nodes=1 but trainer.num_nodes=2"),
        ({"SLURM_NTASKS_PER_NODE": ""}, ["failure"], "--ntasks=16 without --ntasks-per-node"),
        ({"SLURM_GPUS_ON_NODE": "4"}, ["failure"], "4 GPUs on the node but trainer.devices=8"),
        ({"SLURM_CPUS_PER_TASK": "2"}, ["warning", "ok"], "--cpus-per-task=2 for data.num_workers=6"),
        ({"SLURM_JOB_NAME": "bash"}, ["warning", "ok"], "Lightning takes it for a shell"),
    ],
)
def test_a_slurm_job_against_the_trainer(changes, expected, text):
    plan = Plan(accelerator="cuda", devices=8, num_nodes=2)
    found = list(surroundings.slurm(JOB | changes, plan, num_workers=6))
    assert levels(found) == expected
    assert text in found[0].text


def test_outside_a_job_there_is_nothing_to_compare():
    assert levels(surroundings.slurm({}, Plan(accelerator="cpu", devices=1), 2)) == ["ok"]
