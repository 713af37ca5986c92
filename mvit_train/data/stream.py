"""The video stream of a file: what its header says, and its packets from a wanted time on."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream as AvStream

from mvit_train.data.nal import unreferenced_test

# AVI stores no presentation times: FFmpeg derives them from decode times, and B-frames come out as 0 1 3 2 4. MPEG
# program streams stamp some packets only: after a seek FFmpeg guesses the others, and is frames off.
WITHOUT_TIMESTAMPS = ("avi", "mpeg")

# What a file may be: containers and raw streams of video; of sound and stills, so as to name them in the refusal.
# Not playlists (HLS, concat, DASH, SDP), whatever their suffix: FFmpeg would open the files and addresses they name.
FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "asf", "flv", "live_flv", "ogg", "mxf", "gxf", "nut"),
    *("rm", "dv", "wtv", "nsv", "swf", "roq", "smk", "bink", "flic", "gif", "apng", "ivf", "yuv4mpegpipe"),
    *("h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "m4v", "mjpeg", "vc1", "vc1test", "dirac", "dnxhd"),
    *("mp3", "wav", "w64", "aac", "ac3", "flac", "aiff", "amr", "caf", "ape"),
    *("image2", "jpeg_pipe", "png_pipe", "bmp_pipe", "webp_pipe", "tiff_pipe", "ppm_pipe"),
)
READ_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
MAX_PIXELS = 2**25  # of a frame: 8K is 7680 x 4320
MAX_READ_BYTES = 2**32  # of all images that are held for the clips of one video


class DecodeError(Exception):
    """A video, or the wanted part of it, cannot be read. `str` is "path: reason"."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both are args, so that it pickles on its way out of a DataLoader worker
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def as_decode_errors(path: str) -> Iterator[None]:
    """Turns what FFmpeg and PyAV raise into DecodeError."""
    try:
        yield
    except (FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:  # FFmpeg's, and PyAV's own
        raise DecodeError(path, f"{type(error).__name__}: {error}") from error


class VideoStream:
    """The first real video stream of a file: its header in ticks, and its packets from a wanted place on."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.num_read = self.num_decoded = 0  # packets
        self.room: int | None = None  # bytes of images that may still be made; None: any number
        self._converter = VideoReformatter()  # kept: making one per frame costs more than converting
        self._open()
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container = open_container(self.path)
        self._unread = True
        try:
            self._video = _first_real_video(self.path, self._container)
        except BaseException:
            self.close()
            raise
        self.codec = self._video.codec_context
        self.codec.thread_count = 1  # loading is parallel over videos; threads within one only add switching
        self.codec.thread_type = "NONE"
        self.codec.options = {"max_pixels": str(MAX_PIXELS)}  # a few bytes can promise a frame of gigabytes
        self.is_unreferenced = unreferenced_test(self.codec.name, self.codec.extradata)

    def _read_header(self) -> None:
        video = self._video
        self.fps = Fraction(video.average_rate or video.guessed_rate or 30)
        assert video.time_base is not None  # set by every demuxer
        self.tick = video.time_base
        self.ticks_per_frame = 1 / self.fps / self.tick
        self.start = video.start_time or 0
        self.has_timestamps = self._container.format.name not in WITHOUT_TIMESTAMPS
        num_frames = Fraction(video.duration or self._measure()) / self.ticks_per_frame
        if abs(num_frames - round(num_frames)) * self.ticks_per_frame <= 1:
            num_frames = Fraction(round(num_frames))  # 10.333 s at 30 fps, counted in ms, are 310 frames and not 309.99
        self.num_ticks = num_frames * self.ticks_per_frame

    def _measure(self) -> int:
        """Ticks up to the end of the last packet, read but not decoded: Matroska states no duration per stream."""
        total = self._container.duration  # in microseconds, of the longest stream
        end, num_packets = self.start, 0
        packets = self.packets_before(int(total / av.time_base / self.tick)) if total else self.packets_from_start()
        with suppress(FFmpegError):  # a file that cannot be read further ends there
            for packet in packets:
                num_packets += packet.size > 0
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or round(self.ticks_per_frame)))
        return end - self.start or round(num_packets * self.ticks_per_frame)

    def latest_tick(self, time: Fraction) -> int:
        """The greatest tick of a frame that is on show `time` seconds after the first one.

        Where a frame lasts no whole number of ticks, containers round: frame 2 of 30 fps is at 67 ms in Matroska. It
        counts as on show from 66.67 on, and its successor not before 100, whichever way their ticks were rounded.
        """
        ticks, frame = time / self.tick, self.ticks_per_frame
        hair = frame / 1000  # for windows that went through floats
        if frame % 1 == 0:
            return self.start + math.floor(ticks + hair)
        rounding = min(1, frame / 4)
        successor = (math.floor((ticks + hair) / frame) + 1) * frame
        return self.start + min(math.floor(ticks + rounding), math.ceil(successor - rounding) - 1)

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        """The frames that come out after `packet`; None drains the decoder."""
        self.num_decoded += packet is not None and packet.size > 0
        return self.codec.decode(packet)

    def to_rgb(self, frame: VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8, upright: a view of FFmpeg's memory, for reading. DecodeError: there is no room for it."""
        if self.room is not None:
            self.room -= 3 * frame.width * frame.height
            if self.room < 0:
                size = f"{frame.width} x {frame.height}"
                raise DecodeError(
                    self.path, f"its frames of {size} pixels take more than {MAX_READ_BYTES >> 30} GiB together"
                )
        turn = frame.rotation  # degrees counter-clockwise; a broken display matrix reads as INT_MIN
        # One thread: handing a small picture to FFmpeg's pool takes six times as long as converting it.
        frame = self._converter.reformat(frame, format="rgb24", threads=1)
        plane = frame.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
            : frame.height, : 3 * frame.width
        ]
        image = rows.reshape(frame.height, frame.width, 3)
        return image if turn % 90 else np.rot90(image, turn // 90)

    def _packets(self) -> Iterator[Packet]:
        for packet in self._container.demux(self._video):
            self.num_read += packet.size > 0
            yield packet

    def packets_from_start(self) -> Iterator[Packet]:
        if not self._unread:  # a fresh open is the one way back that every container knows
            self.close()
            self._open()
        self._unread = False
        return self._packets()

    def packets_before(self, target: int) -> Iterator[Packet]:
        """Packets from a key frame shown at or before `target`.

        A seek is only a request: MP4 searches by decode time, MPEG-TS lands anywhere. So the first key packet is looked
        at, and if it is late, or none comes because the file is cut off, the search starts further back.
        """
        back = 0
        while target - back >= self.start:
            self._unread = False
            with suppress(FFmpegError):
                self._container.seek(target - back, stream=self._video)
                packets = self._packets()
                key = next((packet for packet in packets if packet.is_keyframe), None)
                if key is not None and key.pts is not None and key.pts <= target:
                    return chain([key], packets)
            back = 2 * back or math.ceil(1 / self.tick)
        return self.packets_from_start()


def open_container(path: str) -> InputContainer:
    """A file opened by FFmpeg, which opens no other one for it. DecodeError: it is none of FORMATS, or damaged."""
    if not os.path.exists(path):
        raise DecodeError(path, "no such file")
    if not os.path.isfile(path):
        raise DecodeError(path, "not a file")
    if os.path.getsize(path) == 0:
        raise DecodeError(path, "empty file")
    try:
        # With its protocol, or a colon in the name would be taken for one.
        container = av.open(f"file:{path}", options=READ_OPTIONS)
    except ArgumentError as error:
        raise DecodeError(path, "a playlist, or another format that is not read here") from error
    except (EOFError, ValueError) as error:  # ValueError: InvalidDataError, or undecodable text in the header
        raise DecodeError(path, "not a video, or its header is damaged or missing") from error
    if container.format.name == "image2" or container.format.name.endswith("_pipe"):
        container.close()
        raise DecodeError(path, "a still image, not a video")
    return container


def _first_real_video(path: str, container: InputContainer) -> AvStream:
    videos = container.streams.video
    real = [video for video in videos if not video.disposition & Disposition.attached_pic]
    if not real:
        found = "only cover art" if videos else "only " + (", ".join({s.type for s in container.streams}) or "nothing")
        raise DecodeError(path, f"no video stream, {found}")
    if real[0].codec_context is None:
        raise DecodeError(path, "no decoder for its video codec")
    return real[0]
