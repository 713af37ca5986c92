"""The built-in images: PNG files whose class is the kind of the largest of a few textured figures."""

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from PIL import Image

from mvit_train.data.built_in import BuiltInSet
from mvit_train.data.drawing import KINDS, object_texture, paint, texture

NUM_DISTRACTORS = 2


class ShapeImages(BuiltInSet):
    """Makes the built-in image set in a folder on first use; the arguments are those of `BuiltInSet`."""

    CLASSES: ClassVar = tuple(KINDS)
    NOUN: ClassVar = "images of shapes"
    SUFFIX: ClassVar = ".png"
    GENERATION: ClassVar = 1

    def __init__(self, *, num_train: int = 2000, num_val: int = 400, frame_size: int = 64, seed: int = 0) -> None:
        super().__init__(num_train=num_train, num_val=num_val, frame_size=frame_size, seed=seed)

    @property
    def folder_name(self) -> str:
        """A name that differs between sets: shapes-2000-400-64px-seed0-g1."""
        return f"shapes-{self.num_train}-{self.num_val}-{self.frame_size}px-seed{self.seed}-g{self.GENERATION}"

    def write(self, path: Path, name: str, rng: Generator) -> None:
        """Draws one image."""
        Image.fromarray(draw_image(name, rng, frame_size=self.frame_size)).save(path)


def draw_image(name: str, rng: Generator, *, frame_size: int) -> np.ndarray:
    """(S, S, 3) uint8: a figure of the kind `name` near the middle, nearly upright, and smaller ones of other kinds."""
    ground = rng.uniform(0.3, 0.7, 3)
    image = texture(rng, frame_size, 8, ground, contrast=0.08)[None]
    others = sorted(KINDS.keys() - {name})
    for _ in range(NUM_DISTRACTORS):
        colours = object_texture(rng, rng.uniform(0.3, 0.7, 3))
        place = _place(rng, size=rng.uniform(0.06, 0.09), margin=0.05, turn=math.pi)
        paint(image, place, str(rng.choice(others)), colours)
    colour = ground + rng.choice((-1, 1)) * rng.uniform(0.2, 0.4)  # brighter or darker than the ground
    paint(image, _place(rng, size=rng.uniform(0.28, 0.38), margin=0.4, turn=0.4), name, object_texture(rng, colour))
    image *= (rng.uniform(0.75, 1.15) * rng.uniform(0.9, 1.1, 3)).astype(np.float32)
    image += rng.uniform(-0.08, 0.08) + 0.02 * rng.standard_normal((1, frame_size, frame_size, 1), dtype=np.float32)
    return (image[0] * 255.0).clip(0, 255).astype(np.uint8)


def _place(rng: Generator, *, size: float, margin: float, turn: float) -> np.ndarray:
    """(4, 1): x, y, size in widths of the image and angle in radians."""
    x, y = rng.uniform(margin, 1 - margin, 2)
    return np.array([[x], [y], [size], [rng.uniform(-turn, turn)]])
