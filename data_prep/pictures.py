"""The frames of a source as a prepared file holds them: upright, small, in the store's colours, each with its time."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from data_prep.sources import Window
from mvit_train.data.store import Store
from mvit_train.data.stream import DecodeError, VideoStream, as_decode_errors
from mvit_train.data.walk import UnusableTimestamps, Walk

T = TypeVar("T")

# YUV matrices of ITU-T H.273 that FFmpeg's scaler knows: unspecified (as BT.601), BT.709, FCC, 601, 601, 240M, BT.2020.
MATRICES = frozenset((1, 2, 4, 5, 6, 7, 9))
UNSPECIFIED = 2
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


@dataclass(frozen=True)
class Clock:
    """Times of frames after the first, as a prepared file counts them: `count(ticks) * time_base` seconds.

    A source whose frames last no whole number of ticks has them rounded, and the reader knows: frame 2 of 30 fps, at 67
    ms in Matroska, counts as on show from 66.67. Where all frames are such, they get their exact places, else the ticks
    of the source are kept, in its time base, so that the reader's tolerance stays the same.
    """

    time_base: Fraction
    count: Callable[[int], int]
    keeps_ticks: bool  # the file must count in `time_base` itself, and not in a finer one

    @classmethod
    def of(cls, stream: VideoStream) -> "Clock":
        frame = stream.ticks_per_frame
        if frame % 1 == 0:
            return cls(stream.tick, lambda ticks: ticks, keeps_ticks=False)
        if _on_grid(_packet_times(stream), frame):
            return cls(1 / stream.fps, lambda ticks: round(ticks / frame), keeps_ticks=False)
        return cls(stream.tick, lambda ticks: ticks, keeps_ticks=True)


class Pictures:
    """(time, frame) of all that is on show in a window, times from 0 in units of `clock`, rising.

    A window begins with the frame on show at its start, from which its times count. DecodeError where training would
    refuse a clip. After the last frame `length` is the time at which it ends, `damage` what was bridged on the way.
    """

    def __init__(self, stream: VideoStream, store: Store, short_side: int, window: Window) -> None:
        self._stream, self._store, self._short_side = stream, store, short_side
        with as_decode_errors(stream.path):
            self.clock = Clock.of(stream)
        self.fps = stream.fps
        self._converter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self.pixel_aspect = stream.codec.sample_aspect_ratio or Fraction(1)  # upright, once there is a picture
        self._start = Fraction(window[0] or 0)
        total = stream.num_ticks * stream.tick
        self._end = min(Fraction(window[1]), total) if window[1] else None
        if self._start and self._start >= total:
            raise DecodeError(stream.path, f"its part begins at {window[0]} s, but it ends at {float(total):.1f} s")
        self.damage = ""
        self.length = 0

    def __iter__(self) -> Iterator[tuple[int, VideoFrame]]:
        origin, time = None, 0
        for at, frame in self._on_show():
            if origin is None:
                origin = at if self._start else 0  # a first frame that comes late is on show from 0
                yield 0, self.upright(frame)
            else:
                time = at - origin
                yield time, self.upright(frame)
        if origin is None:
            raise DecodeError(self._stream.path, "no frame can be decoded: the video is damaged or encrypted")
        frames = self._stream.ticks_per_frame * self._stream.tick / self.clock.time_base
        end = self._end if self._end is not None else self._stream.num_ticks * self._stream.tick
        self.length = max(round(end / self.clock.time_base) - origin, time + max(1, math.floor(frames)))

    def _on_show(self) -> Iterator[tuple[int, VideoFrame]]:
        """Frames of the window, of several at one time only the last, which hides the others."""
        stream, unit = self._stream, self.clock.time_base
        hair = 1 / stream.fps / 1000  # for windows that went through floats
        first = stream.latest_tick(self._start)
        seekable = self._start and stream.has_timestamps
        held: tuple[int, VideoFrame] | None = None
        with as_decode_errors(stream.path):
            walk = Walk(stream, stream.packets_before(first) if seekable else stream.packets_from_start())
            for tick, frame in walk.every_frame(first):
                self.damage = walk.damage
                at = self.clock.count(tick - stream.start)
                if self._end is not None and at * unit >= self._end - hair:
                    break
                if held and at > held[0] and at * unit > self._start + hair:
                    yield held
                held = at, frame
            self.damage = walk.damage
        if held:
            yield held

    def upright(self, frame: VideoFrame) -> VideoFrame:
        """Turned as its rotation says and scaled to the size of the first frame; only pixels and colours are kept."""
        turn = frame.rotation  # degrees counter-clockwise; a broken display matrix reads as INT_MIN
        quarters = 0 if turn % 90 else turn // 90 % 4
        width, height = (frame.height, frame.width) if quarters % 2 else (frame.width, frame.height)
        if self._size is None:
            self._size = target_size(width, height, self._short_side)
            self.pixel_aspect = 1 / self.pixel_aspect if quarters % 2 else self.pixel_aspect
        wide, high = self._size
        scaled = self._scaled(frame, (high, wide) if quarters % 2 else (wide, high))
        planes = _split(scaled.to_ndarray(), scaled.width, scaled.height)
        turned = np.concatenate([np.rot90(plane, quarters).reshape(-1) for plane in planes])
        fresh = VideoFrame.from_ndarray(turned.reshape(-1, self._size[0]), self._store.pix_fmt)
        for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
            setattr(fresh, name, getattr(scaled, name))
        return fresh

    def _scaled(self, frame: VideoFrame, size: tuple[int, int]) -> VideoFrame:
        colours: dict[str, int] = {}
        if self._store.jpeg_colours:
            colours = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.JPEG}
        elif frame.format.is_rgb:
            colours = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.MPEG}
        if not frame.format.is_rgb and frame.colorspace not in MATRICES:
            colours = {"dst_colorspace": Colorspace.ITU601, "src_colorspace": Colorspace.ITU601, **colours}
        return self._converter.reformat(frame, *size, self._store.pix_fmt, interpolation=SCALING, threads=1, **colours)


def with_pictures(path: str, store: Store, short_side: int, window: Window, use: Callable[[Pictures], T]) -> T:
    """`use` of the pictures of a file; twice, if the timestamps turn out to be of no use on the way.

    DecodeError if the file cannot be read.
    """
    for trusted in (True, False):
        with as_decode_errors(path):
            stream = VideoStream(path)
        stream.has_timestamps = stream.has_timestamps and trusted
        try:
            return use(Pictures(stream, store, short_side, window))
        except UnusableTimestamps:
            assert trusted
        finally:
            stream.close()
    raise AssertionError


def target_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height): even, in proportion, never larger than the source, unless that has a side of one pixel.

    1920x1080, short side 256 -> 456x256; 340x256 -> 340x256; 455x255 -> 454x254.
    """
    short, long = sorted((width, height))
    new_short = max(2, min(short_side, short) // 2 * 2)
    new_long = max(2, min(2 * round(long * new_short / short / 2), long // 2 * 2))
    return (new_short, new_long) if width <= height else (new_long, new_short)


def _split(picture: np.ndarray, width: int, height: int) -> list[np.ndarray]:
    """The planes (H, W), (H/2, W/2), (H/2, W/2) of a YUV 4:2:0 picture in PyAV's form."""
    flat, luma, chroma = picture.reshape(-1), width * height, width * height // 4
    small = (height // 2, width // 2)
    return [
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(small),
        flat[luma + chroma :].reshape(small),
    ]


def _packet_times(stream: VideoStream) -> list[int]:
    """Ticks after the first frame of all packets, in order of showing."""
    times: list[int] = []
    with suppress(FFmpegError):  # a file that cannot be read further ends there
        for packet in stream.packets_from_start():
            time = packet.pts if stream.has_timestamps else packet.dts
            if packet.size and time is not None:
                times.append(time)
    first = stream.start if stream.has_timestamps else min(times, default=0)
    return sorted(time - first for time in times)


def _on_grid(times: list[int], frame: Fraction) -> bool:
    """Whether each time is a multiple of `frame`, rounded, and no two are of the same."""
    places = [round(time / frame) for time in times]
    rounding = min(Fraction(1), frame / 4)
    near = all(abs(time - place * frame) <= rounding for time, place in zip(times, places, strict=True))
    return near and len(set(places)) == len(places)
