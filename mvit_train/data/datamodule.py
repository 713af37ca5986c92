"""Videos to batches: finds the splits, builds the loaders, gives every rank its share."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning import LightningDataModule
from pytorchvideo.data.clip_sampling import ClipSampler
from torch.utils.data import DataLoader

from mvit_train.data.built_in import BuiltInSet
from mvit_train.data.corruptions import Corruption
from mvit_train.data.dataset import TestViews, TrainClips, collate
from mvit_train.data.erasing import RandomErasing
from mvit_train.data.loader import ResilientLoader
from mvit_train.data.manifest import Manifest, Split, read_splits
from mvit_train.data.sampler import EpochShuffle, Shard
from mvit_train.data.transforms import ClipTransform, Interpolation, TestCrops
from mvit_train.data.views import TARGET_FPS, Count, FrameSampler, Sampling, Views, clip_sampler
from mvit_train.labels import Labels


def cache_folder() -> Path:
    """Where built-in videos are kept: $MVIT_TRAIN_CACHE, else mvit_train in the user's cache folder."""
    if chosen := os.environ.get("MVIT_TRAIN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvit_train"


class VideoDataModule(LightningDataModule):
    """Loaders for training (one random clip a video) and testing (all views of a video).

    Args:
        root: folder with the videos: manifests `train.csv` and `val.csv`, or class folders (see `read_splits`).
        also_from: further folders that manifests in `root` may name files of.
        built_in: the videos or images to make and use while `root` is not set.
        num_frames, sampling_rate: a clip spans num_frames * sampling_rate frames at `target_fps`.
        crop_size: side of the square crop.
        transform: what training makes of a clip.
        erasing: what training erases from the normalised clip.
        augment_on: where `transform` is applied: on the "cpu", by the decoding processes, or on the "gpu" that trains,
            to which clips then go as they were decoded. Both give the same clips.
        batch_size: clips per process and training step, repeats included.
        eval_batch_size: clips per process and forward pass in evaluation.
        sampling: how frames are chosen (`mvit_train.data.views`): "window", evenly from a span of time (Kinetics);
            "dense", every sampling_rate-th frame (Charades); "segment", one from each part of the whole video
            (Something-Something).
        target_fps: the rate at which frames are counted; null: each video's own.
        count: whether the clips of a test by windows start at whole "frames", as in SlowFast, or at exact "seconds".
        interpolation: of the frames of a test; that of training is a matter of `transform`.
        repeats: augmented copies of each training clip, from one decoding, side by side in the batch.
        classes: for a pilot run, the classes to keep: names, or how many, the first ones.
        max_videos_per_class: for a pilot run, videos to keep of each class in either split.
        balance_classes: training sees equally many videos of each class, an epoch being as long as without.
        flip_left_right: flips also where class names tell left from right; otherwise training does not.
        num_workers: decoding processes.
        timeout_sec: a process that reads one video for longer is killed, and the video taken for unreadable.
        seed: decides the order, the windows and the crops.
    """

    def __init__(
        self,
        *,
        root: Path | None,
        also_from: Path | list[Path] | None = None,
        built_in: BuiltInSet | None = None,
        num_frames: int,
        sampling_rate: int,
        crop_size: int,
        transform: ClipTransform,
        batch_size: int,
        eval_batch_size: int,
        sampling: Sampling = "window",
        target_fps: float | None = TARGET_FPS,
        count: Count = "frames",
        interpolation: Interpolation = "bilinear",
        repeats: int = 1,
        erasing: RandomErasing | None = None,
        augment_on: Literal["cpu", "gpu"] = "cpu",
        classes: list[str] | int | None = None,
        max_videos_per_class: int | None = None,
        balance_classes: bool = False,
        flip_left_right: bool = False,
        num_workers: int = 2,
        timeout_sec: float = 120.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "repeats": repeats}
        pilot = {"classes": classes, "max_videos_per_class": max_videos_per_class}
        for name, value in (counts | pilot).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"data.{name} is {value}, it must be at least 1")
        for name, value in (("timeout_sec", timeout_sec), ("target_fps", target_fps)):
            if value is not None and value <= 0:
                raise ValueError(f"data.{name} is {value:g}, it must be more than 0")
        if batch_size % repeats:
            raise ValueError(f"data.batch_size={batch_size} clips cannot be made of videos with {repeats} repeats each")
        self.root, self.built_in = root, built_in
        self.also_from = also_from if isinstance(also_from, list) else [also_from] if also_from else []
        self.num_frames, self.sampling_rate, self.crop_size = num_frames, sampling_rate, crop_size
        self.transform, self.erasing, self.augment_on = transform, erasing, augment_on
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.sampling: Sampling = sampling
        self.count: Count = count
        self.target_fps = target_fps
        self.interpolation: Interpolation = interpolation
        self.repeats, self.classes, self.max_videos_per_class = repeats, classes, max_videos_per_class
        self.balance_classes, self.flip_left_right = balance_classes, flip_left_right
        self.num_workers, self.timeout_sec, self.seed = num_workers, timeout_sec, seed
        self.test_views = Views(1, 1)
        self.corruption: Corruption | None = None  # of the test
        self._splits: dict[Split, Manifest] | None = None
        self._condemned: dict[Split, dict[int, str]] = {"train": {}, "val": {}}  # known to all loaders of a split

    def __getstate__(self) -> dict[str, Any]:
        """Without the trainer, which a process that reads for this one neither needs nor could always be given."""
        return self.__dict__ | {"trainer": None}

    @classmethod
    def check_arguments(cls, arguments: dict) -> dict[str, str]:
        """Mistakes that only the file system shows; see `config.check`."""
        root, others = arguments.get("root"), arguments.get("also_from") or []
        if absent := [place for place in (others if isinstance(others, list) else [others]) if not place.is_dir()]:
            return {"also_from": f"{absent[0]} is not a folder"}
        if root is None:
            return {} if arguments.get("built_in") else {"root": "is not set; name the folder with your videos"}
        return {} if Path(root).is_dir() else {"root": f"{root} is not a folder"}

    @property
    def splits(self) -> dict[Split, Manifest]:
        """Both splits; makes the built-in videos on first use."""
        if self._splits is None:
            self._splits = self._pilot(self._read())
        return self._splits

    def _read(self) -> dict[Split, Manifest]:
        if self.root is not None:
            return read_splits(self.root, self.also_from)
        assert self.built_in is not None
        folder = cache_folder() / self.built_in.folder_name
        self.built_in(folder)
        return read_splits(folder)

    def _pilot(self, splits: dict[Split, Manifest]) -> dict[Split, Manifest]:
        """The classes and videos of a pilot run; everything where none is asked for."""
        if self.classes is not None:
            names = splits["train"].labels.names
            chosen = names[: self.classes] if isinstance(self.classes, int) else self.classes
            splits = {split: manifest.only(chosen) for split, manifest in splits.items()}
        if self.max_videos_per_class is not None:
            splits = {split: manifest.capped(self.max_videos_per_class) for split, manifest in splits.items()}
        if empty := [split for split, manifest in splits.items() if not len(manifest)]:
            raise ValueError(f"data.classes={self.classes} leaves no video in the {empty[0]} split")
        return splits

    def use_labels(self, labels: Labels) -> None:
        """From now on targets count in this class list, matched by name. ValueError if the data has other classes."""
        self._splits = {split: manifest.relabelled(labels) for split, manifest in self.splits.items()}

    @property
    def labels(self) -> Labels:
        return self.splits["train"].labels

    @property
    def multi_label(self) -> bool:
        """Whether a video may show several classes, or none."""
        return self.splits["train"].multi_label

    @property
    def clips_per_step(self) -> int:
        """Clips that one training step takes over all processes."""
        return self.batch_size * self._world_size

    @property
    def steps_per_epoch(self) -> int:
        return self._train_sampler().num_steps

    def first_step(self, seen: int) -> int:
        """The batch at which an epoch goes on of which so many videos were taken over all processes."""
        return self._train_sampler().first_step(seen)

    def train_dataloader(self) -> DataLoader:
        dataset = TrainClips(
            self.splits["train"],
            clip_sampler=self.clip_sampler(None),
            num_frames=self.num_frames,
            transform=self.transform,
            repeats=self.repeats,
            erasing=self.erasing,
            on_device=self.augment_on == "gpu",
            seed=self.seed,
        )
        dataset.condemned = self._condemned["train"]
        return self._loader(dataset, self._train_sampler(), self.batch_size // self.repeats)

    def val_dataloader(self) -> DataLoader:
        return self._test_loader(Views(1, 1))

    def test_dataloader(self) -> DataLoader:
        return self._test_loader(self.test_views, corruption=self.corruption)

    def centre_loader(self, split: Split, max_videos: int | None = None) -> DataLoader:
        """This rank's share of one central view of the videos of a split, or of some drawn by `seed`."""
        videos = range(len(self.splits[split]))
        if max_videos is not None and max_videos < len(videos):
            chosen = np.random.default_rng(self.seed).permutation(len(videos))[:max_videos]
            videos = sorted(chosen.tolist())
        return self._test_loader(Views(1, 1), split, videos)

    def _test_loader(
        self,
        views: Views,
        split: Split = "val",
        videos: Sequence[int] | None = None,
        corruption: Corruption | None = None,
    ) -> DataLoader:
        dataset = TestViews(
            self.splits[split],
            clip_sampler=self.clip_sampler(views.clips),
            num_frames=self.num_frames,
            transform=TestCrops(self.crop_size, views.crops, self.interpolation),
            corruption=corruption,
        )
        dataset.condemned = self._condemned[split]
        videos = range(len(dataset)) if videos is None else videos
        if len(videos) < self._world_size:  # Lightning would leave out the whole loop, and its collectives
            raise ValueError(
                f"{len(videos)} videos of the {split} split cannot be shared by {self._world_size} processes: set "
                f"trainer.devices to {len(videos)} or less"
            )
        sampler = Shard(videos, rank=self._rank, world_size=self._world_size)
        return self._loader(dataset, sampler, max(self.eval_batch_size // (views.clips * views.crops), 1))

    def clip_sampler(self, num_clips: int | None) -> ClipSampler | FrameSampler:
        """Where the clips of a video lie: `num_clips` of them in a test; None: one at random, for training."""
        return clip_sampler(
            self.sampling,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            num_clips=num_clips,
            target_fps=self.target_fps,
            count=self.count,
        )

    def _loader(self, dataset, sampler, batch_size: int) -> DataLoader:
        return ResilientLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            timeout_sec=self.timeout_sec,
            pin_memory=self.trainer is not None and self.trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
            persistent_workers=self.num_workers > 0,
        )

    def _train_sampler(self) -> EpochShuffle:
        manifest = self.splits["train"]
        if self.balance_classes and self.multi_label:
            raise ValueError("data.balance_classes: videos of several classes cannot be balanced")
        return EpochShuffle(
            len(manifest),
            batch_size=self.batch_size // self.repeats,
            seed=self.seed,
            rank=self._rank,
            world_size=self._world_size,
            classes=manifest.target_tensor().numpy() if self.balance_classes else None,
        )

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1
