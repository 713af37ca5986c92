import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mvit_train.data.datamodule import VideoDataModule, cache_folder
from mvit_train.data.motion import MotionVideos
from mvit_train.data.transforms import RandomResizedCrop, TestCrops
from mvit_train.data.views import Views
from mvit_train.labels import Labels


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"repeats": 0}, r"data\.repeats is 0"),
        ({"repeats": 3}, r"data\.batch_size=4 clips cannot be made of videos with 3 repeats each"),
        ({"max_videos_per_class": 0}, r"data\.max_videos_per_class is 0"),
        ({"classes": 0}, r"data\.classes is 0"),
        ({"target_fps": -1.0}, r"data\.target_fps is -1"),
        ({"timeout_sec": 0}, r"data\.timeout_sec is 0"),
    ],
)
def test_impossible_numbers_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        make(**arguments)


def test_repeats_are_part_of_the_batch_and_leave_steps_for_fewer_videos(folder):
    data = make(root=folder, batch_size=4, repeats=2)
    assert (data.steps_per_epoch, data.clips_per_step) == (8, 4)
    batches = list(data.train_dataloader())
    assert len(batches) == 8
    videos = [batch["video_index"].tolist() for batch in batches]
    assert all(first == second and third == fourth for first, second, third, fourth in videos)
    assert sorted(index for four in videos for index in four[::2]) == list(range(16))


def test_a_pilot_run_sees_the_classes_and_videos_asked_for(folder):
    assert make(root=folder, classes=1).labels.names == ("a",)
    assert make(root=folder, classes=["b"]).labels.names == ("b",)
    data = make(root=folder, max_videos_per_class=3)
    assert (data.splits["train"].class_counts(), data.splits["val"].class_counts()) == ([3, 3], [2, 2])
    assert len(data.train_dataloader().dataset) == 6
    with pytest.raises(ValueError, match=r"data\.classes: 'z' is no class of"):
        _ = make(root=folder, classes=["z"]).splits


def test_another_class_list_renumbers_both_splits(folder):
    data = make(root=folder)
    data.use_labels(Labels(("x", "b", "a")))
    assert data.labels.names == ("x", "b", "a")
    assert set(data.splits["val"].target_tensor().tolist()) == {1, 2}
    batch = next(iter(data.train_dataloader()))
    paths = [data.splits["train"].paths[i] for i in batch["video_index"].tolist()]
    assert [data.labels.names[i] for i in batch["label"].tolist()] == [path.split("/")[0] for path in paths]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [[6, 8, 10, 13]]),
        ({"sampling": "dense"}, [[6, 8, 10, 12]]),
        ({"sampling": "segment"}, [[2, 7, 12, 16]]),
        ({"target_fps": None, "sampling_rate": 4}, [[2, 7, 12, 17]]),
        ({"target_fps": 15.0}, [[2, 7, 12, 17]]),
        ({"count": "seconds", "views": "2x1"}, [[0, 2, 4, 7], [11, 14, 16, 18]]),
    ],
    ids=str,
)
def test_the_configured_policy_chooses_the_frames(folder, read_barcodes, monkeypatch, arguments, expected):
    """Videos of 20 frames, of 0.666 s by their header, clips of 4 frames at rate 2."""
    monkeypatch.setattr(TestCrops, "__call__", lambda self, sample: {**sample, "video": sample["video"][None]})
    views = arguments.pop("views", "1x1")
    data = make(root=folder, **arguments)
    data.test_views = Views.parse(views)
    batch = next(iter(data.test_dataloader()))
    first = batch["video"][batch["video_index"] == batch["video_index"][0]]
    assert [read_barcodes(clip) for clip in first] == expected


def test_a_reading_process_gets_the_data_without_the_trainer(folder):
    data = make(root=folder)
    data.trainer = SimpleNamespace(schedule=lambda step: step)  # pyright: ignore[reportAttributeAccessIssue] - no pickle
    copy = pickle.loads(pickle.dumps(data))
    assert copy.trainer is None
    assert copy.splits["val"].paths == data.splits["val"].paths


def test_more_processes_than_videos_are_refused_before_one_has_nothing_to_do(folder, monkeypatch):
    data = make(root=folder)
    videos = len(data.splits["val"])
    monkeypatch.setattr(VideoDataModule, "_world_size", videos)
    assert len(data.test_dataloader()) == 1
    monkeypatch.setattr(VideoDataModule, "_world_size", videos + 1)
    message = f"{videos} videos of the val split cannot be shared by {videos + 1} processes: set trainer.devices"
    with pytest.raises(ValueError, match=message):
        data.test_dataloader()
