import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvit_train.wandb_sync import main, sync_command

ROOT = Path(__file__).parents[1]


def leg(run_dir, name, run_id="motion-a"):
    folder = run_dir / "wandb" / f"{name}-{run_id}"
    folder.mkdir(parents=True)
    (folder / f"run-{run_id}.wandb").touch()
    return folder


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A `wandb` in PATH that prints what it is called with and exits with 3."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "wandb").write_text('#!/bin/sh\necho "called: $@"\nexit 3\n')
    (folder / "wandb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_all_legs_of_a_run_are_sent_under_its_id_oldest_first(tmp_path, stub, capfd):
    legs = [
        leg(tmp_path, name)
        for name in ("offline-run-20261123_090000", "run-20261123_100000", "offline-run-20261124_080000")
    ]
    (tmp_path / "wandb" / "artifacts").mkdir()
    expected = "sync --yes --include-online --id motion-a " + " ".join(map(str, legs))
    assert main([str(tmp_path)]) == 3
    assert capfd.readouterr().out.splitlines() == [f"wandb {expected}", f"called: {expected}"]


def test_a_folder_with_nothing_to_send_is_told(tmp_path, stub, capfd):
    assert main([str(tmp_path)]) == 2
    assert f"{tmp_path} holds no W&B folders" in capfd.readouterr().err
    assert main([]) == 2
    assert "make wandb-sync RUN=" in capfd.readouterr().err


def test_legs_of_two_runs_are_not_mixed(tmp_path):
    leg(tmp_path, "offline-run-20261123_090000")
    leg(tmp_path, "offline-run-20261123_100000", "motion-b")
    with pytest.raises(ValueError, match="several runs: motion-a, motion-b"):
        sync_command(tmp_path)


def test_the_options_exist(tmp_path):
    help_text = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "sync", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = [word for word in sync_command_of_one(tmp_path) if word.startswith("--")]
    assert len(options) == 3
    assert [option for option in options if option not in help_text] == []


def sync_command_of_one(tmp_path):
    leg(tmp_path, "offline-run-20261123_090000")
    return sync_command(tmp_path)


def test_make_passes_the_run_on():
    line = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", "wandb-sync", "RUN=runs/motion/a"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert line.rstrip().endswith(".venv/bin/python -m mvit_train.wandb_sync runs/motion/a")
