"""From a video file and time windows to uint8 frames, with PyAV (FFmpeg).

`DecodedVideo` and `PathHandler` plug into PyTorchVideo's public hooks. They replace its own PyAV decoder, which sorts
frames by timestamp (wrong order for AVI with B-frames), loses the tail of streams that start late, ignores rotation
and gives up a window for one damaged packet. On ordinary files the pixels are the same, bit for bit.

Times are exact: seconds as `Fraction` outside, whole ticks of the stream's time base inside.
"""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from pytorchvideo.data.video import Video, VideoPathHandler
from torch import Tensor

from mvit_train.data.stream import DecodeError, VideoStream, as_decode_errors
from mvit_train.data.views import Seconds

# A loss is bridged by the frame before it up to the larger of the two.
MAX_HOLE_SEC = Fraction(1, 5)
MAX_HOLE_FRAMES = 2


def frame_times(start_sec: Seconds, end_sec: Seconds, num_frames: int, fps: Fraction) -> list[Fraction]:
    """Times at which a window [start, end) is sampled: SlowFast's linspace(start, start + L - 1, T), in seconds.

    The frame on show at each time is taken, so at a constant rate the frame indices are `floor(time * fps)`:
    64 frames at 30 fps, T = 16 -> 0 4 8 12 16 21 25 29 33 37 42 46 50 54 58 63. T = 1 takes the start.
    """
    start, end = Fraction(start_sec), Fraction(end_sec)
    step = max(end - start - 1 / fps, Fraction(0)) / max(num_frames - 1, 1)
    return [start + step * j for j in range(num_frames)]


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

    def get_clip(self, start_sec: Seconds, end_sec: Seconds) -> dict[str, Tensor | None]:
        """The window [start, end) in PyTorchVideo's form: {"video": uint8 (3, T, H, W), "audio": None}."""
        return {"video": self.get_clips([(start_sec, end_sec)])[0], "audio": None}

    def get_clips(self, windows: Sequence[tuple[Seconds, Seconds]]) -> list[Tensor]:
        """Every window [start, end) as uint8 (3, T, H, W), in one pass: no frame is decoded or converted twice."""
        if not windows:
            return []
        times = [frame_times(start, end, self._num_frames, self.fps) for start, end in windows]
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
        if stream.has_timestamps:
            try:
                images = _Pass(stream, stream.packets_before(targets[0]), targets).images()
            except _UnusableTimestamps:
                stream.has_timestamps = False
        if not images:  # without timestamps, or if nothing decodes from the key frame on: all from the start
            images = _Pass(stream, stream.packets_from_start(), targets).images()
        if not images:
            raise DecodeError(self._path, "no frame can be decoded: the video is damaged or encrypted")
        return images


class PathHandler(VideoPathHandler):
    """Makes a PyTorchVideo dataset read our way: `dataset.video_path_handler = PathHandler(num_frames=16)`."""

    def __init__(self, num_frames: int) -> None:
        super().__init__()
        self._num_frames = num_frames

    def video_from_path(self, filepath: str | os.PathLike, *args: object, **kwargs: object) -> DecodedVideo:
        """Opens `filepath`. Further arguments (decoder, audio) differ between PyTorchVideo versions and are ignored."""
        return DecodedVideo(filepath, num_frames=self._num_frames)


def _stack(images: list[np.ndarray]) -> Tensor:
    """(3, T, H, W) in the size of the first image."""
    height, width, _ = shape = images[0].shape
    for i, image in enumerate(images):
        if image.shape != shape:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            images[i] = frame.reformat(width, height).to_ndarray()
    return torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2)  # (T, H, W, 3) -> (3, T, H, W), a view


class _UnusableTimestamps(Exception):  # noqa: N818 - a signal to start over without them, never seen outside
    pass


class _Frame:
    """A decoded frame, the tick from which it is on show, and its image, made once and only if asked for."""

    def __init__(self, decoded: VideoFrame, time: int, stream: VideoStream) -> None:
        self.time = time
        self._decoded, self._stream = decoded, stream

    @cached_property
    def image(self) -> np.ndarray:
        """RGB (H, W, 3), upright."""
        image = self._stream.to_rgb(self._decoded)
        turn = self._decoded.rotation  # degrees counter-clockwise; a broken display matrix reads as INT_MIN
        return image if turn % 90 else np.rot90(image, turn // 90)


class _Pass:
    """One walk through the packets for ascending targets. Frames are taken in the decoder's order, never sorted."""

    def __init__(self, stream: VideoStream, packets: Iterator[Packet], targets: list[int]) -> None:
        self._stream, self._packets, self._pending = stream, packets, deque(targets)
        self._key = -math.inf  # when the key frame is shown that decoding started from
        self._last = -math.inf  # when the latest frame is shown
        self._decode_times: deque[int] = deque()  # of the packets whose frames are still in the decoder
        self._first_dts, self._num_packets = 0, 0
        self._end = stream.start  # of the last packet that decoded
        self._damage = ""  # the last error
        self._complete = False  # all packets have been read

    def images(self) -> dict[int, np.ndarray]:
        """{target: image}; {} if no frame decodes."""
        images: dict[int, np.ndarray] = {}
        shown = None
        for frame in self._frames():
            while self._pending and self._pending[0] < frame.time:
                self._refuse_a_hole(shown or frame)
                images[self._pending.popleft()] = (shown or frame).image
            if not self._pending:
                return images
            shown = frame
        self._complete = True
        while self._pending and shown:
            self._refuse_a_hole(shown)
            images[self._pending.popleft()] = shown.image
        return images

    def _frames(self) -> Iterator[_Frame]:
        """Frames in display order, skipping groups of pictures that hold no target.

        Packets are held back until no later key frame can serve the next target: gaps are read, but not decoded.
        """
        held: list[Packet] = []
        for packet in self._readable_packets():
            held.append(packet)
            if packet.size and self._stream.has_timestamps:
                if packet.pts is None:
                    raise _UnusableTimestamps
                if packet.is_keyframe and packet.pts <= self._pending[0]:
                    self._stream.codec.flush_buffers()
                    self._key, held = packet.pts, [packet]
                if (packet.pts if packet.dts is None else packet.dts) <= self._pending[0]:
                    continue
            for waiting in held:
                yield from self._decode(waiting)
            held.clear()

    def _readable_packets(self) -> Iterator[Packet]:
        """The packets up to the end, or up to where the file can be read, then an empty one that drains the decoder."""
        try:
            yield from self._packets
        except FFmpegError as error:
            self._damage = type(error).__name__
            yield Packet()

    def _decode(self, packet: Packet) -> Iterator[_Frame]:
        try:
            decoded = self._stream.codec.decode(packet)
        except FFmpegError as error:  # one damaged packet must not lose the window
            self._damage = type(error).__name__
            return
        if packet.is_corrupt:
            self._damage = "corrupt packet"
        if packet.size:
            self._note_times(packet)
        for frame in decoded:
            time = self._time_of(frame)
            if time is not None and time >= self._key:  # frames before the key frame lack their references
                self._last = time
                yield _Frame(frame, time, self._stream)

    def _note_times(self, packet: Packet) -> None:
        stream = self._stream
        if stream.has_timestamps:
            self._end = max(self._end, (packet.pts or 0) + (packet.duration or 0))
            return
        # The n-th frame shown takes the n-th decode time: it keeps the pauses of an AVI that left frames out.
        if self._num_packets == 0:
            self._first_dts = packet.dts or 0
        counted = self._first_dts + round(self._num_packets * stream.ticks_per_frame)
        self._decode_times.append(stream.start + (counted if packet.dts is None else packet.dts) - self._first_dts)
        self._num_packets += 1

    def _time_of(self, frame: VideoFrame) -> int | None:
        """When `frame` is shown; None for one that damage has brought out of order, which is dropped."""
        if not self._stream.has_timestamps:
            return self._decode_times.popleft() if self._decode_times else None
        if frame.pts is not None and frame.pts >= self._last:
            return frame.pts
        if self._damage:
            return None
        raise _UnusableTimestamps

    def _refuse_a_hole(self, frame: _Frame) -> None:
        """DecodeError if `frame` would stand in for too long a loss at the next target."""
        if not self._damage and not self._complete:
            return  # a long gap in an intact file is a variable frame rate
        stream = self._stream
        target = min(self._pending[0], stream.start + stream.num_ticks - stream.ticks_per_frame)
        shown_until = frame.time + stream.ticks_per_frame
        if self._complete:
            shown_until = max(shown_until, self._end)  # the last frame may be shown for long
        late = frame.time - target if self._damage else 0  # a first frame after the target
        if max(target - shown_until, late) * stream.tick <= max(MAX_HOLE_SEC, MAX_HOLE_FRAMES / stream.fps):
            return
        promised_sec, end_sec = stream.num_ticks * stream.tick, (shown_until - stream.start) * stream.tick
        if self._complete:
            frames = f"{round(end_sec * stream.fps)} of about {round(promised_sec * stream.fps)} frames"
            reason = f"stops after {frames} ({float(end_sec):.1f} of {float(promised_sec):.1f} s)"
        else:
            reason = f"no frame decodes near {float((target - stream.start) * stream.tick):.1f} s"
        raise DecodeError(stream.path, f"{reason}: {self._damage}" if self._damage else reason)
