"""Does a model look at time? Its accuracy when the frames of a clip are shuffled, jumbled, reversed or frozen.

A model that scores the same on shuffled frames recognises scenes, not motion (MViT, arXiv 2104.11227, Table 9:
shuffling costs MViT-B 7.1 points of K400 top-1, 77.2 -> 70.1, and ViT-B 0.1).
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import torch
from torch import LongTensor, Tensor

from mvit_train.schema import FrameOrder

CARD_ORDERS: tuple[FrameOrder, ...] = get_args(FrameOrder)
FRAME_ORDERS: tuple[FrameOrder, ...] = ("forward", "shuffle", "reverse", "freeze")
SHUFFLES: tuple[FrameOrder, ...] = ("shuffle", "shuffle_2", "shuffle_3")
ONE_SET: tuple[FrameOrder, ...] = (*SHUFFLES, "jumble_2", "jumble_4", "reverse")
"""Orders that show every frame once: a model that takes no account of the order scores as forward in each of them."""


def frame_orders(asked: str | Sequence[str], num_frames: int) -> tuple[FrameOrder, ...]:
    """The orders to evaluate: those named, "all" for FRAME_ORDERS, or "card" for all that clips of this length have.

    One frame has one order: "all" and "card" are then ("forward",). ValueError for a named order that is unknown or
    that such clips do not have.
    """
    if asked == "all":
        return FRAME_ORDERS if num_frames > 1 else ("forward",)
    if asked == "card":
        return tuple(order for order in CARD_ORDERS if num_frames > 1 and not _obstacle(order, num_frames)) or (
            "forward",
        )
    named = (asked,) if isinstance(asked, str) else tuple(dict.fromkeys(asked))
    if not named:
        raise ValueError("frame_order=[] names no order of frames")
    for order in named:
        if num_frames == 1 and order in CARD_ORDERS and order != "forward":
            raise ValueError(f"frame_order={order}: a clip of clip.num_frames=1 has no order of frames")
        if obstacle := _obstacle(order, num_frames):
            raise ValueError(f"frame_order={order}: {obstacle}")
    return cast(tuple[FrameOrder, ...], named)


def frame_permutation(order: str, num_frames: int, video_id: str, clip_index: int) -> LongTensor:
    """(T,) frame indices that put a clip into the given order.

    What is drawn depends on the order, the video and the clip alone: the crops of a clip share it, and so do all runs
    and machines. `freeze` repeats the middle frame, `half_rate` holds every second frame twice, `jumble_2` permutes
    blocks of 2 consecutive frames, never into their own order; the order within a block stays.
    4 frames: forward 0 1 2 3, reverse 3 2 1 0, freeze 2 2 2 2, half_rate 0 0 2 2, jumble_2 2 3 0 1.
    """
    if obstacle := _obstacle(order, num_frames):
        raise ValueError(f"frame order {order!r} {obstacle}" if order not in CARD_ORDERS else f"{order}: {obstacle}")
    frames = torch.arange(num_frames)
    if order in SHUFFLES:
        frames = torch.randperm(num_frames, generator=_generator(order, video_id, clip_index))
    elif order in BLOCKS:
        blocks, generator = frames.view(-1, BLOCKS[order]), _generator(order, video_id, clip_index)
        kept = frames[: len(blocks)]
        while torch.equal(places := torch.randperm(len(blocks), generator=generator), kept):
            pass
        frames = blocks[places].flatten()
    elif order == "reverse":
        frames = frames.flip(0)
    elif order == "freeze":
        frames = torch.full_like(frames, num_frames // 2)
    elif order == "half_rate":
        frames = frames // 2 * 2
    return frames  # type: ignore[return-value]


BLOCKS = {"jumble_2": 2, "jumble_4": 4}  # frames in a block


def _obstacle(order: str, num_frames: int) -> str | None:
    """Why clips of so many frames do not have this order."""
    if order not in CARD_ORDERS:
        return f"is none of {', '.join(CARD_ORDERS)}"
    block = BLOCKS.get(order)
    if block and (num_frames % block or num_frames < 2 * block):
        return f"clip.num_frames={num_frames} is not two or more whole blocks of {block} frames"
    return None


def _generator(order: str, video_id: str, clip_index: int) -> torch.Generator:
    name = f"{video_id}\0{clip_index}" if order == "shuffle" else f"{video_id}\0{clip_index}\0{order}"
    return torch.Generator().manual_seed(zlib.crc32(name.encode(errors="surrogateescape")))


def reorder(video: Tensor, order: str, video_id: str, clip_index: Sequence[int] | Tensor) -> Tensor:
    """The views of one video, (V, 3, T, S, S), with the frames of each in the given order; view v is of
    clip `clip_index[v]`."""
    clips = [int(clip) for clip in clip_index]
    if len(clips) != len(video):
        raise ValueError(f"{video_id}: {len(video)} views but {len(clips)} clip indices")
    num_frames = video.shape[2]
    return torch.stack(
        [
            view[:, frame_permutation(order, num_frames, video_id, clip).to(video.device)]
            for view, clip in zip(video, clips, strict=True)
        ]
    )


def time_report(confusions: Mapping[str, Tensor], class_names: Sequence[str]) -> dict[str, Any]:
    """Which classes turn into each other when time runs backwards, and how these fare in each frame order.

    Args:
        confusions: (K, K) counts [label, predicted] per frame order, with "forward" and "reverse" among them.

    Returns:
        {"mirrored_pairs": [[c, d], ...], "mirrored": {order: accuracy}, "other": {order: accuracy}}: class names, and
        percent of the videos of all mirrored and of all other classes; None where there are no such videos.
    """
    pairs = mirrored_pairs(confusions["forward"], confusions["reverse"])
    mirrored = torch.zeros(len(class_names), dtype=torch.bool)
    mirrored[[index for pair in pairs for index in pair]] = True
    return {
        "mirrored_pairs": [[class_names[c], class_names[d]] for c, d in pairs],
        "mirrored": {order: _accuracy(table, mirrored) for order, table in confusions.items()},
        "other": {order: _accuracy(table, ~mirrored) for order, table in confusions.items()},
    }


def mirrored_pairs(forward: Tensor, reverse: Tensor) -> list[tuple[int, int]]:
    """Pairs c < d of which more than half the videos change sides in reverse: c is called d, and d is called c.

    Two classes that most videos confuse when played forward already are a mistake of the model or of the labels, not
    each other's mirror image. A class has at most one mirror image, since only one class can have more than half.
    """
    turned = 2 * reverse > reverse.sum(dim=1, keepdim=True)  # (K, K): most videos of c are called d
    confused = 2 * forward > forward.sum(dim=1, keepdim=True)
    turned &= ~confused
    return [(c, d) for c, d in (turned & turned.T).nonzero().tolist() if c < d]


def time_sentence(report: Mapping[str, Any]) -> str:
    """The report in words: "2 mirrored classes: forward 97 %, reverse 3 %; the other classes: forward 90 %, ..."."""

    def accuracies(group: Mapping[str, float | None]) -> str:
        return ", ".join(f"{order} {value:.0f} %" for order, value in group.items() if value is not None)

    count = 2 * len(report["mirrored_pairs"])
    mirrored = accuracies(report["mirrored"])
    other = accuracies(report["other"])
    if not count:
        return f"no two classes turn into each other in reverse; all classes: {other}"
    sentence = f"{count} mirrored classes: {mirrored}"
    return f"{sentence}; the other classes: {other}" if other else sentence


def paired_change(right: Tensor, right_forward: Tensor) -> tuple[float, float]:
    """Change of an accuracy against forward on the same videos, and the half width of its 95 % interval, in points.

    right, right_forward: (N,) bool. The pairing counts: videos right both times or wrong both times have no variance.
    """
    change = right.double() - right_forward.double()  # (N,) in {-1, 0, 1}
    half_width = 1.96 * change.std(correction=0) / len(change) ** 0.5
    return 100 * change.mean().item(), 100 * half_width.item()


def _accuracy(table: Tensor, classes: Tensor) -> float | None:
    videos = int(table[classes].sum())
    return 100 * int(table.diagonal()[classes].sum()) / videos if videos else None
