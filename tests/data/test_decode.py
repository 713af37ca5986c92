"""Decoded clips against barcodes, sequential decodes and PyTorchVideo's own decoder."""

import bisect
import contextlib
import json
import os
import pickle
import random
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.error import FFmpegError
from av.stream import Disposition
from pytorchvideo.data import Kinetics
from pytorchvideo.data.clip_sampling import UniformClipSampler
from torch.utils.data import SequentialSampler

from mvit_train.data.decode import DecodedVideo, DecodeError, PathHandler, frame_times
from mvit_train.data.stream import VideoStream
from mvit_train.data.views import UniformClips, clip_duration, windows

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "recipes.json").read_text())["frames"]
NTSC = Fraction(30000, 1001)
LATE = range(150, 240)  # the first of 90 frames is shown at 5 s
PAUSES = [*range(30), *range(50, 80), *range(85, 115)]  # an AVI that left out frames 30 to 49 and 80 to 84
IRREGULAR = [0]
for _step in random.Random(0).choices([10, 20, 33, 40, 100, 300], k=89):
    IRREGULAR.append(IRREGULAR[-1] + _step)
IRREGULAR_MS: dict[str, Any] = {"times": IRREGULAR, "tick": Fraction(1, 1000)}
OPEN_GOP = {"options": {"x264-params": "b-adapt=0:scenecut=0:open-gop=1"}}

FILES = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.flv": {},
    "h264.avi": {},
    "raw.h264": {"fps": 25},
    "h265.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4.mkv": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "pauses.avi": {"codec": "mpeg4", "times": PAUSES, "options": {"bf": "0"}},
    "irregular.mp4": IRREGULAR_MS,
    "irregular.mkv": IRREGULAR_MS,
    "late.mp4": {"times": LATE},
    "late.mkv": {"times": LATE},
    "late.ts": {"times": LATE},
    "late.webm": {"codec": "libvpx-vp9", "times": LATE},
    "one_key_frame.mp4": {"options": {"g": "1000"}},
    "open_gop.mp4": OPEN_GOP,
    "open_gop.mkv": OPEN_GOP,
    "open_gop.ts": OPEN_GOP,
    "ntsc.mp4": {"fps": NTSC},
    "ntsc.mkv": {"fps": NTSC},
    "ntsc.avi": {"codec": "mpeg4", "fps": NTSC},
    "15.mp4": {"fps": 15},
    "60.mkv": {"fps": 60},
}


def shown_at(times: list[Fraction], time: Fraction) -> int:
    """Index of the frame on show, given the times of all frames."""
    return max(bisect.bisect_right(times, time) - 1, 0)


def random_windows(duration: Fraction, fps: Fraction, count: int) -> list[tuple[Fraction, Fraction]]:
    """Starts on and off the frame grid, ends inside and beyond the video."""
    rng = random.Random(0)
    starts = [Fraction(rng.randrange(int(duration * fps))) / fps for _ in range(count // 2)]
    starts += [Fraction(rng.random()) * duration for _ in range(count - count // 2)]
    return [(start, start + Fraction(rng.choice([1, 4, 16, 32, 64, 100]), 30)) for start in starts]


@pytest.mark.parametrize(("name", "drawing"), FILES.items(), ids=FILES)
def test_random_windows_show_the_frames_of_their_times(name, drawing, video, read_barcodes):
    fps = Fraction(drawing.get("fps", 30))
    ticks = drawing.get("times", range(90))
    times = [(tick - ticks[0]) * drawing.get("tick", 1 / fps) for tick in ticks]
    with DecodedVideo(video(name, 90, **drawing), num_frames=8) as opened:
        spans = random_windows(times[-1] + 1 / fps, fps, 24)
        clips = opened.get_clips(spans)
        for (start, end), clip in zip(spans, clips, strict=True):
            assert clip.dtype == torch.uint8
            assert clip.shape == (3, 8, 48, 64)
            sampled = frame_times(start, end, 8, opened.fps)
            # Only irregular times cannot be told from rounded ones: there Matroska's millisecond matters.
            leeway = Fraction(2, 1000) if name == "irregular.mkv" else 0
            earliest = [shown_at(times, time - leeway) for time in sampled]
            latest = [shown_at(times, time + leeway) for time in sampled]
            assert earliest <= read_barcodes(clip) <= latest, f"{float(start)} to {float(end)} s"
            assert torch.equal(opened.get_clip(start, end)["video"], clip)


@pytest.mark.parametrize(("name", "drawing"), FILES.items(), ids=FILES)
def test_the_duration_runs_from_the_first_frame_to_the_end_of_the_last(name, drawing, video):
    fps = Fraction(drawing.get("fps", 30))
    with DecodedVideo(video(name, 90, **drawing), num_frames=8) as opened:
        if "tick" in drawing:  # how long the last of irregular frames is shown is anyone's guess
            assert abs(opened.duration - Fraction(IRREGULAR[-1], 1000)) < Fraction(1, 5)
        elif name.endswith(".mpg"):  # MPEG program streams do not say; FFmpeg estimates
            assert abs(opened.duration - 3) < Fraction(1, 5)
        else:
            ticks = drawing.get("times", range(90))
            assert opened.duration == (ticks[-1] + 1 - ticks[0]) / fps
            assert opened.fps == fps or name == "pauses.avi"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_files_at_the_golden_rates_give_the_frames_of_the_official_loader(name, video, read_barcodes):
    num_rows = 0
    for row in GOLDEN:
        fps = NTSC if row["fps"] == 29.97 else Fraction(row["fps"])
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        num_rows += 1
        with DecodedVideo(
            video(name, row["num_video_frames"], fps=fps, codec=codec), num_frames=row["num_frames"]
        ) as v:
            sampler = UniformClips(clip_duration(row["num_frames"], row["sampling_rate"]), row["num_clips"])
            clips = v.get_clips(windows(sampler, v.duration, {"fps": v.fps}))
            assert [read_barcodes(clip) for clip in clips] == [indices for _, indices in row["clips"]], row
    assert num_rows == 72


@pytest.mark.parametrize(
    ("name", "drawing", "clip_frames"),
    [
        ("a.mp4", {}, 16),
        ("a.mp4", {"fps": 25}, 16),
        ("a.mp4", {"options": {"g": "1000"}}, 16),
        (
            "a.mkv",
            {},
            15,
        ),  # 500 ms: elsewhere PyTorchVideo rounds Matroska's milliseconds up and takes a frame too many
        ("a.webm", {"codec": "libvpx-vp9"}, 15),
    ],
)
def test_clips_equal_pytorchvideos_own_bit_for_bit(name, drawing, clip_frames, video, tmp_path):
    """Windows of whole frames on the frame grid, where PyTorchVideo's decoder is right too."""
    path, duration = video(name, 90, **drawing), Fraction(clip_frames, drawing.get("fps", 30))
    listing = tmp_path / "videos.txt"
    listing.write_text(f"{path} 3\n")

    def theirs_to_eight_frames(sample: dict[str, Any]) -> dict[str, Any]:
        index = torch.linspace(0, sample["video"].shape[1] - 1, 8).long()
        return sample | {"video": sample["video"][:, index]}

    theirs = Kinetics(
        str(listing),
        UniformClipSampler(duration),
        video_sampler=SequentialSampler,
        transform=theirs_to_eight_frames,
        decode_audio=False,
    )
    ours = Kinetics(str(listing), UniformClipSampler(duration), video_sampler=SequentialSampler, decode_audio=False)
    ours.video_path_handler = PathHandler(num_frames=8)
    num_clips = 0
    for their, our in zip(theirs, ours, strict=False):  # without a duration in the header theirs ends a clip early
        assert torch.equal(our["video"], their["video"].to(torch.uint8))
        assert {k: v for k, v in our.items() if k != "video"} == {k: v for k, v in their.items() if k != "video"}
        num_clips += 1
    assert num_clips == 5


def test_uniform_clips_work_inside_pytorchvideos_own_iterator(video, tmp_path, read_barcodes):
    listing = tmp_path / "videos.txt"
    listing.write_text(f"{video('a.mp4', 90)} 0\n{video('a.mkv', 90)} 1\n")
    dataset = Kinetics(str(listing), UniformClips(Fraction(1), 3), video_sampler=SequentialSampler, decode_audio=False)
    dataset.video_path_handler = PathHandler(num_frames=2)
    found = [(item["label"], item["clip_index"], read_barcodes(item["video"])) for item in dataset]
    clips = [(0, [0, 29]), (1, [30, 59]), (2, [60, 89])]
    assert found == [(label, *clip) for label in (0, 1) for clip in clips]


@pytest.fixture
def work(monkeypatch) -> dict[str, list[int]]:
    """Times of all frames that came out of the decoder, and of those converted to RGB."""
    done: dict[str, list[int]] = {"decoded": [], "converted": []}
    decode, to_rgb = VideoStream.decode, VideoStream.to_rgb

    def watched_decode(self, packet):
        frames = decode(self, packet)
        done["decoded"] += [frame.pts for frame in frames]
        return frames

    def watched_to_rgb(self, frame):
        done["converted"].append(frame.pts)
        return to_rgb(self, frame)

    monkeypatch.setattr(VideoStream, "decode", watched_decode)
    monkeypatch.setattr(VideoStream, "to_rgb", watched_to_rgb)
    return done


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_no_frame_is_decoded_or_converted_twice_for_overlapping_windows(name, video, work):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    with DecodedVideo(video(name, 300, codec=codec), num_frames=16) as opened:
        opened.get_clips([(Fraction(i, 2), Fraction(i, 2) + 2) for i in range(10)] + [(9, 14)])
    assert len(work["decoded"]) == len(set(work["decoded"])) > 100
    assert len(work["converted"]) == len(set(work["converted"])) > 50


def test_gaps_between_windows_are_not_decoded(video, work, read_barcodes):
    with DecodedVideo(video("a.mp4", 300), num_frames=2) as opened:  # a key frame every 12 frames
        clips = opened.get_clips([(Fraction(5, 30), Fraction(7, 30)), (Fraction(250, 30), Fraction(252, 30))])
    assert [read_barcodes(clip) for clip in clips] == [[5, 6], [250, 251]]
    assert len(work["decoded"]) < 40


def test_positions_outside_the_video_show_its_first_and_last_frame(video, read_barcodes):
    with DecodedVideo(video("a.mp4", 90), num_frames=4) as opened:
        assert read_barcodes(opened.get_clip(-1.0, Fraction(1, 30))["video"]) == [0, 0, 0, 0]
        assert read_barcodes(opened.get_clip(2.5, 5.0)["video"]) == [75, 89, 89, 89]
        assert read_barcodes(opened.get_clip(60, 61)["video"]) == [89] * 4
        assert opened.get_clip(0, 1)["audio"] is None
        assert opened.get_clips([]) == []


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_videos_come_out_upright(rotation, video, read_barcodes):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write rotation")
    with DecodedVideo(video("a.mp4", 30, rotation=rotation), num_frames=3) as opened:
        clip = opened.get_clip(0, 1)["video"]
    assert clip.shape == ((3, 3, 48, 64) if rotation == 180 else (3, 3, 64, 48))
    as_stored = torch.rot90(clip, -rotation // 90, dims=(2, 3))  # undo a counter-clockwise turn
    assert read_barcodes(as_stored) == [0, 14, 29]


def test_frames_that_change_size_are_scaled_to_the_first_of_the_clip(video, tmp_path, read_barcodes):
    options = {"bf": "0"}  # B-frames would make the muxer shift all times of the first part
    small = video("small.ts", 30, options=options)
    large = video("large.ts", 30, times=range(30, 60), first_index=30, block=32, options=options)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    with DecodedVideo(joined, num_frames=4) as opened:
        clip, large_clip = opened.get_clips([(0, 2), (1.5, 2)])
    assert clip.shape == (3, 4, 48, 64)
    assert large_clip.shape == (3, 4, 96, 128)
    assert read_barcodes(clip) == [0, 19, 39, 59]
    assert read_barcodes(large_clip) == [45, 49, 54, 59]


def remux(source: Path, target: Path, change: Any, cover: bool = False) -> Path:
    """The packets of `source` after `change(packet)`, in a new file, beside cover art if asked for."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as container:
        stream = whole.streams.video[0]
        if cover:
            art = container.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt, art.disposition = 32, 32, "yuvj420p", Disposition.attached_pic
        copied = container.add_stream_from_template(stream)
        if cover:
            picture = av.VideoFrame(32, 32, "yuvj420p")
            picture.pts = 0
            container.mux(art.encode(picture) + art.encode(None))
        for packet in whole.demux(stream):
            if packet.size:
                change(packet)
                packet.stream = copied
                container.mux(packet)
    return target


def test_frames_before_an_edit_list_are_not_shown(video, tmp_path, read_barcodes):
    def start_20_frames_in(packet):
        shift = round(Fraction(20, 30) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

    whole = video("a.mp4", 90, options={"g": "30"})
    with DecodedVideo(remux(whole, tmp_path / "edited.mp4", start_20_frames_in), num_frames=8) as opened:
        assert abs(opened.duration - Fraction(70, 30)) <= Fraction(1, 1000)
        assert read_barcodes(opened.get_clip(0, Fraction(8, 30))["video"]) == list(range(20, 28))
        assert read_barcodes(opened.get_clip(1, 1 + Fraction(15, 30))["video"]) == list(range(50, 66, 2))


def test_times_that_go_backwards_are_counted_afresh(video, tmp_path, read_barcodes):
    def forget_the_order(packet):
        packet.pts = packet.dts = packet.dts + round(1 / packet.time_base)

    whole = video("a.mp4", 90)
    with DecodedVideo(remux(whole, tmp_path / "backwards.mkv", forget_the_order), num_frames=8) as opened:
        assert read_barcodes(opened.get_clip(1, 1 + Fraction(8, 30))["video"]) == list(range(30, 38))


def test_cover_art_beside_a_video_is_passed_over(video, tmp_path, read_barcodes):
    path = remux(video("a.mp4", 90), tmp_path / "cover.mp4", lambda packet: None, cover=True)
    with DecodedVideo(path, num_frames=8) as opened:
        assert read_barcodes(opened.get_clip(1, 1 + Fraction(8, 30))["video"]) == list(range(30, 38))


NO_TIMESCALE = "mp4parse_no_timescale.mp4"  # 12 packets do not decode
DAMAGED = "no frame can be decoded: the video is damaged or encrypted"
REFUSED = {  # every file that gives no frames, or not everywhere: eighth of the video, None for all of it -> reason
    "moviepy_with-attached-pic.mp3": {None: "no video stream, only cover art"},
    "moviepy_crunching.mp3": {None: "no video stream, only audio"},
    "mp4parse_opus_audioinit.mp4": {None: "no video stream, only audio"},
    "mp4parse_short-cenc.mp4": dict.fromkeys(range(8), DAMAGED),
    NO_TIMESCALE: {3: "no frame decodes near 2.9 s: InvalidDataError"},
}
# (eighth, frame of its 16) where damage takes a frame out of the decoder's order: the one before it bridges the loss
BRIDGED = {NO_TIMESCALE: [(1, 5), (1, 6), (1, 7), (2, 0)]}


def sequential_decode(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    """Times from the first frame on and images of all frames that decode, as stored."""
    ticks, images = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1  # threads conceal damage differently
        for packet in container.demux(stream):
            with contextlib.suppress(FFmpegError):
                for frame in stream.decode(packet):
                    ticks.append(frame.pts)
                    images.append(frame.to_rgb().to_ndarray())
        return [(tick - ticks[0]) * stream.time_base for tick in ticks], images


def test_every_real_video_gives_the_frames_of_a_sequential_decode_or_the_reason_why_not(shared_videos):
    listed = json.loads((shared_videos / "videos.json").read_text())
    assert len(listed) == 26
    assert {entry["file"] for entry in listed} >= {*REFUSED, *BRIDGED}
    num_equal = 0
    for entry in listed:
        name, path = entry["file"], shared_videos / entry["file"]
        refused, bridged = REFUSED.get(name, {}), []
        if None in refused:
            with pytest.raises(DecodeError) as error:
                DecodedVideo(path, num_frames=16)
            assert str(error.value) == f"{path}: {refused[None]}"
            continue
        times, images = sequential_decode(path)
        turn = entry["rotation"] // 90 if entry["rotation"] in (90, -90, 180, -180) else 0
        with DecodedVideo(path, num_frames=16) as opened:
            # A frame is on show a hair before its time. Matroska rounds times to milliseconds.
            late, early = Fraction(0), Fraction(1, 1000) / opened.fps
            if entry["container"].startswith("matroska"):
                late = early = Fraction(1, 1000)
            for eighth in range(8):
                start, stop = (opened.duration * Fraction(end, 8) for end in (eighth, eighth + 1))
                if eighth in refused:
                    with pytest.raises(DecodeError) as error:
                        opened.get_clip(start, stop)
                    assert error.value.reason == refused[eighth]
                    continue
                clip = opened.get_clip(start, stop)["video"]
                assert clip is not None
                for i, time in enumerate(frame_times(start, stop, 16, opened.fps)):
                    image = np.rot90(clip[:, i].permute(1, 2, 0), -turn)
                    if any(np.array_equal(image, images[shown_at(times, time + s)]) for s in (early, -late)):
                        num_equal += 1
                    else:
                        bridged.append((eighth, i))
                        place = shown_at(times, time)
                        assert any(np.array_equal(image, near) for near in images[place - 3 : place])
        assert bridged == BRIDGED.get(name, []), name
    assert num_equal == (22 * 8 - 1) * 16 - 4


def test_a_clip_in_a_hole_is_refused_and_the_clips_around_it_are_not(shared_videos, tmp_path):
    whole = shared_videos / "mmaction2_demo.mp4"
    content = bytearray(whole.read_bytes())
    content[300_000:320_480] = bytes(20_480)
    (tmp_path / "hole.mp4").write_bytes(content)
    with DecodedVideo(tmp_path / "hole.mp4", num_frames=8) as holed, DecodedVideo(whole, num_frames=8) as intact:
        for start, end in ((0, 4.5), (7, 10)):
            assert torch.equal(holed.get_clip(start, end)["video"], intact.get_clip(start, end)["video"])
        with pytest.raises(DecodeError, match=r"no frame decodes near 5\.\d s: InvalidDataError"):
            holed.get_clip(4.5, 5.5)
    with DecodedVideo(shared_videos / NO_TIMESCALE, num_frames=8) as opened:
        with pytest.raises(DecodeError, match=r"no frame decodes near 2\.9 s: InvalidDataError"):
            opened.get_clip(2.5, 3.2)
        assert opened.get_clip(4, 6)["video"].shape == (3, 8, 240, 320)


def broken_file(kind: str, folder: Path, video: Any) -> Path:
    path = folder / "clip.mp4"
    if kind == "zero bytes":
        path.touch()
    elif kind == "garbage":
        path.write_bytes(random.Random(0).randbytes(20_000))
    elif kind == "web page":
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    elif kind == "directory":
        path.mkdir()
    elif kind == "cut off before its index":
        content = video("a.mp4", 90).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "sound":
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(8000))
    elif kind == "picture":
        av.VideoFrame(64, 48, "yuvj420p").save(str(folder / "clip.jpg"))
        (folder / "clip.jpg").rename(path)
    return path


def open_files(path: Path) -> int:
    links = (Path("/proc/self/fd") / number for number in os.listdir("/proc/self/fd"))
    return sum(os.path.realpath(link) == str(path) for link in links)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("directory", "not a file"),
        ("zero bytes", "empty file"),
        ("garbage", "not a video, or its header is damaged or missing"),
        ("web page", "not a video, or its header is damaged or missing"),
        ("cut off before its index", "not a video, or its header is damaged or missing"),
        ("sound", "no video stream, only audio"),
        ("picture", "a still image, not a video"),
    ],
)
def test_a_file_that_is_no_video_is_refused_with_its_path_and_the_reason(kind, reason, video, tmp_path):
    path = broken_file(kind, tmp_path, video)
    with pytest.raises(DecodeError) as refused:
        PathHandler(num_frames=4).video_from_path(str(path), decode_audio=False, decoder="pyav")
    assert (refused.value.path, refused.value.reason) == (str(path), reason)
    assert open_files(path) == 0


def test_a_truncated_video_is_read_up_to_its_end_and_refused_beyond(video, tmp_path, read_barcodes):
    content = video("front.mp4", 90, container_options={"movflags": "faststart"}).read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(content[: content.index(b"mdat") + (len(content) - content.index(b"mdat")) * 2 // 3])
    with DecodedVideo(path, num_frames=3) as opened:
        assert opened.duration == 3  # as its header promises
        assert read_barcodes(opened.get_clip(0, 1)["video"]) == [0, 14, 29]
        for start in (1, Fraction(5, 2)):
            with pytest.raises(DecodeError, match=r"stops after [456]\d of about 90 frames \([12]\.\d of 3\.0 s\)"):
                opened.get_clip(start, start + 2)
        assert open_files(path) == 1
    assert open_files(path) == 0


def test_a_header_that_promises_a_little_too_much_is_no_damage(video, tmp_path, read_barcodes):
    """The last two packets cut off: the frame before them stands in."""
    content = video("short.avi", 90, codec="mpeg4", options={"g": "1", "bf": "0"}).read_bytes()
    path = tmp_path / "short.avi"
    path.write_bytes(content[: content.rindex(b"00dc", 0, content.rindex(b"00dc", 0, content.index(b"idx1")))])
    with DecodedVideo(path, num_frames=3) as opened:
        assert read_barcodes(opened.get_clip(2, 3)["video"]) == [60, 74, 87]


def test_a_decode_error_pickles():
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "empty file")))
    assert (type(error), error.path, error.reason, str(error)) == (
        DecodeError,
        "a.mp4",
        "empty file",
        "a.mp4: empty file",
    )


def test_a_path_with_a_colon_is_a_path(video, tmp_path, monkeypatch, read_barcodes):
    monkeypatch.chdir(tmp_path)
    Path("http:clip.mp4").write_bytes(video("a.mp4", 90).read_bytes())
    with DecodedVideo("http:clip.mp4", num_frames=1) as opened:
        assert opened.name == "http:clip.mp4"
        assert read_barcodes(opened.get_clip(1, 2)["video"]) == [30]
