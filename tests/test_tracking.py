import csv

import pytest

from mvit_train import tracking
from mvit_train.tracking import Tracking, csv_logger, logged_in


def rows(run_dir):
    return list(csv.DictReader((run_dir / "metrics.csv").open()))


def test_a_resumed_run_goes_on_in_the_csv_file_it_finds(tmp_path):
    (tmp_path / "config.yaml").touch()
    first = csv_logger(tmp_path)
    first.log_metrics({"train/loss": 2.0}, step=0)
    first.save()
    second = csv_logger(tmp_path)
    second.log_metrics({"val/top1": 50.0}, step=1)
    second.save()
    assert [(row["step"], row["train/loss"], row["val/top1"]) for row in rows(tmp_path)] == [
        ("0", "2.0", ""),
        ("1", "", "50.0"),
    ]


def test_a_tracker_that_does_not_start_leaves_the_run_its_csv_file(tmp_path, monkeypatch, caplog):
    class Broken:
        def __init__(self, **arguments):
            raise ConnectionError("no service")

    monkeypatch.setattr(tracking, "WandbLogger", Broken)
    loggers = Tracking(wandb="online").loggers(tmp_path, "motion", {})
    assert [type(logger).__name__ for logger in loggers] == ["CSVLogger"]
    assert "does not start online (no service)" in caplog.text
    assert "goes on with metrics.csv alone" in caplog.text


@pytest.mark.parametrize(
    ("mode", "key", "offline"),
    [
        ("auto", "", True),
        ("auto", "secret", False),
        ("online", "", False),
        ("offline", "secret", True),
        ("off", "", None),
    ],
)
def test_weights_and_biases_is_online_only_when_asked_or_logged_in(tmp_path, monkeypatch, mode, key, offline):
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(tracking, "wandb_logger", lambda *_, offline: asked.append(offline) or [])
    Tracking(wandb=mode).loggers(tmp_path, "motion", {})
    assert asked == ([] if offline is None else [offline])


def test_a_login_is_found_in_netrc(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not logged_in()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert logged_in()
