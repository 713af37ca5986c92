"""Whole loaders at a tiny size: all give the batches asked for, take turns, and leave no process behind."""

import json
import multiprocessing

import pytest
import torch

from mvit_train.__main__ import main
from mvit_train.benchmarks import loader as loader_benchmark
from mvit_train.benchmarks.loader import LOADERS, Turn, Work, compare, fill, num_files, table, take_turn

TINY = Work(num_frames=4, sampling_rate=2, crop_size=16, batch_size=2, num_workers=1)
LOCAL = {name: LOADERS[name] for name in ("ours", "pytorchvideo")}


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(loader_benchmark, "SIZES", ((96, 64),))


def test_all_loaders_do_the_same_work_in_turns(tmp_path, video, small_files):
    fill(tmp_path, [video("a.mp4", 30)], "prepared", num_files(TINY))
    rows = compare(tmp_path, "prepared", TINY, LOCAL, rounds=2)
    assert [row.who for row in rows] == ["ours", "pytorchvideo"]
    assert multiprocessing.active_children() == []
    for row in rows:
        assert row.clips_per_sec > 0
        assert row.clips_per_core_sec > 0
        assert 0 < row.first_batch_sec < 60
        assert row.mb is None or 1 < row.mb < 4000
        assert row.speed[1] <= row.speed[0] <= row.speed[2]
    assert (rows[0].speed, rows[0].speed_per_core) == ((1, 1, 1), (1, 1, 1))
    lines = table(rows).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("prepared   ours")


def test_no_epoch_ends_within_a_turn(tmp_path, video, small_files):
    for num_workers in (0, 2):
        work = Work(num_frames=4, sampling_rate=2, crop_size=16, batch_size=2, num_workers=num_workers)
        folder = tmp_path / str(num_workers)
        folder.mkdir()
        fill(folder, [video("a.mp4", 30)], "raw", num_files(work))
        turn = take_turn("ours", LOADERS["ours"](folder, work), work)
        assert turn.clips == 2 * 8
        assert (turn.mb is None) == (num_workers == 0)


def test_a_loader_of_other_batches_is_refused():
    with pytest.raises(ValueError, match=r"late gives batches of \(2, 3, 4, 8, 8\), asked for are \(2, 3, 4, 16, 16\)"):
        take_turn("late", iter([torch.zeros(2, 3, 4, 8, 8)]), TINY)


def test_ratios_are_of_the_same_round(monkeypatch, tmp_path):
    found = {"ours": iter([1.0, 4.0, 2.0]), "rival": iter([2.0, 12.0, 8.0])}

    def turn(who, batches, work):
        seconds = next(found[who])
        return Turn(first_batch_sec=0.5, clips=16, wall_sec=seconds, cpu_sec=2 * seconds, mb=None)

    monkeypatch.setattr(loader_benchmark, "take_turn", turn)
    ours, rival = compare(tmp_path, "raw", TINY, dict.fromkeys(found, lambda *_: iter(())), rounds=3)
    assert (rival.speed, rival.speed_per_core) == ((3, 2, 4), (3, 2, 4))
    assert (ours.clips_per_sec, ours.clips_per_core_sec) == (8, 4)


def test_the_command_measures_raw_and_prepared_files_and_writes_json(tmp_path, video, small_files, monkeypatch, capsys):
    monkeypatch.setattr(loader_benchmark, "LOADERS", {"ours": LOADERS["ours"]})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.mp4").write_text("no video")
    (tmp_path / "in" / "video.mp4").write_bytes(video("a.mp4", 30).read_bytes())
    settings = ["clip.num_frames=4", "clip.crop_size=16", "data.batch_size=2", "data.num_workers=1"]
    command = ["task=benchmark", "what=loader", f"input={tmp_path / 'in'}", f"runs={tmp_path}", "run_id=a", *settings]
    threads = torch.get_num_threads()
    try:
        assert main(command) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "benchmark" / "a.json").read_text())
    assert [(row["files"], row["who"]) for row in result["rows"]] == [("raw", "ours"), ("prepared", "ours")]
    assert result["settings"]["batch_size"] == 2
    assert "load average" in result["context"]
    out = capsys.readouterr().out
    assert "text.mp4: left out" in out
    assert "prepared   ours" in out


def test_it_needs_videos(tmp_path, capsys, small_files):
    assert main(["task=benchmark", "what=loader"]) == 2
    assert "what=loader needs input=FILE, or a folder of videos" in capsys.readouterr().err
    assert main(["what=loader", f"input={tmp_path}"]) == 2
    assert "what = loader: is for task=benchmark" in capsys.readouterr().err
    (tmp_path / "text.mp4").write_text("no video")
    assert main(["task=benchmark", "what=loader", f"input={tmp_path}", f"runs={tmp_path}"]) == 1
    assert "none is a video that can be read" in capsys.readouterr().err
