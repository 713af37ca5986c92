"""The frames of a video on show at given times, from only the packets that these frames need.

Encoders like x264 mark frames that no other frame refers to, often half of them. Here such a packet goes to the decoder
only if its own frame is wanted, and nothing is decoded beyond the last wanted frame. The pixels are those of a full
decode. That takes a regular file; at the first sign of anything else `NotRegular` asks for the full `Walk`.
"""

import math
from bisect import bisect_right, insort
from collections.abc import Iterator

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame

from mvit_train.data.stream import VideoStream
from mvit_train.data.walk import longest_bridge

MAX_HELD_BYTES = 2**26  # of packets since the last key frame


class NotRegular(Exception):  # noqa: N818 - a signal to take the long way, never seen outside
    pass


class NeededPackets:
    """One walk through the packets for ascending targets, in ticks.

    Presentation times say which frames are on show at the targets before anything is decoded: the last one not later
    than the target. All frames up to a time are known once a packet is to be decoded after it.
    """

    def __init__(self, stream: VideoStream, targets: list[int]) -> None:
        self._stream, self._targets = stream, targets
        self._held: list[Packet] = []  # from the last key frame that serves a target
        self._held_bytes = 0
        self._key, self._last_dts, self._end = math.inf, -math.inf, -math.inf
        self._times: list[int] = []  # of the held frames, sorted
        self._shown: dict[int, int] = {}  # target -> time of the held frame on show
        self._images: dict[int, np.ndarray] = {}

    def images(self) -> dict[int, np.ndarray]:
        """{target: image}."""
        num_known = 0
        for packet in self._packets():
            target = self._targets[num_known]
            if packet.is_keyframe and packet.pts is not None and packet.pts <= target:
                self._decode_held()
                self._key, self._held, self._held_bytes, self._times = packet.pts, [], 0, []
            self._hold(packet)
            while packet.dts is not None and packet.dts > target:
                self._find_shown(target)
                num_known += 1
                if num_known == len(self._targets):
                    self._decode_held()
                    return self._images
                target = self._targets[num_known]
        self._refuse_a_missing_end()
        for target in self._targets[num_known:]:
            self._find_shown(target)
        self._decode_held()
        return self._images

    def _packets(self) -> Iterator[Packet]:
        """The packets, as long as their times are in order: shown no earlier than decoded."""
        try:
            for packet in self._stream.packets_before(self._targets[0]):
                if not packet.size:
                    return
                if packet.pts is None or packet.is_corrupt or packet.has_sidedata("new_extradata"):
                    raise NotRegular
                if packet.dts is not None:
                    if packet.dts < self._last_dts or packet.pts < packet.dts:
                        raise NotRegular
                    self._last_dts = packet.dts
                yield packet
        except FFmpegError as error:
            raise NotRegular from error

    def _hold(self, packet: Packet) -> None:
        assert packet.pts is not None
        self._held.append(packet)
        self._held_bytes += packet.size
        if self._held_bytes > MAX_HELD_BYTES:
            raise NotRegular
        if self._is_visible(packet):
            insort(self._times, packet.pts)
            self._end = max(self._end, packet.pts + (packet.duration or 0))

    def _is_visible(self, packet: Packet) -> bool:
        """Frames before the key frame lack their references; an edit list discards others."""
        return packet.pts is not None and packet.pts >= self._key and not packet.is_discard

    def _find_shown(self, target: int) -> None:
        place = bisect_right(self._times, target)
        if place == 0:
            raise NotRegular  # before the first frame
        self._shown[target] = self._times[place - 1]

    def _refuse_a_missing_end(self) -> None:
        stream = self._stream
        if not self._times:
            raise NotRegular
        promised = min(self._targets[-1], stream.start + stream.num_ticks - stream.ticks_per_frame)
        if promised - max(self._end, self._times[-1] + stream.ticks_per_frame) > longest_bridge(stream):
            raise NotRegular

    def _decode_held(self) -> None:
        """Adds the images of the targets that held frames are shown at."""
        shown, self._shown = self._shown, {}
        wanted = set(shown.values())
        expected: list[int] = []
        found: list[int] = []
        images: dict[int, np.ndarray] = {}
        for packet in self._needed(wanted):
            if packet is not None and self._is_visible(packet):
                assert packet.pts is not None
                expected.append(packet.pts)
            for frame in self._decode(packet):
                assert frame.pts is not None
                found.append(frame.pts)
                if frame.pts in wanted:
                    images[frame.pts] = self._stream.to_rgb(frame)
        if found != sorted(set(expected)):  # each packet is one frame, and they come in order
            raise NotRegular
        self._images |= {target: images[time] for target, time in shown.items()}

    def _needed(self, wanted: set[int]) -> Iterator[Packet | None]:
        """The held packets that the wanted frames need, then None for the frames still inside the decoder."""
        is_unreferenced = self._stream.is_unreferenced
        assert is_unreferenced is not None
        left = set(wanted)
        self._stream.codec.flush_buffers()
        for packet in self._held:
            if not left:
                break
            if packet.pts in wanted or packet.is_keyframe or not is_unreferenced(bytes(packet)):
                left.discard(packet.pts)
                yield packet
        if wanted:
            yield None
        self._stream.codec.flush_buffers()

    def _decode(self, packet: Packet | None) -> Iterator[VideoFrame]:
        """The frames from the key frame on."""
        try:
            decoded = self._stream.decode(packet)
        except FFmpegError as error:
            if packet is None or self._is_visible(packet):
                raise NotRegular from error
            return  # it lacks its references
        for frame in decoded:
            if frame.pts is None or frame.interlaced_frame:  # fields may come in packets of their own
                raise NotRegular
            if frame.pts >= self._key:
                if frame.is_corrupt:
                    raise NotRegular
                yield frame
