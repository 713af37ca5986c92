import csv
import sys

import pytest

from mvit_train import tracking, wandb_run
from mvit_train.tracking import Tracking, logged_in


def rows(run_dir):
    return list(csv.DictReader((run_dir / "metrics.csv").open()))


class Recorder:
    """Stands in for `WandbRun`."""

    made: list

    def __init__(self, folder, *, offline, init):
        self.offline, self.init, self.asked, self.on, self.version = offline, init, [], True, init["id"]
        self.made.append(self)

    def __getattr__(self, name):
        return lambda *arguments: self.asked.append((name, *arguments))


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """The W&B runs that are opened, of a user without a key."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Recorder, "made", [], raising=False)
    monkeypatch.setattr(wandb_run, "WandbRun", Recorder)
    return Recorder.made


@pytest.mark.parametrize(
    ("mode", "key", "offline"),
    [
        ("auto", "", True),
        ("auto", "secret", False),
        ("online", "", True),
        ("online", "secret", False),
        ("offline", "secret", True),
        ("off", "secret", None),
    ],
)
def test_weights_and_biases_is_online_only_for_who_is_logged_in(
    tmp_path, monkeypatch, recorded, caplog, mode, key, offline
):
    monkeypatch.setenv("WANDB_API_KEY", key)
    with Tracking(wandb=mode).open(tmp_path, "motion", {}):
        pass
    assert [run.offline for run in recorded] == ([] if offline is None else [offline])
    assert ("no key is here" in caplog.text) == (mode == "online" and not key)


def test_a_tracker_that_cannot_be_imported_leaves_the_run_its_csv_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mvit_train.wandb_run", None)
    with Tracking(wandb="offline").open(tmp_path, "motion", {}) as record:
        assert [type(logger).__name__ for logger in record.loggers] == ["MetricsLog"]
    assert "W&B cannot be imported" in caplog.text


def test_a_run_keeps_its_id_and_shows_what_was_asked_for(tmp_path, recorded):
    shown = {"project": "p", "entity": "e", "group": "g", "tags": ["t"], "notes": "n"}
    for _ in range(2):  # two legs
        with Tracking(**shown).open(tmp_path / "12:30", "motion", {"lr": 1}):
            pass
    expected = {"id": "motion-12-30", "name": "motion-12-30", "config": {"lr": 1}, **shown}
    assert [run.init for run in recorded] == [expected, expected]


def test_an_error_becomes_an_alert_and_the_run_is_closed_as_failed(tmp_path, recorded):
    with pytest.raises(ValueError, match="5 steps in a row"), Tracking().open(tmp_path, "motion", {}):
        raise ValueError("5 steps in a row have gradients that are not finite")
    (run,) = recorded
    assert run.asked == [
        ("alert", "Stopped", f"{run.version}: 5 steps in a row have gradients that are not finite", "ERROR"),
        ("close", 1),
    ]
    with pytest.raises(KeyboardInterrupt), Tracking().open(tmp_path, "motion", {}):
        raise KeyboardInterrupt
    assert recorded[1].asked == [("close", 1)]


def test_the_final_evaluation_is_logged_attached_and_announced(tmp_path, recorded):
    (tmp_path / "report.html").touch()
    metrics = {"orders": {"forward": {"top1": 98.0, "per_class": {}}, "shuffle": {"top1": 20.0, "per_class": {}}}}
    with Tracking().open(tmp_path, "motion", {}) as record:
        record.finish(metrics, 120)
    (run,) = recorded
    numbers = {"test/forward/top1": 98.0, "test/shuffle/top1": 20.0}
    assert run.asked == [
        ("log_metrics", numbers, 120),
        ("save",),
        ("attach", [tmp_path / "report.html"], "report"),
        ("alert", "Finished", f"{run.version}: test/forward/top1 98.0", "INFO"),
        ("close", 0),
    ]
    (row,) = rows(tmp_path)
    assert {name: float(row[name]) for name in ("step", *numbers)} == {"step": 120.0, **numbers}


@pytest.mark.parametrize(("clips", "kinds"), [(64, ["ValidationMedia"]), (0, [])])
def test_media_are_made_unless_none_are_wanted(tmp_path, recorded, clips, kinds):
    with Tracking(media_clips=clips).open(tmp_path, "motion", {}) as record:
        assert [type(callback).__name__ for callback in record.callbacks] == kinds
    with Tracking(wandb="off").open(tmp_path, "motion", {}) as record:
        assert record.callbacks == []


def test_a_number_of_clips_that_no_table_should_have_is_refused():
    with pytest.raises(ValueError, match="media_clips is 65, it must be 0 to 64"):
        Tracking(media_clips=65)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Tracking(wandb="off", tensorboard=True).open(tmp_path, "motion", {}) as record:
        for logger in record.loggers:
            logger.log_metrics({"val/top1": 50.0}, 7)
            logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/top1")] == [(7, 50.0)]
    assert rows(tmp_path)[0]["val/top1"] == "50.0"


def test_tensorboard_without_its_package_is_told_before_anything_starts(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'mvit_train[tensorboard]'" in Tracking.check_arguments({"tensorboard": True})["tensorboard"]
    assert Tracking.check_arguments({"tensorboard": False}) == {}


def test_a_login_is_found_in_netrc_for_the_host_in_use(recorded, tmp_path, monkeypatch):
    assert not logged_in()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert not logged_in()
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password secret\n")
    assert logged_in()
