"""Decoding only what is needed: the frames of a full decode, for less work, or a refusal that leads to the full one."""

import random
from fractions import Fraction

import pytest
import torch

from mvit_train.data.decode import DecodedVideo
from mvit_train.data.needed import NeededPackets, NotRegular
from mvit_train.data.stream import VideoStream

X264 = "b-adapt=0:scenecut=0:"
FILES = {
    "pyramid.mp4": {"bf": "3", "x264-params": X264 + "b-pyramid=normal"},
    "no_pyramid.mp4": {"bf": "3", "x264-params": X264 + "b-pyramid=none"},
    "strict_pyramid.mkv": {"bf": "5", "x264-params": X264 + "b-pyramid=strict:ref=4"},
    "adaptive.mp4": {"bf": "8", "preset": "medium"},
    "open_gop.mp4": {"bf": "3", "x264-params": X264 + "open-gop=1"},
    "open_gop.ts": {"bf": "3", "x264-params": X264 + "open-gop=1"},
    "annex_b.ts": {"bf": "3", "x264-params": X264},
    "slices.mp4": {"bf": "3", "x264-params": X264 + "slices=2"},
    "temporal_direct.mp4": {"bf": "3", "preset": "medium", "x264-params": X264 + "direct=temporal:weightb=1"},
    "lossless.mp4": {"bf": "2", "x264-params": X264 + "qp=0"},
    "one_key_frame.mp4": {"g": "1000", "bf": "3"},
    "all_key.mp4": {"g": "1"},
    "no_b.mp4": {"bf": "0"},
}


def sequential(path):
    """A DecodedVideo that takes the long way."""
    opened = DecodedVideo(path, num_frames=8)
    opened._stream.is_unreferenced = None
    return opened


def spans_of(duration, count, seed=0):
    rng = random.Random(seed)
    starts = [Fraction(rng.random()) * duration for _ in range(count)]
    return [(start, start + Fraction(rng.choice([1, 8, 16, 40, 64]), 30)) for start in starts]


@pytest.fixture
def no_way_back(monkeypatch):
    """Fails where the full decode is asked for."""

    def fail(*_):
        raise AssertionError("not regular")

    monkeypatch.setattr("mvit_train.data.decode.Walk", fail)


@pytest.mark.parametrize(("name", "options"), FILES.items(), ids=FILES)
def test_frames_are_those_of_a_full_decode(name, options, video, request):
    path = video(name, 150, options=options)
    with sequential(path) as whole:
        spans = [(Fraction(0), whole.duration), *spans_of(whole.duration, 12)]
        expected = [whole.get_clip(*span)["video"] for span in spans]
        work = whole.num_packets[1]
        together = whole.get_clips(spans)
    request.getfixturevalue("no_way_back")
    with DecodedVideo(path, num_frames=8) as opened:
        for span, clip in zip(spans, expected, strict=True):
            assert torch.equal(opened.get_clip(*span)["video"], clip), span
        read, decoded = opened.num_packets
        assert decoded <= work
        if options.get("bf") == "3":
            assert decoded < 0.9 * work
        assert decoded <= read
        assert all(torch.equal(a, b) for a, b in zip(opened.get_clips(spans), together, strict=True))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_irregular_times_do_not_matter(name, video, request):
    rng, times = random.Random(0), [0]
    for _ in range(119):
        times.append(times[-1] + rng.choice([10, 20, 33, 40, 100, 300]))
    path = video(name, 120, times=times, tick=Fraction(1, 1000), options={"bf": "3"})
    with sequential(path) as whole:
        spans = spans_of(whole.duration, 12)
        expected = whole.get_clips(spans)
    request.getfixturevalue("no_way_back")
    with DecodedVideo(path, num_frames=8) as opened:
        assert all(torch.equal(a, b) for a, b in zip(opened.get_clips(spans), expected, strict=True))
        read, decoded = opened.num_packets
    assert decoded < read


def test_one_frame_of_many_takes_few_packets(video, read_barcodes):
    path = video("a.mp4", 120, options={"g": "1000", "bf": "3", "x264-params": X264 + "b-pyramid=none"})
    for index, most in ((119, 33), (60, 17), (0, 1), (1, 3)):  # the key frame, every fourth, and the frame itself
        with DecodedVideo(path, num_frames=1) as opened:
            assert read_barcodes(opened.get_clip(Fraction(index, 30), 9)["video"]) == [index]
            assert opened.num_packets[1] <= most


def not_regular(path, start=Fraction(1), num_frames=8):
    stream = VideoStream(str(path))
    try:
        targets = [stream.latest_tick(start + Fraction(j, 10)) for j in range(num_frames)]
        with pytest.raises(NotRegular):
            NeededPackets(stream, targets).images()
    finally:
        stream.close()


def test_interlaced_pictures_are_left_to_the_full_decode(video):
    path = video("a.mp4", 90, options={"x264-params": "interlaced=1:tff=1", "preset": "medium"}, block=32)
    not_regular(path)
    with DecodedVideo(path, num_frames=8) as opened, sequential(path) as whole:
        assert torch.equal(opened.get_clip(0, 3)["video"], whole.get_clip(0, 3)["video"])


def test_pictures_refreshed_bit_by_bit_are_left_to_the_full_decode(video):
    path = video("a.mp4", 90, options={"bf": "3", "x264-params": X264 + "intra-refresh=1"})
    not_regular(path)
    with DecodedVideo(path, num_frames=8) as opened, sequential(path) as whole:
        assert torch.equal(opened.get_clip(0, 3)["video"], whole.get_clip(0, 3)["video"])


def test_streams_without_times_are_left_to_the_full_decode(video):
    not_regular(video("raw.h264", 90, fps=25))


def test_a_damaged_packet_is_left_to_the_full_decode(video, tmp_path):
    content = bytearray(video("a.mp4", 90, options={"g": "1000"}).read_bytes())
    middle = content.index(b"mdat") + 4000
    content[middle : middle + 600] = bytes(600)
    (tmp_path / "damaged.mp4").write_bytes(content)
    not_regular(tmp_path / "damaged.mp4", start=Fraction(2))


def test_a_missing_end_is_left_to_the_full_decode(video, tmp_path):
    content = video("front.mp4", 90, container_options={"movflags": "faststart"}).read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(content[: content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2])
    not_regular(path, start=Fraction(2))


def test_times_before_the_first_frame_are_left_to_the_full_decode(video):
    not_regular(video("a.mp4", 90), start=Fraction(-1))


def test_packets_that_would_take_too_much_memory_are_left_to_the_full_decode(video, monkeypatch):
    monkeypatch.setattr("mvit_train.data.needed.MAX_HELD_BYTES", 200)
    not_regular(video("a.mp4", 90, options={"g": "1000"}))
