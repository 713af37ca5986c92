import copy
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler, UniformClipSampler

from mvit_train.data.views import (
    DenseClips,
    RandomClip,
    Segments,
    UniformClips,
    Views,
    clip_duration,
    clip_sampler,
    clip_times,
    frame_times,
    windows,
)

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


def frames(sampler, length, fps=30, rng=None):
    """Frame numbers of every clip that a sampler takes from a video of `length` frames."""
    fps = Fraction(fps)
    times = sampler.times(length / fps, fps, rng or np.random.default_rng(0))
    return [[int(time * fps) for time in clip] for clip in times]


def test_segments_of_a_test_are_those_of_the_official_loader():
    """facts.md 3.4, measured: V = 40, T = 16."""
    assert frames(Segments(16, 1), 40) == [[1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 25, 28, 30, 33, 35, 38]]


@pytest.mark.parametrize("length", [1, 2, 7, 16, 17, 40, 41, 123, 300])
@pytest.mark.parametrize("num_frames", [1, 8, 16, 32])
def test_segments_follow_the_official_formula_for_every_length(length: int, num_frames: int):
    size = (length - 1) / num_frames
    bounds = [(int(np.round(size * j)), int(np.round(size * (j + 1)))) for j in range(num_frames)]
    assert frames(Segments(num_frames, 1), length) == [[(first + last) // 2 for first, last in bounds]]
    rng = np.random.default_rng(0)
    seen = [frames(Segments(num_frames, None), length, rng=rng)[0] for _ in range(300)]
    for j, (first, last) in enumerate(bounds):
        drawn = {clip[j] for clip in seen}
        assert drawn == set(range(first, last + 1)) or (len(drawn) > 30 and drawn <= set(range(first, last + 1)))


def test_several_clips_of_segments_are_spread_over_them():
    assert frames(Segments(2, 2), 41) == [[5, 25], [15, 35]]
    assert len({tuple(clip) for clip in frames(Segments(8, 5), 300)}) == 5


def test_dense_clips_are_those_of_the_official_charades_loader():
    """round(i * (N - S) / (K - 1)) with S = (T - 1) * rate + 1, frames clamped (SlowFast charades.py)."""
    for length, num_frames, rate, num_clips in [(40, 4, 8, 2), (300, 16, 4, 10), (300, 16, 4, 1), (30, 16, 4, 3)]:
        spare = max(length - ((num_frames - 1) * rate + 1), 0)
        starts = [round(spare / (num_clips - 1) * i) for i in range(num_clips)] if num_clips > 1 else [spare // 2]
        expected = [[min(start + rate * j, length - 1) for j in range(num_frames)] for start in starts]
        assert frames(DenseClips(num_frames, rate, num_clips), length) == expected


def test_random_dense_clips_start_everywhere_and_of_short_videos_before_the_first_frame():
    rng = np.random.default_rng(0)
    starts = [frames(DenseClips(4, 2, None), 20, rng=rng)[0] for _ in range(500)]
    assert {clip[0] for clip in starts} == set(range(14))
    assert all(clip == [clip[0] + 2 * j for j in range(4)] for clip in starts)
    short = {tuple(frames(DenseClips(4, 2, None), 3, rng=rng)[0]) for _ in range(300)}
    assert short == {(0, 2, 2, 2), (0, 1, 2, 2), (0, 0, 2, 2), (0, 0, 1, 2), (0, 0, 0, 2)}


def test_frames_are_counted_at_the_target_rate_or_as_the_video_has_them():
    assert frames(DenseClips(4, 2, 1, target_fps=None), 24, fps=12) == [[8, 10, 12, 14]]
    assert frames(DenseClips(4, 2, 1, target_fps=6), 24, fps=12) == [[4, 8, 12, 16]]
    assert frames(Segments(4, 1, target_fps=30), 24, fps=12) == [[2, 8, 14, 20]]


def test_windows_of_native_frames_have_another_duration_at_another_rate():
    for fps in (12, 25, 30):
        sampler = clip_sampler("window", num_frames=4, sampling_rate=2, num_clips=1, target_fps=None)
        times = clip_times(sampler, duration=Fraction(4), fps=Fraction(fps), num_frames=4, rng=np.random.default_rng(0))
        start = (4 * fps - 8) // 2
        assert [[int(time * fps) for time in clip] for clip in times] == [[start, start + 2, start + 4, start + 7]]


def test_clips_counted_in_seconds_start_at_even_parts_and_end_with_the_video():
    sampler = UniformClips(Fraction(2), 4, count="seconds")
    assert [start for start, _ in windows(sampler, Fraction(10), {"fps": Fraction(30)})] == [
        0,
        Fraction(8, 3),
        Fraction(16, 3),
        8,
    ]
    assert windows(UniformClips(Fraction(2), 1, count="seconds"), 10, {}) == [(4, 6)]
    assert windows(UniformClips(Fraction(2), 2, count="seconds"), 1, {}) == [(0, 2), (0, 2)]


@pytest.mark.parametrize("sampling", ["window", "dense", "segment"])
def test_every_policy_serves_training_and_tests_and_depends_on_the_generator_alone(sampling):
    def times(num_clips, seed):
        sampler = clip_sampler(sampling, num_frames=8, sampling_rate=4, num_clips=num_clips)
        rng = np.random.default_rng(seed)
        return clip_times(sampler, duration=Fraction(10), fps=Fraction(30), num_frames=8, rng=rng)

    assert times(None, 1) == times(None, 1) != times(None, 2)
    assert times(3, 1) == times(3, 2)
    assert [len(clip) for clip in times(3, 1)] == [8] * 3
    assert len(times(None, 1)) == 1
