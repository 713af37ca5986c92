"""The built-in videos: the files and folders, and that only the order of the frames tells a pair apart."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from mvit_train.data.motion import CLASSES, CONTROLS, MIRRORED, MotionVideos, draw_clip

SMALL = dict(num_train=20, num_val=10, frame_size=32, num_frames=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("motion") / "set"
    MotionVideos(**SMALL)(root)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def rows(root: Path, split: str) -> list[dict[str, str]]:
    with open(root / f"{split}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_manifests_name_every_file_once_and_every_class_equally_often(made):
    assert (made / "classes.txt").read_text().splitlines() == list(CLASSES)
    listed = []
    for split, count in (("train", 20), ("val", 10)):
        labels = [row["label"] for row in rows(made, split)]
        assert sorted(labels) == sorted(list(CLASSES) * (count // len(CLASSES)))
        listed += [row["path"] for row in rows(made, split)]
    assert sorted(listed) == sorted(name for name in files(made) if name.endswith(".mp4"))
    assert sorted(p.name for p in made.parent.iterdir()) == ["set"]


def test_files_are_h264_with_the_frames_asked_for(made):
    for row in rows(made, "val"):
        with av.open(str(made / row["path"])) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate) == ("h264", 30)
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert np.stack(decoded).shape == (8, 32, 32, 3)


def test_the_encoded_frames_are_the_drawn_ones(made):
    with av.open(str(made / "val" / "slide_right_00000.mp4")) as container:
        decoded = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)]).astype(float)
    drawn = draw_clip("slide_right", np.random.default_rng((0, 1, 0)), num_frames=8, frame_size=32)
    luma = drawn @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(decoded.ravel(), luma.ravel())[0, 1] > 0.98


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    MotionVideos(**SMALL)(tmp_path / "again")
    again, first = files(tmp_path / "again"), files(made)
    assert again.keys() == first.keys()
    assert [name for name in first if again[name] != first[name]] == []


def test_seeds_splits_and_clips_show_different_scenes(made):
    videos = [content for name, content in files(made).items() if name.endswith(".mp4")]
    assert len(set(videos)) == len(videos) == 30
    scenes = [draw_clip("ring", np.random.default_rng(s), num_frames=2, frame_size=32) for s in ((0, 0, 8), (1, 0, 8))]
    assert (scenes[0] != scenes[1]).mean() > 0.9


@pytest.mark.parametrize(("forward", "backward"), MIRRORED.items())
def test_the_second_class_of_a_pair_is_the_first_backwards(forward, backward):
    clips = [draw_clip(name, np.random.default_rng(7), num_frames=12, frame_size=48) for name in (forward, backward)]
    np.testing.assert_array_equal(clips[0], clips[1][::-1])
    assert (clips[0] != clips[1]).mean() > 0.5


def unordered_statistics(clip: np.ndarray) -> np.ndarray:
    """What frames show without their order: means over 4 x 4 cells of the mean, spread and extremes over time."""
    gray = clip.mean(-1)
    maps = np.stack([gray.mean(0), gray.std(0), gray.min(0), gray.max(0), gray[len(gray) // 2]])
    return maps.reshape(5, 4, 8, 4, 8).mean((2, 4)).ravel()


def nearest_centroid_accuracy(first: np.ndarray, second: np.ndarray) -> float:
    """Percent of the second half called right by the class centres of the first half."""
    half = len(first) // 2
    centres = np.stack([first[:half].mean(0), second[:half].mean(0)])
    scale = np.concatenate([first[:half], second[:half]]).std(0)
    right = 0
    for label, group in enumerate((first[half:], second[half:])):
        distance = (((group[:, None] - centres) / scale) ** 2).sum(-1)
        right += (distance.argmin(1) == label).sum()
    return 100.0 * right / (2 * (len(first) - half))


def statistics(name: str, first_seed: int) -> np.ndarray:
    seeds = range(first_seed, first_seed + 100)
    clips = (draw_clip(name, np.random.default_rng(seed), num_frames=16, frame_size=32) for seed in seeds)
    return np.stack([unordered_statistics(clip) for clip in clips])


@pytest.mark.parametrize(("forward", "backward"), MIRRORED.items())
def test_frames_without_their_order_do_not_tell_a_pair_apart(forward, backward):
    accuracy = nearest_centroid_accuracy(statistics(forward, 0), statistics(backward, 1000))
    assert abs(accuracy - 50) < 15  # 100 clips: 3 standard deviations


def test_the_same_statistics_do_tell_growing_from_sliding():
    assert nearest_centroid_accuracy(statistics("grow", 0), statistics("slide_right", 1000)) > 65


def test_controls_are_no_class_of_a_pair():
    assert set(CLASSES) == set(MIRRORED) | set(MIRRORED.values()) | set(CONTROLS)
    assert len(CLASSES) == 10


def test_a_finished_set_is_reused(made, monkeypatch):
    makings = []
    monkeypatch.setattr(MotionVideos, "_make", lambda *_: makings.append(1))
    MotionVideos(**SMALL)(made)
    assert makings == []


def test_other_settings_in_the_same_folder_are_refused_by_name(made):
    with pytest.raises(ValueError, match=r"seed 0 \(wanted 3\), num_frames 8 \(wanted 12\); name a new folder"):
        MotionVideos(**{**SMALL, "num_frames": 12, "seed": 3})(made)


def test_every_setting_has_its_own_folder_name():
    changes = ({}, dict(num_train=30), dict(num_val=20), dict(frame_size=48), dict(num_frames=9), dict(seed=1))
    assert len({MotionVideos(**{**SMALL, **change}).folder_name for change in changes}) == len(changes)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"no settings\.json"):
        MotionVideos(**SMALL)(tmp_path)
    assert files(tmp_path) == {"mine.txt": b"keep"}


def copy_of(made: Path):
    """Stands in for `MotionVideos._make` where what is tested is not the making."""
    return lambda self, root: shutil.copytree(made, root)


def test_an_interruption_leaves_nothing_and_the_next_call_completes(made, tmp_path, monkeypatch):
    root = tmp_path / "set"

    def interrupted(self, partial_root: Path) -> None:
        shutil.copytree(made / "train", partial_root / "train")
        raise KeyboardInterrupt

    monkeypatch.setattr(MotionVideos, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        MotionVideos(**SMALL)(root)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(MotionVideos, "_make", copy_of(made))
    MotionVideos(**SMALL)(root)
    assert files(root) == files(made)


def test_leftovers_of_killed_processes_go_and_those_of_running_ones_stay(made, tmp_path, monkeypatch):
    for name in ("killed", "running"):
        (tmp_path / f".set.partial-{name}" / "train").mkdir(parents=True)
    old = time.time() - 7200
    for folder in (tmp_path / ".set.partial-killed", tmp_path / ".set.partial-killed" / "train"):
        os.utime(folder, (old, old))
    monkeypatch.setattr(MotionVideos, "_make", copy_of(made))
    MotionVideos(**SMALL)(tmp_path / "set")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".set.partial-running", "set"]


def test_of_two_processes_at_once_the_slower_takes_the_set_of_the_faster(made, tmp_path, monkeypatch):
    def overtaken(self, partial_root: Path) -> None:
        for folder in (partial_root, tmp_path / "set"):
            shutil.copytree(made, folder)

    monkeypatch.setattr(MotionVideos, "_make", overtaken)
    MotionVideos(**SMALL)(tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert files(tmp_path / "set") == files(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_train=15), "num_train 15 is not a positive multiple of the 10 classes"),
        (dict(num_val=0), "num_val 0 is not a positive multiple"),
        (dict(frame_size=33), "frame_size 33 must be even"),
        (dict(num_frames=4), "num_frames 4 is below 8"),
        (dict(seed=-1), "seed -1 is negative"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MotionVideos(**{**SMALL, **change})


def test_the_module_needs_no_torch():
    code = "import sys, mvit_train.data.motion; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
