"""The dashboard names what is logged, nothing else."""

import csv
import json
from pathlib import Path

import pytest

from mvit_train import dashboard
from mvit_train.__main__ import main as train
from mvit_train.dashboard import SECTIONS, main, plan, workspace

SNAPSHOT = Path(__file__).parent / "golden" / "dashboard.json"
NOT_IN_THE_FILE = {"train/mfu", "val/mAP"}  # of GPUs; of several labels
MEDIA = {"val/clips", "val/confusion", "val/confused_pairs"}  # of `mvit_train.media`


def test_the_plan_is_that_of_the_snapshot(capsys):
    assert main(["--print"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(SNAPSHOT.read_text())


def test_the_sections_are_those_a_run_is_judged_by():
    assert [section.name for section in SECTIONS] == [
        "Health",
        "Throughput",
        "Validation",
        "Temporal",
        "Errors",
        "Data",
    ]


@pytest.mark.usefixtures("own_environment")
def test_every_number_of_the_plan_is_logged_by_a_run(tmp_path, video):
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "videos" / name / f"{i}.mp4").symlink_to(video("a.mp4", 20 + i, first_index=i))
    overrides = [
        *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "views=1x1", "run_id=a", "logger.wandb=off"),
        *("clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "data.num_workers=0", "data.batch_size=4"),
        *("trainer.accelerator=cpu", "trainer.devices=1", "trainer.max_epochs=1", "trainer.log_every_n_steps=1"),
    ]
    assert train([*overrides, f"data.root={tmp_path / 'videos'}", f"runs={tmp_path}", "optim.warmup_epochs=0"]) == 0
    logged = set(next(csv.reader((tmp_path / "motion" / "a" / "metrics.csv").open())))
    named = {metric for section in plan() for panel in section["panels"] for metric in panel["metrics"]}
    assert named - logged == NOT_IN_THE_FILE | MEDIA


@pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # of the package itself
def test_the_plan_becomes_a_workspace():
    pytest.importorskip("wandb_workspaces")
    sections = workspace("team", "project").sections
    assert [section.name for section in sections] == [section.name for section in SECTIONS]
    assert [len(section.panels) for section in sections] == [len(section.panels) for section in SECTIONS]
    health, _, _, temporal, errors, _ = sections
    assert health.panels[0].y == ["train/loss", "val/loss"]
    assert {panel.x for panel in health.panels} == {"trainer/global_step"}
    assert temporal.panels[0].metrics == [f"test/{order}/top1" for order in ("forward", "shuffle", "reverse", "freeze")]
    assert errors.panels[0].table_name == "val/clips"


def test_what_is_missing_is_told(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["team"])
    assert "ENTITY/PROJECT" in capsys.readouterr().err
    monkeypatch.setitem(dashboard.sys.modules, "wandb_workspaces", None)
    assert main(["team/project"]) == 1
    assert "pip install 'mvit_train[dashboards]'" in capsys.readouterr().err
