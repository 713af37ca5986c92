import shutil
from pathlib import Path

import pytest

from mvit_train.data.datamodule import VideoDataModule, cache_folder
from mvit_train.data.motion import MotionVideos
from mvit_train.data.transforms import RandomResizedCrop
from mvit_train.data.views import Views


def make(**overrides):
    arguments = {
        "root": None,
        "num_frames": 4,
        "sampling_rate": 2,
        "crop_size": 28,
        "transform": RandomResizedCrop(crop_size=28),
        "batch_size": 4,
        "eval_batch_size": 6,
        "num_workers": 0,
    }
    return VideoDataModule(**{**arguments, **overrides})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, video):
    folder = tmp_path_factory.mktemp("folder")
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(10):
            shutil.copy(video("a.mp4", 20), folder / name / f"{i}.mp4")
    return folder


def test_lengths_are_known_before_anything_is_decoded(folder):
    data = make(root=folder)
    assert (len(data.splits["train"]), len(data.splits["val"])) == (16, 4)
    assert (data.steps_per_epoch, data.clips_per_step, len(data.train_dataloader())) == (4, 4, 4)
    assert data.labels.names == ("a", "b")


@pytest.mark.parametrize(("views", "videos", "shape"), [("1x1", 4, 4), ("2x1", 3, 6), ("2x3", 1, 6), ("5x3", 1, 15)])
def test_an_evaluation_batch_holds_whole_videos_and_about_eval_batch_size_clips(folder, views, videos, shape):
    data = make(root=folder)
    data.test_views = Views.parse(views)
    batch = next(iter(data.test_dataloader()))
    assert len(batch["video_index"].unique()) == videos
    assert batch["video"].shape == (shape, 3, 4, 28, 28)


def test_validation_takes_the_centre_clip_and_the_centre_crop_whatever_the_test_views(folder):
    data = make(root=folder)
    data.test_views = Views.parse("5x3")
    batch = next(iter(data.val_dataloader()))
    assert batch["view_index"].tolist() == [0] * 4


def test_the_built_in_videos_are_made_once_in_the_cache_and_used_while_no_folder_is_named(
    tmp_path, monkeypatch, folder
):
    monkeypatch.setenv("MVIT_TRAIN_CACHE", str(tmp_path))
    videos = MotionVideos(num_train=10, num_val=10, num_frames=12, frame_size=32)
    data = make(built_in=videos)
    assert (len(data.splits["train"]), len(data.splits["val"]), len(data.labels)) == (10, 10, 10)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(made) == 20
    assert len(make(built_in=videos).splits["train"]) == 10
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == made
    assert make(root=folder, built_in=videos).labels.names == ("a", "b")


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MVIT_TRAIN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mvit_train"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mvit_train"


def test_a_folder_that_is_missing_or_not_named_is_told_before_anything_is_built():
    check = VideoDataModule.check_arguments
    assert check({"root": Path("/nowhere")}) == {"root": "/nowhere is not a folder"}
    assert check({"root": None}) == {"root": "is not set; name the folder with your videos"}
    assert check({"root": None, "built_in": {"_target_": "x"}}) == {}


def test_impossible_batch_sizes_are_refused():
    with pytest.raises(ValueError, match=r"data\.batch_size is 0"):
        make(batch_size=0)
