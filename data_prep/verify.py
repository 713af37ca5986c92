"""Whether every frame of a file decodes, read from one end to the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.pool import still_working
from data_prep.probe import IMAGE_SUFFIXES, Key, Task, probe
from mvit_train.data.stream import DecodeError, VideoStream, as_decode_errors
from mvit_train.data.walk import UnusableTimestamps, Walk


@dataclass(frozen=True)
class Verified:
    """What decoding all of a file has shown.

    Args:
        reason: why training would refuse a part of the file, or "".
        damage: what else is wrong: losses so small that the frames around them stand in, and frames that the decoder
            had to make up in part; or "".
        num_frames: decoded.
    """

    path: str
    size: int
    mtime_ns: int
    reason: str = ""
    damage: str = ""
    num_frames: int = 0

    @property
    def key(self) -> Key:
        return self.path, self.size, self.mtime_ns

    @property
    def verified(self) -> bool:
        return True

    @property
    def status(self) -> Literal["ok", "damaged", "broken"]:
        return "broken" if self.reason else "damaged" if self.damage else "ok"


def verify(task: Task) -> Verified:
    """Never raises for what is wrong with a file: that is the result."""
    if Path(task.path).suffix.lower() in IMAGE_SUFFIXES:
        reason = probe(task).reason
        return Verified(*task.key, reason, num_frames=int(not reason))
    for trusted in (True, False):
        count, damage = 0, ""
        try:
            for latest in _damages(task.path, trusted):
                still_working()
                count, damage = count + 1, latest
        except UnusableTimestamps:
            continue
        except DecodeError as error:
            return Verified(*task.key, error.reason, num_frames=count)
        if count:
            return Verified(*task.key, damage=damage, num_frames=count)
        break
    return Verified(*task.key, "no frame can be decoded: the video is damaged or encrypted")


def _damages(path: str, has_timestamps: bool) -> Iterator[str]:
    """After every frame what is known to be damaged, in words."""
    with as_decode_errors(path):
        stream = VideoStream(path)
        try:
            stream.has_timestamps = stream.has_timestamps and has_timestamps
            walk, made_up = Walk(stream, stream.packets_from_start()), 0
            for _, frame in walk.every_frame(stream.start):
                made_up += frame.is_corrupt
                yield "; ".join(filter(None, [walk.damage, f"{made_up:,} frames are made up in part" * bool(made_up)]))
        finally:
            stream.close()


def lost(task: Task, reason: str) -> Verified:
    return Verified(*task.key, reason)
