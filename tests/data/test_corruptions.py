"""Corruptions: what they do to a clip, how much more at each severity, and that nothing but their key decides it."""

import colorsys
import os
import shutil
import subprocess
import sys
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, interpolate, pad
from torch.utils.data import DataLoader

from mvit_train.data.corruptions import CORRUPTIONS, NEED_FRAMES, SEVERITIES, Corruption, gaussian, h264, lost
from mvit_train.data.dataset import TestViews
from mvit_train.data.manifest import Manifest
from mvit_train.data.transforms import TestCrops, resize_short_side
from mvit_train.data.views import UniformClips
from mvit_train.labels import Labels


def moving_clip(frames: int = 8, height: int = 96, width: int = 131) -> torch.Tensor:
    """Coloured blots that move by three pixels a frame: uint8 (3, T, H, W)."""
    blots = torch.randint(10, 240, (1, 3, 9, 12), generator=torch.Generator().manual_seed(0)).float()
    image = interpolate(blots, (height, width), mode="bilinear").to(torch.uint8)[0]
    return torch.stack([image.roll(3 * i, -1) for i in range(frames)], dim=1)


def barcodes(indices: list[int]) -> torch.Tensor:
    """A frame for each number, as `read_barcodes` reads it: (3, T, 48, 64)."""
    bits = (torch.tensor(indices)[:, None] >> torch.arange(12) & 1).view(-1, 3, 4)
    blocks = bits.repeat_interleave(16, 1).repeat_interleave(16, 2) * 255
    return blocks.to(torch.uint8).expand(3, -1, -1, -1)


def numbered_clip(frames: int) -> torch.Tensor:
    return torch.arange(frames, dtype=torch.uint8).view(1, -1, 1, 1).expand(3, -1, 2, 2)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_changes_a_clip_more_than_the_one_before(name):
    clip = moving_clip()
    kept = clip.clone()
    changes = []
    for severity in SEVERITIES:
        out = Corruption(name, severity)(clip, "a.mp4", 0)
        assert (out.shape, out.dtype) == (clip.shape, torch.uint8)
        changes.append((out.float() - clip.float()).abs().mean().item())
    assert torch.equal(clip, kept), "the clip given stays as it was"
    assert changes[0] > 0, changes
    if name not in NEED_FRAMES:  # how far a lost frame lies from the one shown is chance: they are counted below
        assert changes == sorted(set(changes))


@pytest.mark.parametrize("name", ["noise", "shot_noise", "frame_drop", "freeze"])
def test_what_is_drawn_depends_on_corruption_severity_video_and_clip_alone(name):
    clip = moving_clip(32, 8, 12)
    first = Corruption(name, 2)(clip, "a.mp4", 0)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(Corruption(name, 2)(clip, "a.mp4", 0), first)
    others = [Corruption(name, 2)(clip, "a.mp4", 1), Corruption(name, 2)(clip, "b.mp4", 0)]
    others.append(Corruption(name, 3)(clip, "a.mp4", 0))
    assert not any(torch.equal(other, first) for other in others)


def test_another_process_makes_the_same_frames():
    code = (
        "import torch, zlib\n"
        "from mvit_train.data.corruptions import CORRUPTIONS, Corruption\n"
        "clip = (torch.arange(3 * 4 * 18 * 20) % 251).to(torch.uint8).view(3, 4, 18, 20)\n"
        "print([zlib.crc32(Corruption(n, 3)(clip, 'a', 0).numpy().tobytes()) for n in CORRUPTIONS])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "3"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    clip = (torch.arange(3 * 4 * 18 * 20) % 251).to(torch.uint8).view(3, 4, 18, 20)
    here = [zlib.crc32(Corruption(name, 3)(clip, "a", 0).numpy().tobytes()) for name in CORRUPTIONS]
    assert result.stdout.strip() == str(here)
    assert len(set(here)) == len(here)


def test_noise_has_the_deviation_of_its_severity():
    grey = torch.full((3, 4, 100, 100), 128, dtype=torch.uint8)
    for name, deviation in (("noise", 255 * 0.08), ("shot_noise", 255 * (128 / 255 / 60) ** 0.5)):
        out = Corruption(name, 1)(grey, "a", 0).float()
        assert out.std().item() == pytest.approx(deviation, rel=0.02)
        assert out.mean().item() == pytest.approx(128, abs=0.5)
        assert not torch.equal(out[:, 0], out[:, 1])
        assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize(("name", "sign"), [("brightness", 1), ("darkness", -1)])
def test_brightness_and_darkness_shift_the_value_of_hsv(name, sign):
    colours = torch.randint(0, 256, (3, 1, 6, 7), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    colours[:, 0, 0, 0] = 0
    for severity in SEVERITIES:
        found = Corruption(name, severity)(colours, "a", 0)
        for row, column in np.ndindex(6, 7):
            hue, saturation, value = colorsys.rgb_to_hsv(*(colours[:, 0, row, column] / 255).tolist())
            wanted = colorsys.hsv_to_rgb(hue, saturation, min(max(value + sign * severity / 10, 0), 1))
            assert found[:, 0, row, column].tolist() == pytest.approx([255 * level for level in wanted], abs=0.51)


def test_contrast_draws_every_frame_towards_its_own_mean():
    clip = moving_clip(2)
    clip[:, 1] //= 2
    out = Corruption("contrast", 4)(clip, "a", 0).double()
    for frame in range(2):
        mean = clip[:, frame].double().mean((1, 2), keepdim=True)
        torch.testing.assert_close(out[:, frame], mean + 0.1 * (clip[:, frame] - mean), atol=0.501, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(256, 40), (64, 80)])
def test_blur_is_a_gaussian_whose_width_goes_with_the_short_side(height, width):
    clip = torch.randint(0, 256, (3, 1, height, width), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    deviation = 6 * min(height, width) / 256
    reach = int(4 * deviation + 0.5)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / deviation) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = pad(clip[:, 0].double()[:, None], [reach] * 4, mode="replicate")
    wanted = conv2d(padded, kernel[None, None])[:, 0]
    torch.testing.assert_close(Corruption("blur", 5)(clip, "a", 0)[:, 0].double(), wanted, atol=0.51, rtol=0)


def test_a_gaussian_far_narrower_than_a_pixel_leaves_it_alone():
    assert gaussian(0.14).tolist() == pytest.approx([1.0, 0.0], abs=1e-9)


def test_jpeg_takes_frames_one_by_one_and_h264_together():
    clip = moving_clip(6)
    backwards = clip.flip(1)
    assert torch.equal(Corruption("jpeg", 3)(backwards, "a", 0).flip(1), Corruption("jpeg", 3)(clip, "a", 0))
    assert not torch.equal(Corruption("h264", 3)(backwards, "a", 0).flip(1), Corruption("h264", 3)(clip, "a", 0))
    still = moving_clip(1).expand(-1, 6, -1, -1)
    found = Corruption("jpeg", 5)(still, "a", 0)
    assert torch.equal(found, found[:, :1].expand_as(found))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("cut", [0, 1])
def test_h264_gives_back_every_frame_in_order(severity, cut, read_barcodes):
    indices = [5, 900, 17, 4000, 2222, 1, 3333, 64, 65, 66, 67, 1500, 2, 3, 4095, 0, 77]
    mixed = 0.6 * barcodes(indices) + 0.4 * moving_clip(len(indices), 48, 64)
    clip = mixed.to(torch.uint8)[..., : 48 - cut, : 64 - cut]
    found = Corruption("h264", severity)(clip, "a", 0)
    assert found.shape == clip.shape
    assert not torch.equal(found, clip)
    whole = pad(found.float(), [0, cut, 0, cut], mode="replicate")
    assert read_barcodes(whole) == indices


def test_h264_takes_a_single_frame_and_keeps_colours():
    ramp = np.arange(64, dtype=np.uint8)[None, None].repeat(32, 1)  # (1, 32, 64)
    frame = np.stack([2 * ramp, 3 * ramp, 64 + ramp], axis=-1)
    difference = h264(frame, 0, np.random.default_rng()) - frame.astype(float)
    assert abs(difference).mean() < 1.5


@pytest.mark.parametrize("count", [2, 4, 8, 16, 40])
def test_lost_frames_show_the_last_one_that_arrived(count):
    for severity, percent in zip(SEVERITIES, (10, 25, 40, 55, 70), strict=True):
        number = min(int(np.ceil(round(count * percent / 100, 6))), count - 1)
        assert lost(count, percent) == number
        for video in ("a", "b", "c"):
            dropped = Corruption("frame_drop", severity)(numbered_clip(count), video, 0)[0, :, 0, 0].tolist()
            arrived = sorted(set(dropped))
            assert arrived[0] == 0
            assert len(arrived) == count - number
            assert dropped == [max(frame for frame in arrived if frame <= place) for place in range(count)]
            frozen = Corruption("freeze", severity)(numbered_clip(count), video, 0)[0, :, 0, 0].tolist()
            start = frozen.index(max(frozen, key=frozen.count))
            still = [start] * (number + 1)
            assert frozen == [*range(start), *still, *range(start + number + 1, count)]


def test_places_of_lost_frames_differ_between_videos():
    for name in NEED_FRAMES:
        shown = [tuple(Corruption(name, 2)(numbered_clip(16), f"{i}", 0)[0, :, 0, 0].tolist()) for i in range(40)]
        assert len(set(shown)) > 10
        assert all(0 < sum(row[place] != place for row in shown) < 40 for place in range(1, 16)), "any but the first"


@pytest.mark.parametrize(("name", "severity"), [("fog", 1), ("noise", 0), ("noise", 6)])
def test_unknown_corruptions_and_severities_are_refused(name, severity):
    with pytest.raises(ValueError, match="is none of"):
        Corruption(name, severity)


@pytest.mark.parametrize("crops", [1, 3])
def test_the_frames_of_a_test_are_scaled_then_corrupted_then_cropped_the_same_in_every_worker(tmp_path, video, crops):
    for i in range(3):
        shutil.copy(video("a.mp4", 20 + 3 * i), tmp_path / f"{i}.mp4")
    rows = [(f"{i}.mp4", 0) for i in range(3)]
    corruption = Corruption("noise", 3)
    dataset = TestViews(
        Manifest.of(tmp_path, rows, Labels(("x",))),
        clip_sampler=UniformClips(Fraction(16, 30), 2),
        num_frames=4,
        transform=TestCrops(30, crops),
        corruption=corruption,
    )
    short_side = 34 if crops == 1 else 30
    for workers in (0, 2):
        items = list(DataLoader(dataset, batch_size=None, num_workers=workers))
        assert len(items) == 3
        for index, item in enumerate(items):
            clips = dataset.read(index, np.random.default_rng(0))
            for number, clip in enumerate(clips):
                frames = corruption(resize_short_side(clip, short_side), f"{index}.mp4", number)
                assert min(frames.shape[-2:]) == short_side
                wanted = TestCrops(30, crops)({"video": frames})["video"]
                assert torch.equal(item["video"][number * crops : (number + 1) * crops], wanted)
