"""A map-style view over PyTorchVideo's labelled videos: a known length, any order, every failure accounted for.

PyTorchVideo's dataset is an iterator that ignores seeds, drops broken videos silently and gives ranks unequal counts.
Here it is built by its public constructor, the one that `pytorchvideo.data.Kinetics` calls, with our clip samplers,
transforms and video path handler, and read by index instead of iterated. What comes out for (seed, epoch, index)
depends on nothing else.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import chain
from typing import Any, TypedDict, cast

import numpy as np
import torch
from pytorchvideo.data import LabeledVideoDataset
from pytorchvideo.data.clip_sampling import ClipSampler
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler

from mvit_train.data.corruptions import Corruption
from mvit_train.data.decode import DecodeError, PathHandler
from mvit_train.data.erasing import Erasure, RandomErasing
from mvit_train.data.manifest import Manifest
from mvit_train.data.sampler import EpochIndex
from mvit_train.data.transforms import TestCrops, resize_short_side
from mvit_train.data.views import FrameSampler, Seconds, clip_times
from mvit_train.data.worker import Place

Transform = Callable[[dict[str, Any]], dict[str, Any]]
Failure = tuple[int, str]  # video index, reason

MAX_SUBSTITUTES = 100


class Item(TypedDict):
    """One training clip, or all views of one test video; `failures` names the videos that could not be read for it.

    A clip that is to be augmented on the training device comes as it was decoded, with what was drawn for each copy.
    """

    video: Tensor | list[Tensor]  # uint8 (V, 3, T, S, S), or to be augmented: (3, T, H, W) each
    drawn: list[list[Any]]  # for each video to be augmented, the plans of its copies
    erasures: list[Erasure | None]  # V, for after the normalisation; empty where nothing is ever erased
    label: Tensor  # int64 (V,), or float32 (V, K) of zeros and ones where a video may have several
    video_index: Tensor  # (V,)
    view_index: Tensor  # (V,), clip * crops + crop
    failures: list[Failure]


class Batch(Item):
    """`Item`s laid end to end: V is then the number of clips in the batch, B."""


class LabelledVideos(Sequence[tuple[str, dict[str, Any]]]):
    """A manifest in PyTorchVideo's form, made row by row when asked for: a list of a million takes half a gigabyte."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._root = f"{manifest.root}/"

    def __len__(self) -> int:
        return len(self._manifest)

    def __getitem__(self, index: Any) -> Any:
        path, target = self._manifest.paths[index], self._manifest.target(index)
        label = target if self._manifest.multi_label else target[0]
        return path if path.startswith("/") else self._root + path, {"label": label, "span": self._manifest.span(index)}


class KineticsView(Dataset):
    """Reads a PyTorchVideo dataset by index; its three private names are the same in 0.1.5 and its main."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        clip_sampler: ClipSampler | FrameSampler,
        num_frames: int,
        transform: Transform,
        seed: int = 0,
    ) -> None:
        self.manifest, self.num_frames, self.seed = manifest, num_frames, seed
        self.condemned: dict[int, str] = {}  # by the loader: videos that a worker hung or died at
        self.place: Place | None = None  # where a worker says what it reads
        self.handler = PathHandler(num_frames)
        self.kinetics: Any = LabeledVideoDataset(
            cast(Any, LabelledVideos(manifest)), cast(Any, clip_sampler), SequentialSampler, transform, False
        )
        self.kinetics.video_path_handler = self.handler
        self.videos = self.kinetics._labeled_videos

    def __len__(self) -> int:
        return len(self.videos)

    def name(self, video: int) -> str:
        return self.videos[video][0]

    def read(self, index: int, rng: np.random.Generator) -> list[Tensor]:
        """All clips that the clip sampler asks for, from one opening of the video: uint8 (3, T, H, W) each."""
        path, info = self.videos[index]
        if index in self.condemned:
            raise DecodeError(path, self.condemned[index])
        if self.manifest.leads_out(path):
            raise DecodeError(path, "a link that leads out of data.root and data.also_from")
        if self.place is not None:
            self.place.begin(index)
        with self.handler.video_from_path(path) as video:
            start, duration = _part(path, info["span"], video.duration)
            times = clip_times(
                self.kinetics._clip_sampler,
                duration=duration,
                fps=video.fps,
                num_frames=self.num_frames,
                rng=rng,
                annotation=info,
            )
            if info["span"]:  # what lies outside is another video
                latest = max(duration - 1 / video.fps, Fraction(0))
                times = [[start + min(time, latest) for time in clip] for clip in times]
            return video.get_frames(times)

    def views(self, clips: Sequence[Tensor], rng: np.random.Generator) -> Tensor:
        """uint8 (V, 3, T, S, S): what the transform makes of the clips."""
        made = [self.kinetics._transform({"video": clip, "rng": rng})["video"] for clip in clips]
        return torch.cat(made)  # clips of (crops, 3, T, S, S) -> (V, 3, T, S, S)

    def item(self, index: int, video: Tensor | list[Tensor], failures: Sequence[Failure], count: int = 0) -> Item:
        """`count`: views, where `video` does not show it."""
        count = count or len(video)
        return {
            "video": video,
            "drawn": [],
            "erasures": [],
            "label": self._label(index).expand(count, *[-1] * self.manifest.multi_label),
            "video_index": torch.full((count,), index),
            "view_index": torch.arange(count),
            "failures": list(failures),
        }

    def _label(self, index: int) -> Tensor:
        """The class index, or one number for every class: 1 where it applies, else 0."""
        target = list(self.manifest.target(index))
        if not self.manifest.multi_label:
            return torch.tensor(target[0])
        label = torch.zeros(len(self.manifest.labels))
        label[target] = 1
        return label


def _part(path: str, span: tuple[float, float] | None, duration: Seconds) -> tuple[Fraction, Fraction]:
    """Start and length of the part of the file that is the video."""
    if span is None:
        return Fraction(0), Fraction(duration)
    start = Fraction(span[0])
    end = Fraction(span[1]) if span[1] < duration else Fraction(duration)  # the end may be infinite
    if start >= end:
        raise DecodeError(path, f"its part from {span[0]:g} s on lies outside, it lasts {float(duration):.3f} s")
    return start, end - start


class TrainClips(KineticsView):
    """One random clip a video, `repeats` times. A video that cannot be read is replaced by another one, the same in
    every run.

    Args:
        repeats: copies of each clip, each augmented with other chances (repeated augmentation).
        erasing: drawn here, applied after the normalisation.
        on_device: leaves the augmentation to the training device; what is drawn stays the same.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        repeats: int = 1,
        erasing: RandomErasing | None = None,
        on_device: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(manifest, **arguments)
        self.repeats, self.erasing, self.on_device = repeats, erasing, on_device

    def __getitem__(self, epoch_index: EpochIndex) -> Item:
        epoch, asked = epoch_index
        failures: list[Failure] = []
        for attempt in range(MAX_SUBSTITUTES):
            rng = np.random.default_rng([self.seed, epoch, asked, attempt])
            index = asked if attempt == 0 else int(rng.integers(len(self)))
            try:
                (clip,) = self.read(index, rng)
            except DecodeError as error:
                failures.append((index, error.reason))
            else:
                return self.augmented(index, clip, rng, failures)
        listed = "\n  ".join(f"{self.videos[i][0]}: {reason}" for i, reason in failures[:10])
        raise ValueError(f"{MAX_SUBSTITUTES} videos in a row cannot be read, first\n  {listed}")

    def augmented(self, index: int, clip: Tensor, rng: np.random.Generator, failures: Sequence[Failure]) -> Item:
        """The copies of one clip, (3, T, H, W), or the clip and what is to be made of it."""
        transform = self.kinetics._transform
        if self.on_device:
            plans = [transform.draw((clip.shape[-2], clip.shape[-1]), rng) for _ in range(self.repeats)]
            item = self.item(index, [clip], failures, count=self.repeats)
            item["drawn"] = [plans]
        else:
            item = self.item(index, self.views([clip] * self.repeats, rng), failures)
        if self.erasing is not None:
            side = transform.crop_size
            item["erasures"] = [self.erasing.draw((side, side), rng) for _ in range(self.repeats)]
        return item


class TestViews(KineticsView):
    """All test views of a video. A video that cannot be read yields no view and one failure; it is never replaced.

    Args:
        corruption: done to each clip once it is scaled, before its crops are cut out.
    """

    __test__ = False  # not a pytest class

    def __init__(
        self, manifest: Manifest, *, transform: TestCrops, corruption: Corruption | None = None, **arguments: Any
    ) -> None:
        super().__init__(manifest, transform=transform, **arguments)
        self.crops, self.corruption = transform, corruption

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng(0)  # tests draw nothing
        try:
            clips = self.read(index, rng)
        except DecodeError as error:
            return self.item(index, torch.empty(0, dtype=torch.uint8), [(index, error.reason)])
        if self.corruption is not None:
            scaled = [resize_short_side(clip, self.crops.short_side, self.crops.interpolation) for clip in clips]
            path = self.manifest.paths[index]
            clips = [self.corruption(clip, path, number) for number, clip in enumerate(scaled)]
        return self.item(index, self.views(clips, rng), [])


def collate(items: Sequence[Item]) -> Batch:
    """Lays the views of all readable videos end to end and joins their failures."""
    readable = [item for item in items if len(item["video"])] or items[:1]
    videos = [item["video"] for item in readable]
    return {
        "video": list(chain.from_iterable(videos)) if readable[0]["drawn"] else torch.cat(cast(list[Tensor], videos)),
        "drawn": [plans for item in readable for plans in item["drawn"]],
        "erasures": [erasure for item in readable for erasure in item["erasures"]],
        "label": torch.cat([item["label"] for item in readable]),
        "video_index": torch.cat([item["video_index"] for item in readable]),
        "view_index": torch.cat([item["view_index"] for item in readable]),
        "failures": [failure for item in items for failure in item["failures"]],
    }
