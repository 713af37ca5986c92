"""The map-style view: equal to PyTorchVideo's iterator where that works, and exact where it does not."""

import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mvit_train.data.dataset import TestViews, TrainClips, collate
from mvit_train.data.manifest import Manifest
from mvit_train.data.sampler import EpochShuffle, Shard
from mvit_train.data.transforms import RandomResizedCrop, TestCrops
from mvit_train.data.views import RandomClip, UniformClips
from mvit_train.labels import Labels

CLIP = Fraction(16, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, video):
    """Twelve drawn videos of different lengths, and five files that cannot be read."""
    folder = tmp_path_factory.mktemp("set")
    for i in range(12):
        shutil.copy(video("a.mp4", 20 + 3 * i), folder / f"{i} good.mp4")
    whole = (folder / "11 good.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    return folder


def manifest(folder, *bad):
    paths = (*(f"{i} good.mp4" for i in range(12)), *bad)
    return Manifest(folder, paths, tuple(i % 3 for i in range(len(paths))), Labels(("a", "b", "c")))


def train_clips(folder, *bad, seed=0):
    return TrainClips(
        manifest(folder, *bad),
        clip_sampler=RandomClip(CLIP),
        num_frames=4,
        transform=RandomResizedCrop(crop_size=24, area=(0.5, 1.0)),
        seed=seed,
    )


def view_set(folder, *bad, clips=2, crops=1):
    return TestViews(
        manifest(folder, *bad),
        clip_sampler=UniformClips(CLIP, clips),
        num_frames=4,
        transform=TestCrops(42, crops),
    )


def equal(a, b):
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


def stream(dataset, num_workers, epochs=2, persistent=False, batch_size=4):
    sampler = EpochShuffle(len(dataset), batch_size=batch_size, seed=0)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=persistent,
    )
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


@pytest.mark.parametrize(("num_workers", "persistent"), [(1, False), (3, False), (3, True)])
def test_what_is_drawn_does_not_depend_on_workers_or_their_life(folder, num_workers, persistent):
    bad = ("empty.mp4", "truncated.mp4")
    expected = stream(train_clips(folder, *bad), 0)
    assert len(expected) == 6
    assert not torch.equal(expected[0]["video"], expected[3]["video"])  # the second epoch draws anew
    found = stream(train_clips(folder, *bad), num_workers, persistent=persistent)
    assert len(found) == len(expected)
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))
    assert sum(len(batch["failures"]) for batch in found) >= 2


def test_an_item_is_decided_by_seed_epoch_and_index_alone(folder):
    dataset, other = train_clips(folder), train_clips(folder, seed=1)
    np.random.seed(1)
    torch.manual_seed(1)
    first = dataset[3, 5]
    [dataset[0, i] for i in range(3)]
    np.random.seed(2)
    torch.manual_seed(2)
    assert equal(dataset[3, 5], first)
    assert not equal(dataset[4, 5], first)
    assert not equal(other[3, 5], first)


def test_random_windows_reach_both_ends_of_a_video(folder, read_barcodes):
    dataset = TrainClips(
        manifest(folder),
        clip_sampler=RandomClip(CLIP),
        num_frames=4,
        transform=lambda s: {**s, "video": s["video"][None]},
    )
    firsts, lasts = set(), set()
    for epoch in range(200):  # video 4 has 32 frames, a clip 16
        indices = read_barcodes(dataset[epoch, 4]["video"][0])
        assert indices == [indices[0] + offset for offset in (0, 5, 10, 15)]
        firsts.add(indices[0])
        lasts.add(indices[-1])
    assert min(firsts) == 0
    assert max(lasts) >= 30
    assert len(firsts) == 16


def test_a_broken_training_video_is_replaced_by_the_same_other_one_every_time_and_named(folder):
    dataset = train_clips(folder, "empty.mp4", "nowhere.mp4")
    item = dataset[0, 12]
    assert equal(item, train_clips(folder, "empty.mp4", "nowhere.mp4")[0, 12])
    assert item["failures"][0][0] == 12
    assert "empty" in item["failures"][0][1]
    replacement = int(item["video_index"])
    assert replacement < 12
    assert item["label"].tolist() == [replacement % 3]
    assert len({int(dataset[epoch, 12]["video_index"]) for epoch in range(10)}) > 3  # not always the same stand-in


def test_a_set_without_any_readable_video_stops_with_names_and_reasons(tmp_path):
    (tmp_path / "a.mp4").touch()
    dataset = TrainClips(
        Manifest(tmp_path, ("a.mp4",), (0,), Labels(("x",))),
        clip_sampler=RandomClip(CLIP),
        num_frames=4,
        transform=RandomResizedCrop(crop_size=24),
    )
    with pytest.raises(ValueError, match=r"(?s)100 videos in a row cannot be read, first\n.*a\.mp4: .*empty"):
        dataset[0, 0]


def test_a_broken_test_video_is_reported_and_never_replaced(folder):
    dataset = view_set(folder, "truncated.mp4", "empty.mp4", "text.mp4")
    loader = DataLoader(dataset, batch_size=2, sampler=Shard(len(dataset)), collate_fn=collate)
    batches = list(loader)
    assert sorted(i for batch in batches for i, _ in batch["failures"]) == [12, 13, 14]
    assert [i for batch in batches for i in batch["video_index"].tolist()] == [i for i in range(12) for _ in range(2)]
    assert len(batches[-1]["video"]) == 0  # 14 alone: a batch without any readable video


@pytest.mark.parametrize("crops", [1, 3])
def test_views_are_numbered_clip_by_clip_and_equal_pytorchvideo_s_own_iterator(folder, crops):
    dataset = view_set(folder, clips=3, crops=crops)
    official = list(dataset.kinetics)  # the very object the view reads, iterated by PyTorchVideo
    assert len(official) == 12 * 3
    for index in range(12):
        item = dataset[index]
        assert item["view_index"].tolist() == list(range(3 * crops))
        for clip in range(3):
            theirs = official[index * 3 + clip]
            assert (theirs["video_index"], theirs["clip_index"], theirs["label"]) == (index, clip, index % 3)
            assert torch.equal(item["video"][clip * crops : (clip + 1) * crops], theirs["video"])


def test_paths_that_pytorchvideo_cannot_carry_are_refused(tmp_path):
    with pytest.raises(ValueError, match="PyTorchVideo reads"):
        TestViews(
            Manifest(tmp_path, ("a\x85b.mp4",), (0,), Labels(("x",))),
            clip_sampler=UniformClips(CLIP, 1),
            num_frames=4,
            transform=TestCrops(24, 1),
        )
