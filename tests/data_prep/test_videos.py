import csv
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.video.frame import PictureType
from torch.nn.functional import avg_pool2d

from data_prep import videos
from data_prep.encode import _part_of
from data_prep.journal import Journal, Shard
from data_prep.pictures import target_size
from mvit_train.data.decode import DecodedVideo
from mvit_train.data.manifest import read_splits
from mvit_train.data.nal import unreferenced_test

ROOT = Path(__file__).parents[2]
UNEVEN = [0, 30, 70, 100, 230, 260, 300, 310, 340, 900, 950, 1000, 1033, 1067, 1100, 1500, 1530, 1570, 1600, 1700]


@pytest.fixture
def run():
    """`run("prepare", root, out, ...)`: the exit code of the action, which works in this process."""

    def call(action, root, out=None, *arguments):
        where = ["--root", str(root), *(["--out", str(out)] if out else [])]
        return videos.main([action, *where, "--workers", "0", *map(str, arguments)])

    return call


@pytest.fixture
def prepared(run, tmp_path):
    """`prepared(file, ...)`: the path of that file, prepared."""

    def make(file, *arguments):
        root, out = tmp_path / "one", tmp_path / "prepared"
        for folder in (root, out):
            shutil.rmtree(folder, ignore_errors=True)
        root.mkdir()
        shutil.copy(file, root)
        assert run("prepare", root, out, *arguments) == 0
        made = [path for path in out.iterdir() if path.suffix == ".mp4"]
        assert len(made) == 1, (out / "broken.csv").read_text()
        return made[0]

    return make


def shown(path, times, read_barcodes):
    """The indices of the frames on show at the times."""
    with DecodedVideo(path, num_frames=1) as video:
        clips = video.get_clips([(time, time) for time in times])
        return [read_barcodes(clip)[0] for clip in clips], video.fps, video.duration


SOURCES = {
    "plain.mp4": {},
    "ntsc.mp4": {"fps": Fraction(30000, 1001)},
    "rounded.mkv": {},
    "rounded_ntsc.mkv": {"fps": Fraction(30000, 1001)},
    "slow.mp4": {"fps": 12},
    "b_frames.avi": {"codec": "mpeg4"},
    "late_start.ts": {},
    "program.mpg": {"codec": "mpeg2video", "fps": 25},
    "gaps.mkv": {"times": [0, 1, 2, 5, 6, 7, 12, 13, 14, 15, 16, 30]},
    "uneven.mp4": {"times": UNEVEN, "tick": Fraction(1, 1000)},
    "uneven.mkv": {"times": UNEVEN, "tick": Fraction(1, 1000)},
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_frames_are_on_show_at_the_same_times(name, video, prepared, read_barcodes):
    settings = SOURCES[name]
    count = len(settings.get("times", range(50)))
    source = video(name, count, **settings)
    if "tick" in settings:  # in milliseconds, but for those within which the reader's tolerance takes a frame for there
        apart = [time for time in range(UNEVEN[-1] + 30) if min(abs(time - change) for change in UNEVEN) > 1]
        times = [Fraction(time, 1000) for time in apart]
    else:
        length = max(settings.get("times", [count - 1])) + 1
        times = [Fraction(tenth, 10) / settings.get("fps", 30) for tenth in range(10 * length)]
    expected, fps, duration = shown(source, times, read_barcodes)
    file = prepared(source)
    found, new_fps, new_duration = shown(file, times, read_barcodes)
    assert found == expected
    assert set(expected) == set(range(count))
    with av.open(str(file)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == count
    if "times" not in settings and name != "program.mpg":  # whose header states a second too little
        assert new_fps == fps
        assert abs(new_duration - duration) < Fraction(1, 1000)


@pytest.mark.parametrize("store", ["intra", "jpeg"])
def test_other_stores_hold_the_same_frames_each_for_itself(store, video, prepared, read_barcodes):
    source = video("ntsc.mp4", 50, fps=Fraction(30000, 1001))
    times = [Fraction(1001 * index, 30000) for index in range(50)]
    file = prepared(source, "--store", store)
    assert shown(file, times, read_barcodes)[:2] == shown(source, times, read_barcodes)[:2]
    with av.open(str(file)) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
        assert container.streams.video[0].codec_context.name == {"intra": "h264", "jpeg": "mjpeg"}[store]


def test_groups_of_pictures_are_short_and_no_frame_refers_to_a_b_frame(video, prepared):
    with av.open(str(prepared(video("a.mp4", 100)))) as container:
        stream = container.streams.video[0]
        test = unreferenced_test("h264", stream.codec_context.extradata)
        assert test is not None
        packets = [packet for packet in container.demux(stream) if packet.size]
    with av.open(str(prepared(video("a.mp4", 100)))) as container:
        kinds = {frame.pts: PictureType(frame.pict_type).name for frame in container.decode(video=0)}
    places = {time: place for place, time in enumerate(sorted(kinds))}
    assert [places[packet.pts] for packet in packets if packet.is_keyframe] == list(range(0, 100, 32))
    left_out = {packet.pts for packet in packets if test(bytes(packet))}
    assert left_out == {time for time, kind in kinds.items() if kind == "B"}
    group = "".join(kinds[time] for time in sorted(kinds)[:32])
    assert group == "I" + "BBBP" * 7 + "BBP"


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_in_the_pixels(rotation, video, prepared):
    source = video("a.mp4", 20, first_index=1234, rotation=rotation)
    file = prepared(source)
    with av.open(str(file)) as container:
        frame = next(container.decode(video=0))
        assert (frame.rotation, (frame.width, frame.height)) == (0, (64, 48) if rotation == 180 else (48, 64))
    clips = []
    for path in (source, file):
        with DecodedVideo(path, num_frames=4) as opened:
            clips.append(opened.get_clip(0, Fraction(2, 3))["video"].float())
    assert clips[0].shape == clips[1].shape
    assert (clips[0] - clips[1]).abs().mean() < 1


def test_sound_is_dropped_and_the_index_comes_first(shared_videos, prepared):
    source = shared_videos / "moviepy_video_with_failing_audio.mp4"
    with av.open(str(source)) as container:
        assert container.streams.audio
    file = prepared(source)
    with av.open(str(file)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    content = file.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((1920, 1080), (456, 256)),
        ((1080, 1920), (256, 456)),
        ((340, 256), (340, 256)),
        ((320, 240), (320, 240)),
        ((455, 255), (454, 254)),
        ((1, 1), (2, 2)),
        ((4000, 20), (4000, 20)),
    ],
)
def test_sizes_are_even_in_proportion_and_never_larger(source, expected):
    assert target_size(*source, 256) == expected


def test_videos_are_made_smaller_and_never_larger(video, prepared, read_barcodes):
    large, small = video("a.mp4", 20, block=64), video("a.mp4", 20)  # 256x192, 64x48
    for source, size in ((large, (128, 96)), (small, (64, 48))):
        file = prepared(source, "--short-side", 96)
        with DecodedVideo(file, num_frames=20) as opened:
            clip = opened.get_clip(0, opened.duration)["video"]
        assert clip.shape[-2:] == size[::-1]
        assert read_barcodes(clip) == list(range(20))


@pytest.mark.parametrize(
    ("name", "store", "least"),
    [
        ("torchcodec_bt709_full_range.mp4", "b3fast", 34),
        ("torchcodec_bt709_full_range.mp4", "jpeg", 34),
        ("torchcodec_h264_10bits.mp4", "b3fast", 29),
        ("torchcodec_h265_10bits.mp4", "jpeg", 29),
        ("hiera_dog.mp4", "b3fast", 38),
        ("hiera_dog.mp4", "intra", 38),
    ],
)
def test_colours_stay_what_the_reader_showed(name, store, least, shared_videos, prepared):
    clips = []
    for path in (shared_videos / name, prepared(shared_videos / name, "--store", store, "--short-side", 720)):
        with DecodedVideo(path, num_frames=3) as opened:
            clip = opened.get_clip(0, opened.duration)["video"].float()
        clips.append(avg_pool2d(clip, 4))  # FFmpeg places colours between pixels differently for 8 and 10 bits
    difference = clips[1] - clips[0]
    assert 10 * math.log10(255**2 / difference.square().mean()) > least
    assert difference.mean(dim=(1, 2, 3)).abs().max() < 1.5  # no tint


def untouched(root: Path) -> dict[Path, tuple]:
    """What a change of any file or folder would show; not the time of the last reading."""
    stats = {path: path.stat() for path in root.rglob("*")}
    return {path: (stat.st_ino, stat.st_mode, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def test_a_tree_is_mirrored_under_names_that_stay_apart(tmp_path, video, run, table):
    root, out = tmp_path / "in", tmp_path / "out"
    for name in ("a/x.mp4", "a/x.mkv", "b/--y [1].mp4", "b/deep/x.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video("v" + Path(name).suffix, 20, codec="mpeg4"), root / name)
    before = untouched(root)
    assert run("prepare", root, out) == 0
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.mp4"))
    assert names[1:] == [names[1], "b/--y [1].mp4", "b/deep/x.mp4"]
    assert all(name.startswith("a/x-") for name in names[:2])
    assert sorted(table(out / "videos.csv", "path")) == names
    assert untouched(root) == before


def test_what_is_broken_is_listed_and_leaves_no_file(tmp_path, video, run, table, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    shutil.copy(video("a.mp4", 30), root / "good.mp4")
    (root / "text.mp4").write_text("404 Not Found")
    (root / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    whole = video("a.mp4", 200, container_options={"movflags": "faststart"}).read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert run("prepare", root, out) == 0
    assert {path.name for path in out.iterdir()} >= {"good.mp4", "broken.csv", "summary.json"}
    assert not [path for path in out.iterdir() if path.suffix == ".part" or path.name in ("text.mp4", "cut.mp4")]
    reasons = {Path(path).name: reason for path, reason in table(out / "broken.csv", "path", "reason")}
    assert reasons["text.mp4"] == "not a video, or its header is damaged or missing"
    assert "of about 200 frames" in reasons["cut.mp4"]
    assert reasons["link.mp4"] == "no such file"
    store = json.loads((out / "summary.json").read_text())["store"]
    assert (store["files"], store["frames"], store["psnr"]["files"]) == (1, 30, 1)
    assert store["bytes_after"] == (out / "good.mp4").stat().st_size
    assert store["psnr"]["min"] > 30
    assert "PSNR of 1 sampled files" in capsys.readouterr().out
    shutil.copy(video("a.mp4", 30), root / "text.mp4")  # mended
    assert run("prepare", root, out) == 0
    assert "3 files; 2 known, 1 to do" in capsys.readouterr().out
    assert (out / "text.mp4").exists()


def test_a_full_disk_stops_the_run_and_leaves_no_half_file(tmp_path, video, run, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    shutil.copy(video("a.mp4", 60), root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        assert run("prepare", root, out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large, while" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["prepare-0of1.jsonl"]
    assert run("prepare", root, out) == 0
    assert (out / "a.mp4").exists()


def test_frames_that_change_size_on_the_way_become_one_size(tmp_path, video, prepared, read_barcodes):
    options = {"bf": "0"}  # B-frames would make the muxer shift all times of the first part
    large = video("large.ts", 30, block=32, options=options)
    small = video("small.ts", 30, times=range(30, 60), first_index=30, options=options)
    (tmp_path / "joined.ts").write_bytes(large.read_bytes() + small.read_bytes())
    with DecodedVideo(prepared(tmp_path / "joined.ts", "--short-side", 64), num_frames=60) as opened:
        clip = opened.get_clip(0, opened.duration)["video"]
    assert clip.shape[-2:] == (64, 86)
    assert read_barcodes(clip) == list(range(60))


KILL = """
import os, signal, sys
from data_prep import journal, videos
append, noted = journal.Journal.append, []
def dying(self, result):
    append(self, result)
    noted.append(result)
    if len(noted) == 2:
        os.killpg(0, signal.SIGKILL)
journal.Journal.append = dying
if __name__ == "__main__":
    videos.main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_and_leaves_no_parts(tmp_path, video, run, capsys):
    root, out, script = tmp_path / "in", tmp_path / "out", tmp_path / "kill.py"
    root.mkdir()
    for index in range(6):
        shutil.copy(video("a.mp4", 60, block=64, first_index=index), root / f"{index}.mp4")
    script.write_text(KILL)
    command = [sys.executable, str(script), "prepare", "--root", str(root), "--out", str(out), "--workers", "2"]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True, capture_output=True, check=False
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert not (out / "summary.json").exists()
    noted = [json.loads(line)["target"] for line in (out / "prepare-0of1.jsonl").read_text().splitlines()]
    assert len(noted) == 2
    times = {name: (out / name).stat().st_mtime_ns for name in noted}
    left = next(name for name in ("4.mp4", "5.mp4") if name not in noted)
    _part_of(out / left).write_bytes(b"half")
    assert run("prepare", root, out) == 0
    assert "6 files; 2 known, 4 to do" in capsys.readouterr().out
    assert sorted(path.name for path in out.glob("*.mp4")) == [f"{index}.mp4" for index in range(6)]
    assert [path for path in out.iterdir() if path.name.endswith(".part")] == []
    assert {name: (out / name).stat().st_mtime_ns for name in noted} == times


def test_a_finished_file_is_known_even_without_its_journal(tmp_path, place, run, contents):
    root, out = tmp_path / "in", tmp_path / "out"
    for index in range(3):
        place(root, f"{index}.mp4", 20, first_index=index)
    assert run("prepare", root, out) == 0
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    (out / "prepare-0of1.jsonl").unlink()
    assert run("prepare", root, out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")} == times
    place(root, "1.mp4", 30, first_index=7)  # a changed source is encoded again
    assert run("prepare", root, out) == 0
    changed = [path.name for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert changed == ["1.mp4"]


def test_shares_meet_in_one_folder(tmp_path, place, run, table, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    for index in range(20):  # shares go by a hash of the path: so many are not all in one
        place(root, f"{index}.mp4", 20)
    assert run("prepare", root, out, "--shard", "0/2") == 0
    assert "share 0/2 is done" in capsys.readouterr().out
    assert not (out / "videos.csv").exists()
    assert run("prepare", root, out, "--shard", "1/2") == 0
    assert len(table(out / "videos.csv", "path")) == 20


def test_shares_that_work_at_the_same_time_write_what_one_would(tmp_path, place, run, table, monkeypatch):
    root, one, many = tmp_path / "in", tmp_path / "one", tmp_path / "many"
    for index in range(8):
        place(root, f"{index}.mp4", 20, first_index=index)
    assert run("prepare", root, one) == 0
    start = Journal.__enter__

    def other_share_first(journal):  # once this one has read what is known
        monkeypatch.setattr(Journal, "__enter__", start)
        assert run("prepare", root, many, "--shard", "1/2") == 0
        assert not (many / "videos.csv").exists()
        return start(journal)

    monkeypatch.setattr(Journal, "__enter__", other_share_first)
    monkeypatch.setattr(Shard, "has", lambda self, task: int(Path(task.path).stem) % self.count == self.index)
    assert run("prepare", root, many, "--shard", "0/2") == 0
    facts = ("path", "source", "num_frames", "duration", "status")
    assert table(many / "videos.csv", *facts) == table(one / "videos.csv", *facts)


def test_a_file_that_stands_still_is_given_up(tmp_path, place, table):
    root, out = tmp_path / "in", tmp_path / "out"
    place(root, "a.mp4", 20)
    limit = ["--workers", "1", "--timeout-sec", "0.00001"]
    assert videos.main(["prepare", "--root", str(root), "--out", str(out), *limit]) == 0
    reason = "given up after 1e-05 s at a standstill"
    assert table(out / "broken.csv", "path", "reason") == [(str(root / "a.mp4"), reason)]
    assert not list(out.glob("*.mp4"))
    assert videos.main(["verify", "--root", str(root), *limit]) == 1


def test_what_would_be_overwritten_or_read_again_is_refused(tmp_path, place, run, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    place(root, "c/a.mp4", 20)
    for other, said in ((root, "is --root"), (root / "out", "lies in --root"), (tmp_path, "holds --root")):
        assert run("prepare", root, other) == 1
        assert said in capsys.readouterr().err
    place(out, "c/a.mp4", 20)
    assert run("prepare", root, out) == 1
    assert "c/a.mp4 was not written by data_prep, so it is not overwritten" in capsys.readouterr().err
    shutil.rmtree(out)
    assert run("prepare", root, out) == 0
    assert run("prepare", root, out, "--crf", 20) == 1
    assert (
        "holds files prepared as b3fast, short side 256, crf 25, not as b3fast, short side 256, crf 20"
        in capsys.readouterr().err
    )
    assert run("verify", root, out) == 1
    assert "holds what data_prep.videos prepare wrote: give another --out" in capsys.readouterr().err
    assert run("prepare", root, tmp_path / "new", "--store", "jpeg", "--crf", 1) == 1
    assert "--crf 1: jpeg takes 2 to 31" in capsys.readouterr().err


@pytest.fixture
def manifests(tmp_path, place):
    """A manifest folder: windows, several labels and none, a missing file, odd names, and a file outside of it."""
    root = tmp_path / "in"
    place(root, "c/--x.mp4", 60, fps=30, first_index=100)
    place(root, "c/x.mp4", 60, fps=30, first_index=200)
    place(root, "c/x.mkv", 60, fps=30, first_index=300)
    place(tmp_path, "elsewhere/long.mkv", 300, fps=30, first_index=1000)
    (root / "text.mp4").write_text("no video")
    rows = {
        "train": [
            ["c/--x.mp4", "run", "", "", "ok"],
            ["c/x.mp4", "run;sit, down", "", "", "replaced"],
            [f"{tmp_path}/elsewhere/long.mkv", "walk", "2", "4", "ok"],
            ["c/gone.mp4", "walk", "", "", "ok"],
            ["text.mp4", "walk", "", "", "ok"],
        ],
        "val": [
            ["c/x.mkv", "", "", "", "ok"],
            ["../elsewhere/long.mkv", "walk", "5.5", "7.5", "ok"],
        ],
    }
    for split, lines in rows.items():
        with (root / f"{split}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["path", "label", "start", "end", "status"], *lines])
    (root / "classes.txt").write_text("walk\nrun\nsit, down\n")
    (root / "segments.csv").write_text("path,label,start,end\nc/x.mp4,run,0.5,1.25\n")
    return root


def test_manifests_become_manifests_of_the_prepared_files(manifests, tmp_path, run, table, read_barcodes):
    out = tmp_path / "out"
    assert run("prepare", manifests, out) == 0
    columns = ("path", "label", "start", "end", "status", "num_frames")
    train, val = (table(out / f"{split}.csv", *columns) for split in ("train", "val"))
    assert [row[1:] for row in train] == [
        ("run", "", "", "short", "60"),
        ("run;sit, down", "", "", "replaced", "60"),
        ("walk", "", "", "short", "60"),
    ]
    assert [row[1:] for row in val] == [("", "", "", "short", "60"), ("walk", "", "", "short", "60")]
    paths = [row[0] for row in [*train, *val]]
    assert paths[0] == "videos/in/c/--x.mp4"
    assert paths[2] == "videos/elsewhere/long_2_4.mp4"
    assert len(set(paths)) == 5
    starts = []
    for path in paths:
        with DecodedVideo(out / path, num_frames=60) as opened:
            indices = read_barcodes(opened.get_clip(0, opened.duration)["video"])
        assert indices == list(range(indices[0], indices[0] + 60))
        starts.append(indices[0])
    assert starts == [100, 200, 1060, 300, 1165]
    assert (out / "classes.txt").read_text() == "walk\nrun\nsit, down\n"
    assert table(out / "segments.csv", "path", "label", "start", "end") == [(paths[1], "run", "0.5", "1.25")]
    assert table(out / "missing.csv", "video_id", "reason") == [("c/gone.mp4", "no such file")]
    assert table(out / "broken.csv", "video_id") == ["text.mp4"]
    splits = read_splits(out)
    assert [list(splits[split].paths) for split in ("train", "val")] == [paths[:3], paths[3:]]
    assert splits["train"].labels.names == ("walk", "run", "sit, down")


def test_prepared_manifests_can_be_prepared_and_verified_again(manifests, tmp_path, run, capsys):
    out = tmp_path / "out"
    assert run("prepare", manifests, out) == 0
    capsys.readouterr()
    assert run("prepare", manifests, out) == 0
    assert "0 to do" in capsys.readouterr().out
    assert run("verify", out) == 0
    assert "5 ok, 0 damaged, 0 broken; 300 frames decoded" in capsys.readouterr().out
    assert run("verify", manifests) == 1
    assert "no such file" in capsys.readouterr().out
    assert run("prepare", out, tmp_path / "smaller", "--short-side", 32) == 0
    assert list(read_splits(tmp_path / "smaller")["train"].paths) == list(read_splits(out)["train"].paths)


def test_lists_of_paths_and_numbers_become_manifests(tmp_path, place, run, table):
    root, out = tmp_path / "in", tmp_path / "out"
    for index in range(3):
        place(root, f"my clips/{index}.mp4", 20, first_index=index)
    (root / "train.csv").write_text("my clips/0.mp4 2\nmy clips/1.mp4 0\n")
    (root / "val.csv").write_text("my clips/2.mp4 2\n")
    assert run("prepare", root, out) == 0
    expected = [("videos/my clips/0.mp4", "2"), ("videos/my clips/1.mp4", "0")]
    assert table(out / "train.csv", "path", "label") == expected
    assert (out / "classes.txt").read_text() == "0\n1\n2\n"
    assert len(read_splits(out)["val"]) == 1


def test_verifying_finds_what_a_look_at_three_frames_does_not(tmp_path, video, run, table, capsys):
    root = tmp_path / "in"
    root.mkdir()
    whole = bytearray(video("a.mp4", 300, container_options={"movflags": "faststart"}).read_bytes())
    shutil.copy(video("a.mp4", 300), root / "good.mp4")
    start = whole.index(b"mdat")
    quarter = start + (len(whole) - start) // 4
    whole[quarter : quarter + 2000] = bytes(2000)
    (root / "holed.mp4").write_bytes(whole)
    assert run("probe", root, tmp_path / "probed") == 0
    assert set(table(tmp_path / "probed/videos.csv", "status")) == {"ok"}
    assert run("verify", root, tmp_path / "verified") == 1
    found = {
        Path(path).name: rest for path, *rest in table(tmp_path / "verified/verified.csv", "path", "status", "reason")
    }
    assert found["good.mp4"] == ["ok", ""]
    assert found["holed.mp4"][0] == "broken"
    assert "no frame decodes near" in found["holed.mp4"][1]
    capsys.readouterr()
    assert run("verify", root, tmp_path / "verified") == 1
    assert "2 files; 2 known, 0 to do" in capsys.readouterr().out


def test_a_single_file_is_probed(shared_videos, run, capsys):
    assert run("probe", shared_videos / "hiera_dog.mp4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[1:] == ["5", "150", "30", "256", "256", "mpeg4", "182022", "ok"]
