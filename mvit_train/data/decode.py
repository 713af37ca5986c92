"""From a video file and time windows to uint8 frames, with PyAV (FFmpeg).

`DecodedVideo` and `PathHandler` plug into PyTorchVideo's public hooks. They replace its own PyAV decoder, which sorts
frames by timestamp (wrong order for AVI with B-frames), loses the tail of streams that start late, ignores rotation
and gives up a window for one damaged packet. On ordinary files the pixels are the same, bit for bit.

Times are exact: seconds as `Fraction` outside, whole ticks of the stream's time base inside.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain

import numpy as np
import torch
from av.video.frame import VideoFrame
from pytorchvideo.data.video import Video, VideoPathHandler
from torch import Tensor

from mvit_train.data.image import StillImage
from mvit_train.data.manifest import IMAGE_SUFFIXES
from mvit_train.data.needed import NeededPackets, NotRegular
from mvit_train.data.stream import MAX_READ_BYTES, DecodeError, VideoStream, as_decode_errors
from mvit_train.data.views import Seconds, frame_times
from mvit_train.data.walk import UnusableTimestamps, Walk


class DecodedVideo(Video):
    """One video file, read as clips of `num_frames` frames.

    Times count from the first frame; positions outside the video show its first or last frame. `duration` (seconds) and
    `fps` (average rate) are Fractions, taken from the header or, where that is silent, from the packets.

    A clip is refused with DecodeError if a sampled position lies in a loss longer than both 0.2 s and two frames:
    around packets that do not decode, or between the last frame that decodes and the end that the header promises. The
    frame before a smaller loss bridges it. A frame of another size than the first of its clip is scaled to that.
    """

    def __init__(self, path: str | os.PathLike, *, num_frames: int) -> None:
        self.name = os.path.basename(path)
        self._path = os.fspath(path)
        self._num_frames = num_frames
        with as_decode_errors(self._path):
            self._stream = VideoStream(self._path)
        self.fps = self._stream.fps

    @property
    def duration(self) -> Fraction:  # pyright: ignore[reportIncompatibleMethodOverride] - exact, not float
        """Seconds from the first frame to the end of the last one."""
        return self._stream.num_ticks * self._stream.tick

    @property
    def num_packets(self) -> tuple[int, int]:
        """Packets read and, of these, decoded so far: a measure of the work."""
        return self._stream.num_read, self._stream.num_decoded

    def get_clip(self, start_sec: Seconds, end_sec: Seconds) -> dict[str, Tensor | None]:
        """The window [start, end) in PyTorchVideo's form: {"video": uint8 (3, T, H, W), "audio": None}."""
        return {"video": self.get_clips([(start_sec, end_sec)])[0], "audio": None}

    def get_clips(self, windows: Sequence[tuple[Seconds, Seconds]]) -> list[Tensor]:
        """Every window [start, end) as uint8 (3, T, H, W), in one pass."""
        return self.get_frames([frame_times(start, end, self._num_frames, self.fps) for start, end in windows])

    def get_frames(self, times: Sequence[Sequence[Fraction]]) -> list[Tensor]:
        """The frames on show at the times of every clip, in seconds, as uint8 (3, T, H, W); all clips in one pass: no
        frame is decoded or converted twice."""
        if not times:
            return []
        targets = [[self._stream.latest_tick(time) for time in clip] for clip in times]
        with as_decode_errors(self._path):
            images = self._images(sorted(set(chain.from_iterable(targets))))
            return [_stack([images[target] for target in clip]) for clip in targets]

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> "DecodedVideo":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _images(self, targets: list[int]) -> dict[int, np.ndarray]:
        """The RGB image (H, W, 3) on show at each of the ascending `targets`, in ticks."""
        stream, images = self._stream, {}
        stream.room = MAX_READ_BYTES
        if stream.is_unreferenced is not None and stream.has_timestamps:
            with suppress(NotRegular):
                return NeededPackets(stream, targets).images()
        if stream.has_timestamps:
            try:
                images = Walk(stream, stream.packets_before(targets[0]), targets).images()
            except UnusableTimestamps:
                stream.has_timestamps = False
        if not images:  # without timestamps, or if nothing decodes from the key frame on: all from the start
            images = Walk(stream, stream.packets_from_start(), targets).images()
        if not images:
            raise DecodeError(self._path, "no frame can be decoded: the video is damaged or encrypted")
        return images


class PathHandler(VideoPathHandler):
    """Makes a PyTorchVideo dataset read our way: `dataset.video_path_handler = PathHandler(num_frames=16)`."""

    def __init__(self, num_frames: int) -> None:
        super().__init__()
        self._num_frames = num_frames

    def video_from_path(
        self, filepath: str | os.PathLike, *args: object, **kwargs: object
    ) -> DecodedVideo | StillImage:
        """Opens `filepath`. Further arguments (decoder, audio) differ between PyTorchVideo versions and are ignored."""
        return open_video(filepath, num_frames=self._num_frames)


def open_video(path: str | os.PathLike, *, num_frames: int) -> DecodedVideo | StillImage:
    """A video, or by its suffix an image. Raises DecodeError if it cannot be read."""
    is_image = os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES
    return (StillImage if is_image else DecodedVideo)(path, num_frames=num_frames)


def _stack(images: list[np.ndarray]) -> Tensor:
    """(3, T, H, W) in the size of the first image."""
    height, width, _ = shape = images[0].shape
    for i, image in enumerate(images):
        if image.shape != shape:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            images[i] = frame.reformat(width, height).to_ndarray()
    return torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2)  # (T, H, W, 3) -> (3, T, H, W), a view
