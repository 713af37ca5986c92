"""The frames of a video on show at given times, from every packet up to them: what works for any file, broken or odd.

Frames are taken in the decoder's order, never sorted. `NeededPackets` does the same with less work for regular files.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame

from mvit_train.data.stream import DecodeError, VideoStream

# A loss is bridged by the frame before it up to the larger of the two.
MAX_HOLE_SEC = Fraction(1, 5)
MAX_HOLE_FRAMES = 2
BEYOND = 2**63  # any tick


def longest_bridge(stream: VideoStream) -> Fraction:
    """Ticks of a loss that the frame before it may stand in for."""
    return max(MAX_HOLE_SEC / stream.tick, MAX_HOLE_FRAMES * stream.ticks_per_frame)


class UnusableTimestamps(Exception):  # noqa: N818 - a signal to start over without them, never seen outside
    pass


class _Frame:
    """A decoded frame, the tick from which it is on show, and its image, made once and only if asked for."""

    def __init__(self, decoded: VideoFrame, time: int, stream: VideoStream) -> None:
        self.time = time
        self.decoded, self._stream = decoded, stream

    @cached_property
    def image(self) -> np.ndarray:
        return self._stream.to_rgb(self.decoded)


class Walk:
    """One walk through the packets for ascending targets. Frames are taken in the decoder's order, never sorted."""

    def __init__(self, stream: VideoStream, packets: Iterator[Packet], targets: Sequence[int] = ()) -> None:
        self._stream, self._packets, self._pending = stream, packets, deque(targets)
        self._key = -math.inf  # when the key frame is shown that decoding started from
        self._last = -math.inf  # when the latest frame is shown
        self._decode_times: deque[int] = deque()  # of the packets whose frames are still in the decoder
        self._first_dts: int | None = None
        self._num_packets = 0
        self._end = stream.start  # of the last packet that decoded
        self._damage = ""  # the last error
        self._complete = False  # all packets have been read

    @property
    def damage(self) -> str:
        """What went wrong last, which the frames around it bridge; "" if nothing did."""
        return self._damage

    def images(self) -> dict[int, np.ndarray]:
        """{target: image}; {} if no frame decodes."""
        images: dict[int, np.ndarray] = {}
        shown = None
        for frame in self._frames():
            while self._pending and self._pending[0] < frame.time:
                self._refuse_a_hole(shown or frame, self._pending[0])
                images[self._pending.popleft()] = (shown or frame).image
            if not self._pending:
                return images
            shown = frame
        self._complete = True
        while self._pending and shown:
            self._refuse_a_hole(shown, self._pending[0])
            images[self._pending.popleft()] = shown.image
        return images

    def every_frame(self, first: int) -> Iterator[tuple[int, VideoFrame]]:
        """(tick from which it is on show, frame) of all frames, nothing skipped.

        DecodeError at the first loss after the tick `first` for which `images` would refuse a target.
        """
        self._pending = deque((-BEYOND,))
        shown = None
        for frame in self._frames():
            if frame.time > first:
                self._refuse_a_hole(shown or frame, frame.time - 1 if shown else first)
            yield frame.time, frame.decoded
            shown = frame
        self._complete = True
        if shown:
            self._refuse_a_hole(shown, BEYOND)

    def _frames(self) -> Iterator[_Frame]:
        """Frames in display order, skipping groups of pictures that hold no target.

        Packets are held back until no later key frame can serve the next target: gaps are read, but not decoded.
        """
        held: list[Packet] = []
        for packet in self._readable_packets():
            held.append(packet)
            if packet.size and self._stream.has_timestamps:
                if packet.pts is None:
                    raise UnusableTimestamps
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
            decoded = self._stream.decode(packet)
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
        passed = round(self._num_packets * stream.ticks_per_frame)
        if packet.dts is not None:
            if self._first_dts is None:  # the first packets may lack one
                self._first_dts = packet.dts - passed
            passed = packet.dts - self._first_dts
        self._decode_times.append(stream.start + passed)
        self._num_packets += 1

    def _time_of(self, frame: VideoFrame) -> int | None:
        """When `frame` is shown; None for one that damage has brought out of order, which is dropped."""
        if not self._stream.has_timestamps:
            return self._decode_times.popleft() if self._decode_times else None
        if frame.pts is not None and frame.pts >= self._last:
            return frame.pts
        if self._damage:
            return None
        raise UnusableTimestamps

    def _refuse_a_hole(self, frame: _Frame, target: int) -> None:
        """DecodeError if `frame` would stand in for too long a loss at `target`."""
        if not self._damage and not self._complete:
            return  # a long gap in an intact file is a variable frame rate
        stream = self._stream
        wanted = min(target, stream.start + stream.num_ticks - stream.ticks_per_frame)
        shown_until = frame.time + stream.ticks_per_frame
        if self._complete:
            shown_until = max(shown_until, self._end)  # the last frame may be shown for long
        late = frame.time - wanted if self._damage else 0  # a first frame after the target
        if max(wanted - shown_until, late) <= longest_bridge(stream):
            return
        promised_sec, end_sec = stream.num_ticks * stream.tick, (shown_until - stream.start) * stream.tick
        if self._complete:
            frames = f"{round(end_sec * stream.fps)} of about {round(promised_sec * stream.fps)} frames"
            reason = f"stops after {frames} ({float(end_sec):.1f} of {float(promised_sec):.1f} s)"
        else:
            reason = f"no frame decodes near {float((wanted - stream.start) * stream.tick):.1f} s"
        raise DecodeError(stream.path, f"{reason}: {self._damage}" if self._damage else reason)
