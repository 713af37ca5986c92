"""Videos to batches: finds the splits, builds the loaders, gives every rank its share."""

import os
from functools import cached_property
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from mvit_train.data.dataset import TestViews, TrainClips, collate
from mvit_train.data.loader import ResilientLoader
from mvit_train.data.manifest import Manifest, Split, read_splits
from mvit_train.data.motion import MotionVideos
from mvit_train.data.sampler import EpochShuffle, Shard
from mvit_train.data.transforms import RandomResizedCrop, TestCrops
from mvit_train.data.views import RandomClip, UniformClips, Views, clip_duration
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
        built_in: the videos to make and use while `root` is not set.
        num_frames, sampling_rate: a clip spans num_frames * sampling_rate frames at 30 per second.
        crop_size: side of the square crop.
        transform: the training crop.
        batch_size: clips per process and training step.
        eval_batch_size: clips per process and forward pass in evaluation.
        num_workers: decoding processes.
        timeout_sec: a process that reads one video for longer is killed, and the video taken for unreadable.
        seed: decides the order, the windows and the crops.
    """

    def __init__(
        self,
        *,
        root: Path | None,
        built_in: MotionVideos | None = None,
        num_frames: int,
        sampling_rate: int,
        crop_size: int,
        transform: RandomResizedCrop,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int = 2,
        timeout_sec: float = 120.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ValueError(f"data.{name} is {value}, it must be at least 1")
        if timeout_sec <= 0:
            raise ValueError(f"data.timeout_sec is {timeout_sec:g}, it must be more than 0")
        self.root, self.built_in = root, built_in
        self.num_frames, self.crop_size = num_frames, crop_size
        self.clip_duration = clip_duration(num_frames, sampling_rate)
        self.transform = transform
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.timeout_sec, self.seed = num_workers, timeout_sec, seed
        self.test_views = Views(1, 1)
        self._condemned: dict[Split, dict[int, str]] = {"train": {}, "val": {}}  # known to all loaders of a split

    @classmethod
    def check_arguments(cls, arguments: dict) -> dict[str, str]:
        """Mistakes that only the file system shows; see `config.check`."""
        root = arguments.get("root")
        if root is None:
            return {} if arguments.get("built_in") else {"root": "is not set; name the folder with your videos"}
        return {} if Path(root).is_dir() else {"root": f"{root} is not a folder"}

    @cached_property
    def splits(self) -> dict[Split, Manifest]:
        """Both splits; makes the built-in videos on first use."""
        if self.root is not None:
            return read_splits(self.root)
        assert self.built_in is not None
        folder = cache_folder() / self.built_in.folder_name
        self.built_in(folder)
        return read_splits(folder)

    @property
    def labels(self) -> Labels:
        return self.splits["train"].labels

    @property
    def clips_per_step(self) -> int:
        """Clips that one training step takes over all processes."""
        return self.batch_size * self._world_size

    @property
    def steps_per_epoch(self) -> int:
        return self._train_sampler().num_steps

    def train_dataloader(self) -> DataLoader:
        dataset = TrainClips(
            self.splits["train"],
            clip_sampler=RandomClip(self.clip_duration),
            num_frames=self.num_frames,
            transform=self.transform,
            seed=self.seed,
        )
        dataset.condemned = self._condemned["train"]
        return self._loader(dataset, self._train_sampler(), self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return self._test_loader(Views(1, 1))

    def test_dataloader(self) -> DataLoader:
        return self._test_loader(self.test_views)

    def _test_loader(self, views: Views) -> DataLoader:
        dataset = TestViews(
            self.splits["val"],
            clip_sampler=UniformClips(self.clip_duration, views.clips),
            num_frames=self.num_frames,
            transform=TestCrops(self.crop_size, views.crops),
        )
        dataset.condemned = self._condemned["val"]
        sampler = Shard(len(dataset), rank=self._rank, world_size=self._world_size)
        return self._loader(dataset, sampler, max(self.eval_batch_size // (views.clips * views.crops), 1))

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
        return EpochShuffle(
            len(self.splits["train"]),
            batch_size=self.batch_size,
            seed=self.seed,
            rank=self._rank,
            world_size=self._world_size,
        )

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1
