import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import resize

from mvit_train.data.transforms import RandomResizedCrop, TestCrops, random_box, resize_short_side, scale


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


def test_one_crop_is_taken_from_all_frames_and_equals_an_interpolated_box():
    video = noise(3, 4, 40, 60)
    crop = RandomResizedCrop(crop_size=32, area=(0.3, 0.6), flip=0.0)
    out = crop({"video": video, "rng": np.random.default_rng(5)})["video"][0]
    top, left, height, width = random_box((40, 60), (0.3, 0.6), (3 / 4, 4 / 3), np.random.default_rng(5))
    box = video[..., top : top + height, left : left + width].float()
    expected = interpolate(box, (32, 32), mode="bilinear", align_corners=False)
    assert out.dtype == torch.uint8
    assert out.shape == (3, 4, 32, 32)
    assert (out.float() - expected).abs().max() <= 1.0


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
