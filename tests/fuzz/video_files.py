"""Small videos of many containers and codecs, and what a stranger, or a bad disk, could make of them."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.random import Generator

WIDTH, HEIGHT, NUM_FRAMES = 64, 48, 12
MAX_BYTES = 45_000  # of a real video that is mutated too

# name: container, codec, options of the encoder, options of the container
KINDS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "mp4 h264": ("mp4", "libx264", {"g": "6", "preset": "ultrafast"}, {}),
    "mp4 h264, fragments": ("mp4", "libx264", {"g": "6"}, {"movflags": "frag_keyframe+empty_moov"}),
    "mp4 h265": ("mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}, {}),
    "mp4 mpeg4": ("mp4", "mpeg4", {"g": "6", "bf": "2"}, {}),
    "mov mjpeg": ("mov", "mjpeg", {}, {}),
    "matroska h264": ("matroska", "libx264", {"g": "6", "bf": "2"}, {}),
    "matroska ffv1": ("matroska", "ffv1", {}, {}),
    "webm vp8": ("webm", "libvpx", {"deadline": "realtime"}, {}),
    "webm vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}),
    "avi mpeg4": ("avi", "mpeg4", {"g": "6", "bf": "2"}, {}),
    "avi mjpeg": ("avi", "mjpeg", {}, {}),
    "mpegts h264": ("mpegts", "libx264", {"g": "6"}, {}),
    "mpeg mpeg2": ("mpeg", "mpeg2video", {"g": "6"}, {}),
    "asf wmv2": ("asf", "wmv2", {}, {}),
    "flv": ("flv", "flv1", {}, {}),
    "ogg theora": ("ogg", "libtheora", {}, {}),
    "gif": ("gif", "gif", {}, {}),
    "nut h263+": ("nut", "h263p", {}, {}),
}
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8"}
NUMBERS = (0, 1, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1)


def seed_videos(shared: Path) -> dict[str, bytes]:
    """The files that are mutated: one of each of KINDS that this FFmpeg can write, and the small ones in `shared`."""
    found: dict[str, bytes] = {}
    for name, kind in KINDS.items():
        try:
            found[name] = draw(*kind)
        except (FFmpegError, ValueError):
            continue  # an encoder that is not built in
    for file in sorted(shared.glob("*")) if shared.is_dir() else ():
        if file.suffix in (".mp4", ".mov", ".mkv", ".webm") and file.stat().st_size <= MAX_BYTES:
            found[file.name] = file.read_bytes()
    return found


def draw(container: str, codec: str, options: dict[str, str], container_options: dict[str, str]) -> bytes:
    """A moving square over a gradient."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=container_options) as output:
        stream: Any = output.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, PIXELS.get(codec, "yuv420p")
        for index in range(NUM_FRAMES):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            image[:] = np.linspace(0, 255, WIDTH, dtype=np.uint8)[None, :, None]
            image[8:24, 3 * index : 3 * index + 16] = (255, 64, 0)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


def flip_bits(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    for place in rng.integers(len(data), size=int(rng.integers(1, 30))):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def flip_header_bits(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    for place in rng.integers(min(len(data), 600), size=int(rng.integers(1, 10))):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def truncate(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    return data[: int(rng.integers(len(data)))]


def overwrite(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    """A range of zeros, ones or noise."""
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 400))
    fill = [b"\0", b"\xff", b""][int(rng.integers(3))]
    end = min(start + length, len(data))
    data[start:end] = fill * (end - start) if fill else rng.bytes(end - start)
    return data


def cut_out(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    start = int(rng.integers(len(data)))
    del data[start : start + int(rng.integers(1, 600))]
    return data


def repeat(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 600))
    data[start:start] = data[start : start + length] * int(rng.integers(1, 20))
    return data


def splice(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    """The beginning of one file and the end of another, of any kind."""
    other = others[int(rng.integers(len(others)))]
    return data[: int(rng.integers(len(data)))] + other[int(rng.integers(len(other))) :]


def set_number(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    """A length, size, count or time, if it hits one: a number with a reputation, of 1, 2, 4 or 8 bytes."""
    for _ in range(int(rng.integers(1, 4))):
        within = len(data) if rng.random() < 0.5 else min(len(data), 1000)
        place = int(rng.integers(max(within - 8, 1)))
        size, order = int(rng.choice([1, 2, 4, 8])), ["big", "little"][int(rng.integers(2))]
        number = NUMBERS[int(rng.integers(len(NUMBERS)))] % 2 ** (8 * size)
        data[place : place + size] = number.to_bytes(size, order)  # pyright: ignore[reportArgumentType]
    return data


def change_boxes(data: bytearray, rng: Generator, others: list[bytes]) -> bytearray:
    """Of MP4 and MOV: the size of a box, or the box removed, doubled or filled with another's content."""
    boxes = list(_boxes(data, 0, len(data), 0))
    if not boxes:
        return flip_header_bits(data, rng, others)
    start, end = boxes[int(rng.integers(len(boxes)))]
    kind = int(rng.integers(4))
    if kind == 0:
        number = (
            NUMBERS[int(rng.integers(len(NUMBERS)))] if rng.random() < 0.5 else end - start + int(rng.integers(-9, 9))
        )
        data[start : start + 4] = (number % 2**32).to_bytes(4, "big")
    elif kind == 1:
        del data[start:end]
    elif kind == 2:
        data[end:end] = data[start:end]
    else:
        first, last = boxes[int(rng.integers(len(boxes)))]
        data[start + 8 : end] = data[first + 8 : last]
    return data


def _boxes(data: bytearray, start: int, end: int, depth: int):
    """(start, end) of the boxes, and those within."""
    while start + 8 <= end and depth < 8:
        (size,) = struct.unpack(">I", data[start : start + 4])
        if size < 8 or start + size > end or not bytes(data[start + 4 : start + 8]).isalnum():
            return
        yield start, start + size
        if bytes(data[start + 4 : start + 8]) in (
            b"moov",
            b"trak",
            b"mdia",
            b"minf",
            b"stbl",
            b"edts",
            b"moof",
            b"traf",
        ):
            yield from _boxes(data, start + 8, start + size, depth + 1)
        start += size


MUTATIONS: dict[str, Callable[[bytearray, Generator, list[bytes]], bytearray]] = {
    "bits flipped": flip_bits,
    "header bits flipped": flip_header_bits,
    "truncated": truncate,
    "range overwritten": overwrite,
    "range cut out": cut_out,
    "range repeated": repeat,
    "two files spliced": splice,
    "numbers set": set_number,
    "boxes changed": change_boxes,
}


def mutated(name: str, data: bytes, rng: Generator, others: list[bytes]) -> bytes:
    """One mutation, and now and then another on top of it."""
    changed = MUTATIONS[name](bytearray(data), rng, others)
    while rng.random() < 0.25 and changed:
        changed = list(MUTATIONS.values())[int(rng.integers(len(MUTATIONS)))](changed, rng, others)
    return bytes(changed)
