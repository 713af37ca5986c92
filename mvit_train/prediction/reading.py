"""From files to the views that a model scores, in processes that may hang or die, in bounded memory.

Views of whole videos are those of an evaluation, from its dataset and loader. The windows of a timeline and the frames
of an overlay come from one pass over all frames, however long the video is.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.multiprocessing
from av.video.frame import VideoFrame
from torch import Tensor
from torch.utils.data import SequentialSampler

from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.dataset import Batch, TestViews, collate
from mvit_train.data.image import StillImage
from mvit_train.data.loader import ResilientLoader
from mvit_train.data.manifest import Manifest
from mvit_train.data.stream import DecodeError, VideoStream, as_decode_errors
from mvit_train.data.transforms import TestCrops
from mvit_train.data.views import Views, clip_times
from mvit_train.data.walk import UnusableTimestamps, Walk
from mvit_train.labels import Labels
from mvit_train.prediction.sources import is_image

MAX_WINDOWS = 100_000  # a header can promise any length
STILL_SEC = 2.0  # how long a still image is shown
MIN_STEP_SEC = Fraction(1, 1000)  # of two frames closer to each other nobody sees the second


class Window(NamedTuple):
    """A part of a video, in seconds, and what the model sees of it: uint8 (crops, 3, T, S, S)."""

    start_sec: float
    end_sec: float
    views: np.ndarray


def evaluation_views(data: VideoDataModule, paths: Sequence[Path], views: Views, labels: Labels) -> Iterator[Batch]:
    """The test views of each file, in order: V views in `video`, or none and the reason in `failures`."""
    files = Manifest.of(Path("/"), [(str(path.absolute()), 0) for path in paths], labels)
    dataset = TestViews(
        files,
        clip_sampler=data.clip_sampler(views.clips),
        num_frames=data.num_frames,
        transform=TestCrops(data.crop_size, views.crops, data.interpolation),
    )
    loader = ResilientLoader(
        dataset,
        batch_size=1,
        sampler=SequentialSampler(range(len(paths))),
        collate_fn=collate,
        num_workers=min(data.num_workers, len(paths)),
        timeout_sec=data.timeout_sec,
    )
    yield from loader


def sliding_windows(path: Path, data: VideoDataModule, crops: int, hop_sec: float | None) -> Iterator[Window]:
    """The windows of a video, each the length of a clip and read like a video of its own, `hop_sec` (half a window)
    apart; the last one ends with the video. Every frame is decoded once, and only those of one window are kept.

    DecodeError: the video cannot be read, or not from here on.
    """
    transform = TestCrops(data.crop_size, crops, data.interpolation)
    rng = np.random.default_rng(0)  # tests draw nothing
    if is_image(path):
        with StillImage(path, num_frames=data.num_frames) as image:
            clip = image.get_frames([[Fraction(0)] * data.num_frames])[0]
        yield Window(0.0, STILL_SEC, transform({"video": clip, "rng": rng})["video"].numpy())
        return
    with _opened(path) as stream:
        duration = stream.num_ticks * stream.tick
        rate = Fraction(data.target_fps) if data.target_fps else stream.fps
        length = min(Fraction(data.num_frames * data.sampling_rate) / rate, duration)
        times = clip_times(data.clip_sampler(1), duration=length, fps=stream.fps, num_frames=data.num_frames, rng=rng)[
            0
        ]
        hop = Fraction(hop_sec) if hop_sec else length / 2
        if duration > MAX_WINDOWS * hop:
            hours = f"{float(duration / 3600):.3g} hours"
            raise DecodeError(
                str(path), f"its {hours} hold more than {MAX_WINDOWS} windows; a larger hop_sec has fewer"
            )
        starts = window_starts(duration, length, hop)
        targets = [[stream.latest_tick(start + time) for time in times] for start in starts]

        def cropped(frame: VideoFrame) -> Tensor:
            pixels = torch.from_numpy(stream.to_rgb(frame).copy()).permute(2, 0, 1)[:, None]  # (3, 1, H, W)
            return transform({"video": pixels, "rng": rng})["video"].clone()  # (crops, 3, 1, S, S)

        for start, clip in zip(starts, _clips(stream, targets, cropped), strict=True):
            yield Window(float(start), float(start + length), clip.numpy())


def window_starts(duration: Fraction, length: Fraction, hop: Fraction) -> list[Fraction]:
    """0, hop, 2 hop, ... and the last start that fits: 10 s, windows of 4 s, hop 2.5 s -> 0 2.5 5 6."""
    last = max(duration - length, Fraction(0))
    starts = [hop * i for i in range(math.floor(last / hop) + 1)] if hop else [Fraction(0)]
    return starts if starts[-1] == last else [*starts, last]


def _clips(
    stream: VideoStream, targets: Sequence[Sequence[int]], cropped: Callable[[VideoFrame], Tensor]
) -> Iterator[Tensor]:
    """For each list of ticks the frames on show at them, (crops, 3, T, S, S), as soon as the last one has come."""
    wanted, waiting = deque(sorted(set(chain.from_iterable(targets)))), deque(targets)
    images: dict[int, Tensor] = {}
    shown = None
    for tick, frame in chain(_frames(stream), [(math.inf, None)]):
        shown = shown or frame
        if shown is None:
            raise DecodeError(stream.path, "no frame can be decoded: the video is damaged or encrypted")
        if wanted and wanted[0] < tick:
            image = cropped(shown)
            while wanted and wanted[0] < tick:
                images[wanted.popleft()] = image
        while waiting and (not wanted or max(waiting[0]) < wanted[0]):
            yield torch.cat([images[target] for target in waiting.popleft()], dim=2)
            least = min(waiting[0]) if waiting else math.inf
            images = {target: image for target, image in images.items() if target >= least}
        if not waiting:
            return
        shown = frame


def upright_frames(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds from the first frame, (H, W, 3) uint8) of every frame, in the size of the first; a still image twice.

    DecodeError: the video cannot be read, or not from here on.
    """
    if is_image(path):
        with StillImage(path, num_frames=1) as image:
            picture = image.get_frames([[Fraction(0)]])[0][:, 0].permute(1, 2, 0).contiguous().numpy()
        yield from ((0.0, picture), (STILL_SEC, picture))
        return
    with _opened(path) as stream:
        first, size, last = None, (0, 0), -math.inf
        least = MIN_STEP_SEC / stream.tick
        for tick, frame in _frames(stream):
            if first is None:
                first, size = tick, (frame.width, frame.height)
            if tick >= last + least:
                last = tick
                image = stream.to_rgb(frame if (frame.width, frame.height) == size else frame.reformat(*size))
                yield float((tick - first) * stream.tick), np.ascontiguousarray(image)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[VideoStream]:
    with as_decode_errors(str(path)), contextlib.closing(VideoStream(str(path))) as stream:
        yield stream


def _frames(stream: VideoStream) -> Iterator[tuple[int, VideoFrame]]:
    """(tick from which it is on show, frame) of all frames, in order."""
    last = -math.inf
    if stream.has_timestamps:
        try:
            for last, frame in Walk(stream, stream.packets_from_start()).every_frame(stream.start):
                yield last, frame
            return
        except UnusableTimestamps:
            stream.has_timestamps = False
    for tick, frame in Walk(stream, stream.packets_from_start()).every_frame(stream.start):
        if tick > last:
            yield tick, frame


def watched(reader: Callable[..., Iterator[Any]], path: Path, *arguments: Any, timeout_sec: float) -> Iterator[Any]:
    """What `reader(path, *arguments)` yields in a process of its own, which waits while nobody asks for more.

    DecodeError: the reader's own, or the process died, or gave nothing for `timeout_sec`.
    """
    context: Any = torch.multiprocessing.get_context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, reader, path, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(timeout_sec):
                raise DecodeError(str(path), f"could not be read within {timeout_sec:g} s")
            try:
                kind, value = ours.recv()
            except (EOFError, OSError) as error:
                process.join()
                raise DecodeError(str(path), f"the process that read it died ({process.exitcode})") from error
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        process.kill()
        process.join()
        ours.close()


def _send(connection: Connection, reader: Callable[..., Iterator[Any]], path: Path, arguments: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    try:
        for value in reader(path, *arguments):
            connection.send(("value", value))
        connection.send(("end", None))
    except BrokenPipeError:
        return  # whoever asked has gone
    except Exception as error:
        connection.send(("error", error))
