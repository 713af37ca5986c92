import pytest

from mvit_train.data.clip_augment import ClipAugment
from mvit_train.data.flip import stop_flipping
from mvit_train.data.rand_augment import RandAugment
from mvit_train.data.transforms import RandomResizedCrop


@pytest.mark.parametrize(
    "name",
    [
        "turn_left",
        "Swiping Right",
        "to-the-LEFT",
        "swipeLeft",
        "left",
        "move leftwards",
        "turn_clockwise",
        "right2left",
    ],
)
def test_class_names_that_tell_sides_switch_flipping_off(name):
    crop = RandomResizedCrop(crop_size=8, flip=0.5)
    note = stop_flipping(crop, ["jump", name])
    assert note is not None
    assert repr(name) in note
    assert "data.flip_left_right=true keeps it" in note
    assert crop.flip == 0.0
    assert stop_flipping(crop, [name]) is None  # there is nothing left to switch off


@pytest.mark.parametrize("name", ["leftover", "bright", "copyright", "straightening", "up"])
def test_other_names_leave_it_on(name):
    crop = RandomResizedCrop(crop_size=8, flip=0.5)
    assert stop_flipping(crop, [name, "jump"]) is None
    assert crop.flip == 0.5


def test_it_acts_on_the_crop_within_an_augmentation_and_names_two_classes():
    crop = RandomResizedCrop(crop_size=8, flip=0.5)
    augment = ClipAugment(crop=crop, pixels=RandAugment(policy="rand-m7-n4-mstd0.5-inc1"))
    note = stop_flipping(augment, ["a_left", "b_left", "c_left"])
    assert note is not None
    assert "'a_left' and 'b_left'" in note
    assert "c_left" not in note
    assert crop.flip == 0.0
