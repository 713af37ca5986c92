from pathlib import Path

import pytest

from data_prep.pool import CRASHED, probe_all
from data_prep.probe import Task, probe


def task(path, verify=True):
    made = Task.of(Path(path), verify=verify)
    assert made is not None
    return made


def test_the_facts_of_a_video_are_those_of_its_header(video):
    found = probe(task(video("a.mp4", 90, fps=25)))
    assert (found.reason, found.duration, found.num_frames, found.fps) == ("", 3.6, 90, 25)
    assert (found.width, found.height, found.codec, found.verified) == (64, 48, "h264", True)


def test_sizes_are_upright_where_frames_are_decoded(video):
    turned = video("a.mp4", 20, rotation=90)
    sizes = [(found.width, found.height) for found in (probe(task(turned)), probe(task(turned, verify=False)))]
    assert sizes == [(48, 64), (64, 48)]


def test_a_broken_file_has_a_reason(tmp_path, video, shared_videos):
    whole = video("a.mp4", 200, container_options={"movflags": "faststart"}).read_bytes()
    cases = {
        "empty.mp4": (b"", "empty file"),
        "moov.mp4": (video("a.mp4", 90).read_bytes()[:-2000], "not a video, or its header is damaged or missing"),
        "text.mp4": (b"404 Not Found", "not a video, or its header is damaged or missing"),
        "audio.mp4": ((shared_videos / "moviepy_crunching.mp3").read_bytes(), "no video stream, only audio"),
        "cut.mp4": (whole[: len(whole) * 2 // 3], None),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        found = probe(task(tmp_path / name)).reason
        assert found == reason if reason else found, name
    assert found.startswith("stops after 76 of about 200 frames")  # cut.mp4, whose header promises more
    assert probe(task(tmp_path / "cut.mp4", verify=False)).reason == ""


def test_every_real_video_is_judged_and_never_raises(shared_videos):
    files = [path for path in sorted(shared_videos.iterdir()) if path.suffix not in (".md", ".json")]
    assert len(files) == 26
    broken = {path.name for path in files if probe(task(path)).reason}
    assert {"moviepy_crunching.mp3", "moviepy_with-attached-pic.mp3", "mp4parse_short-cenc.mp4"} <= broken
    assert not {"hiera_dog.mp4", "torchcodec_nasa_13013.mp4", "moviepy_no_duration.webm"} & broken


class Deadly(Task):
    """Ends the process that unpickles it, as a crash of FFmpeg would."""

    def __reduce__(self):
        import os

        return os._exit, (1,)


def test_a_file_that_kills_its_process_is_broken_and_the_others_are_probed(video):
    tasks = [task(video("a.mp4", 20 + i), verify=False) for i in range(3)]
    deadly = Deadly("deadly.mp4", 1, 1, False)
    results = {found.path: found.reason for found in probe_all([*tasks[:2], deadly, tasks[2]], workers=2)}
    assert results == {"deadly.mp4": CRASHED} | {one.path: "" for one in tasks}


def test_a_process_pool_finds_what_this_process_finds(video):
    tasks = [task(video("a.mp4", 20 + i), verify=False) for i in range(3)]
    by_path = sorted(probe_all(tasks, workers=2), key=lambda found: found.path)
    assert by_path == sorted(probe_all(tasks, workers=0), key=lambda found: found.path)


@pytest.mark.parametrize("name", ["a:b.mp4", "--a.mp4", "ä #1 [x];&.mp4"])
def test_names_of_any_kind_are_opened(tmp_path, video, name, monkeypatch):
    (tmp_path / name).write_bytes(video("a.mp4", 20).read_bytes())
    assert probe(task(tmp_path / name)).reason == ""
