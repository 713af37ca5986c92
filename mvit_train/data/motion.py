"""The built-in videos: H.264 clips whose class is the direction of a motion, so that the order of frames matters.

Eight of the ten classes are four time-mirrored pairs: the second of a pair is the first with its frames reversed, so
no single frame, nor any set of frames without their order, tells the two apart. The two control classes are told by
the kind of their object in any frame; its motion swings to and fro and reads alike in both directions. A model that
uses time is right on all ten; one that only looks at frames is right on the controls and guesses within the pairs.

Every scene has its own textures, colours, light and sensor noise, small distractors that swing, and an object that
also swings a little in every way that is not its class. Needs numpy and PyAV only, so that worker processes start fast.
"""

import json
import math
import os
import shutil
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.random import Generator
from rich.progress import track

MIRRORED = {
    "slide_right": "slide_left",
    "slide_down": "slide_up",
    "grow": "shrink",
    "turn_clockwise": "turn_counterclockwise",
}
CONTROLS = ("ring", "cross")
CLASSES = (*(name for pair in MIRRORED.items() for name in pair), *CONTROLS)

FPS = 30
# x264's macroblock tree gave other bytes for the same frames in 1 of 300 small clips (its assembly): it is off.
ENCODER = {"preset": "veryfast", "crf": "16", "g": "12", "bf": "0", "threads": "1", "x264-params": "mbtree=0"}
GENERATION = 2  # raised when the files change, so that a folder of older videos is not taken for the new ones
SETTINGS_FILE = "settings.json"
STALE_SEC = 3600.0

SPLITS = ("train", "val")
MIN_FRAME_SIZE, MIN_NUM_FRAMES = 32, 8
NUM_DISTRACTORS = 2


class MotionVideos:
    """Makes the built-in video set in a folder on first use.

    Args:
        num_train: clips in `train.csv`, the same number of each class.
        num_val: clips in `val.csv`, of scenes that are in no training clip.
        frame_size: height and width in pixels.
        num_frames: frames of each clip, at 30 per second.
        seed: another seed, other scenes.
    """

    def __init__(
        self, *, num_train: int = 1000, num_val: int = 200, frame_size: int = 64, num_frames: int = 48, seed: int = 0
    ) -> None:
        for name, count in (("num_train", num_train), ("num_val", num_val)):
            if count < len(CLASSES) or count % len(CLASSES):
                raise ValueError(f"{name} {count} is not a positive multiple of the {len(CLASSES)} motion classes")
        if frame_size < MIN_FRAME_SIZE or frame_size % 2:
            raise ValueError(f"frame_size {frame_size} must be even (H.264) and at least {MIN_FRAME_SIZE}")
        if num_frames < MIN_NUM_FRAMES:
            raise ValueError(f"num_frames {num_frames} is below {MIN_NUM_FRAMES}: too short to show a motion")
        if seed < 0:
            raise ValueError(f"seed {seed} is negative")
        self.num_train, self.num_val = num_train, num_val
        self.frame_size, self.num_frames, self.seed = frame_size, num_frames, seed

    def __call__(self, root: Path) -> None:
        """Leaves the finished set in `root`: `train.csv`, `val.csv` (path,label), `classes.txt` and the mp4 files.

        A finished set with these settings is reused. A new one is made in a folder beside `root` that takes its
        place when complete, so an interruption leaves nothing in `root` and two processes do no harm to each other.

        Raises:
            ValueError: `root` holds a set with other settings, or other files.
        """
        root = Path(root)
        if self._is_finished(root):
            return
        root.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        partial_root = root.with_name(f".{root.name}.partial-{uuid.uuid4().hex}")
        try:
            self._make(partial_root)
            try:
                partial_root.rename(root)  # atomic; replaces an empty folder, refuses one with files
            except OSError:
                if not self._is_finished(root):  # otherwise another process was faster, and its files equal ours
                    raise
        finally:
            shutil.rmtree(partial_root, ignore_errors=True)

    @property
    def folder_name(self) -> str:
        """A name that differs between sets: motion-1000-200-64px-48f-seed0-g2."""
        return (
            f"motion-{self.num_train}-{self.num_val}-{self.frame_size}px-{self.num_frames}f"
            f"-seed{self.seed}-g{GENERATION}"
        )

    def _settings(self) -> dict[str, int]:
        return {"generation": GENERATION, **vars(self)}

    def _is_finished(self, root: Path) -> bool:
        if not root.exists() or not any(root.iterdir()):
            return False
        if not (root / SETTINGS_FILE).is_file():
            raise ValueError(
                f"{root} holds files but no {SETTINGS_FILE}: not a set of motion videos; name a new folder"
            )
        found, wanted = json.loads((root / SETTINGS_FILE).read_text()), self._settings()
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if differing:
            what = ", ".join(f"{name} {found.get(name)} (wanted {wanted[name]})" for name in differing)
            raise ValueError(f"{root} holds other motion videos: {what}; name a new folder or remove this one")
        return True

    def _make(self, root: Path) -> None:
        jobs = []
        for split, count in enumerate((self.num_train, self.num_val)):
            for index in range(count):
                name = CLASSES[index % len(CLASSES)]
                jobs.append((root / SPLITS[split] / f"{name}_{index:05d}.mp4", name, (self.seed, split, index)))
        for split in SPLITS:
            (root / split).mkdir(parents=True)
            rows = [
                f"{path.relative_to(root).as_posix()},{name}\n" for path, name, _ in jobs if path.parent.name == split
            ]
            (root / f"{split}.csv").write_text("path,label\n" + "".join(rows))
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        make = partial(_make_clip, num_frames=self.num_frames, frame_size=self.frame_size)
        # spawn: a fork would copy the caller's threads (torch, CUDA) in whatever state they are
        with ProcessPoolExecutor(min(os.cpu_count() or 1, 16), mp_context=get_context("spawn")) as pool:
            done = pool.map(make, jobs, chunksize=8)
            for _ in track(done, f"Making {len(jobs)} motion videos", len(jobs)):
                pass
        (root / SETTINGS_FILE).write_text(json.dumps(self._settings(), indent=2) + "\n")


def _remove_stale(root: Path) -> None:
    """Removes what killed processes left: folders in which nothing was made for an hour."""
    for folder in root.parent.glob(f".{root.name}.partial-*"):
        newest = max(
            (p.stat().st_mtime for p in (folder, *(folder / split for split in SPLITS)) if p.exists()), default=0
        )
        if time.time() - newest > STALE_SEC:
            shutil.rmtree(folder, ignore_errors=True)


def _make_clip(job: tuple[Path, str, tuple[int, ...]], *, num_frames: int, frame_size: int) -> None:
    path, name, seed = job
    _encode(path, draw_clip(name, np.random.default_rng(seed), num_frames=num_frames, frame_size=frame_size))


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
    frames = np.broadcast_to(_texture(rng, s, 8, ground, contrast=0.08), (t, s, s, 3)).copy()
    plain_kinds = sorted(KINDS.keys() - set(CONTROLS))
    for _ in range(NUM_DISTRACTORS):
        place = _swing(rng, t, rng.uniform(0.05, 0.95, 2), shift=0.06, turn=0.6, size=rng.uniform(0.06, 0.09))
        _paint(frames, place, str(rng.choice(plain_kinds)), _object_texture(rng, rng.uniform(0.3, 0.7, 3)))
    kind = name if name in CONTROLS else str(rng.choice(plain_kinds))
    colour = ground + rng.choice((-1, 1)) * rng.uniform(0.2, 0.4)  # brighter or darker than the ground
    _paint(frames, _motion(forward_name, rng, t), kind, _object_texture(rng, colour))
    flicker = rng.normal(1.0, 0.02, (t, 1, 1, 1))
    frames *= (rng.uniform(0.75, 1.15) * rng.uniform(0.9, 1.1, 3) * flicker).astype(np.float32)
    frames += rng.uniform(-0.08, 0.08) + 0.02 * rng.standard_normal((t, s, s, 1), dtype=np.float32)
    frames = (frames * 255.0).clip(0, 255).astype(np.uint8)
    return frames[::-1] if backward else frames


# Signed distances to the outline of each kind in the object's own coordinates, where its radius is 1.
KINDS = {
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.8,
    "bar": lambda u, v: np.maximum(abs(u) - 1.0, abs(v) - 0.5),
    "triangle": lambda u, v: np.maximum(v, abs(u) * 0.866 - v * 0.5) - 0.55,
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.75) - 0.25,
    "cross": lambda u, v: np.minimum(np.maximum(abs(u) - 1.0, abs(v) - 0.35), np.maximum(abs(u) - 0.35, abs(v) - 1.0)),
}


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


def _paint(frames: np.ndarray, place: np.ndarray, kind: str, texture: np.ndarray) -> None:
    """Draws one object into `frames` (T, S, S, 3); what leaves at one edge comes in at the other."""
    s = frames.shape[1]
    x, y, size, angle = (row[:, None, None].astype(np.float32) for row in place)
    pixel = (np.arange(s, dtype=np.float32) + 0.5) / s
    dx = (pixel[None, None, :] - x + 0.5) % 1.0 - 0.5
    dy = (pixel[None, :, None] - y + 0.5) % 1.0 - 0.5
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / size
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / size
    alpha = (0.5 - KINDS[kind](u, v) * size * s).clip(0.0, 1.0)  # an edge one pixel wide
    inside = alpha > 0
    colour = _sample(texture, u[inside] * 5.0, v[inside] * 5.0)
    frames[inside] += alpha[inside][:, None] * (colour - frames[inside])


def _sample(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colours (P, 3) of a texture that repeats, at P points in its pixels, interpolated linearly."""
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    fu, fv = (u - u0)[:, None], (v - v0)[:, None]
    n = len(texture)
    upper = texture[v0 % n, u0 % n] * (1 - fu) + texture[v0 % n, (u0 + 1) % n] * fu
    lower = texture[(v0 + 1) % n, u0 % n] * (1 - fu) + texture[(v0 + 1) % n, (u0 + 1) % n] * fu
    return upper * (1 - fv) + lower * fv


def _object_texture(rng: Generator, mean: np.ndarray) -> np.ndarray:
    return _texture(rng, 16, 4, mean, contrast=0.14)


def _texture(rng: Generator, size: int, num_blots: int, mean: np.ndarray, *, contrast: float) -> np.ndarray:
    """Colours (size, size, 3) float32 that repeat: `mean` plus blots, `num_blots` in a row, and finer ones on them."""
    texture = np.zeros((size, size, 3)) + mean
    for n, strength in ((num_blots, contrast), (2 * num_blots, 0.7 * contrast)):
        points = np.linspace(0, n, size, endpoint=False)
        v, u = (grid.ravel() for grid in np.meshgrid(points, points, indexing="ij"))
        noise = rng.standard_normal((n, n, 1)) + 0.5 * rng.standard_normal((n, n, 3))
        texture += strength * _sample(noise, u, v).reshape(size, size, 3)
    return texture.astype(np.float32)
