"""Which video comes at which step, as a pure function of (seed, epoch, rank)."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

EpochIndex = tuple[int, int]


class EpochShuffle(Sampler[EpochIndex]):
    """Shuffles the videos anew in each epoch and gives every rank the same number of full batches.

    It yields (epoch, video index): the epoch travels in the index, because workers that outlive an epoch would never
    learn of it otherwise. At each step the ranks together see the batch that one process with their joint batch size
    would see. Of the last, incomplete step the epoch is relieved; a set smaller than one step is repeated to fill it.

    With `classes`, the class of every video, an epoch has as many videos as before, but equally many of each class:
    those of large classes take turns over the epochs, those of small ones come several times.
    """

    def __init__(
        self,
        num_videos: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        classes: np.ndarray | None = None,
    ) -> None:
        self.num_videos, self.batch_size, self.seed, self.classes = num_videos, batch_size, seed, classes
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._begun: tuple[int, int] | None = None
        self.num_steps = max(num_videos // (batch_size * world_size), 1)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    @property
    def step_size(self) -> int:
        """Videos of a step, over all ranks."""
        return self.batch_size * self.world_size

    def first_step(self, seen: int) -> int:
        """The step at which an epoch goes on of which so many videos were taken, in steps of whatever size.

        The steps that are left come last in the epoch, so that its end stays where it is: 20 videos in steps of 2, of
        which 9 were taken, go on at step 5 of 10, with 5 steps for the 11 others. A first step is always behind.
        """
        return self.num_steps - min((self.num_videos - seen) // self.step_size, self.num_steps - 1)

    def go_on(self, epoch: int, seen: int) -> int:
        """In this epoch the steps from the one returned on take the videos that are left. See `first_step`."""
        self._begun = epoch, seen
        return self.first_step(seen)

    def __len__(self) -> int:
        return self.num_steps * self.batch_size

    def __iter__(self) -> Iterator[EpochIndex]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.num_videos) if self.classes is None else balanced(self.classes, self.epoch, rng)
        steps = np.resize(order, (self.num_steps, self.world_size, self.batch_size))
        if self._begun is not None and self._begun[0] == self.epoch:
            left = steps[self.first_step(self._begun[1]) :]
            left[:] = order[self._begun[1] :][: left.size].reshape(left.shape)
        return ((self.epoch, int(index)) for index in steps[:, self.rank].ravel())


def balanced(classes: np.ndarray, epoch: int, rng: np.random.Generator) -> np.ndarray:
    """As many indices as there are videos, as many of each class as of any other, give or take one.

    Every class has a fixed order of its videos, of which an epoch takes the next share: all are seen before one comes
    again. classes 0 0 0 0 1 1: epoch 0 takes 3 of the four and both of the two, one of them twice.
    """
    num_videos, names = len(classes), np.unique(classes)
    share = -(-num_videos // len(names))
    columns = []
    for name in names:
        videos = np.flatnonzero(classes == name)
        own = np.random.default_rng([int(name), len(videos)]).permutation(videos)
        columns.append(rng.permutation(own[np.arange(epoch * share, (epoch + 1) * share) % len(own)]))
    rows = rng.permuted(np.array(columns), axis=0)  # (K, share): every column shuffled holds each class once
    return rows.T.ravel()[:num_videos]


class Shard(Sampler[int]):
    """Every world_size-th video from `rank` on, of so many or of those listed: no padding, none comes twice."""

    def __init__(self, videos: int | Sequence[int], *, rank: int = 0, world_size: int = 1) -> None:
        self.indices = (range(videos) if isinstance(videos, int) else videos)[rank::world_size]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
