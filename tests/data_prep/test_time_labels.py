"""Clips that differ by what was done to time, drawn from videos whose frames carry their number."""

import csv
import shutil

import av
import pytest

from data_prep.time_labels import LABELS, main


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def rows(out, split):
    return list(csv.DictReader((out / f"{split}.csv").open()))


@pytest.fixture
def root(tmp_path, video):
    root = tmp_path / "mine"
    root.mkdir()
    shutil.copy(video("a.mp4", 120), root / "a.mp4")
    (root / "broken.mp4").write_text("no video")
    return root


def test_every_window_is_written_forward_reversed_and_at_double_speed(root, tmp_path, read_barcodes, capsys):
    out = tmp_path / "out"
    arguments = ["--root", str(root), "--out", str(out), "--sec", "0.4", "--step-sec", "0.2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "broken.mp4: left out, " in printed
    assert (out / "classes.txt").read_text().split() == list(LABELS)
    seen = {}
    for split in ("train", "val"):
        for row in rows(out, split):
            start, shown = int(row["path"].split("_")[1]), {}
            clip = [picture.transpose(2, 0, 1)[:, None] for picture in frames_of(out / row["path"])]
            shown = [read_barcodes(picture)[0] for picture in clip]
            wanted = {
                "forward": range(start, start + 12),
                "reversed": range(start + 11, start - 1, -1),
                "double_speed": range(start, start + 24, 2),
            }[row["label"]]
            assert shown == list(wanted), row
            seen.setdefault(split, set()).update(range(start, start + 24))
    assert [len(rows(out, split)) for split in ("train", "val")] == [36, 6]
    assert not seen["train"] & seen["val"]
    assert main(arguments) == 1
    assert "is not empty; give a new folder" in capsys.readouterr().err


def test_a_pan_moves_to_the_right_and_back_in_reverse(root, tmp_path, shared_videos):
    shutil.copy(shared_videos / "hiera_dog.mp4", root / "b.mp4")
    out = tmp_path / "out"
    assert main(["--root", str(root), "--out", str(out), "--sec", "0.4", "--pan", "0.2", "--short-side", "100"]) == 0
    label_of = {
        row["label"]: frames_of(out / row["path"]) for row in rows(out, "train") if "/0001_000000" in row["path"]
    }
    assert {name: clip[0].shape for name, clip in label_of.items()} == dict.fromkeys(LABELS, (100, 60, 3))
    forward, backward = label_of["forward"], label_of["reversed"]
    assert abs(forward[0].astype(int) - backward[-1]).mean() < 4  # encoded twice
    assert abs(forward[0].astype(int) - backward[0]).mean() > 10


@pytest.mark.parametrize("wrong", [["--pan", "0.5"], ["--sec", "0"], ["--val-share", "1"]])
def test_impossible_options_are_refused(root, tmp_path, wrong):
    with pytest.raises(SystemExit):
        main(["--root", str(root), "--out", str(tmp_path / "out"), *wrong])


def test_videos_that_are_too_short_are_said_to_be(root, tmp_path, capsys):
    assert main(["--root", str(root), "--out", str(tmp_path / "out"), "--sec", "10"]) == 1
    assert "too short for windows of 2 x 10 s in both splits" in capsys.readouterr().err
