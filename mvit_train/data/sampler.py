"""Which video comes at which step, as a pure function of (seed, epoch, rank)."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

EpochIndex = tuple[int, int]


class EpochShuffle(Sampler[EpochIndex]):
    """Shuffles the videos anew in each epoch and gives every rank the same number of full batches.

    It yields (epoch, video index): the epoch travels in the index, because workers that outlive an epoch would never
    learn of it otherwise. At each step the ranks together see the batch that one process with their joint batch size
    would see. Of the last, incomplete step the epoch is relieved; a set smaller than one step is repeated to fill it.
    """

    def __init__(self, num_videos: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.num_videos, self.batch_size, self.seed = num_videos, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.num_steps = max(num_videos // (batch_size * world_size), 1)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps * self.batch_size

    def __iter__(self) -> Iterator[EpochIndex]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_videos)
        steps = np.resize(order, (self.num_steps, self.world_size, self.batch_size))
        return ((self.epoch, int(index)) for index in steps[:, self.rank].ravel())


class Shard(Sampler[int]):
    """Every world_size-th video from `rank` on: no padding, so that no video is evaluated twice."""

    def __init__(self, num_videos: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_videos, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
