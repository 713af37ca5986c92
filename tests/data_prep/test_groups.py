import random
from pathlib import Path

import pytest

from data_prep.groups import by_prefix, group_rule, merge_copies, split_groups
from data_prep.listing import UserError

NAMES = {
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": "v_ApplyEyeMakeup_g08",
    "run/-bcdefg_ijk_000010_000020.mp4": "-bcdefg_ijk",
    "run/name-01.mp4": "name",
    "run/name (2).mp4": "name",
    "run/name.clip 3.mp4": "name",
    "run/name - Copy.mp4": "name",
    "run/a_b_01_02.mp4": "a_b_01",
    "run/holiday.mp4": "holiday",
    "run/2024.mp4": "2024",
    "run/video_07.mp4": "run/video_07.mp4",  # only counts: is its own recording
    "brush_hair/Brush hair 07.mp4": "brush_hair/Brush hair 07.mp4",
    "run/07-08.mp4": "07",
}


@pytest.mark.parametrize(("name", "group"), NAMES.items())
def test_clips_of_one_recording_are_told_by_their_names(name, group):
    assert by_prefix(Path(name)) == group


def test_other_rules_are_the_folder_the_file_or_a_regular_expression():
    path = Path("run/anna/cam2_take7.mp4")
    assert group_rule("parent")(path) == "run/anna"
    assert group_rule("none")(path) == "run/anna/cam2_take7.mp4"
    assert group_rule(r"take(\d+)")(path) == "7"
    assert group_rule(r"take\d+")(path) == "take7"
    with pytest.raises(UserError, match=r"--group-by 'x\(\.\)' does not match in 'cam2_take7.mp4'"):
        group_rule("x(.)")(path)
    with pytest.raises(UserError, match=r"--group-by '\(' is not prefix, parent, none, and no regular expression"):
        group_rule("(")


def test_copies_of_a_file_make_their_groups_one(tmp_path):
    files = {"a1": b"same", "a2": b"x", "b1": b"same", "b2": b"other", "c1": b"othe_"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    merged = merge_copies({tmp_path / name: name[0] for name in files})
    assert [merged[tmp_path / name] for name in files] == ["a", "a", "a", "a", "c"]


@pytest.mark.parametrize("seed", range(20))
def test_a_split_divides_no_group_and_every_class_of_two_groups(seed):
    draw = random.Random(seed)
    sizes = {(label, group): draw.randint(1, 9) for label in "abcdef" for group in range(draw.randint(1, 12))}
    videos = [(label, f"{label}{group}") for (label, group), count in sizes.items() for _ in range(count)]
    val = split_groups(videos, 0.2)
    for label in "abcdef":
        mine = [group for name, group in videos if name == label]
        here = [group for group in mine if group in val]
        assert bool(here) == (len(set(mine)) > 1), label
        assert len(here) < len(mine)
        largest = max(mine.count(group) for group in mine)
        assert len(here) <= max(1, round(0.2 * len(mine)), largest)


def test_a_split_depends_on_nothing_but_the_groups_and_moves_little():
    videos = [("a", f"g{i}") for i in range(50) for _ in range(3)]
    val = split_groups(videos, 0.2)
    assert val == split_groups(videos[::-1], 0.2)
    assert len(val) == 10
    assert len(val & split_groups(videos[:-3], 0.2)) >= 9


def test_a_recording_in_two_classes_is_on_one_side():
    videos = [(label, group) for group in "uvwxyz" for label in "ab"]
    val = split_groups(videos, 0.34)
    assert len(val) == 2
