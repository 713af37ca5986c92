import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from mvit_train.data.rand_augment import MOVES, OPS, Op, RandAugment, apply_op, parse_policy

GREY = (128, 128, 128)
PUBLISHED = "rand-m7-n4-mstd0.5-inc1"
SIGNED = {"rotate", "color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"}


def solarize_add(image, amount):
    return image.point([min(255, i + amount) if i < 128 else i for i in range(256)] * 3)


def moved(image, matrix, resample, fill):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)


# timm's operations on PIL images: (image, argument, resample, fill)
PILLOW = {
    "autocontrast": lambda image, value, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, value, *_: ImageOps.equalize(image),
    "invert": lambda image, value, *_: ImageOps.invert(image),
    "rotate": lambda image, value, resample, fill: image.rotate(value, resample=resample, fillcolor=fill),
    # Pillow 13 refuses 0 bits; up to 12 it gave black.
    "posterize": lambda image, value, *_: ImageOps.posterize(image, int(value)) if value else image.point([0] * 768),
    "solarize": lambda image, value, *_: ImageOps.solarize(image, int(value)),
    "solarize_add": lambda image, value, *_: solarize_add(image, int(value)),
    "color": lambda image, value, *_: ImageEnhance.Color(image).enhance(value),
    "contrast": lambda image, value, *_: ImageEnhance.Contrast(image).enhance(value),
    "brightness": lambda image, value, *_: ImageEnhance.Brightness(image).enhance(value),
    "sharpness": lambda image, value, *_: ImageEnhance.Sharpness(image).enhance(value),
    "shear_x": lambda image, value, *how: moved(image, (1, value, 0, 0, 1, 0), *how),
    "shear_y": lambda image, value, *how: moved(image, (1, 0, 0, value, 1, 0), *how),
    "translate_x": lambda image, value, *how: moved(image, (1, 0, value * image.width, 0, 1, 0), *how),
    "translate_y": lambda image, value, *how: moved(image, (1, 0, 0, 0, 1, value * image.height), *how),
}


def with_pillow(video, ops, fill=GREY):
    """uint8 (3, T, H, W) through PIL images, frame by frame."""
    frames = [Image.fromarray(frame) for frame in video.permute(1, 2, 3, 0).contiguous().numpy()]
    for op in ops:
        resample = Image.Resampling[op.interpolation.upper()]
        frames = [PILLOW[op.name](frame, op.value, resample, fill) for frame in frames]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(3, 0, 1, 2)


def clip(height, width):
    """Frames of all kinds: noise, smooth, dull, grey, black, white, one colour, one channel empty, two levels."""
    rng = np.random.default_rng(height * 1000 + width)
    noise = rng.integers(0, 256, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 2 + y, x + y * 3, 255 - x], axis=-1) % 256
    one_colour = np.broadcast_to([200, 77, 3], noise.shape)
    grey = noise[..., :1].repeat(3, axis=-1)
    frames = [noise, smooth, noise // 16 + 100, grey, noise * 0, noise * 0 + 255, one_colour]
    frames += [noise * [0, 1, 1], (noise > 200) * 9]
    return torch.from_numpy(np.stack(frames).astype(np.uint8)).permute(3, 0, 1, 2)


@pytest.mark.parametrize("name", OPS)
def test_operations_are_pillows_at_every_level_on_frames_of_every_kind(name, record_measured, device):
    # Moves at the round level 1 are in test_affine; at 0.3456789 a shear moves a column by almost exactly 7 pixels.
    levels = [0.0, 0.3456789 if name in MOVES else 1.0, *np.random.default_rng(0).normal(0.7, 0.1, 6).clip(0, 1)]
    sizes = [(256, 340), (53, 37), (3, 3), (2, 5), (1, 1)]
    worst = 0
    for height, width in sizes:
        video = clip(height, width)
        for level in levels if height < 256 else levels[2:4]:
            for sign in (-1, 1) if name in SIGNED else (1,):
                op = Op(name, OPS[name](level, sign))
                found = apply_op(video.contiguous().to(device), op, GREY).cpu()
                assert found.shape == video.shape
                assert found.dtype == torch.uint8
                worst = max(worst, int((found.int() - with_pillow(video, [op]).int()).abs().max()))
    record_measured(f"RandAugment {name} on {device}: largest difference from Pillow, in levels of 255", worst, 0)
    assert worst == 0


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_images_are_moved_with_their_own_fill_and_interpolation(name, interpolation):
    fill = (124, 116, 104)
    video = clip(61, 80)
    op = Op(name, OPS[name](0.7312345, -1), interpolation)
    assert torch.equal(apply_op(video.contiguous(), op, fill), with_pillow(video, [op], fill))


def test_drawn_policies_are_pillows_frame_by_frame(record_measured, device):
    augment, rng, worst, num_ops = RandAugment(PUBLISHED), np.random.default_rng(1), 0, 0
    video = clip(64, 85)
    for _ in range(60):
        ops = augment.draw((64, 85), rng)
        found = augment.apply(video.to(device), ops).cpu()
        worst = max(worst, int((found.int() - with_pillow(video, ops).int()).abs().max()))
        num_ops += len(ops)
    assert num_ops > 90
    record_measured(f"RandAugment {PUBLISHED} on {device}: largest difference from Pillow in 60 clips", worst, 0)
    assert worst == 0


def test_arguments_at_the_published_level_are_timms():
    arguments = {name: OPS[name](0.7, 1) for name in OPS}
    assert arguments == pytest.approx(
        {"autocontrast": 0, "equalize": 0, "invert": 0, "rotate": 21, "posterize": 2, "solarize": 77}
        | {"solarize_add": 77, "color": 1.63, "contrast": 1.63, "brightness": 1.63, "sharpness": 1.63}
        | {"shear_x": 0.21, "shear_y": 0.21, "translate_x": 0.315, "translate_y": 0.315}
    )
    assert {name for name in OPS if OPS[name](0.7, 1) != OPS[name](0.7, -1)} == SIGNED
    assert OPS["brightness"](0.7, -1) == pytest.approx(0.37)


@pytest.fixture(scope="module")
def plans():
    augment, rng = RandAugment(PUBLISHED), np.random.default_rng(0)
    return [augment.draw((256, 340), rng) for _ in range(20_000)]


def test_each_of_four_operations_fires_half_the_time(plans, record_measured):
    counts = np.bincount([len(plan) for plan in plans], minlength=5) / len(plans)
    expected = np.array([1, 4, 6, 4, 1]) / 16
    sigmas = np.abs(counts - expected) / np.sqrt(expected * (1 - expected) / len(plans))
    record_measured("RandAugment number of operations that fire: standard errors off", sigmas.max(), 4)
    assert len(counts) == 5
    assert sigmas.max() < 4


def test_all_fifteen_operations_are_as_frequent_and_come_with_replacement(plans, record_measured):
    names = [op.name for plan in plans for op in plan]
    counts = np.array([names.count(name) for name in OPS])
    assert len(counts) == 15
    sigmas = np.abs(counts - len(names) / 15) / math.sqrt(len(names) * 14 / 15**2)
    record_measured("RandAugment frequency of the 15 operations: standard errors off", sigmas.max(), 4)
    assert sigmas.max() < 4
    full = [plan for plan in plans if len(plan) == 4]
    distinct = np.mean([len({op.name for op in plan}) == 4 for plan in full])
    expected = 14 * 13 * 12 / 15**3
    assert abs(distinct - expected) < 4 * math.sqrt(expected * (1 - expected) / len(full))


def normal_cdf(mean, std):
    return np.vectorize(lambda x: 0.5 * (1 + math.erf((x - mean) / (std * math.sqrt(2)))))


def test_levels_are_normal_around_seven_and_signs_even(plans, follows):
    degrees = np.array([op.value for plan in plans for op in plan if op.name == "rotate"])
    follows("RandAugment level", np.abs(degrees) / 30 * 10, normal_cdf(7, 0.5))
    for name in SIGNED:
        values = [op.value for plan in plans for op in plan if op.name == name]
        neutral = 1 if OPS[name](0, 1) == 1 else 0
        share = np.mean(np.array(values) > neutral)
        assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(len(values)), name


def test_levels_stay_within_ten_and_without_noise_are_the_policys():
    rng = np.random.default_rng(0)
    noisy, exact = RandAugment("rand-m10-n2-mstd1-inc1"), RandAugment("rand-n2-m9-inc1")
    turns = [op.value for _ in range(4000) for op in noisy.draw((9, 9), rng) if op.name == "rotate"]
    assert np.abs(turns).max() == 30
    assert 0.4 < np.mean(np.abs(turns) == 30) < 0.6
    assert {abs(op.value) for _ in range(500) for op in exact.draw((9, 9), rng) if op.name == "rotate"} == {27}


def test_draws_depend_on_the_generator_alone_and_travel_between_processes():
    augment = RandAugment(PUBLISHED, interpolation="random")
    plans = [augment.draw((240, 320), np.random.default_rng([0, 3, i])) for i in range(50)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert [augment.draw((99, 9), np.random.default_rng([0, 3, i])) for i in range(50)] == plans
    assert pickle.loads(pickle.dumps(plans)) == plans
    assert {op.interpolation for plan in plans for op in plan} == {"bilinear", "bicubic"}


def test_all_frames_get_the_same_operations_and_applying_leaves_the_clip_as_it_was(device):
    augment, rng = RandAugment(PUBLISHED), np.random.default_rng(2)
    frame = clip(40, 56)[:, :1]
    video = frame.expand(-1, 11, -1, -1).to(device)  # more frames than go into one table
    for _ in range(20):
        ops = augment.draw((40, 56), rng)
        out = augment.apply(video, ops)
        assert torch.equal(out, out[:, :1].expand(-1, 11, -1, -1))
        assert torch.equal(out, augment.apply(video, ops))
        assert torch.equal(video.cpu(), frame.expand(-1, 11, -1, -1))


def test_a_clip_with_no_operation_is_returned_as_it_is():
    video = clip(8, 8)
    assert RandAugment(PUBLISHED).apply(video, ()) is video


def test_policies_are_read_in_timms_notation():
    assert parse_policy(PUBLISHED) == (7, 4, 0.5)
    assert parse_policy("rand-n6-inc1-m9-mstd0.5") == (9, 6, 0.5)
    assert parse_policy("rand-m9-n2-inc1") == (9, 2, 0)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("rand-m7-n4-w0-inc1", "'w0' is not one of"),
        ("rand-m7-n4-inc1-m8", "'m8' is not one of"),
        ("rand-mx-n4-inc1", "'mx' is not one of"),
        ("augmix-m3", "must be like rand-m7-n4"),
        ("rand-n4-inc1", "must be like rand-m7-n4"),
        ("rand-m7-n4-mstd0.5", "only the increasing operations"),
        ("rand-m11-n4-inc1", "m is at most 10"),
        ("rand-m7-n1.5-inc1", "n a whole number"),
    ],
)
def test_a_policy_with_an_unknown_or_missing_part_is_refused_by_name(policy, message):
    with pytest.raises(ValueError, match=message):
        RandAugment(policy)
