"""Counts against the official code's, a closed form, and a real step; the papers' table; the command."""

import json
import math
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from mvit_train import models
from mvit_train.__main__ import main
from mvit_train.complexity import ACTIVATIONS, count, operations
from mvit_train.config import ConfigError, check, compose
from mvit_train.memory import bytes_kept, training_memory
from mvit_train.models import MViT, mvit_b, mvit_v2_s
from mvit_train.papers.variants import PUBLISHED, published

MAX: dict[str, Any] = dict(pool="max", pool_kernel="s+1")
OFFICIAL = [  # measured with the official implementation: 1e9 multiply-adds, and 5 per element of LayerNorm
    ("mvit_b", {}, 70.80),
    ("mvit_b", MAX, 70.48),
    ("mvit_b", dict(pool_kernel="s+1"), 70.60),
    ("mvit_b", dict(full_kv_pooling=False), 70.71),
    ("mvit_b_32x3", {}, 170.37),
    ("mvit_b_64x3", {}, 455.88),
    ("mvit_b_24_32x3", {}, 236.31),
    ("vit_b", {}, 179.71),
    ("mvit_b_image", {}, 7.84),
    ("mvit_b_24_image", {}, 10.99),
    ("mvit_b_24_wide_320_image", {}, 32.83),
    ("mvit_v2_s", {}, 64.46),
    ("mvit_v2_s", dict(expand_in="mlp", mean_pooling=True), 71.41),
    ("mvit_v2_b", {}, 225.17),
    ("mvit_v2_l", {}, 2828.10),
    ("mvit_v2_t_image", {}, 4.70),
    ("mvit_v2_s_image", {}, 7.00),
    ("mvit_v2_b_image", {}, 10.16),
    ("mvit_v2_b_image", dict(crop_size=384), 36.69),
    ("mvit_v2_l_image", {}, 43.87),
    ("mvit_v2_l_image", dict(expand_in="attention"), 41.91),
    ("mvit_v2_h_image", {}, 119.92),
]


def closed_form(model: MViT) -> int:
    """Multiply-adds by formula from the blocks' widths and grids, nothing traced."""
    stem = model.patch_embed.proj
    cls, grid = int(model.cls_token is not None), model.thw
    total = math.prod(grid) * stem.weight.numel() + model.head.projection.weight.numel()
    for block in model.blocks:
        attn, dim, out = block.attn, block.norm1.normalized_shape[0], block.mlp.fc2.out_features
        att = attn.proj.in_features

        def pooled(pool, grid=grid):
            """Grid and multiply-adds per channel of a pooling."""
            if pool is None:
                return grid, 0
            _, kernel, stride = pool.spec
            to = tuple((n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(grid, kernel, stride, strict=True))
            return to, math.prod(to) * math.prod(kernel) * (pool.spec.kind == "conv")

        (q_grid, q_pool), (k_grid, k_pool) = pooled(attn.pool_q), pooled(attn.pool_k)
        n_in, n_q, n_k = (math.prod(g) + cls for g in (grid, q_grid, k_grid))
        positions = sum(k_grid["thw".index(axis)] for axis in attn.rel_pos_axes)
        total += n_in * dim * 3 * att + q_pool * att + 2 * k_pool * att + 2 * n_q * n_k * att
        total += (n_q - cls) * att * positions + n_q * att**2 + n_q * 4 * att * (att + out)
        if out != dim:
            total += dim * out * (n_in if block.expand_in == "attention" else n_q)
        grid = q_grid
    return total


@pytest.mark.parametrize(("variant", "overrides", "gflops"), OFFICIAL)
def test_multiply_adds_are_the_official_codes_and_the_closed_forms(variant, overrides, gflops):
    with torch.device("meta"):
        model = getattr(models, variant)(**overrides).eval()
    counts = operations(model)
    counts.pop(ACTIVATIONS)
    assert sum(counts.values()) / 1e9 == pytest.approx(gflops, abs=0.01)
    macs = sum(counts.values()) - counts["layer_norm"]
    assert macs == pytest.approx(closed_form(model), rel=1e-5)  # fvcore rounds the products of an einsum to 4 digits


def test_every_variant_has_a_row_of_a_paper_and_the_official_counts_are_those_tested():
    defaults = {variant: gflops for variant, overrides, gflops in OFFICIAL if not overrides}
    for build in models.VARIANTS:
        with torch.device("meta"):
            row = published(build.__name__, build().input_size)
        assert row is not None, build
        assert row.official_gflops == defaults.get(build.__name__), build
    assert len({(row.variant, row.input_size) for row in PUBLISHED}) == len(PUBLISHED)
    assert {row.variant for row in PUBLISHED if row.open} == {"mvit_s", "mvit_v2_l_image"}


class Fused(nn.Module):
    def forward(self, q):
        return scaled_dot_product_attention(q, q[:, :, :7], q[:, :, :7])


class Explicit(nn.Module):
    def forward(self, q):
        return (q @ q[:, :, :7].transpose(-2, -1)).softmax(-1) @ q[:, :, :7]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fused_attention_counts_as_its_two_products(device):
    q = torch.empty(2, 3, 50, 8, device=device)
    fused, explicit = count(Fused(), q), count(Explicit(), q)
    assert fused["attention"] == explicit["matmul"] == 2 * 2 * 3 * 50 * 7 * 8


def test_torchvisions_model_counts_as_it_was_measured():
    with torch.device("meta"):
        counts = count(torchvision.models.video.mvit_v1_b().eval(), torch.empty(1, 3, 16, 224, 224))
    activations = counts.pop(ACTIVATIONS)
    assert sum(counts.values()) / 1e9 == pytest.approx(70.804, abs=0.001)
    with torch.device("meta"):
        assert operations(mvit_b())[ACTIVATIONS] == activations


TINY: dict[str, Any] = dict(num_frames=4, crop_size=64, blocks_per_stage=(1, 2, 2), embed_dim=32)


@pytest.mark.parametrize("build", [mvit_b, mvit_v2_s])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_the_predicted_memory_is_what_a_real_step_keeps(build, activation_checkpointing, record_measured):
    model = build(**TINY, activation_checkpointing=activation_checkpointing)
    predicted, state = training_memory(model), dict([*model.named_parameters(), *model.named_buffers()])
    for num_clips in (1, 3):
        real = bytes_kept(model, state, num_clips)
        error = abs(predicted.per_clip * num_clips + predicted.per_step - real) / real
        record_measured(f"memory/{build.__name__} x{num_clips}, checkpointing {activation_checkpointing}", error, 0.01)
        assert error < 0.01
    assert predicted.state == 16 * sum(parameter.numel() for parameter in model.parameters())


def test_checkpointing_keeps_a_fraction():
    with torch.device("meta"):
        plain, checkpointed = (training_memory(mvit_b(**TINY, activation_checkpointing=on)) for on in (False, True))
    assert 0.03 < checkpointed.per_clip / plain.per_clip < 0.15


def test_the_command_prints_a_table_beside_the_paper_and_writes_json_without_any_data(tmp_path, capsys):
    assert main(["task=complexity", "experiment=k400_mvit_b", "data.root=/nowhere", f"runs={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "mvit_b  16x224x224" in out
    assert "max pooling (70.48 G)" in out
    (row,) = json.loads((tmp_path / "complexity" / "k400_mvit_b.json").read_text())
    assert row["params"] == 36_610_672
    assert row["differences"]["official_params"] == 0
    assert row["published"]["gflops"] == 70.5
    assert row["tokens"] == [25089, 6273, 1569, 393]
    assert row["num_classes"] == 400
    assert row["gflops"] - row["gmacs"] == pytest.approx(row["by_operation"]["layer_norm"])
    assert 0.4e9 < row["memory"]["per_clip"] < 0.8e9
    assert str(tmp_path / "complexity" / "k400_mvit_b.json") in out


def test_another_input_or_architecture_is_not_compared_with_the_paper(tmp_path, capsys):
    assert published("mvit_b", (16, 192, 192)) is None
    assert main(["task=complexity", "experiment=k400_mvit_b", "model.pool=max", f"runs={tmp_path}"]) == 0
    assert "papers have no row" in capsys.readouterr().out


def test_what_the_papers_leave_open_is_shown_as_unresolved(tmp_path, capsys):
    small = ["experiment=k400_mvit_b", "model=mvit_s", f"runs={tmp_path}"]
    assert main(["task=complexity", *small]) == 0
    out = capsys.readouterr().out
    assert out.count(" unresolved ") == 2
    assert "mvit_s, unresolved: the depth of the first stage" in out


def test_every_variant_can_be_chosen_by_name():
    for build in models.VARIANTS:
        frames = [] if build.__name__.endswith("_image") else ["clip.num_frames=8"]
        check(compose(["task=complexity", f"model={build.__name__}", *frames]))
    with pytest.raises(ConfigError, match="what = all: is for task=complexity"):
        check(compose(["what=all"]))
