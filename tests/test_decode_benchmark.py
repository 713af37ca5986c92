"""The readers that are installed read equal frames, and what differs is told."""

import json
import shutil

import pytest

from mvit_train.__main__ import main
from mvit_train.benchmarks import decode as decode_benchmark
from mvit_train.benchmarks import readers
from mvit_train.benchmarks.decode import compare, make_file, random_spans, table
from mvit_train.benchmarks.readers import installed, ours


@pytest.fixture(scope="module")
def files(tmp_path_factory, video):
    folder, source = tmp_path_factory.mktemp("benchmark"), video("a.mp4", 30)
    return [make_file(source, folder / f"{recipe}.mp4", (96, 64), recipe, 90) for recipe in ("raw", "prepared")]


def test_installed_readers_take_turns_at_equal_frames_and_ours_decodes_fewer_packets(files):
    found = installed()
    assert {"ours", "pytorchvideo"} <= set(found)
    rows = list(compare(files, found, rounds=2, clips=2, crop_size=32))
    assert len(rows) == 2 * len(found)
    for row in rows:
        assert row.difference == 0 or row.who in (
            "torchcodec",
            "decord",
            "opencv",
        )  # they may bring an FFmpeg of their own
        if row.who == "ours":
            assert row.speed == (1, 1, 1)
            assert row.packets is not None
            assert row.packets[1] < row.packets[0]
        assert row.mb_grown is None or 0 < row.mb_grown < 500
    lines = table(rows).splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[1].startswith("raw.mp4")


def test_the_command_measures_a_folder_and_names_what_it_leaves_out(tmp_path, video, monkeypatch, capsys):
    monkeypatch.setattr(decode_benchmark, "SIZES", ((96, 64),))
    monkeypatch.setattr(readers, "READERS", {"ours": ours})
    (tmp_path / "in").mkdir()
    shutil.copy(video("a.mp4", 90), tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "text.mp4").write_text("no video")
    runs = tmp_path / "runs"
    assert main(["task=benchmark", "what=decode", f"input={tmp_path / 'in'}", f"runs={runs}", "run_id=a"]) == 0
    rows = json.loads((runs / "benchmark" / "a.json").read_text())["rows"]
    assert [row["file"] for row in rows] == ["a_96x64_raw.mp4", "a_96x64_prepared.mp4"]
    assert "text.mp4: left out" in capsys.readouterr().out
    assert main(["task=benchmark", "what=decode"]) == 2
    assert "what=decode needs input=FILE" in capsys.readouterr().err


def test_a_reader_of_other_frames_is_refused(files):
    def late(path, span):
        return ours(path, span).roll(1, dims=1)

    with pytest.raises(ValueError, match=r"raw\.mp4: late and ours read different frames: up to \d+ of 255 apart"):
        list(compare(files[:1], {"ours": ours, "late": late}, rounds=1, clips=1))
    with pytest.raises(ValueError, match=r"early reads \(3, 8, 64, 96\), ours \(3, 16, 64, 96\)"):
        list(compare(files[:1], {"ours": ours, "early": lambda *a: ours(*a)[:, :8]}, rounds=1, clips=1))


def test_a_file_shorter_than_a_clip_is_refused(video):
    with pytest.raises(ValueError, match=r"shorter than a clip of 64 frames"):
        random_spans(video("a.mp4", 30), 1, 16, 4)


def test_a_reader_that_is_not_installed_or_lacks_a_library_is_left_out(monkeypatch):
    def without_ffmpeg(path, span):
        raise RuntimeError("Could not load libtorchcodec")

    monkeypatch.setitem(readers.READERS, "half", without_ffmpeg)
    monkeypatch.setitem(readers.PACKAGES, "pytorchvideo", "no_such_package")
    assert {"pytorchvideo", "half"}.isdisjoint(installed())
