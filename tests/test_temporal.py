import subprocess
import sys

import pytest
import torch

from mvit_train.temporal import (
    FRAME_ORDERS,
    frame_orders,
    frame_permutation,
    paired_change,
    reorder,
    time_report,
    time_sentence,
)


@pytest.mark.parametrize(
    ("order", "num_frames", "expected"),
    [
        ("forward", 4, [0, 1, 2, 3]),
        ("reverse", 4, [3, 2, 1, 0]),
        ("freeze", 4, [2, 2, 2, 2]),
        ("freeze", 5, [2, 2, 2, 2, 2]),
        ("shuffle", 1, [0]),
    ],
)
def test_orders_of_small_clips_are_as_written_by_hand(order, num_frames, expected):
    assert frame_permutation(order, num_frames, "a.mp4", 0).tolist() == expected


def test_a_shuffle_is_a_permutation_that_depends_on_video_and_clip():
    seen = {tuple(frame_permutation("shuffle", 16, video, clip).tolist()) for video in "abcde" for clip in range(5)}
    assert len(seen) == 25
    assert all(sorted(frames) == list(range(16)) for frames in seen)


def test_a_shuffle_is_the_same_in_another_process_and_leaves_the_global_generator_alone():
    code = "from mvit_train.temporal import frame_permutation as p; print(p('shuffle', 16, 'ü/a.mp4', 3).tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    state = torch.get_rng_state()
    assert other.stdout.strip() == str(frame_permutation("shuffle", 16, "ü/a.mp4", 3).tolist())
    assert torch.equal(state, torch.get_rng_state())


def test_a_file_name_that_is_not_unicode_can_be_shuffled():
    name = b"caf\xe9.mp4".decode(errors="surrogateescape")
    assert sorted(frame_permutation("shuffle", 8, name, 0).tolist()) == list(range(8))


def test_an_unknown_order_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'backward' is none of forward, shuffle, reverse, freeze"):
        frame_permutation("backward", 4, "a.mp4", 0)


@pytest.mark.parametrize("order", FRAME_ORDERS)
def test_reorder_moves_the_frames_of_each_view_by_its_clips_permutation(order):
    video = torch.randn(6, 3, 8, 2, 2)
    clips = torch.tensor([0, 0, 0, 1, 1, 1])
    result = reorder(video, order, "a.mp4", clips)
    for view, clip in enumerate(clips.tolist()):
        frames = frame_permutation(order, 8, "a.mp4", clip)
        for place, frame in enumerate(frames.tolist()):
            assert torch.equal(result[view, :, place], video[view, :, frame])


def test_crops_of_a_clip_share_their_shuffle():
    clip = torch.randn(1, 3, 16, 2, 2)
    first, second, other = reorder(clip.expand(3, -1, -1, -1, -1), "shuffle", "a.mp4", [4, 4, 5])
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_reorder_wants_a_clip_index_for_every_view():
    with pytest.raises(ValueError, match=r"a\.mp4: 2 views but 3 clip indices"):
        reorder(torch.zeros(2, 3, 4, 1, 1), "reverse", "a.mp4", [0, 1, 2])


CLASSES = ["open", "close", "push", "pull", "sit"]
FORWARD = torch.tensor([[9, 1, 0, 0, 0], [0, 10, 0, 0, 0], [0, 0, 8, 0, 2], [0, 0, 6, 4, 0], [0, 0, 0, 0, 10]])
REVERSE = torch.tensor([[1, 8, 0, 0, 1], [9, 1, 0, 0, 0], [0, 0, 4, 6, 0], [0, 0, 7, 3, 0], [0, 0, 5, 0, 5]])


def test_mirrored_classes_are_those_that_change_sides_in_reverse():
    report = time_report({"forward": FORWARD, "reverse": REVERSE}, CLASSES)
    # "pull" is called "push" when played forward already, and half of "sit" is not most of it
    assert report == {
        "mirrored_pairs": [["open", "close"]],
        "mirrored": {"forward": 95.0, "reverse": 10.0},
        "other": {"forward": pytest.approx(100 * 22 / 30), "reverse": pytest.approx(100 * 12 / 30)},
    }
    assert time_sentence(report) == (
        "2 mirrored classes: forward 95 %, reverse 10 %; the other classes: forward 73 %, reverse 40 %"
    )


def test_a_model_blind_to_time_has_no_mirrored_classes():
    report = time_report({"forward": FORWARD, "reverse": FORWARD}, CLASSES)
    assert report["mirrored_pairs"] == []
    assert report["mirrored"] == {"forward": None, "reverse": None}
    assert time_sentence(report).startswith("no two classes turn into each other in reverse; all classes: forward 82 %")


def test_classes_without_videos_are_nobodys_mirror():
    table = torch.zeros(3, 3, dtype=torch.long)
    table[0, 0] = 5
    report = time_report({"forward": table, "reverse": table}, ["a", "b", "c"])
    assert report["mirrored_pairs"] == []


def test_paired_change_equals_the_textbook_interval():
    forward = torch.tensor([True] * 80 + [False] * 20)
    shuffled = torch.tensor([True] * 50 + [False] * 45 + [True] * 5)
    change, half_width = paired_change(shuffled, forward)
    assert change == pytest.approx(-25.0)  # 30 lost, 5 won
    variance = (30 + 5) / 100 - 0.25**2
    assert half_width == pytest.approx(100 * 1.96 * (variance / 100) ** 0.5)
    assert paired_change(forward, forward) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("asked", "num_frames", "expected"),
    [
        ("all", 8, FRAME_ORDERS),
        ("shuffle", 8, ("shuffle",)),
        ("all", 1, ("forward",)),
        ("forward", 1, ("forward",)),
    ],
)
def test_one_frame_has_one_order(asked, num_frames, expected):
    assert frame_orders(asked, num_frames) == expected


def test_another_order_of_one_frame_is_refused():
    with pytest.raises(ValueError, match=r"frame_order=reverse: a clip of clip\.num_frames=1 has no order of frames"):
        frame_orders("reverse", 1)
