"""The map-style view: equal to PyTorchVideo's iterator where that works, and exact where it does not."""

import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mvit_train.data.clip_augment import ClipAugment
from mvit_train.data.dataset import TestViews, TrainClips, collate
from mvit_train.data.decode import open_video
from mvit_train.data.erasing import RandomErasing
from mvit_train.data.manifest import Manifest, read_splits
from mvit_train.data.rand_augment import RandAugment
from mvit_train.data.sampler import EpochShuffle, Shard
from mvit_train.data.transforms import RandomResizedCrop, TestCrops
from mvit_train.data.views import DenseClips, RandomClip, Segments, UniformClips
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
    return Manifest.of(folder, ((path, i % 3) for i, path in enumerate(paths)), Labels(("a", "b", "c")))


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
        Manifest.of(tmp_path, [("a.mp4", 0)], Labels(("x",))),
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


def test_paths_that_pytorchvideo_s_own_lists_cannot_carry_are_read(tmp_path, video):
    names = ["a\x85b.mp4", "two  blanks.mp4", "--id_000001.mp4", "\udcff not utf-8.mp4"]
    for name in names:
        shutil.copy(video("a.mp4", 20), tmp_path / name)
    dataset = TestViews(
        Manifest.of(tmp_path, [(name, 0) for name in names], Labels(("x",))),
        clip_sampler=UniformClips(CLIP, 1),
        num_frames=4,
        transform=TestCrops(24, 1),
    )
    assert [dataset[i]["failures"] for i in range(4)] == [[]] * 4


def whole_frames(sample):
    return {**sample, "video": sample["video"][None]}


def plain(manifest, clip_sampler, num_frames=4, kind=TestViews, **arguments):
    return kind(manifest, clip_sampler=clip_sampler, num_frames=num_frames, transform=whole_frames, **arguments)


def test_repeats_share_one_decoding_and_its_frames_and_differ_in_everything_else(folder, monkeypatch):
    opened = []
    dataset = train_clips(folder)
    twice = TrainClips(
        manifest(folder),
        clip_sampler=RandomClip(CLIP),
        num_frames=4,
        transform=RandomResizedCrop(crop_size=24, area=(0.5, 1.0)),
        repeats=3,
    )
    monkeypatch.setattr(
        type(twice.handler), "video_from_path", lambda self, path: opened.append(path) or open_video(path, num_frames=4)
    )
    item = twice[0, 5]
    assert len(opened) == 1
    assert (item["video"].shape, item["label"].tolist(), item["video_index"].tolist()) == (
        (3, 3, 4, 24, 24),
        [2] * 3,
        [5] * 3,
    )
    assert len({item["video"][i].numpy().tobytes() for i in range(3)}) == 3
    assert torch.equal(item["video"][:1], dataset[0, 5]["video"])  # the first is what there is without repeats


def test_repeats_show_the_same_moment(folder, read_barcodes):
    for epoch in range(5):
        videos = plain(manifest(folder), RandomClip(CLIP), kind=TrainClips, repeats=2)[epoch, 8]["video"]
        assert read_barcodes(videos[0]) == read_barcodes(videos[1])


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (UniformClips(CLIP, 2), [[6, 11, 16, 21], [14, 19, 24, 29]]),
        (DenseClips(4, 3, 2), [[6, 9, 12, 15], [20, 23, 26, 29]]),
        (Segments(4, 1), [[9, 15, 20, 26]]),
    ],
    ids=["window", "dense", "segment"],
)
def test_only_the_part_of_a_file_that_its_row_names_is_seen(tmp_path, video, read_barcodes, sampler, expected):
    """Frames 6 to 29 of 40: the same clips as of a file of these 24 frames alone."""
    shutil.copy(video("a.mp4", 40), tmp_path / "long.mp4")
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("path,label,start,end\nlong.mp4,x,0.2,1.0\n")
    split = read_splits(tmp_path)["val"]
    found = [read_barcodes(clip) for clip in plain(split, sampler)[0]["video"]]
    assert found == expected
    shutil.copy(video("b.mp4", 24), tmp_path / "short.mp4")
    alone = plain(Manifest.of(tmp_path, [("short.mp4", 0)], split.labels), sampler)[0]["video"]
    assert [[index - 6 for index in clip] for clip in found] == [read_barcodes(clip) for clip in alone]


def test_a_part_that_reaches_past_the_end_is_cut_there_and_one_that_begins_there_is_an_error(
    tmp_path, video, read_barcodes
):
    shutil.copy(video("a.mp4", 30), tmp_path / "a.mp4")
    (tmp_path / "train.csv").write_text("path,label,start,end\na.mp4,x,0.5,2.55\na.mp4,x,1.0,2.0\n")
    shutil.copy(tmp_path / "train.csv", tmp_path / "val.csv")
    dataset = plain(read_splits(tmp_path)["val"], UniformClips(Fraction(10), 1))
    assert read_barcodes(dataset[0]["video"][0]) == [15, 29, 29, 29]
    assert dataset[1]["failures"] == [(1, "its part from 1 s on lies outside, it lasts 1.000 s")]


def test_labels_of_several_classes_are_one_number_for_each(folder):
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text("path,label\n0 good.mp4,a;c\n1 good.mp4,\n2 good.mp4,b\n")
    dataset = plain(read_splits(folder)["train"], UniformClips(CLIP, 2))
    batch = collate([dataset[i] for i in (2, 0, 1)])
    assert batch["label"].dtype == torch.float32
    assert batch["label"].tolist() == [[0, 1, 0]] * 2 + [[1, 0, 1]] * 2 + [[0, 0, 0]] * 2


def test_an_image_is_a_video_of_one_frame_upright_and_rgb(tmp_path):
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to view
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.new("CMYK", (4, 6), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "cmyk.jpg").read_bytes()[:200])
    (tmp_path / "text.jpeg").write_text("no image")
    names = ["rgb.png", "grey.png", "turned.png", "cmyk.jpg", "broken.jpg", "text.jpeg", "none.png"]
    split = Manifest.of(tmp_path, [(name, 0) for name in names], Labels(("x",)))
    dataset = plain(split, UniformClips(CLIP, 1), num_frames=1)
    rgb, grey, turned, cmyk = [dataset[i]["video"] for i in range(4)]
    assert rgb.shape == (1, 3, 1, 6, 4)
    assert torch.equal(rgb[0, :, 0].permute(1, 2, 0), torch.from_numpy(pixels))
    assert torch.equal(grey[0, :, 0], torch.from_numpy(pixels[..., 0]).expand(3, 6, 4))
    assert torch.equal(turned[0, :, 0].permute(1, 2, 0), torch.from_numpy(np.rot90(pixels, -1).copy()))
    assert cmyk[0, :, 0, 0, 0].tolist()[0] > 200 > 60 > cmyk[0, :, 0, 0, 0].tolist()[1]
    reasons = [dataset[i]["failures"][0][1] for i in (4, 5, 6)]
    assert reasons[0].startswith("not an image, or damaged: ")
    assert reasons[1].startswith("not an image, or damaged: cannot identify")
    assert reasons[2] == "no such file"
    assert plain(split, Segments(4, None), num_frames=4, kind=TrainClips)[0, 0]["video"].shape == (1, 3, 4, 6, 4)


def augmenting(folder, *, on_device, repeats=2):
    return TrainClips(
        manifest(folder),
        clip_sampler=RandomClip(CLIP),
        num_frames=4,
        transform=ClipAugment(
            crop=RandomResizedCrop(crop_size=24, area=(0.3, 1.0)),
            pixels=RandAugment("rand-m7-n4-mstd0.5-inc1"),
            short_side=40,
        ),
        repeats=repeats,
        erasing=RandomErasing(probability=0.5),
        on_device=on_device,
    )


def test_augmentation_on_the_training_device_makes_the_clips_that_the_workers_make(folder):
    here, there = augmenting(folder, on_device=False), augmenting(folder, on_device=True)
    loaders = [
        DataLoader(
            dataset, batch_size=3, sampler=EpochShuffle(12, batch_size=3, seed=0), collate_fn=collate, num_workers=2
        )
        for dataset in (here, there)
    ]
    erased = 0
    for done, left in zip(*loaders, strict=True):
        assert [clip.shape[:2] for clip in left["video"]] == [(3, 4)] * 3
        made = [
            there.kinetics._transform.apply(clip, plan)
            for clip, plans in zip(left["video"], left["drawn"], strict=True)
            for plan in plans
        ]
        assert torch.equal(torch.stack(made), done["video"])
        assert all(torch.equal(done[key], left[key]) for key in ("label", "video_index", "view_index"))
        assert done["erasures"] == left["erasures"]
        assert len(done["erasures"]) == 6
        erased += sum(erasure is not None for erasure in done["erasures"])
        assert done["drawn"] == []
    assert 6 < erased < 18


def test_copies_differ_in_all_that_augmentation_draws(folder):
    item = augmenting(folder, on_device=True, repeats=4)[0, 3]
    (plans,) = item["drawn"]
    assert len({repr(plan.pixels) for plan in plans}) == len({repr(plan.crop) for plan in plans}) == 4
