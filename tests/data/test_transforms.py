import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import resize

from mvit_train.data.transforms import (
    JitteredCrop,
    RandomResizedCrop,
    TestCrops,
    random_box,
    resize_short_side,
    scale,
    scale_in_integers,
)


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_boxes_keep_to_the_area_and_aspect_they_are_given():
    rng = np.random.default_rng(0)
    boxes = [random_box((300, 300), (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(2000)]
    assert all(0 <= top <= 300 - h and 0 <= left <= 300 - w for top, left, h, w in boxes)
    area = np.array([h * w / (300 * 300) for _, _, h, w in boxes])
    ratio = np.array([math.log(w / h) for _, _, h, w in boxes])
    assert area.min() > 0.075
    assert area.max() <= 1.0
    assert abs(ratio).max() < math.log(4 / 3) + 0.02
    assert abs(ratio.mean()) < 0.02


def test_an_extreme_frame_falls_back_to_the_largest_centred_box():
    assert random_box((10, 100), (1.0, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0)) == (0, 43, 10, 13)


def test_one_crop_is_taken_from_all_frames_and_equals_an_interpolated_box(record_measured):
    video = noise(3, 4, 40, 60)
    crop = RandomResizedCrop(crop_size=32, area=(0.3, 0.6), flip=0.0)
    out = crop({"video": video, "rng": np.random.default_rng(5)})["video"][0]
    top, left, height, width = random_box((40, 60), (0.3, 0.6), (3 / 4, 4 / 3), np.random.default_rng(5))
    box = video[..., top : top + height, left : left + width].float()
    expected = interpolate(box, (32, 32), mode="bilinear", align_corners=False)
    assert out.dtype == torch.uint8
    assert out.shape == (3, 4, 32, 32)
    found = (out.float() - expected).abs().max().item()
    record_measured("random resized crop: largest difference from interpolation in float32, in levels of 255", found, 1)
    assert found <= 1.0  # levels are rounded after the width and after the height


def test_what_is_drawn_for_a_crop_does_not_change():
    """A run that is resumed with a newer version sees the same crops."""
    drawn = [RandomResizedCrop(crop_size=224).draw((256, 340), np.random.default_rng(i)) for i in range(3)]
    assert [(crop.box, crop.flip) for crop in drawn] == [
        ((24, 205, 116, 88), False),
        ((2, 13, 192, 249), False),
        ((33, 149, 177, 158), True),
    ]


def test_boxes_of_the_published_crop_follow_their_distributions(follows):
    """Frames are wide and high enough for every box, so nothing is drawn again."""
    rng = np.random.default_rng(0)
    boxes = [random_box((2000, 2000), (0.08, 0.7), (3 / 4, 4 / 3), rng) for _ in range(20_000)]
    top, left, height, width = np.array(boxes, dtype=float).T
    follows("random resized crop area", height * width / 2000**2, lambda x: ((x - 0.08) / 0.62).clip(0, 1))
    reach = math.log(4 / 3)
    follows("random resized crop aspect", np.log(width / height), lambda x: ((x + reach) / (2 * reach)).clip(0, 1))
    for what, place, side in [("top", top, height), ("left", left, width)]:
        spread = (place + np.random.default_rng(1).random(len(place))) / (2000 - side + 1)
        follows(f"random resized crop {what}", spread, lambda x: x)


def test_short_sides_are_jittered_uniformly_in_their_inverse(follows, record_measured):
    crop, rng = JitteredCrop(crop_size=224, short_side=(256, 320), flip=0.5), np.random.default_rng(0)
    drawn = [crop.draw((240, 427), rng) for _ in range(20_000)]
    sides = np.array([plan.frame[0] for plan in drawn])
    assert (sides.min(), sides.max()) == (256, 320)
    longest, shortest = 1 / 256, 1 / 320  # sides up to k come from inverses from 1 / (k + 1/2) on
    follows("jittered short side", sides, lambda k: ((longest - 1 / (k + 0.5)) / (longest - shortest)).clip(0, 1))
    assert all(plan.frame == (side, math.floor(427 / 240 * side)) for plan, side in zip(drawn, sides, strict=True))
    for what, axis in [("top", 0), ("left", 1)]:
        place = np.array([plan.box[axis] for plan in drawn])
        free = np.array([plan.frame[axis] - 224 + 1 for plan in drawn])
        assert ((place >= 0) & (place < free)).all()
        follows(f"jittered crop {what}", (place + np.random.default_rng(1).random(len(place))) / free, lambda x: x)
    sigmas = abs(np.mean([plan.flip for plan in drawn]) - 0.5) / math.sqrt(0.25 / len(drawn))
    record_measured("flips: standard errors off", sigmas, 4)
    assert sigmas < 4


def test_a_jittered_crop_is_cut_from_the_scaled_frame():
    video = noise(3, 2, 60, 90)
    crop = JitteredCrop(crop_size=32, short_side=(40, 50), flip=0.0)
    plan = crop.draw((60, 90), np.random.default_rng(3))
    top, left, *_ = plan.box
    expected = scale(video, plan.frame)[..., top : top + 32, left : left + 32]
    out = crop({"video": video, "rng": np.random.default_rng(3)})["video"]
    assert torch.equal(out, expected[None])


def test_flip_mirrors_the_width_with_its_probability():
    video = noise(3, 2, 8, 8)
    assert torch.equal(
        RandomResizedCrop(crop_size=8, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=1.0)(
            {"video": video, "rng": np.random.default_rng(0)}
        )["video"][0],
        video.flip(-1),
    )
    half = RandomResizedCrop(crop_size=8, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.5)
    flipped = [
        not torch.equal(half({"video": video, "rng": np.random.default_rng(i)})["video"][0], video) for i in range(400)
    ]
    assert 160 < sum(flipped) < 240


@pytest.mark.parametrize(
    ("size", "expected"), [((256, 340), (256, 340)), ((480, 640), (256, 341)), ((640, 360), (455, 256))]
)
def test_the_short_side_is_resized_and_the_long_one_rounded_down(size, expected):
    assert resize_short_side(noise(3, 1, *size), 256).shape[-2:] == expected


@pytest.mark.parametrize("size", [(224, 224), (112, 96), (33, 70)])
def test_the_order_in_memory_decides_over_the_time_that_scaling_takes_but_not_over_pixels(size):
    decoded = noise(5, 90, 120, 3).permute(3, 0, 1, 2)[..., 7:83, 11:101]  # (T, H, W, 3) in memory, then a box
    expected = resize(decoded.contiguous(), list(size), antialias=False)
    assert torch.equal(scale(decoded, list(size)), expected)


@pytest.mark.parametrize("old", [(40, 60), (256, 340), (37, 53), (1, 5), (90, 7), (128, 128)])
def test_frames_are_scaled_alike_on_every_device(old, device, record_measured):
    video, worst = noise(3, 2, *old), 0
    for new in [(224, 224), (112, 96), (33, 70), (1, 1), (41, 61), (320, 426)]:
        expected = scale(video, new).int()
        worst = max(worst, (scale_in_integers(video.to(device), new).cpu().int() - expected).abs().max().item())
        worst = max(worst, (scale(video.to(device), new).cpu().int() - expected).abs().max().item())
    record_measured(f"scaling {old} on {device}: largest difference from torchvision on the CPU", worst, 0)
    assert worst == 0


def test_one_crop_is_the_centre_of_a_frame_resized_to_eight_sevenths():
    video = noise(3, 2, 64, 85)
    out = TestCrops(56, 1)({"video": video})["video"]
    assert torch.equal(out, video[None, :, :, 4:60, 15:71])  # ceil((85 - 56) / 2) = 15


@pytest.mark.parametrize(
    ("size", "corners"), [((32, 50), [(0, 0), (0, 9), (0, 18)]), ((50, 32), [(0, 0), (9, 0), (18, 0)])]
)
def test_three_crops_cover_the_longer_side_from_end_to_end(size, corners):
    video = noise(3, 2, *size)
    out = TestCrops(32, 3)({"video": video})["video"]
    assert out.shape == (3, 3, 2, 32, 32)
    for crop, (y, x) in zip(out, corners, strict=True):
        assert torch.equal(crop, video[..., y : y + 32, x : x + 32])


def test_other_numbers_of_crops_and_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="2 crops; possible are 1"):
        TestCrops(32, 2)
    with pytest.raises(ValueError, match=r"augment\.area"):
        RandomResizedCrop(crop_size=8, area=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"augment\.flip 2"):
        RandomResizedCrop(crop_size=8, flip=2)
    with pytest.raises(ValueError, match=r"short_side \(100, 90\) must rise and be at least the crop size, 64"):
        JitteredCrop(crop_size=64, short_side=(100, 90))
    with pytest.raises(ValueError, match="at least the crop size, 128"):
        JitteredCrop(crop_size=128, short_side=(100, 120))
