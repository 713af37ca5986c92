"""What `task=doctor` says about a data set: its manifests and classes, and a sample of its videos."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import comb
from statistics import mean, median

import torch

from mvit_train.checkup.findings import Finding, failure, named, ok, warning
from mvit_train.checkup.sample import MANY_PACKETS, Reading
from mvit_train.data.manifest import Manifest, Split

SAMPLED: dict[Split, int] = {"train": 24, "val": 8}
IMBALANCE = 20  # times as many videos in the largest class as in the smallest
SURE = 0.05  # a sample so unlikely, were the limit kept, shows that it is not


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """What our modules log meanwhile, for the screen instead of between its lines."""
    texts: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger, handler = logging.getLogger("mvit_train"), Collect(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def manifests(splits: Mapping[Split, Manifest]) -> Iterator[Finding]:
    """Sizes, classes and what is odd about them."""
    train, val = splits["train"], splits["val"]
    labels, counts = train.labels, {split: videos_of_classes(manifest) for split, manifest in splits.items()}
    per_class = counts["train"]
    yield ok(
        f"{len(train)} training and {len(val)} validation videos of {len(labels)} classes, below {train.root}; "
        f"fingerprints {train.fingerprint}, {val.fingerprint}"
    )
    known = labels.known() or f"no published one ({labels.fingerprint})"
    yield ok(f"training videos a class: {_range(per_class, labels.names)}; the class list is {known}")
    if doubt := labels.doubt():
        yield warning(doubt)
    if len(labels) < 2:
        yield failure(
            f"a single class, {labels.names[0]}: there is nothing to learn; is data.root one folder too deep?"
        )
    seen, tested = per_class > 0, counts["val"] > 0
    for rows, text in (
        (~seen & tested, "validated but have no training video, and are always wrong"),
        (~seen & ~tested, "in the class list have no video at all"),
        (seen & ~tested, "trained but have no validation video"),
    ):
        if rows.any():
            names = named(labels.names[i] for i in rows.nonzero().flatten().tolist())
            yield warning(f"{int(rows.sum())} of {len(labels)} classes {text}: {names}")
    if seen.any() and (least := int(per_class[seen].min())) * IMBALANCE < (most := int(per_class.max())):
        yield warning(f"the largest class has {most / least:.0f} times the videos of the smallest")
    if both := in_both(train, val):
        yield warning(f"in both splits, so that the score is too high: {len(both)} videos ({named(both)})")


def _range(per_class: torch.Tensor, names: Sequence[str]) -> str:
    fewest, most = int(per_class.argmin()), int(per_class.argmax())
    if per_class[fewest] == per_class[most]:
        return str(int(per_class[most]))
    return f"{per_class[fewest]} ({names[fewest]}) to {per_class[most]} ({names[most]})"


def videos_of_classes(manifest: Manifest) -> torch.Tensor:
    """(K,) how many videos each class has."""
    targets = manifest.target_tensor()
    return targets.sum(0) if targets.ndim == 2 else torch.bincount(targets, minlength=len(manifest.labels))


def in_both(train: Manifest, val: Manifest) -> list[str]:
    """Paths that occur in both splits, however they are written; parts of one file are videos of their own."""

    def videos(manifest: Manifest) -> Iterator[tuple[str, object]]:
        for i, path in enumerate(manifest.paths):
            yield os.path.normpath(os.path.join(manifest.root, path)), manifest.span(i)

    known = set(videos(train))
    return [path for path, manifest_path in zip(val.paths, videos(val), strict=True) if manifest_path in known]


def sampled(
    readings: Sequence[Reading],
    splits: Mapping[Split, Manifest],
    *,
    max_unreadable: float,
    clip_sec: float | None,
    crop_size: int,
    num_frames: int,
) -> Iterator[Finding]:
    """What a sample tells about the whole: what cannot be read, what is short or small, the rates and the work.

    clip_sec: what a clip spans, None where it spans the video.
    """
    for split, manifest in splits.items():
        of_split = [reading for reading in readings if reading.split == split]
        yield from unreadable(of_split, split, len(manifest), max_unreadable)
    good = [reading for reading in readings if reading.reason is None and reading.fps is not None]
    if not good:
        return
    rates = Counter(f"{reading.fps:.4g}" for reading in good if reading.fps)
    sides = [reading.short_side or 0 for reading in good]
    durations = [reading.duration_sec or 0.0 for reading in good]
    decoded = mean(reading.packets[1] for reading in good if reading.packets)
    prepare = " (about 2 a frame in prepared files: python -m data_prep.videos prepare)"
    yield ok(
        f"frames per second {', '.join(f'{rate} ({n})' for rate, n in rates.most_common(3))}; "
        f"{min(durations):.1f} to {max(durations):.1f} s; short side {min(sides)} to {max(sides)}, median "
        f"{median(sides):.0f}; {decoded:.0f} packets decoded for a clip of {num_frames} frames"
        + prepare
        * (decoded > MANY_PACKETS * num_frames)
    )
    short = [reading.path for reading in good if clip_sec and (reading.duration_sec or 0) < clip_sec]
    if short:
        yield warning(
            f"shorter than a clip ({clip_sec:.2f} s), so that the last frame repeats: {len(short)} of {len(good)} "
            f"sampled ({named(map(os.path.basename, short))})"
        )
    small = [reading.path for reading in good if (reading.short_side or 0) < crop_size]
    if small:
        yield warning(
            f"smaller than the crop (clip.crop_size={crop_size}), so that they are scaled up: {len(small)} of "
            f"{len(good)} sampled ({named(map(os.path.basename, small))})"
        )


def unreadable(readings: Sequence[Reading], split: Split, num_videos: int, max_unreadable: float) -> Iterator[Finding]:
    """Names what cannot be read. Training stops past module.max_unreadable of its videos; validation goes on."""
    bad = [reading for reading in readings if reading.reason is not None]
    what = "training" if split == "train" else "validation"
    if not bad:
        yield ok(f"{len(readings)} sampled {what} videos: all can be read")
        return
    reasons = named(f"{os.path.basename(reading.path)} ({reading.reason})" for reading in bad)
    text = f"{len(bad)} of {len(readings)} sampled {what} videos cannot be read: {reasons}"
    if split == "val":
        yield warning(f"{text}; they are reported as failed beside every score")
        return
    limit = f"module.max_unreadable={max_unreadable:g} allows {max_unreadable * num_videos:g} of {num_videos}"
    if len(bad) > max_unreadable * num_videos or chance_of(len(bad), len(readings), max_unreadable) < SURE:
        yield failure(f"{text}; {limit}, then training stops: remove them from the data, or raise it")
    else:
        yield warning(f"{text}; {limit}: the sample is too small to say whether they are more")


def chance_of(bad: int, sampled: int, share: float) -> float:
    """Of finding so many or more by chance, were `share` of all videos unreadable: 2 of 24 at 0.01 -> 0.024."""
    return sum(comb(sampled, k) * share**k * (1 - share) ** (sampled - k) for k in range(bad, sampled + 1))
