import copy
import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler, UniformClipSampler

from mvit_train.data.decode import frame_times
from mvit_train.data.views import RandomClip, UniformClips, Views, clip_duration, windows

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "recipes.json").read_text())["frames"]


def test_windows_and_frames_of_test_clips_are_those_of_the_official_loader():
    assert len(GOLDEN) == 72
    for row in GOLDEN:
        fps, num_frames = Fraction(str(row["fps"])), row["num_frames"]
        sampler = UniformClips(clip_duration(num_frames, row["sampling_rate"]), row["num_clips"])
        clips = []
        for start, end in windows(sampler, row["num_video_frames"] / fps, {"fps": fps}):
            indices = [math.floor(time * fps) for time in frame_times(start, end, num_frames, fps)]
            clips.append([start * fps, [min(index, row["num_video_frames"] - 1) for index in indices]])
        assert clips == row["clips"], {key: row[key] for key in row if key != "clips"}


def test_a_duration_and_rate_that_went_through_floats_give_the_same_clips():
    assert len(GOLDEN) == 72
    for row in GOLDEN:
        sampler = UniformClips(clip_duration(row["num_frames"], row["sampling_rate"]), row["num_clips"])
        found = windows(sampler, row["num_video_frames"] / row["fps"], {"fps": row["fps"]})
        assert [start * Fraction(row["fps"]) for start, _ in found] == [start for start, _ in row["clips"]]


def test_one_frame_is_sampled_at_the_start_of_the_window():
    assert frame_times(Fraction(1, 2), Fraction(3, 2), 1, Fraction(30)) == [Fraction(1, 2)]


def test_a_window_shorter_than_a_frame_repeats_it():
    assert frame_times(0, Fraction(1, 100), 4, Fraction(30)) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("draw", "duration", "start"),
    [
        (0.0, 10, 0),
        (0.5, 10, Fraction(118, 30)),
        (0.25, 1, 0),
        (1 - 2**-53, 10, Fraction(236, 30) * Fraction(1 - 2**-53)),
    ],
)
def test_a_random_clip_starts_where_the_annotation_draws_it(draw: float, duration: int, start: Fraction):
    sampler = RandomClip(clip_duration(16, 4))
    assert windows(sampler, duration, {"draw": draw}) == [(start, start + Fraction(64, 30))]


def test_uniform_clips_count_frames_at_30_fps_when_nobody_tells_the_rate():
    starts = [start for start, _ in windows(UniformClips(Fraction(64, 30), 5), Fraction(10), {})]
    assert starts == [Fraction(n, 30) for n in (0, 59, 118, 177, 236)]


@pytest.mark.parametrize("first_argument", [0.0, None], ids=["PyPI 0.1.5", "HEAD"])
def test_uniform_clips_speak_the_protocol_of_both_pytorchvideo_versions(first_argument: float | None):
    sampler = UniformClips(Fraction(64, 30), 3)
    for _ in range(2):  # after its last clip it is ready for the next video
        clips = [sampler(first_argument, 10.0, {}) for _ in range(3)]
        assert all(isinstance(clip, ClipInfo) for clip in clips)
        assert [(clip.clip_index, clip.aug_index, clip.is_last_clip) for clip in clips] == [
            (0, 0, False),
            (1, 0, False),
            (2, 0, True),
        ]
    sampler(first_argument, 10.0, {})
    sampler.reset()
    assert sampler(first_argument, 10.0, {}).clip_index == 0


def test_listing_windows_leaves_the_sampler_as_it_was():
    sampler = UniformClips(Fraction(64, 30), 3)
    sampler(0.0, 10, {})
    before = copy.deepcopy(vars(sampler))
    assert len(windows(sampler, 10, {})) == 3
    assert vars(sampler) == before


def test_windows_of_pytorchvideo_samplers_can_be_listed_too():
    assert windows(UniformClipSampler(Fraction(2)), 6, {}) == [(0, 2), (2, 4), (4, 6)]


def test_samplers_of_pytorchvideo_head_get_none_before_the_first_clip():
    class HeadSampler(ClipSampler):
        def __call__(self, last_clip_end_time, video_duration, annotation):
            start = 0 if last_clip_end_time is None else last_clip_end_time + 1
            return ClipInfo(start, start + 1, 0, 0, start > 0)

    assert windows(HeadSampler(1), 6, {}) == [(0, 1), (2, 3)]


def test_views_are_written_clips_x_crops():
    assert Views.parse("5x1") == Views(clips=5, crops=1)
    assert str(Views.parse("10x3")) == "10x3"


@pytest.mark.parametrize("text", ["5x2", "0x1", "5", "x1", "5x", "-5x1", "5x1x1", "5 x 1", ""])
def test_views_that_make_no_sense_are_refused_with_the_value_and_the_form(text: str):
    with pytest.raises(ValueError, match=rf"views '{text}': expected CLIPSxCROPS .* like 5x1"):
        Views.parse(text)
