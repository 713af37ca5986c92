"""An MP4 file of pictures, in which each is on show when it was in the source."""

import math
from bisect import bisect_right
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame

from data_prep.pictures import Pictures
from data_prep.pool import still_working
from mvit_train.data.store import Store

LEAST_TIMESCALE = 10_000  # ticks per second; coarser ones are multiplied, as FFmpeg does


def write_video(file: Path, pictures: Pictures, store: Store, quality: int, comment: str) -> int:
    """Encodes all pictures into an MP4 file, its index first; how many there are."""
    clock = pictures.clock
    scale = clock.time_base.denominator
    if not clock.keeps_ticks:
        scale *= math.ceil(LEAST_TIMESCALE / scale)
    options = {"movflags": "faststart", "video_track_timescale": str(scale)}
    with av.open(f"file:{file}", "w", format="mp4", options=options) as container:
        container.metadata["comment"] = comment
        stream: Any = container.add_stream(store.codec, rate=pictures.fps, options=store.encoder_options(quality))
        muxer = _Muxer(container)
        for at, frame in pictures:
            still_working()
            if not muxer.times:
                _describe(stream.codec_context, frame, pictures)
            frame.pts, frame.time_base = at, clock.time_base
            muxer.times.append(at)
            muxer.put(stream.encode(frame))
        muxer.times.append(pictures.length)
        muxer.put(stream.encode(None))
        muxer.finish()
    return len(muxer.times) - 1


def _describe(encoder: Any, frame: VideoFrame, pictures: Pictures) -> None:
    """What the encoder must know before its first frame, and readers of the file: colours are told as they are."""
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, frame.format.name
    encoder.time_base, encoder.thread_count = pictures.clock.time_base, 1
    encoder.sample_aspect_ratio = pictures.pixel_aspect.limit_denominator(10_000)
    for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
        setattr(encoder, name, getattr(frame, name))


class _Muxer:
    """Writes packets with durations, so that the file lasts as long as its source, and has its average rate.

    MP4 sums up the steps between decode times and, for the last packet, its duration.
    """

    def __init__(self, container: OutputContainer) -> None:
        self.times: list[int] = []  # of the frames given to the encoder, and then the end of the last one
        self._container = container
        self._held: Packet | None = None
        self._first = 0

    def put(self, packets: list[Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None
            assert packet.dts is not None
            if self._held is None:
                self._first = packet.dts
            self._mux_held()
            self._held = packet

    def finish(self) -> None:
        assert self._held is not None
        assert self._held.dts is not None
        self._mux_held(max(1, self.times[-1] - (self._held.dts - self._first)))

    def _mux_held(self, duration: int = 0) -> None:
        packet = self._held
        if packet is None:
            return
        assert packet.pts is not None
        after = bisect_right(self.times, packet.pts)
        shown = self.times[after] - packet.pts if after < len(self.times) else 1
        packet.duration = duration or shown
        self._container.mux(packet)
