"""How videos are stored for training: the encoders and settings of prepared files, of which each clip decodes little.

Decoding is nearly all of what reading costs, so a store is chosen by how few and how cheap frames stand between a key
frame and the wanted ones. Three of four frames of `b3fast` are B-frames that no other frame refers to: the reader
leaves out those that are not sampled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

StoreName = Literal["b3fast", "intra", "jpeg"]


@dataclass(frozen=True)
class Store:
    """Settings of one encoder.

    Args:
        quality: the default of what `quality_options` set, in the encoder's own scale; smaller is better.
        jpeg_colours: full range and BT.601, which is all that JPEG decoders know; else those of the source are kept.
    """

    codec: str
    pix_fmt: str
    quality: int
    quality_range: tuple[int, int]
    quality_options: tuple[str, ...]
    options: Mapping[str, str]
    suffix: str = ".mp4"
    jpeg_colours: bool = False

    def encoder_options(self, quality: int | None = None) -> dict[str, str]:
        """What the encoder is opened with; None is the store's own quality."""
        value = str(self.quality if quality is None else quality)
        return {**self.options, **dict.fromkeys(self.quality_options, value)}


STORES: dict[StoreName, Store] = {
    # A key frame every 32 frames, and between them three frames in a row that no other needs. Key frames cost bytes: at
    # one in 16 files are a tenth larger for a twentieth of the time.
    "b3fast": Store(
        codec="libx264",
        pix_fmt="yuv420p",
        quality=25,
        quality_range=(0, 51),
        quality_options=("crf",),
        options={
            "g": "32",
            "keyint_min": "32",
            "sc_threshold": "0",
            "bf": "3",
            "b_strategy": "0",
            "tune": "fastdecode",
            "x264-params": "b-pyramid=none",
            "threads": "1",  # encoding is parallel over files
        },
    ),
    "intra": Store(
        codec="libx264",
        pix_fmt="yuv420p",
        quality=23,
        quality_range=(0, 51),
        quality_options=("crf",),
        options={"g": "1", "bf": "0", "tune": "fastdecode", "threads": "1"},
    ),
    "jpeg": Store(
        codec="mjpeg",
        pix_fmt="yuvj420p",
        quality=6,
        quality_range=(2, 31),
        quality_options=("qmin", "qmax"),
        options={"threads": "1"},
        jpeg_colours=True,
    ),
}
