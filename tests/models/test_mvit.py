"""The models against the official implementation's outputs (tests/golden) and the papers' counts."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvit_train import models, ops
from mvit_train.models import MViT, mvit_b, mvit_b_image, mvit_v2_s, mvit_v2_t_image, vit_b

GOLDEN = Path(__file__).parent.parent / "golden"
V1_TINY: dict[str, Any] = dict(
    blocks_per_stage=(1, 2, 1), embed_dim=16, kv_stride=(1, 4, 4), num_classes=11, num_frames=8
)


def golden_tensor(name: str, shape: list[int]) -> torch.Tensor:
    """The deterministic weight the golden files were made with (recipe: shared golden/README.md)."""
    n = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape, dtype=np.float32)
    if "pos" in name or name.endswith("cls_token"):
        n = 0.5 * n
    elif len(shape) <= 1:
        n = 1 + 0.1 * n if name.endswith("weight") else 0.1 * n
    else:
        n = n / np.sqrt(np.prod(shape[1:], dtype=np.float32))
    return torch.from_numpy(np.asarray(n, dtype=np.float32))


def load_golden(model: torch.nn.Module, file: str) -> dict:
    golden = json.loads((GOLDEN / file).read_text())
    model.load_state_dict({name: golden_tensor(name, shape) for name, shape in golden["state_dict"]}, strict=True)
    return golden


@pytest.mark.parametrize("path", ["reference", "fast"])
@pytest.mark.parametrize(
    ("file", "build", "tolerance"),
    [
        ("v1_tiny.json", lambda: mvit_b(**V1_TINY, crop_size=64), 1e-5),
        ("v2_tiny.json", lambda: mvit_v2_s(**V1_TINY, crop_size=64), 1e-5),
        ("k400_mvit_b_16x4.json", mvit_b, 1e-5),
        ("k400_mvitv2_s_16x4.json", mvit_v2_s, 1e-5),
        ("in1k_mvit_b_16.json", mvit_b_image, 1e-5),
        ("in1k_mvitv2_t.json", mvit_v2_t_image, 1e-5),
    ],
)
def test_weights_and_input_of_the_official_model_give_its_logits_and_block_outputs(
    file, build, tolerance, path, record_measured
):
    model = build().eval()
    golden = load_golden(model, file)
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    rng = np.random.Generator(np.random.PCG64(golden["input"]["seed"]))
    video = torch.from_numpy(rng.standard_normal(golden["input"]["shape"], dtype=np.float32))
    with torch.no_grad(), ops.force(path):
        logits = model(video)
    expected = torch.tensor(golden["logits"])
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()
    record_measured(f"golden/{file} {path}: max |difference| / max |logit|", difference, tolerance)
    assert difference <= tolerance
    assert len(outputs) == len(golden["blocks"]) == len(model.blocks)
    for output, (mean, std, *last) in zip(outputs, golden["blocks"], strict=True):
        found = torch.tensor([output.mean(), output.std(correction=0), *output[0, -1, :4]])
        torch.testing.assert_close(found, torch.tensor([mean, std, *last]), rtol=tolerance * 5, atol=tolerance * 5)


PARAMS = {  # facts of the official implementation, built with these settings
    "mvit_b": 36_610_672,
    "mvit_b_32x3": 36_611_440,
    "mvit_b_64x3": 36_612_976,
    "mvit_b_24_32x3": 53_115_280,
    "vit_b": 87_159_952,
    "mvit_b_image": 36_982_600,
    "mvit_b_24_image": 53_516_392,
    "mvit_b_24_wide_320_image": 72_961_832,
    "mvit_v2_s": 34_537_744,
    "mvit_v2_b": 51_230_128,
    "mvit_v2_l": 213_390_112,
    "mvit_v2_t_image": 24_173_320,
    "mvit_v2_s_image": 34_870_216,
    "mvit_v2_b_image": 51_472_744,
    "mvit_v2_l_image": 217_992_952,
    "mvit_v2_h_image": 666_879_720,
}
MAX: dict[str, Any] = dict(pool="max", pool_kernel="s+1")
OVERRIDDEN = [
    (mvit_b, dict(num_classes=600), 36_764_472),
    (mvit_b, dict(num_classes=174), 36_436_878),
    (mvit_b, dict(full_kv_pooling=False), 36_599_536),
    (mvit_b, dict(pool_kernel="s+1"), 36_565_936),
    (mvit_b, MAX, 36_513_232),
    (mvit_b, dict(**MAX, pos_embed="joint"), 38_619_856),
    (mvit_b, dict(**MAX, pos_embed="none"), 36_211_312),
    (mvit_b, dict(**MAX, pos_embed="space"), 36_512_464),
    (models.mvit_b_24_32x3, dict(pool_kernel=(3, 3, 3)), 53_172_880),
    (mvit_b_image, MAX, 36_945_640),
    (models.mvit_s, {}, 26_038_032),
    (mvit_v2_s, dict(num_classes=174), 34_363_950),
    (mvit_v2_s, dict(expand_in="mlp"), 36_475_120),
    (models.mvit_v2_b, dict(num_classes=600), 51_383_928),
    (models.mvit_v2_l, dict(num_classes=174), 213_129_534),
    (models.mvit_v2_l, dict(expand_in="mlp"), 217_747_696),
    (models.mvit_v2_l, dict(expand_in="mlp", crop_size=224), 217_661_008),
    (models.mvit_v2_l, dict(expand_in="mlp", num_frames=16, crop_size=224), 217_578_064),
    (models.mvit_v2_l_image, dict(expand_in="attention"), 213_635_368),
    (models.mvit_v2_b_image, dict(crop_size=384), 51_599_464),
]


@pytest.mark.parametrize(
    ("build", "overrides", "params"),
    [(build, {}, PARAMS[build.__name__]) for build in models.VARIANTS if build.__name__ != "mvit_s"] + OVERRIDDEN,
)
def test_parameter_count_is_the_official_implementations(build, overrides, params):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(**overrides).parameters()) == params


def test_keys_keep_one_grid_until_the_transition_block_widens_it():
    """Paper, Table 2b: the first block of a stage sees 8x14x14 keys, all others 8x7x7."""
    with torch.device("meta"):
        model = mvit_b()
        keys = []
        for block in model.blocks:
            block.attn.register_forward_hook(lambda m, i, _: keys.append(m.pooled_qkv(*i)[1].shape[1] - 1))
        model(torch.empty(1, 3, 16, 224, 224))
    assert keys == [8 * 14 * 14 if i in (1, 3, 14) else 8 * 7 * 7 for i in range(16)]


def test_drop_path_rises_linearly():
    model = MViT(**V1_TINY, crop_size=32, drop_path_rate=0.3)
    assert [round(block.drop_path.rate, 6) for block in model.blocks] == [0.0, 0.1, 0.2, 0.3]


def test_a_stem_of_differences_sees_change_and_nothing_else_at_the_start():
    model = MViT(**V1_TINY, crop_size=32, stem_init="difference")
    stem = model.patch_embed.proj
    assert stem.weight.sum(2).abs().max() < 1e-5
    still, moving = torch.randn(1, 3, 1, 32, 32).expand(-1, -1, 8, -1, -1), torch.randn(1, 3, 8, 32, 32)
    inner = stem(still)[:, :, 1:-1] - stem.bias[:, None, None, None]  # the first and last cube reach into padding
    assert inner.abs().max() < 1e-4
    assert stem(moving).std() > 1
    with pytest.raises(ValueError, match="patch kernel over 2 or more frames"):
        vit_b(stem_init="difference")


def test_a_stem_of_differences_of_an_image_model_sees_outlines_and_nothing_else_at_the_start():
    stem = mvit_b_image(crop_size=32, stem_init="difference").patch_embed.proj
    assert stem.weight.sum((2, 3)).abs().max() < 1e-4
    flat = torch.rand(2, 3, 1, 1).expand(-1, -1, 32, 32)
    inner = stem(flat)[:, :, 1:-1, 1:-1] - stem.bias[:, None, None]  # patches at the border reach into padding
    assert inner.abs().max() < 1e-4
    assert stem(torch.randn(2, 3, 32, 32)).std() > 1


def test_the_papers_initialisation_is_the_default():
    torch.manual_seed(0)
    model = mvit_b()
    block = model.blocks[5]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.pos_embed_spatial.std().item() == pytest.approx(0.02, rel=0.02)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "patch_embed" not in name:
            assert parameter.abs().max() == 0, name


def test_every_parameter_gets_a_gradient():
    for model in (MViT(**V1_TINY, crop_size=32), MViT(**V1_TINY, crop_size=32, cls_token=False)):
        model(torch.randn(2, 3, 8, 32, 32)).sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (dict(embed_dim=97, num_heads=2), "embed_dim 97 must be a multiple of num_heads 2"),
        (dict(blocks_per_stage=(3, 0)), r"blocks_per_stage \(3, 0\): each stage needs a block"),
        (dict(q_strides=((1, 2, 2),)), "4 stages need 3"),
        (dict(patch_kernel=(7, 7), patch_stride=(4, 4)), "num_frames 16: .* takes images"),
        (dict(crop_size=0), "too small"),
    ],
)
def test_an_impossible_architecture_is_refused_with_its_value(overrides, words):
    with pytest.raises(ValueError, match=words):
        mvit_b(**overrides)


def test_another_input_size_than_built_for_is_refused_with_both_sizes():
    model = MViT(**V1_TINY, crop_size=32)
    with pytest.raises(ValueError, match=r"\(8, 32, 32\).*\(8, 64, 64\)"):
        model(torch.randn(1, 3, 8, 64, 64))


@pytest.mark.parametrize("build", [mvit_b, mvit_v2_s])
def test_fast_and_reference_paths_have_the_same_gradients_in_float64(build, record_measured):
    """In float32 they differ by up to 5e-3 at full size: rounding decides near-ties of the max pooling otherwise."""
    model = build(num_frames=8, crop_size=64, drop_path_rate=0.0, dropout=0.0).double()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.05)
    video = torch.randn(1, 3, *model.input_size, dtype=torch.float64)
    gradients = {}
    for path in ("fast", "reference"):
        with ops.force(path):
            loss = torch.nn.functional.cross_entropy(model(video), torch.tensor([3]))
        gradients[path] = torch.autograd.grad(loss, list(model.parameters()))
    worst = 0.0
    for (name, _), fast, reference in zip(model.named_parameters(), *gradients.values(), strict=True):
        if not name.endswith("norm_k.bias"):  # its true gradient is zero
            worst = max(worst, ((fast - reference).abs().max() / reference.abs().max()).item())
    record_measured(f"ops/{build.__name__}, gradients of the fast path in float64", worst, 1e-10)
    assert worst <= 1e-10


def test_at_312_pixels_tables_are_shorter_than_the_grids_and_are_interpolated_as_officially():
    """Convolutions give 78, 39, 20, 10 rows where the official tables were sized for 78, 39, 19, 9."""
    with torch.device("meta"):
        model = models.mvit_v2_l()
    tables, wanted = [], []
    for block in model.blocks:
        tables.append(len(block.attn.rel_pos_h))
        wanted.append(2 * max(block.attn.distances_h.shape) - 1)
        assert len(block.attn.rel_pos_t) == 39
    assert sorted(set(tables), reverse=True) == [155, 77, 37, 17]
    assert sorted(set(wanted), reverse=True) == [155, 77, 39, 19]
    assert [block.attn.thw_out for block in model.blocks][-1] == (20, 10, 10)


def test_a_model_whose_tables_are_interpolated_trains_on_both_paths():
    model = mvit_v2_s(**V1_TINY, crop_size=76)  # 19, 10, 5, against 19, 9, 4
    assert {len(block.attn.rel_pos_h) - 2 * max(block.attn.distances_h.shape) + 1 for block in model.blocks} == {0, -2}
    results = []
    for path in ("fast", "reference"):
        with ops.force(path), torch.no_grad():
            results.append(model.eval()(torch.ones(1, 3, 8, 76, 76)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
