"""Images and their times to an H.264 mp4 that every browser plays."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, BinaryIO

import av
import numpy as np

from mvit_train.predictions import replace_file

TICK = Fraction(1, 90_000)  # seconds: whole for 24, 25, 30, 50 and 60 fps
NOMINAL_FPS = 30  # for the encoder's guesses; frames are shown at their own times


def write_mp4(
    target: Path | BinaryIO,
    frames: Iterable[tuple[float, np.ndarray]],
    *,
    crf: int = 23,
    max_bits_per_sec: int | None = None,
) -> None:
    """Encodes `frames`, (seconds from the start, (H, W, 3) uint8 RGB), without sound, one frame in memory at a time.

    A side of an odd number of pixels gets its last row or column twice: yuv420p halves both. A path is written whole or
    not at all; a binary file must be seekable.

    Args:
        crf: x264's quality, 0 without loss, 51 the worst.
        max_bits_per_sec: a limit of the rate, in any second.

    Raises:
        ValueError: there is no frame, a frame has another size than the first, or the times do not rise.
    """
    if not isinstance(target, Path):
        _encode(target, frames, crf, max_bits_per_sec)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, lambda file: _encode(file, frames, crf, max_bits_per_sec))


def _encode(
    file: BinaryIO | IO[bytes], frames: Iterable[tuple[float, np.ndarray]], crf: int, max_rate: int | None
) -> None:
    options = {"crf": str(crf), "preset": "veryfast"}
    if max_rate is not None:
        options |= {"maxrate": str(max_rate), "bufsize": str(max_rate)}
    stream: Any = None
    first_shape, last = None, -1
    with av.open(file, "w", format="mp4") as container:
        for time_sec, image in frames:
            tick = round(Fraction(time_sec) / TICK)
            if stream is None:
                first_shape = image.shape
                stream = container.add_stream("libx264", rate=NOMINAL_FPS, options=options)
                stream.height, stream.width = (side + side % 2 for side in image.shape[:2])
                stream.pix_fmt, stream.codec_context.time_base = "yuv420p", TICK
            if image.shape != first_shape:
                raise ValueError(f"frame at {time_sec:.3f} s: its shape is {image.shape}, of the first {first_shape}")
            if tick <= last:
                raise ValueError(f"frame at {time_sec:.3f} s: the one before is at {float(last * TICK):.3f} s")
            frame = av.VideoFrame.from_ndarray(_even(image), format="rgb24")
            frame.pts, frame.time_base = tick, TICK
            container.mux(stream.encode(frame))
            last = tick
        if stream is None:
            raise ValueError("no frame to encode")
        container.mux(stream.encode())


def _even(image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    return np.ascontiguousarray(np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
