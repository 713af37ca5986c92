"""A still image, read like a video of one frame."""

import os
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from PIL import Image, ImageOps
from pytorchvideo.data.video import Video
from torch import Tensor

from mvit_train.data.stream import DecodeError
from mvit_train.data.views import Seconds

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # whatever the suffix; for others Pillow would start programs (EPS)


class StillImage(Video):
    """An image file as RGB, upright; it is on show at all times."""

    fps = Fraction(1)

    def __init__(self, path: str | os.PathLike, *, num_frames: int) -> None:
        self._num_frames = num_frames
        try:
            with Image.open(path, formats=FORMATS) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except FileNotFoundError as error:
            raise DecodeError(os.fspath(path), "no such file") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DecodeError(os.fspath(path), f"not an image, or damaged: {error}") from error
        self._pixels = torch.from_numpy(np.array(upright)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W), a view

    @property
    def duration(self) -> Fraction:  # pyright: ignore[reportIncompatibleMethodOverride] - exact, not float
        return Fraction(1)

    def get_clip(self, start_sec: Seconds, end_sec: Seconds) -> dict[str, Tensor | None]:
        """uint8 (3, T, H, W), the image T times, in PyTorchVideo's form."""
        return {"video": self.get_frames([[Fraction(start_sec)] * self._num_frames])[0], "audio": None}

    def get_frames(self, times: Sequence[Sequence[Fraction]]) -> list[Tensor]:
        """uint8 (3, T, H, W) for every clip, the image as often as the clip has times."""
        return [self._pixels[:, None].expand(-1, len(clip), -1, -1) for clip in times]

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> "StillImage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
