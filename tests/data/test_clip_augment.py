import pickle

import numpy as np
import pytest
import torch

from mvit_train.data.clip_augment import ClipAugment
from mvit_train.data.color_jitter import ColorJitter
from mvit_train.data.rand_augment import RandAugment
from mvit_train.data.transforms import JitteredCrop, RandomResizedCrop, resize_short_side

POLICY = "rand-m7-n4-mstd0.5-inc1"


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def kinetics(**kwargs):
    return ClipAugment(crop=RandomResizedCrop(crop_size=32), pixels=RandAugment(POLICY), short_side=40, **kwargs)


def test_pixels_change_at_the_short_side_and_before_the_crop():
    video = noise(3, 3, 48, 70)
    augment, rng = kinetics(), np.random.default_rng(4)
    out = augment({"video": video, "rng": np.random.default_rng(4), "label": 7})
    ops = augment.pixels.draw((40, 58), rng)
    crop = augment.crop.draw((40, 58), rng)
    expected = augment.crop.apply(augment.pixels.apply(resize_short_side(video, 40), ops), crop)
    assert out["label"] == 7
    assert out["video"].shape == (1, 3, 3, 32, 32)
    assert out["video"].dtype == torch.uint8
    assert len(ops) > 0
    assert torch.equal(out["video"][0], expected)


def test_without_a_short_side_pixels_change_on_frames_as_decoded():
    augment = ClipAugment(
        crop=JitteredCrop(crop_size=32, short_side=(36, 40), flip=0.0), pixels=RandAugment(POLICY), short_side=None
    )
    drawn = augment.draw((48, 70), np.random.default_rng(0))
    assert drawn.frame == (48, 70)
    assert 36 <= drawn.crop.frame[0] <= 40


@pytest.mark.parametrize("pixels", [RandAugment(POLICY), ColorJitter()])
def test_what_is_drawn_in_a_worker_gives_the_same_clip_wherever_it_is_applied(pixels, device):
    augment = ClipAugment(crop=RandomResizedCrop(crop_size=32), pixels=pixels, short_side=40)
    video = noise(3, 3, 48, 70)
    for seed in range(20):
        here = augment({"video": video, "rng": np.random.default_rng(seed)})["video"][0]
        drawn = pickle.loads(pickle.dumps(augment.draw((48, 70), np.random.default_rng(seed))))
        assert torch.equal(augment.apply(video.to(device), drawn).cpu(), here)


def test_the_order_in_memory_makes_no_difference():
    decoded = noise(3, 48, 70, 3).permute(3, 0, 1, 2)
    for seed in range(10):
        clips = [
            kinetics()({"video": video, "rng": np.random.default_rng(seed)})["video"]
            for video in (decoded, decoded.contiguous())
        ]
        assert torch.equal(*clips)


def test_an_impossible_short_side_is_refused():
    with pytest.raises(ValueError, match="short_side 0 must be positive"):
        ClipAugment(crop=RandomResizedCrop(crop_size=32), pixels=ColorJitter(), short_side=0)
