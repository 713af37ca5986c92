"""A map-style view over `pytorchvideo.data.Kinetics`: a known length, any order, every failure accounted for.

PyTorchVideo's dataset is an iterator that ignores seeds, drops broken videos silently and gives ranks unequal counts.
Here it is built by its public constructor with our clip samplers, transforms and video path handler, and read by index
instead of iterated. What comes out for (seed, epoch, index) depends on nothing else.
"""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import pytorchvideo.data
import torch
from pytorchvideo.data.clip_sampling import ClipSampler
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler

from mvit_train.data.decode import DecodeError, PathHandler
from mvit_train.data.loader import Place
from mvit_train.data.manifest import Manifest
from mvit_train.data.sampler import EpochIndex
from mvit_train.data.views import windows

Transform = Callable[[dict[str, Any]], dict[str, Any]]
Failure = tuple[int, str]  # video index, reason

MAX_SUBSTITUTES = 100


class Item(TypedDict):
    """One training clip, or all views of one test video; `failures` names the videos that could not be read for it."""

    video: Tensor  # uint8 (V, 3, T, S, S)
    label: Tensor  # (V,)
    video_index: Tensor  # (V,)
    view_index: Tensor  # (V,), clip * crops + crop
    failures: list[Failure]


class Batch(Item):
    """`Item`s laid end to end: V is then the number of clips in the batch, B."""


def kinetics(
    manifest: Manifest, clip_sampler: ClipSampler, handler: PathHandler, transform: Transform
) -> pytorchvideo.data.LabeledVideoDataset:
    """PyTorchVideo's Kinetics dataset over a manifest, decoding through our path handler."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as listing:
        listing.writelines(f"{path} {t}\n" for path, t in zip(manifest.paths, manifest.targets, strict=True))
        listing.flush()
        dataset = pytorchvideo.data.Kinetics(
            listing.name,
            clip_sampler,
            video_sampler=SequentialSampler,
            transform=transform,
            video_path_prefix=str(manifest.root),
            decode_audio=False,
        )
    dataset.video_path_handler = handler
    return dataset


class KineticsView(Dataset):
    """Reads a Kinetics dataset by index; its three private names are the same in PyTorchVideo 0.1.5 and its main."""

    def __init__(
        self, manifest: Manifest, *, clip_sampler: ClipSampler, num_frames: int, transform: Transform, seed: int = 0
    ) -> None:
        self.seed = seed
        self.condemned: dict[int, str] = {}  # by the loader: videos that a worker hung or died at
        self.place: Place | None = None  # where a worker says what it reads
        self.handler = PathHandler(num_frames)
        self.kinetics: Any = kinetics(manifest, clip_sampler, self.handler, transform)
        self.videos = self.kinetics._labeled_videos
        if len(self.videos) != len(manifest):
            raise ValueError(f"PyTorchVideo reads {len(self.videos)} videos where the manifest has {len(manifest)}")

    def __len__(self) -> int:
        return len(self.videos)

    def name(self, video: int) -> str:
        return self.videos[video][0]

    def read(self, index: int, rng: np.random.Generator) -> Tensor:
        """All clips that the clip sampler asks for, from one opening of the video: (views, 3, T, S, S)."""
        path, info = self.videos[index]
        if index in self.condemned:
            raise DecodeError(path, self.condemned[index])
        if self.place is not None:
            self.place.begin(index)
        with self.handler.video_from_path(path) as video:
            annotation = {**info, "fps": video.fps, "draw": rng.random()}
            clips = video.get_clips(windows(self.kinetics._clip_sampler, video.duration, annotation))
        views = [self.kinetics._transform({**info, "video": clip, "rng": rng})["video"] for clip in clips]
        return torch.cat(views)  # clips of (crops, 3, T, S, S) -> (V, 3, T, S, S)

    def item(self, index: int, video: Tensor, failures: Sequence[Failure]) -> Item:
        count = len(video)
        return {
            "video": video,
            "label": torch.full((count,), self.videos[index][1]["label"]),
            "video_index": torch.full((count,), index),
            "view_index": torch.arange(count),
            "failures": list(failures),
        }


class TrainClips(KineticsView):
    """One random clip a video. A video that cannot be read is replaced by another one, the same in every run."""

    def __getitem__(self, epoch_index: EpochIndex) -> Item:
        epoch, asked = epoch_index
        failures: list[Failure] = []
        for attempt in range(MAX_SUBSTITUTES):
            rng = np.random.default_rng([self.seed, epoch, asked, attempt])
            index = asked if attempt == 0 else int(rng.integers(len(self)))
            try:
                return self.item(index, self.read(index, rng), failures)
            except DecodeError as error:
                failures.append((index, error.reason))
        listed = "\n  ".join(f"{self.videos[i][0]}: {reason}" for i, reason in failures[:10])
        raise ValueError(f"{MAX_SUBSTITUTES} videos in a row cannot be read, first\n  {listed}")


class TestViews(KineticsView):
    """All test views of a video. A video that cannot be read yields no view and one failure; it is never replaced."""

    __test__ = False  # not a pytest class

    def __getitem__(self, index: int) -> Item:
        try:
            return self.item(index, self.read(index, np.random.default_rng(0)), [])
        except DecodeError as error:
            return self.item(index, torch.empty(0, dtype=torch.uint8), [(index, error.reason)])


def collate(items: Sequence[Item]) -> Batch:
    """Lays the views of all readable videos end to end and joins their failures."""
    readable = [item for item in items if len(item["video"])] or items[:1]
    return {
        "video": torch.cat([item["video"] for item in readable]),
        "label": torch.cat([item["label"] for item in readable]),
        "video_index": torch.cat([item["video_index"] for item in readable]),
        "view_index": torch.cat([item["view_index"] for item in readable]),
        "failures": [failure for item in items for failure in item["failures"]],
    }
