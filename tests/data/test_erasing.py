import math
import pickle

import numpy as np
import pytest
import torch

from mvit_train.data.erasing import Erasure, RandomErasing


@pytest.fixture(scope="module")
def drawn():
    erasing, rng = RandomErasing(), np.random.default_rng(0)
    return [erasing.draw((224, 224), rng) for _ in range(20_000)]


def reference_boxes(size, count):
    """Areas and aspect ratios that PySlowFast's rule leaves, drawn all at once."""
    rng = np.random.default_rng(1)
    area = rng.uniform(0.02, 1 / 3, count) * size**2
    ratio = np.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3), count))
    height, width = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
    kept = (height < size) & (width < size)
    return height[kept], width[kept]


def test_a_quarter_of_clips_are_erased(drawn, record_measured):
    share = np.mean([erasure is not None for erasure in drawn])
    sigmas = abs(share - 0.25) / math.sqrt(0.25 * 0.75 / len(drawn))
    record_measured("erasing probability: standard errors off", sigmas, 4)
    assert sigmas < 4


def test_boxes_have_the_published_areas_aspects_and_places(drawn, record_measured, follows):
    boxes = [erasure for erasure in drawn if erasure]
    height, width = np.array([[box.height, box.width] for box in boxes]).T
    expected_height, expected_width = reference_boxes(224, 400_000)
    for what, found, expected in [
        ("area", height * width, expected_height * expected_width),
        ("aspect", height / width, expected_height / expected_width),
        ("height", height, expected_height),
    ]:
        ordered = np.sort(expected)
        follows(f"erasing {what}", found, lambda x, o=ordered: np.searchsorted(o, x, side="right") / len(o))
    free = np.array([[224 - box.height + 1, 224 - box.width + 1] for box in boxes])
    place = np.array([[box.top, box.left] for box in boxes])
    assert (place >= 0).all()
    assert (place < free).all()
    spread = (place + np.random.default_rng(2).random(place.shape)) / free  # whole numbers made continuous
    follows("erasing top", spread[:, 0], lambda x: x)
    follows("erasing left", spread[:, 1], lambda x: x)


def test_a_frame_that_no_box_fits_is_left_after_the_tries():
    erasing = RandomErasing(probability=1, num_tries=10)
    assert erasing.draw((1, 1000), np.random.default_rng(0)) is None


def test_the_box_is_the_same_in_all_frames_and_its_noise_fresh_in_each(device, follows):
    erasure = Erasure(top=5, left=9, height=30, width=20, seed=7)
    video = torch.full((3, 4, 48, 40), 9.0, device=device)
    erasure.apply(video)
    out = video.cpu()
    mask = torch.zeros(48, 40, dtype=torch.bool)
    mask[5:35, 9:29] = True
    assert (out[..., ~mask] == 9).all()
    noise = out[..., mask]  # (3, 4, 600)
    assert len(noise.unique()) == noise.numel()
    erf = np.vectorize(math.erf)
    follows("erasing noise", noise.flatten().double().numpy(), lambda x: 0.5 * (1 + erf(x / math.sqrt(2))))
    assert torch.corrcoef(noise.flatten(0, 1)).fill_diagonal_(0).abs().max() < 4 / math.sqrt(600)


def test_the_same_plan_gives_the_same_noise_on_every_device(device):
    plan = pickle.loads(pickle.dumps(RandomErasing(probability=1).draw((32, 32), np.random.default_rng(3))))
    torch.manual_seed(5)
    first, second = torch.zeros(3, 2, 32, 32), torch.zeros(3, 2, 32, 32, device=device)
    plan.apply(first)
    plan.apply(second)
    assert torch.equal(second.cpu(), first)
    assert first.any()


def test_draws_depend_on_the_generator_alone():
    erasing = RandomErasing(probability=0.5)
    draws = [[erasing.draw((64, 64), np.random.default_rng([1, i])) for i in range(40)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len({draw.seed for draw in draws[0] if draw}) == sum(draw is not None for draw in draws[0]) > 10


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"probability 1\.5"):
        RandomErasing(probability=1.5)
