"""The built-in videos: H.264 clips whose class is the direction of a motion, so that the order of frames matters.

Eight of the ten classes are four time-mirrored pairs: the second of a pair is the first with its frames reversed, so
no single frame, nor any set of frames without their order, tells the two apart. The two control classes are told by
the kind of their object in any frame; its motion swings to and fro and reads alike in both directions. A model that
uses time is right on all ten; one that only looks at frames is right on the controls and guesses within the pairs.

Every scene has its own textures, colours, light and sensor noise, small distractors that swing, and an object that
also swings a little in every way that is not its class. Needs numpy and PyAV only, so that worker processes start fast.
"""

import math
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
from numpy.random import Generator

from mvit_train.data.built_in import BuiltInSet
from mvit_train.data.drawing import object_texture, paint, texture

MIRRORED = {
    "slide_right": "slide_left",
    "slide_down": "slide_up",
    "grow": "shrink",
    "turn_clockwise": "turn_counterclockwise",
}
CONTROLS = ("ring", "cross")
CLASSES = (*(name for pair in MIRRORED.items() for name in pair), *CONTROLS)

PLAIN_KINDS = ("bar", "square", "triangle")  # of objects that say nothing about the class

FPS = 30
# x264's macroblock tree gave other bytes for the same frames in 1 of 300 small clips (its assembly): it is off.
ENCODER = {"preset": "veryfast", "crf": "16", "g": "12", "bf": "0", "threads": "1", "x264-params": "mbtree=0"}
MIN_NUM_FRAMES = 8
NUM_DISTRACTORS = 2


class MotionVideos(BuiltInSet):
    """Makes the built-in video set in a folder on first use.

    Args:
        num_train, num_val, frame_size, seed: see `BuiltInSet`.
        num_frames: frames of each clip, at 30 per second.
    """

    CLASSES: ClassVar = CLASSES
    NOUN: ClassVar = "motion videos"
    SUFFIX: ClassVar = ".mp4"
    GENERATION: ClassVar = 2

    def __init__(
        self, *, num_train: int = 1000, num_val: int = 200, frame_size: int = 64, num_frames: int = 48, seed: int = 0
    ) -> None:
        super().__init__(num_train=num_train, num_val=num_val, frame_size=frame_size, seed=seed)
        if frame_size % 2:
            raise ValueError(f"frame_size {frame_size} must be even (H.264)")
        if num_frames < MIN_NUM_FRAMES:
            raise ValueError(f"num_frames {num_frames} is below {MIN_NUM_FRAMES}: too short to show a motion")
        self.num_frames = num_frames

    @property
    def folder_name(self) -> str:
        """A name that differs between sets: motion-1000-200-64px-48f-seed0-g2."""
        return (
            f"motion-{self.num_train}-{self.num_val}-{self.frame_size}px-{self.num_frames}f"
            f"-seed{self.seed}-g{self.GENERATION}"
        )

    def write(self, path: Path, name: str, rng: Generator) -> None:
        """Draws and encodes one clip."""
        _encode(path, draw_clip(name, rng, num_frames=self.num_frames, frame_size=self.frame_size))


def _encode(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODER)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def draw_clip(name: str, rng: Generator, *, num_frames: int, frame_size: int) -> np.ndarray:
    """Frames (T, S, S, 3) uint8 of one clip of the class `name`.

    Equal generators give both classes of a pair the same frames, in opposite order.
    """
    t, s = num_frames, frame_size
    backward = name in MIRRORED.values()
    forward_name = next(k for k, v in MIRRORED.items() if v == name) if backward else name
    ground = rng.uniform(0.3, 0.7, 3)
    frames = np.broadcast_to(texture(rng, s, 8, ground, contrast=0.08), (t, s, s, 3)).copy()
    for _ in range(NUM_DISTRACTORS):
        place = _swing(rng, t, rng.uniform(0.05, 0.95, 2), shift=0.06, turn=0.6, size=rng.uniform(0.06, 0.09))
        paint(frames, place, str(rng.choice(PLAIN_KINDS)), object_texture(rng, rng.uniform(0.3, 0.7, 3)))
    kind = name if name in CONTROLS else str(rng.choice(PLAIN_KINDS))
    colour = ground + rng.choice((-1, 1)) * rng.uniform(0.2, 0.4)  # brighter or darker than the ground
    paint(frames, _motion(forward_name, rng, t), kind, object_texture(rng, colour))
    flicker = rng.normal(1.0, 0.02, (t, 1, 1, 1))
    frames *= (rng.uniform(0.75, 1.15) * rng.uniform(0.9, 1.1, 3) * flicker).astype(np.float32)
    frames += rng.uniform(-0.08, 0.08) + 0.02 * rng.standard_normal((t, s, s, 1), dtype=np.float32)
    frames = (frames * 255.0).clip(0, 255).astype(np.uint8)
    return frames[::-1] if backward else frames


def _motion(name: str, rng: Generator, num_frames: int) -> np.ndarray:
    """(4, T): x, y, size in widths of the frame and angle in radians, y downwards, for a control or forward class."""
    # A control's object is larger, for its kind is all that tells it.
    shift, turn, size = (0.12, 0.5, 0.25) if name in CONTROLS else (0.015, 0.1, 0.2)
    place = _swing(rng, num_frames, rng.uniform(0.3, 0.7, 2), shift=shift, turn=turn, size=size)
    place[2] *= math.exp(rng.uniform(-0.15, 0.15))
    speed, along = rng.uniform(0.8, 1.2), rng.uniform(0.0, 1.0)
    seconds = (np.arange(num_frames) - (num_frames - 1) / 2) / FPS
    if name == "slide_right":
        place[0] += along + 0.45 * speed * seconds
    elif name == "slide_down":
        place[1] += along + 0.45 * speed * seconds
    elif name == "grow":
        place[2] *= np.exp(0.9 * speed * seconds)
    elif name == "turn_clockwise":
        place[3] += 2.6 * speed * seconds
    return place


def _swing(
    rng: Generator, num_frames: int, centre: np.ndarray, *, shift: float, turn: float, size: float
) -> np.ndarray:
    """(4, T) like `_motion`, of an object that goes to and fro about `centre`; alike in both directions of time."""
    phase = 2 * np.pi * (rng.uniform(0.7, 1.5) * np.arange(num_frames) / FPS + rng.uniform(0, 1, (3, 1)))
    wave = np.sin(phase) * rng.uniform(0.5, 1.0, (3, 1))
    x, y = centre[:, None] + shift * wave[:2]
    return np.stack([x, y, np.full(num_frames, size), rng.uniform(-np.pi, np.pi) + turn * wave[2]])
