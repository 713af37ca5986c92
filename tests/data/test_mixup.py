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


def reference(video, label, num_classes, *, mixup_alpha, cutmix_alpha, eps, seed):
    """PySlowFast's `MixUp` by facts.md 3, in float64 and clip by clip: (video, targets, mode, share)."""
    draw = np.random.default_rng(seed)
    cut = bool(draw.integers(2))
    alpha = cutmix_alpha if cut else mixup_alpha
    share = draw.beta(alpha, alpha)
    video = video.double().numpy()
    height, width = video.shape[-2:]
    mixed = np.empty_like(video)
    if cut:
        side = np.sqrt(1 - share)
        half_h, half_w = int(height * side) // 2, int(width * side) // 2
        y, x = draw.integers(height), draw.integers(width)
        rows = [row for row in range(height) if y - half_h <= row < y + half_h]
        columns = [column for column in range(width) if x - half_w <= column < x + half_w]
        share = 1 - len(rows) * len(columns) / (height * width)
    for clip in range(len(video)):
        partner = video[len(video) - 1 - clip]
        mixed[clip] = video[clip] if cut else share * video[clip] + (1 - share) * partner
        for row in rows if cut else []:
            mixed[clip][..., row, columns] = partner[..., row, columns]
    on, off = 1 - eps + eps / num_classes, eps / num_classes
    one = np.full((len(label), num_classes), off)
    one[np.arange(len(label)), label] = on
    return mixed, share * one + (1 - share) * one[::-1], "cutmix" if cut else "mixup", share


def test_batches_equal_the_reference_arithmetic(record_measured):
    video, label = torch.randn(4, 3, 4, 24, 20, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 3, 6])
    worst = dict.fromkeys(["mixup pixels", "mixup targets", "cutmix pixels", "cutmix targets"], -1.0)
    for seed in range(100):
        settings = dict(mixup_alpha=0.8, cutmix_alpha=1.0)
        mixed, target = Mixup(**settings)(video, label, 7, np.random.default_rng(seed))
        pixels, targets, mode, _ = reference(video, label, 7, **settings, eps=0.1, seed=seed)
        for what, ours, theirs in (("pixels", mixed, pixels), ("targets", target, targets)):
            difference = np.abs(ours.double().numpy() - theirs).max()
            worst[f"{mode} {what}"] = max(worst[f"{mode} {what}"], difference)
    for what, difference in worst.items():
        bound = 0 if what == "cutmix pixels" else 1e-6
        record_measured(f"{what}: max |difference| from the reference arithmetic", difference, bound)
        assert 0 <= difference <= bound


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
def test_shares_follow_the_beta_distribution(alpha, follows):
    video, label = torch.zeros(2, 1, 1, 1, 1), torch.tensor([0, 1])
    mixup = Mixup(mixup_alpha=alpha, cutmix_alpha=0, label_smoothing=0)
    shares = [mixup(video, label, 2, np.random.default_rng(seed))[1][0, 0].item() for seed in range(2000)]
    grid = (np.arange(200_000) + 0.5) / 200_000  # Beta's distribution function by adding up its density
    density = (grid * (1 - grid)) ** (alpha - 1)
    cumulated = np.cumsum(density) / density.sum()
    follows(f"mixup share, Beta({alpha}, {alpha})", shares, lambda x: np.interp(x, grid, cumulated))
