import numpy as np
import pytest
import torch

from mvit_train.data.mixup import Mixup, cut_box, smooth_multi_hot, smooth_one_hot


def test_smoothing_spreads_its_share_over_all_classes():
    target = smooth_one_hot(torch.tensor([2]), 4, 0.1)
    torch.testing.assert_close(target, torch.tensor([[0.025, 0.025, 0.925, 0.025]]))


def test_smoothing_of_several_labels_moves_each_class_towards_even_odds():
    target = smooth_multi_hot(torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), 0.1)
    torch.testing.assert_close(target, torch.tensor([[0.95, 0.05, 0.95], [0.05, 0.05, 0.05]]))


@pytest.mark.parametrize("mode", ["mixup_alpha", "cutmix_alpha"])
def test_several_labels_mix_in_the_share_of_one(mode):
    arguments = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0} | {mode: 1.0}
    video, several = torch.randn(4, 3, 2, 16, 16), torch.eye(4)
    several[3] = torch.tensor([0.0, 1.0, 1.0, 0.0])
    mixed_one, one = Mixup(**arguments)(video, torch.arange(4), 4, np.random.default_rng(1))
    mixed, target = Mixup(**arguments)(video, several, 4, np.random.default_rng(1))
    assert torch.equal(mixed, mixed_one)
    share = one[0, 0]
    assert 0 < share < 1
    torch.testing.assert_close(target, several * share + several.flip(0) * (1 - share))
    assert several[3].tolist() == [0, 1, 1, 0]  # what is put in stays as it was


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
