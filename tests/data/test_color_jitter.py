import numpy as np
import pytest
import torch
from torch import Tensor

from mvit_train.data.color_jitter import ColorJitter

VIDEO = torch.randint(0, 256, (3, 4, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pyslowfasts(video: Tensor, changes):
    """Its arithmetic on clips of 0..1, frames first, in double precision."""
    images = video.transpose(0, 1).double() / 255  # (T, C, H, W)
    for change, factor in changes:
        grey = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
        other = {
            "brightness": torch.zeros_like(images),
            "contrast": grey.mean((1, 2))[:, None, None, None].expand_as(images),
            "saturation": grey[:, None].expand_as(images),
        }[change]
        images = images * factor + other * (1 - factor)
    return (images * 255).transpose(0, 1)


def test_changes_are_pyslowfasts_up_to_one_rounding(record_measured, device):
    jitter, rng, worst = ColorJitter(), np.random.default_rng(0), 0.0
    for _ in range(30):
        changes = jitter.draw((20, 30), rng)
        found = jitter.apply(VIDEO.to(device), changes).cpu()
        worst = max(worst, (found - pyslowfasts(VIDEO, changes).clamp(0, 255)).abs().max().item())
    record_measured(f"colour jitter on {device}: largest difference from PySlowFast's, in levels of 255", worst, 0.501)
    assert worst <= 0.501


def test_order_and_factors_are_random_and_the_same_for_the_whole_clip(follows):
    rng = np.random.default_rng(0)
    drawn = [ColorJitter(brightness=0.4, contrast=0.2).draw((1, 1), rng) for _ in range(6000)]
    orders = [tuple(change for change, _ in changes) for changes in drawn]
    counts = np.array([orders.count(order) for order in sorted(set(orders))])
    assert len(counts) == 6
    assert abs(counts - 1000).max() < 4 * np.sqrt(1000 * 5 / 6)
    for change, reach in [("brightness", 0.4), ("contrast", 0.2), ("saturation", 0.4)]:
        factors = np.array([dict(changes)[change] for changes in drawn])
        follows(f"colour jitter {change}", factors, lambda x, r=reach: ((x - 1 + r) / (2 * r)).clip(0, 1))


def test_a_range_of_zero_switches_a_change_off_and_a_wrong_one_is_refused():
    jitter = ColorJitter(brightness=0, contrast=0, saturation=0)
    assert jitter.apply(VIDEO, jitter.draw((20, 30), np.random.default_rng(0))) is VIDEO
    with pytest.raises(ValueError, match=r"'contrast': 1\.4"):
        ColorJitter(contrast=1.4)
