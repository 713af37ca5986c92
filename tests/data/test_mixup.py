import numpy as np
import pytest
import torch

from mvit_train.data.mixup import Mixup, cut_box, smooth_one_hot


def test_smoothing_spreads_its_share_over_all_classes():
    target = smooth_one_hot(torch.tensor([2]), 4, 0.1)
    torch.testing.assert_close(target, torch.tensor([[0.025, 0.025, 0.925, 0.025]]))


def mix(**arguments):
    video = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 16, 16).clone()
    return video, *Mixup(**arguments)(video, torch.arange(4), 4, np.random.default_rng(1))


def test_mixup_blends_clip_i_with_clip_n_minus_i_in_one_share_for_the_batch():
    video, mixed, target = mix(cutmix_alpha=0.0, label_smoothing=0.0)
    share = target[0, 0]
    torch.testing.assert_close(mixed, video * share + video.flip(0) * (1 - share))
    torch.testing.assert_close(target, torch.eye(4) * share + torch.eye(4).flip(1) * (1 - share))


def test_cutmix_pastes_one_box_through_all_frames_and_counts_its_real_area():
    video, mixed, target = mix(mixup_alpha=0.0, label_smoothing=0.0)
    pasted = (mixed[0] != video[0]).float()
    assert 0 < pasted.mean() < 1
    assert torch.equal(pasted[:, :1].expand_as(pasted), pasted)
    assert target[0, 3].item() == pytest.approx(pasted.mean().item())
    assert target.sum(1).tolist() == pytest.approx([1.0] * 4)


def test_both_modes_are_taken_about_equally_often():
    video, label = torch.randn(2, 3, 1, 8, 8), torch.arange(2)
    mixup = Mixup()
    blended = [
        ((mixup(video, label, 2, np.random.default_rng(seed))[0] == video).float().mean() == 0).item()
        for seed in range(200)
    ]
    assert 60 < sum(blended) < 140


def test_without_a_partner_or_a_mode_only_labels_are_smoothed():
    video, label = torch.randn(1, 3, 1, 8, 8), torch.tensor([1])
    for mixup, clips, labels in (
        (Mixup(), video, label),
        (Mixup(mixup_alpha=0, cutmix_alpha=0), video.repeat(2, 1, 1, 1, 1), label.repeat(2)),
    ):
        out, target = mixup(clips, labels, 2, np.random.default_rng(0))
        assert torch.equal(out, clips)
        torch.testing.assert_close(target[:1], torch.tensor([[0.05, 0.95]]))


def test_a_box_at_the_edge_is_clipped_not_moved():
    boxes = [cut_box((20, 20), 0.5, np.random.default_rng(seed)) for seed in range(200)]
    assert all(min(y, x) >= 0 and max(y + h, x + w) <= 20 for y, x, h, w in boxes)
    assert max(h for _, _, h, _ in boxes) == 14 > min(h for _, _, h, _ in boxes)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="mixup_alpha -1"):
        Mixup(mixup_alpha=-1)
