"""What a file really is: opened, measured, and decoded at its first, middle and last frame."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from mvit_train.data.stream import READ_OPTIONS, DecodeError, VideoStream, as_decode_errors

IMAGE_SUFFIXES = frozenset((".jpeg", ".jpg", ".png", ".webp", ".bmp"))
DIGEST_BYTES = 65536


Key = tuple[str, int, int]  # path, size, modification time: a file that was changed is another one


@dataclass(frozen=True)
class Task:
    """A file as it was when it was listed."""

    path: str
    size: int
    mtime_ns: int
    verify: bool

    @classmethod
    def of(cls, path: Path, *, verify: bool) -> "Task | None":
        """None if there is no such file."""
        try:
            stat = path.stat()
        except OSError:
            return None
        return cls(str(path), stat.st_size, stat.st_mtime_ns, verify)

    @property
    def key(self) -> Key:
        return self.path, self.size, self.mtime_ns


@dataclass(frozen=True)
class Probe:
    """What was found. `reason` is why the file is broken, or ""; the facts then may be zeros."""

    path: str
    size: int
    mtime_ns: int
    verified: bool
    reason: str = ""
    duration: float = 0.0  # seconds
    num_frames: int = 0  # of the header: its duration times its rate
    fps: float = 0.0
    width: int = 0  # upright if verified, as stored otherwise
    height: int = 0
    codec: str = ""
    digest: str = ""  # of size, head and tail: equal for copies

    @property
    def key(self) -> Key:
        return self.path, self.size, self.mtime_ns


def probe(task: Task) -> Probe:
    """Never raises for what is wrong with a file: that is the result."""
    facts: dict = {}
    try:
        for found in _image(task) if Path(task.path).suffix.lower() in IMAGE_SUFFIXES else _video(task):
            facts |= found
    except DecodeError as error:
        facts["reason"] = error.reason
    return Probe(task.path, task.size, task.mtime_ns, task.verify, **facts)


def content_digest(path: str | os.PathLike) -> str:
    """Sixteen hex digits of size, first and last 64 KiB: what copies have in common, without reading everything."""
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        head = stream.read(DIGEST_BYTES)
        stream.seek(max(size - DIGEST_BYTES, 0))
        return hashlib.sha256(f"{size}\n".encode() + head + stream.read(DIGEST_BYTES)).hexdigest()[:16]


def _video(task: Task) -> Iterator[dict]:
    with as_decode_errors(task.path):
        stream = VideoStream(task.path)
        try:
            duration = stream.num_ticks * stream.tick
            yield {
                "duration": round(float(duration), 3),
                "num_frames": round(stream.num_ticks / stream.ticks_per_frame),
                "fps": round(float(stream.fps), 3),
                "width": stream.codec.width,
                "height": stream.codec.height,
                "codec": stream.codec.codec.canonical_name,
                "digest": content_digest(task.path),
            }
        finally:
            stream.close()
    if duration <= 0:
        raise DecodeError(task.path, "no frame: its length is 0 seconds")
    if task.verify:
        yield _decoded_size(task.path, duration)


def _decoded_size(path: str, duration: Fraction) -> dict:
    """Decodes the first, middle and last frame by the rules of training."""
    from mvit_train.data.decode import DecodedVideo  # here, for it loads torch, which seconds of a start go into

    with DecodedVideo(path, num_frames=1) as video:
        last = max(duration - 1 / video.fps, Fraction(0))
        clips = video.get_clips([(time, time) for time in (Fraction(0), last / 2, last)])
    height, width = clips[0].shape[-2:]  # (3, 1, H, W), upright
    return {"width": width, "height": height}


def _image(task: Task) -> Iterator[dict]:
    if task.size == 0:
        raise DecodeError(task.path, "empty file")
    strict = {"err_detect": "explode"}  # a truncated JPEG is an error, not a grey half
    try:
        with as_decode_errors(task.path), av.open(f"file:{task.path}", options=READ_OPTIONS | strict) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            yield {
                "num_frames": 1,
                "width": codec.width,
                "height": codec.height,
                "codec": codec.codec.canonical_name,
                "digest": content_digest(task.path),
            }
            if task.verify:
                codec.options = strict
                next(container.decode(stream))
    except (StopIteration, IndexError, FFmpegError) as error:
        raise DecodeError(task.path, "not an image, or damaged") from error
