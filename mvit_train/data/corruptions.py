"""What cameras, encoders and networks do to a video, at five severities: noise, blur, light, compression, lost frames.

Where ImageNet-C has the corruption, its parameters are taken (Hendrycks and Dietterich, arXiv 1903.12261, and their
make_imagenet_c.py); H.264 takes the CRFs of Mini Kinetics-C (Yi et al., arXiv 2110.06513). Made on the fly from the
frames of a clip as they are scaled for a test, so that a severity means the same for every size of the source.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE_SHORT_SIDE = 256
"""Parameters in pixels are those of frames with this short side: ImageNet-C cuts 224 pixels out of such."""


@dataclass(frozen=True)
class Corruption:
    """A corruption by its name in CORRUPTIONS and its severity, 1 to 5.

    What is drawn depends on the name, the severity, the video and the clip alone: the crops of a clip share it, and so
    do all runs, workers and machines. ValueError for an unknown name or severity.
    """

    name: str
    severity: int

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise ValueError(f"corruptions: {self.name} is none of {', '.join(CORRUPTIONS)}")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severities: {self.severity} is none of {', '.join(map(str, SEVERITIES))}")

    def __str__(self) -> str:
        return f"{self.name} {self.severity}"

    def __call__(self, clip: Tensor, video_id: str, clip_index: int) -> Tensor:
        """The corrupted frames of a clip, uint8 (3, T, H, W) on a CPU, of the same shape."""
        corrupt, parameters = CORRUPTIONS[self.name]
        key = f"{video_id}\0{clip_index}\0{self.name}\0{self.severity}"
        rng = np.random.default_rng(zlib.crc32(key.encode(errors="surrogateescape")))
        frames = clip.permute(1, 2, 3, 0).numpy()  # (T, H, W, 3), the order of decoded frames in memory
        return torch.from_numpy(corrupt(frames, parameters[self.severity - 1], rng)).permute(3, 0, 1, 2)


def noise(frames: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of this standard deviation, of levels 0 to 1, drawn for every value of every frame."""
    return _levels([frame + 255 * deviation * rng.standard_normal(frame.shape, np.float32) for frame in frames])


def shot_noise(frames: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise of a sensor that counts so many photons at full level."""
    return _levels([rng.poisson(frame * (photons / 255)) * (255 / photons) for frame in frames])


def blur(frames: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian of this standard deviation, in pixels of frames whose short side is REFERENCE_SHORT_SIDE."""
    weights = gaussian(deviation * min(frames.shape[1:3]) / REFERENCE_SHORT_SIDE)
    return _levels([_smooth(_smooth(frame.astype(np.float32), weights, 0), weights, 1) for frame in frames])


def gaussian(deviation: float) -> np.ndarray:
    """The weights at distance 0, 1, ... of a sampled Gaussian, cut off at four deviations; both sides add up to 1."""
    distance = np.arange(int(4 * deviation + 0.5) + 1)
    weights = np.exp(-0.5 * (distance / deviation) ** 2)
    return (weights / (2 * weights.sum() - weights[0])).astype(np.float32)


def _smooth(image: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """(H, W, 3) along one axis; beyond an edge its last row goes on. One product after the other: the sums have an
    order, the same on every machine."""
    size, reach = image.shape[axis], len(weights) - 1
    padding = [(0, 0)] * image.ndim
    padding[axis] = (reach, reach)
    padded = np.moveaxis(np.pad(image, padding, mode="edge"), axis, 0)
    total = weights[0] * padded[reach : reach + size]
    for distance in range(1, reach + 1):
        near = padded[reach - distance : reach - distance + size] + padded[reach + distance : reach + distance + size]
        total += weights[distance] * near
    return np.moveaxis(total, 0, axis)


def brightness(frames: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    """The value of HSV, the largest of R, G and B, plus `shift` of full level; hue and saturation stay."""
    return _levels([_shifted(frame.astype(np.float32), 255 * shift) for frame in frames])


def _shifted(image: np.ndarray, shift: float) -> np.ndarray:
    value = image.max(axis=-1, keepdims=True)
    wanted = (value + shift).clip(0, 255)
    return np.where(value > 0, image * (wanted / np.maximum(value, 1)), wanted)  # black has no hue: it turns grey


def contrast(frames: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Differences from the mean colour of each frame, times `share`."""
    means = frames.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    return _levels(list((frames - means) * share + means))


def jpeg(frames: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    """Every frame through Pillow's JPEG encoder by itself."""
    decoded = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame)).save(file, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(file)))
    return np.stack(decoded)


def h264(frames: np.ndarray, crf: int, rng: np.random.Generator) -> np.ndarray:
    """The frames as one video through x264 and back, with 4:2:0 chroma: what is lost depends on the frames before and
    after. Frames of an odd side are encoded with the last row or column twice."""
    count, height, width = frames.shape[:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    packets = _encoded(np.ascontiguousarray(np.pad(frames, padding, mode="edge")), crf)
    decoder: Any = av.CodecContext.create("h264", "r")
    images = [image for packet in [*packets, None] for image in decoder.decode(packet)]
    assert [image.pts for image in images] == list(range(count)), "as many frames, in the order of their times"
    return np.stack([image.to_ndarray(format="rgb24")[:height, :width] for image in images])


def _encoded(frames: np.ndarray, crf: int) -> list[Any]:
    """Packets of (T, H, W, 3) at a nominal 30 frames a second; one thread, though x264 gives the same with more."""
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 30), Fraction(30)
    encoder.options, encoder.thread_count = {"crf": str(crf), "preset": "medium"}, 1
    packets = []
    for time, array in enumerate(frames):
        image = av.VideoFrame.from_ndarray(array, format="rgb24")
        image.pts, image.time_base = time, encoder.time_base
        packets += encoder.encode(image)
    return packets + encoder.encode(None)


def frame_drop(frames: np.ndarray, percent: int, rng: np.random.Generator) -> np.ndarray:
    """So many frames at random places do not arrive; the last one that did stays on show. The first always arrives.

    Frames 0 1 2 3 4 5 6 7, 40 percent: 0 1 1 1 4 4 6 6.
    """
    count = len(frames)
    shown = np.arange(count)
    shown[1 + rng.choice(count - 1, lost(count, percent), replace=False)] = 0
    return frames[np.maximum.accumulate(shown)]


def freeze(frames: np.ndarray, percent: int, rng: np.random.Generator) -> np.ndarray:
    """From a random time on the video stands still, then goes on where it would be: as many frames are lost as by
    `frame_drop`, in one piece.

    Frames 0 1 2 3 4 5 6 7, 40 percent: 0 1 1 1 1 1 6 7.
    """
    count = len(frames)
    number = lost(count, percent)
    start = int(rng.integers(count - number))
    shown = np.arange(count)
    shown[start : start + number + 1] = start
    return frames[shown]


def lost(count: int, percent: int) -> int:
    """How many of `count` frames are lost: `percent` of them, rounded up, but not all. 8, 25 -> 2; 8, 40 -> 4."""
    return min(-(-count * percent // 100), count - 1)


def _levels(frames: list[np.ndarray]) -> np.ndarray:
    """uint8 (T, H, W, 3) of levels that may lie outside 0 to 255."""
    return np.stack([frame.round().clip(0, 255).astype(np.uint8) for frame in frames])


Function = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]  # uint8 (T, H, W, 3) to the same

CORRUPTIONS: dict[str, tuple[Function, tuple[Any, ...]]] = {
    "noise": (noise, (0.08, 0.12, 0.18, 0.26, 0.38)),  # ImageNet-C, as the next four
    "shot_noise": (shot_noise, (60, 25, 12, 5, 3)),
    "blur": (blur, (1, 2, 3, 4, 6)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "darkness": (brightness, (-0.1, -0.2, -0.3, -0.4, -0.5)),  # as brightness, the other way
    "jpeg": (jpeg, (25, 18, 15, 10, 7)),  # ImageNet-C
    "h264": (h264, (23, 30, 37, 44, 51)),  # Mini Kinetics-C, h264_crf
    "frame_drop": (frame_drop, (10, 25, 40, 55, 70)),  # ours
    "freeze": (freeze, (10, 25, 40, 55, 70)),  # ours
}
"""What each name does, and its parameter by severity."""

NEED_FRAMES = ("frame_drop", "freeze")
"""Corruptions that a clip of one frame does not have."""
