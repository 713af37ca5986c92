"""Weights & Biases can be dead, deaf, unreachable or without a place to write: the caller hears one warning."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mvit_train import wandb_run
from mvit_train.wandb_run import STEP, Picture, Table, WandbRun

KEY = "0123456789abcdef0123456789abcdef01234567"
INIT = {"id": "motion-a", "name": "motion-a", "project": "p", "config": {"lr": 0.1}}


class Recorder:
    """Stands in for the package: what a run was asked to do, with `broken` naming a method that raises."""

    def __init__(self, broken=""):
        self.asked, self.broken, self.torn_down = [], broken, 0
        self.Settings = lambda **_: None
        self.Table = lambda columns, data: ("table", columns, data)
        self.Image = lambda image, caption: ("image", image.size, caption)
        self.Video = lambda path, format: ("video", path)

    def init(self, **arguments):
        self._note("init", arguments)
        return SimpleNamespace(
            id=arguments["id"],
            log=lambda row: self._note("log", row),
            alert=lambda title, text, level: self._note("alert", (title, text, level)),
            define_metric=lambda *_, **__: None,
            finish=lambda exit_code: self._note("finish", exit_code),
        )

    def teardown(self):
        self.torn_down += 1

    def _note(self, name, what):
        if name == self.broken:
            raise ConnectionResetError("Connection lost")
        self.asked.append((name, what))

    def of(self, name):
        return [what for kind, what in self.asked if kind == name]


@pytest.fixture
def recorded(monkeypatch):
    def use(broken=""):
        recorder = Recorder(broken)
        monkeypatch.setattr(wandb_run, "wandb", recorder)
        return recorder

    monkeypatch.setenv("WANDB_DATA_DIR", "")
    return use


@pytest.fixture
def own_service(monkeypatch, tmp_path):
    """W&B's own service, for real; its settings are those of a user who is not logged in."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    wandb_run._let_go()


def told(caplog):
    """Our warnings and errors."""
    return [record.message for record in caplog.records if record.name.startswith("mvit_train")]


def service_of(pid):
    """The process id of the `wandb-core` that a process has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if words[0].endswith("wandb-core") and words[words.index("--pid") + 1] == str(pid):
            return int(folder.name)
    return None


def test_numbers_media_and_alerts_reach_the_run_in_order(tmp_path, recorded):
    wandb = recorded()
    run = WandbRun(tmp_path, offline=True, init=INIT)
    run.log_metrics({"train/loss": 2.0}, 5)
    made = {"t": Table(["clip", "n"], [[Path("a.mp4"), 1]]), "i": Picture(Image.new("RGB", (4, 2)), "c")}
    run.log_media(lambda: made, 6)
    run.alert("Stopped", "why", "ERROR")
    run.close(exit_code=1)
    assert wandb.of("log") == [
        {"train/loss": 2.0, STEP: 5},
        {"t": ("table", ["clip", "n"], [[("video", "a.mp4"), 1]]), "i": ("image", (4, 2), "c"), STEP: 6},
    ]
    assert (wandb.of("alert"), wandb.of("finish")) == ([("Stopped", "why", "ERROR")], [1])
    (init,) = wandb.of("init")
    assert (init["id"], init["mode"], init["resume"], init["dir"]) == ("motion-a", "offline", "allow", str(tmp_path))


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_the_first_failure_is_the_last_and_is_told_once(tmp_path, recorded, caplog, broken):
    wandb = recorded(broken)
    run = WandbRun(tmp_path, offline=True, init=INIT)
    for step in range(50):
        run.log_metrics({"train/loss": 2.0}, step)
    run.close()
    assert not run.on
    assert told(caplog) == [
        "W&B is left alone from here on (Connection lost); the run goes on, metrics.csv has all numbers"
    ]
    assert wandb.torn_down == 1  # or the interpreter's exit would wait for the service


def test_clips_that_cannot_be_encoded_cost_only_their_table(tmp_path, recorded, caplog):
    wandb = recorded()
    run = WandbRun(tmp_path, offline=True, init=INIT)
    tried = threading.Semaphore(0)

    def fail():
        tried.release()
        raise ValueError("no encoder")

    for step in range(3):
        run.log_media(fail, step)
        assert tried.acquire(timeout=10)
    run.log_metrics({"train/loss": 2.0}, 5)
    run.close()
    assert wandb.of("log") == [{"train/loss": 2.0, STEP: 5}]
    assert told(caplog) == ["media cannot be made for W&B: no encoder"]


def test_a_tracker_that_does_not_answer_is_not_waited_for(tmp_path, recorded, monkeypatch, caplog):
    monkeypatch.setattr(wandb_run, "MAX_WAITING", 10)
    monkeypatch.setattr(wandb_run, "START_SEC", 0.05)
    wandb, answers = recorded(), threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **_: answers.wait())
    run = WandbRun(tmp_path, offline=True, init=INIT)
    began = time.monotonic()
    for step in range(1000):
        run.log_metrics({"train/loss": 2.0}, step)
        run.log_media(dict, step)
    assert time.monotonic() - began < 0.5
    run.close()
    assert time.monotonic() - began < 3
    assert sum("10 calls unanswered" in message for message in told(caplog)) == 1
    answers.set()


def test_other_ranks_start_nothing(tmp_path, recorded, monkeypatch):
    wandb = recorded()
    monkeypatch.setattr(wandb_run.rank_zero_only, "rank", 1)
    run = WandbRun(tmp_path, offline=True, init=INIT)
    run.log_metrics({"train/loss": 2.0}, 5)
    run.alert("Finished", "", "INFO")
    run.close()
    assert (wandb.asked, run.on) == ([], False)


def test_a_service_that_hangs_holds_up_neither_the_run_nor_its_end(own_service, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(wandb_run, "FINISH_SEC", 1.0)
    run = WandbRun(tmp_path, offline=True, init=INIT)
    service = service_of(os.getpid())
    if service is None:
        pytest.skip("W&B's service is found by /proc")
    os.kill(service, signal.SIGSTOP)
    try:
        began = time.monotonic()
        for step in range(5000):
            run.log_metrics({"train/loss": 2.0}, step)
        assert time.monotonic() - began < 1
        run.close()
        assert time.monotonic() - began < 5
    finally:
        os.kill(service, signal.SIGKILL)
    (message,) = told(caplog)
    assert "not finished within 1 s" in message


def test_a_server_out_of_reach_means_offline_and_the_key_is_nowhere(own_service, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_run, "CONNECT_SEC", 2.0)
    monkeypatch.setattr(wandb_run, "START_SEC", 0.1)
    run = WandbRun(tmp_path, offline=False, init=INIT)
    run.log_metrics({"train/loss": 2.0}, 5)  # while it still tries to connect
    run.close()
    assert "does not start online" in caplog.text
    (written,) = tmp_path.glob("wandb/offline-run-*-motion-a/run-motion-a.wandb")
    assert b"train/loss" in written.read_bytes()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 4
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    assert KEY not in "".join(capfd.readouterr()) + caplog.text


def test_nowhere_to_write_is_a_warning(own_service, tmp_path, caplog):
    (tmp_path / "wandb").write_text("a file where W&B's folder should be")
    run = WandbRun(tmp_path, offline=True, init=INIT)
    run.log_metrics({"train/loss": 2.0}, 5)
    run.close()
    (message,) = told(caplog)
    assert "metrics.csv has all numbers" in message


def test_a_training_whose_wandb_service_is_killed_ends_as_if_nothing_had_happened(tmp_path, video):
    for i in range(12):
        for name in ("train/a", "train/b", "val/a", "val/b"):
            target = tmp_path / "videos" / name / f"{i}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(video("a.mp4", 20 + i, first_index=i))
    epochs = 12
    overrides = [
        *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "optim.warmup_epochs=1", "views=1x1", "run_id=a"),
        *("clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "data.num_workers=0", "data.batch_size=4"),
        *(f"data.root={tmp_path / 'videos'}", f"runs={tmp_path}", "logger.wandb=offline", "logger.media_clips=4"),
        *("trainer.accelerator=cpu", "trainer.devices=1", f"trainer.max_epochs={epochs}"),
    ]
    environ = {name: value for name, value in os.environ.items() if name != "MVIT_TRAIN_RUN_ID"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mvit_train", *overrides, "trainer.log_every_n_steps=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("epoch 3 of"):
            service = service_of(process.pid)
            break
    if service is None:
        process.kill()
        pytest.skip("W&B's service is found by /proc")
    os.kill(service, signal.SIGKILL)
    printed, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert f"epoch {epochs} of {epochs}" in printed
    assert complaints.count("WARNING") == 1, complaints
    assert "W&B is left alone from here on" in complaints
    assert "Traceback" not in complaints
    rows = [line.split(",") for line in (tmp_path / "motion" / "a" / "metrics.csv").read_text().splitlines()]
    losses = [row[rows[0].index("train/loss")] for row in rows[1:]]
    assert len([loss for loss in losses if loss]) == epochs * 6  # of 4 videos each
    assert rows[-1][rows[0].index("test/forward/top1")]
    assert (tmp_path / "motion" / "a" / "report.html").exists()
