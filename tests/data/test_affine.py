import numpy as np
import pytest
import torch
from PIL import Image

from mvit_train.data.affine import FRAMES_AT_ONCE, affine, rotation
from mvit_train.data.rand_augment import MOVES, OPS


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def with_pillow(video, matrix):
    frames = [Image.fromarray(frame) for frame in video.permute(1, 2, 3, 0).contiguous().numpy()]
    size, fill = (video.shape[-1], video.shape[-2]), (1, 2, 3)
    how = Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    moved = [np.asarray(frame.transform(size, *how, fillcolor=fill)) for frame in frames]
    return torch.from_numpy(np.stack(moved)).permute(3, 0, 1, 2)


def test_any_matrix_moves_frames_as_pillow_does(record_measured):
    rng, worst = np.random.default_rng(0), 0
    for height, width in [(40, 30), (17, 55), (1, 9)]:
        video = noise(3, 4, height, width)
        for _ in range(10):
            a, b, d, e = np.array([1, 0, 0, 1]) + rng.normal(0, 0.4, 4)
            matrix = (a, b, rng.normal(0, 9), d, e, rng.normal(0, 9))
            found = affine(video, matrix, fill=(1, 2, 3))
            worst = max(worst, int((found.int() - with_pillow(video, matrix).int()).abs().max()))
    record_measured("affine, 30 random matrices: largest difference from Pillow, in levels of 255", worst, 0)
    assert worst == 0


@pytest.mark.parametrize("shift", [1.0, -7.0, 0.5, 3.25])
def test_shifts_by_whole_pixels_and_binary_fractions_are_pillows(shift):
    video = noise(3, 2, 20, 30)
    assert torch.equal(
        affine(video, (1, 0, shift, 0, 1, 0), fill=(1, 2, 3)), with_pillow(video, (1, 0, shift, 0, 1, 0))
    )


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("level", [0.7, 0.9, 1.0])
def test_where_the_exact_value_is_a_whole_level_pillow_may_cut_it_to_the_one_below(name, level, record_measured):
    """A shift by 107.1 pixels makes values of whole thousandths, one by a fifth values of 125ths. Some of them are
    whole levels, and whether Pillow's sum lies just below is rounding. Drawn levels are no such fractions. Policies
    without noise are, and the level 10 that noise is cut to."""
    video = noise(3, 2, 256, 340)
    matrix = MOVES[name](OPS[name](level, 1), 256, 340)
    difference = affine(video, matrix, fill=(1, 2, 3)).int() - with_pillow(video, matrix).int()
    share = (difference != 0).float().mean().item()
    record_measured(f"affine, {name} at level {10 * level:g} without noise: share of pixels one level off", share, 8e-3)
    assert set(difference.unique().tolist()) <= {0, 1}
    assert share < 8e-3


def test_long_clips_are_moved_in_parts():
    video = noise(3, 2 * FRAMES_AT_ONCE + 3, 12, 10)
    matrix = rotation(20, 12, 10)
    frames = [affine(video[:, i : i + 1], matrix) for i in range(video.shape[1])]
    assert torch.equal(affine(video, matrix), torch.cat(frames, dim=1))
