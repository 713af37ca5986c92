import subprocess
import sys
import zlib

import pytest
import torch

from mvit_train.temporal import (
    CARD_ORDERS,
    FRAME_ORDERS,
    ONE_SET,
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
        ("half_rate", 6, [0, 0, 2, 2, 4, 4]),
        ("half_rate", 5, [0, 0, 2, 2, 4]),
        ("jumble_2", 4, [2, 3, 0, 1]),  # of two blocks there is no other order than this
        ("jumble_4", 8, [4, 5, 6, 7, 0, 1, 2, 3]),
    ],
)
def test_orders_of_small_clips_are_as_written_by_hand(order, num_frames, expected):
    assert frame_permutation(order, num_frames, "a.mp4", 0).tolist() == expected


def test_a_shuffle_is_a_permutation_that_depends_on_video_and_clip():
    seen = {tuple(frame_permutation("shuffle", 16, video, clip).tolist()) for video in "abcde" for clip in range(5)}
    assert len(seen) == 25
    assert all(sorted(frames) == list(range(16)) for frames in seen)


def test_the_shuffles_differ_from_each_other_and_the_first_is_that_of_version_0_1():
    drawn = [frame_permutation(order, 16, "a.mp4", 0).tolist() for order in ("shuffle", "shuffle_2", "shuffle_3")]
    assert len({tuple(frames) for frames in drawn}) == 3
    generator = torch.Generator().manual_seed(zlib.crc32(b"a.mp4\x000"))
    assert drawn[0] == torch.randperm(16, generator=generator).tolist()


@pytest.mark.parametrize(("order", "block"), [("jumble_2", 2), ("jumble_4", 4)])
def test_a_jumble_moves_whole_blocks_and_never_leaves_all_in_place(order, block):
    found = {tuple(frame_permutation(order, 16, f"{video}.mp4", clip).tolist()) for video in "abcde" for clip in (0, 1)}
    assert len(found) > 5
    for frames in found:
        blocks = torch.tensor(frames).view(-1, block)
        assert (blocks.diff(dim=1) == 1).all()
        assert (blocks[:, 0] % block == 0).all()
        assert sorted(frames) == list(range(16)) != list(frames)


@pytest.mark.parametrize("order", ONE_SET)
def test_these_orders_show_every_frame_once(order):
    assert sorted(frame_permutation(order, 8, "a.mp4", 1).tolist()) == list(range(8))


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
    with pytest.raises(ValueError, match=r"'backward' is none of forward, shuffle, shuffle_2, .*, freeze, half_rate"):
        frame_permutation("backward", 4, "a.mp4", 0)


@pytest.mark.parametrize("order", CARD_ORDERS)
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
        ("card", 8, CARD_ORDERS),
        ("card", 4, tuple(order for order in CARD_ORDERS if order != "jumble_4")),
        ("card", 5, tuple(order for order in CARD_ORDERS if not order.startswith("jumble"))),
        ("card", 1, ("forward",)),
        (["reverse", "forward", "reverse"], 8, ("reverse", "forward")),
    ],
)
def test_the_orders_are_those_asked_for_that_clips_of_this_length_have(asked, num_frames, expected):
    assert frame_orders(asked, num_frames) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("jumble_4", r"frame_order=jumble_4: clip\.num_frames=6 is not two or more whole blocks of 4 frames"),
        (["forward", "backward"], "frame_order=backward: is none of forward, shuffle"),
        ([], r"frame_order=\[\] names no order"),
    ],
)
def test_an_order_that_the_clips_do_not_have_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        frame_orders(asked, 6)


def test_another_order_of_one_frame_is_refused():
    with pytest.raises(ValueError, match=r"frame_order=reverse: a clip of clip\.num_frames=1 has no order of frames"):
        frame_orders("reverse", 1)
