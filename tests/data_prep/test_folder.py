import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from mvit_train.config import compose, conf_dir
from mvit_train.data.manifest import read_splits

ROOT = Path(__file__).parents[2]
COPY = "low/another name of low_g00_c00.mp4"


@pytest.fixture
def folder(tmp_path, place):
    """Two classes of four recordings of three clips, one of them copied under another name, in an awkward folder."""
    root = tmp_path / "my [best] videos"
    for label, first in (("low", 0), ("high", 2048)):
        for group in range(4):
            for clip in range(3):
                index = first + 10 * group + clip
                place(root, f"{label}/{label}_g{group:02d}_c{clip:02d}.mp4", 20, first_index=index)
    shutil.copy(root / "low/low_g00_c00.mp4", root / COPY)
    (root / "high/notes.txt").write_text("not a video")
    return root


def test_clips_of_one_recording_never_cross_the_split(folder, tmp_path, prepare, table, capsys):
    out = tmp_path / "out"
    assert prepare("folder", folder, out) == 0
    sides = {}
    for split in ("train", "val"):
        for path in table(out / f"{split}.csv", "path"):
            sides[str(Path(path).relative_to(folder))] = split
    assert len(sides) == 25
    for label in ("low", "high"):
        groups = [{sides[f"{label}/{label}_g{group:02d}_c{clip:02d}.mp4"] for clip in range(3)} for group in range(4)]
        assert all(len(group) == 1 for group in groups)
        assert sorted(group.pop() for group in groups) == ["train", "train", "train", "val"]
    assert sides[COPY] == sides["low/low_g00_c00.mp4"]
    assert (out / "classes.txt").read_text() == "high\nlow\n"
    assert sorted(table(out / "duplicates.csv", "kind")) == ["content twice in a split"] * 2
    printed = capsys.readouterr().out
    assert "high                                          9      3             3      1" in printed
    splits = read_splits(out, [folder])
    assert len(splits["train"]) == 25 - len(splits["val"])


def test_a_folder_that_has_a_split_keeps_it_and_is_told_what_crosses(tmp_path, place, prepare, table, capsys):
    for i, name in enumerate(("train/run/anna_1.mp4", "train/run/ben.mp4", "val/run/anna_2.mp4", "val/run/cleo.mp4")):
        place(tmp_path / "mine", name, 20, first_index=i)
    out = tmp_path / "mine/manifest"
    assert prepare("folder", tmp_path / "mine", out) == 0
    assert table(out / "val.csv", "path") == [
        f"{tmp_path}/mine/val/run/anna_2.mp4",
        f"{tmp_path}/mine/val/run/cleo.mp4",
    ]
    assert "1 recordings have clips in two splits: anna" in capsys.readouterr().out


def test_a_manifest_beside_its_videos_names_them_relative_to_itself(tmp_path, place, prepare, table):
    for i in range(4):
        place(tmp_path, f"mine/run/{i}.mp4", 20, first_index=i)
    assert prepare("folder", tmp_path / "mine", tmp_path / "mine") == 0
    paths = [path for split in ("train", "val") for path in table(tmp_path / f"mine/{split}.csv", "path")]
    assert sorted(paths) == [f"run/{i}.mp4" for i in range(4)]


def test_the_experiment_trains_by_the_command_it_gives(folder, tmp_path, prepare):
    out = tmp_path / "out, [mine]"
    assert prepare("folder", folder, out) == 0
    command = next(line for line in (out / "experiment.yaml").read_text().splitlines() if "python -m" in line)
    words = shlex.split(command.removeprefix("#"))
    assert words[:3] == ["python", "-m", "mvit_train"]
    small = ["clip.num_frames=2", "clip.crop_size=32", "model.embed_dim=16", "model.blocks_per_stage=[1,1]"]
    cheap = ["trainer.max_steps=2", "trainer.accelerator=cpu", "trainer.devices=1", "logger.wandb=off", "views=1x1"]
    small += ["data.num_workers=0", "run_id=a"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words[1:], *small, *cheap]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "2 classes" in result.stdout
    assert (tmp_path / "runs/my__best__videos/a/report.html").is_file()


def test_the_experiment_may_be_copied_among_the_others(folder, tmp_path, prepare):
    out = tmp_path / "out"
    assert prepare("folder", folder, out) == 0
    shutil.copytree(conf_dir(), tmp_path / "conf")
    shutil.copy(out / "experiment.yaml", tmp_path / "conf/experiment/mine.yaml")
    with hydra.initialize_config_dir(config_dir=str(tmp_path / "conf"), version_base="1.3"):
        named = hydra.compose("config", overrides=["experiment=mine"])
    command = compose([f"experiment={out}/experiment.yaml"])
    assert OmegaConf.to_container(command, resolve=True) == OmegaConf.to_container(named, resolve=True)


def test_what_cannot_be_split_is_refused(tmp_path, place, prepare, capsys):
    for i in range(3):
        place(tmp_path, f"mine/run/anna_{i}.mp4", 20, first_index=i)
    assert prepare("folder", tmp_path / "mine", tmp_path / "out") == 1
    assert "every class is a single recording, so that none can validate" in capsys.readouterr().err
    assert prepare("folder", tmp_path / "mine", tmp_path / "out", "--group-by", "none") == 0
    place(tmp_path, "mine/loose.mp4", 20)
    assert prepare("folder", tmp_path / "mine", tmp_path / "out") == 1
    assert "1 videos lie in no folder of a class" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare("folder", tmp_path / "mine", tmp_path / "out", "--val-share", "2")
    assert "'2' is not a share between 0 and 1" in capsys.readouterr().err
