"""What the page shows of one file: its facts, the likeliest classes in every frame order, where the model looks."""

import base64
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from av.error import FFmpegError
from torch import Tensor

from mvit_train.data.stream import DecodeError, VideoStream, as_decode_errors
from mvit_train.demo.settings import Settings
from mvit_train.prediction.attention import write_attention
from mvit_train.prediction.predictor import Predictor, together
from mvit_train.prediction.reading import watched
from mvit_train.prediction.sources import is_image
from mvit_train.temporal import frame_orders

MARKED = 0.1  # of probability: a smaller change is not called one

Part = dict[str, Any]  # of an answer, as JSON


class RefusedError(Exception):
    """What the page does not answer, and why."""


class TimeLimit:
    """Ends a computation: once the time is over, the next block of the model raises RefusedError."""

    def __init__(self, model: Any, *, timeout_sec: float) -> None:
        """model: an MViT; it keeps this limit for good."""
        self.timeout_sec, self._end, self._closed = timeout_sec, float("inf"), False
        for block in model.blocks:
            block.register_forward_pre_hook(lambda *_: self.check())

    @contextmanager
    def running(self) -> Iterator[None]:
        """The time for one file."""
        self._end = time.monotonic() + self.timeout_sec
        try:
            yield
        finally:
            self._end = float("inf")

    def check(self) -> None:
        """RefusedError: the time is over, or the server stops."""
        if self._closed:
            raise RefusedError("the server is being stopped")
        if time.monotonic() > self._end:
            raise RefusedError(f"the computation took longer than {self.timeout_sec:g} s (serve.timeout_sec)")

    def close(self) -> None:
        """Ends what runs, and lets nothing new begin."""
        self._closed = True


def answer(
    predictor: Predictor, path: Path, name: str, settings: Settings, *, views: str, top_k: int
) -> Generator[Part]:
    """{"facts"}, then {"classes", "orders", "sentence", "notice"}, then {"attention"}, each as soon as it is known.

    name: of the file on the visitor's machine; as in `Predictor.scores` it decides how frames are shuffled.

    Raises:
        DecodeError, RefusedError: the file cannot be read, or is longer than `settings` allow.
    """
    data = predictor.data
    still = is_image(path)
    if not still:
        facts = next(watched(read_facts, path, timeout_sec=data.timeout_sec))
        if facts["seconds"] > settings.max_seconds:
            raise RefusedError(
                f"the video lasts {facts['seconds']:.1f} s, the limit is {settings.max_seconds:g} s (serve.max_seconds)"
            )
        yield {"facts": facts}
    orders = frame_orders("all", 1 if still else data.num_frames)
    found = predictor.scores(path, views, orders, video_id=name)
    probabilities = {order: together(table, predictor.module.ensemble) for order, table in found.items()}
    names = predictor.labels.names
    yield {
        "classes": top_classes(probabilities["forward"], found["forward"], names, top_k),
        "orders": top_of_orders(probabilities, names),
        "sentence": time_sentence(probabilities, names),
        "notice": "a still image, shown to the model as a video without motion"
        if still and data.num_frames > 1
        else "",
    }
    target = path.with_name("attention.mp4")
    write_attention(predictor.module, data, path, target, views="1x1")
    yield {"attention": base64.b64encode(target.read_bytes()).decode()}


def read_facts(path: Path) -> Iterator[Part]:
    """{"frames", "fps", "seconds", "width", "height"}, from the packets rather than the header, which may be silent.

    DecodeError: it cannot be read.
    """
    with as_decode_errors(str(path)):
        stream = VideoStream(str(path))
        num_frames = 0
        with suppress(FFmpegError):  # a damaged file has its frames up to there
            num_frames = sum(packet.size > 0 for packet in stream.packets_from_start())
        seconds = float(stream.num_ticks * stream.tick)
        width, height = stream.codec.width, stream.codec.height
        stream.close()
    if not num_frames or seconds <= 0:
        raise DecodeError(str(path), "it has no frame")
    yield {
        "frames": num_frames,
        "fps": num_frames / seconds,
        "seconds": seconds,
        "width": width,
        "height": height,
    }


def top_classes(probabilities: Tensor, views: Tensor, names: Sequence[str], k: int) -> list[Part]:
    """The k likeliest classes, and the share of the views (V, K) that take each for the likeliest."""
    chosen = probabilities.argsort(descending=True, stable=True)[:k].tolist()
    winners = views.argmax(1)
    return [
        {
            "class": names[index],
            "probability": float(probabilities[index]),
            "views": int((winners == index).sum()),
            "of": len(views),
        }
        for index in chosen
    ]


def top_of_orders(probabilities: Mapping[Any, Tensor], names: Sequence[str]) -> list[Part]:
    """The likeliest class of each frame order, and what is left of the one that the clip has played forward."""
    first = int(probabilities["forward"].argmax())
    return [
        {
            "order": order,
            "class": names[int(table.argmax())],
            "probability": float(table.max()),
            "of_forward": float(table[first]),
        }
        for order, table in probabilities.items()
    ]


def time_sentence(probabilities: Mapping[Any, Tensor], names: Sequence[str]) -> str:
    """Whether the model used time on this clip, in a sentence; "" where there is nothing to compare forward with.

    A change is another likeliest class, or MARKED less probability for the one of forward.
    """
    if len(probabilities) == 1:
        return ""
    first = int(probabilities["forward"].argmax())
    before, name = float(probabilities["forward"][first]), names[first]
    changed = {
        order: int(table.argmax()) != first or before - float(table[first]) >= MARKED
        for order, table in probabilities.items()
    }
    if changed["shuffle"] or changed["reverse"]:
        order = "shuffle" if changed["shuffle"] else "reverse"
        table = probabilities[order]
        other = names[int(table.argmax())]
        words = {"shuffle": "the same frames shuffled", "reverse": "the same frames in reverse"}[order]
        says = f"it says {other}" if other != name else f"{name} falls from {before:.0%} to {float(table[first]):.0%}"
        return f"The model used the order of the frames on this clip: with {words} {says}."
    if changed["freeze"]:
        return (
            "The model used what changes between the frames of this clip, but not their order: shuffled and reversed "
            "they give the same answer, one frame alone does not."
        )
    return (
        f"The model did not need time on this clip: one frame alone gives {name} as well, and so do the frames "
        "shuffled or reversed."
    )
