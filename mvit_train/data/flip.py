"""Mirror images where the names of classes speak of left and right."""

import re
from collections.abc import Sequence

from mvit_train.data.clip_augment import ClipAugment
from mvit_train.data.transforms import ClipTransform, RandomCrop

SIDES = {"left", "right", "leftward", "rightward", "leftwards", "rightwards"}
SIDES |= {"clockwise", "counterclockwise", "anticlockwise"}  # a mirror turns these round too
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # turn_left, turn-left, turnLeft, LEFT; not leftover


def stop_flipping(transform: ClipTransform, class_names: Sequence[str]) -> str | None:
    """Sets the probability of a flip to 0 if a class is named after a side. Returns what to say of it, None if nothing
    was changed."""
    crop = transform.crop if isinstance(transform, ClipAugment) else transform
    sided = [name for name in class_names if SIDES & {word.lower() for word in WORD.findall(name)}]
    if not isinstance(crop, RandomCrop) or not crop.flip or not sided:
        return None
    crop.flip = 0.0
    named = " and ".join(repr(name) for name in sided[:2])
    return (
        f"flip: switched off, because a mirror image of {named} is no longer that; data.flip_left_right=true keeps it"
    )
