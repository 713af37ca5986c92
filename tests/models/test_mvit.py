"""The models against the official implementation's outputs (tests/golden) and the papers' counts."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mvit_train.models import MViT, mvit_b, vit_b
from mvit_train.models.layers import DropPath

GOLDEN = Path(__file__).parent.parent / "golden"
V1_TINY = dict(depth=4, embed_dim=16, stage_starts=(1, 3), kv_stride=(1, 4, 4), num_classes=11, num_frames=8)


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


@pytest.mark.parametrize(
    ("file", "build", "tolerance"),
    [
        ("v1_tiny.json", lambda: mvit_b(**V1_TINY, crop_size=64), 2e-5),
        ("k400_mvit_b_16x4.json", mvit_b, 2e-4),
    ],
)
def test_weights_and_input_of_the_official_model_give_its_logits_and_block_outputs(file, build, tolerance):
    model = build().eval()
    golden = load_golden(model, file)
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output[0]))
    rng = np.random.Generator(np.random.PCG64(golden["input"]["seed"]))
    video = torch.from_numpy(rng.standard_normal(golden["input"]["shape"], dtype=np.float32))
    with torch.no_grad():
        logits = model(video)
    expected = torch.tensor(golden["logits"])
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()
    assert len(outputs) == len(golden["blocks"]) == len(model.blocks)
    for output, (mean, std, *last) in zip(outputs, golden["blocks"], strict=True):
        found = torch.tensor([output.mean(), output.std(correction=0), *output[0, -1, :4]])
        torch.testing.assert_close(found, torch.tensor([mean, std, *last]), rtol=tolerance * 5, atol=tolerance * 5)


@pytest.mark.parametrize(
    ("build", "params"),
    [
        (mvit_b, 36_610_672),
        (lambda: mvit_b(num_classes=600), 36_764_472),
        (lambda: mvit_b(num_frames=32), 36_611_440),
        (vit_b, 87_159_952),
    ],
    ids=["mvit_b", "k600", "32x3", "vit_b"],
)
def test_parameter_count_is_the_published_one(build, params):
    with torch.device("meta"):
        assert sum(p.numel() for p in build().parameters()) == params


def test_keys_keep_one_grid_until_the_transition_block_widens_it():
    """Paper, Table 2b: the first block of a stage sees 8x14x14 keys, all others 8x7x7."""
    with torch.device("meta"):
        model = mvit_b()
        keys = []
        for block in model.blocks:
            block.attn.norm_k.register_forward_hook(lambda _m, _i, output: keys.append(output.shape[2] - 1))
        model(torch.empty(1, 3, 16, 224, 224))
    assert keys == [8 * 14 * 14 if i in (1, 3, 14) else 8 * 7 * 7 for i in range(16)]


def test_drop_path_rises_linearly_and_keeps_the_expectation():
    model = MViT(**V1_TINY, crop_size=32, drop_path_rate=0.3)
    assert [round(block.drop_path.rate, 6) for block in model.blocks] == [0.0, 0.1, 0.2, 0.3]
    torch.manual_seed(0)
    out = DropPath(0.3).train()(torch.ones(20_000, 2, 2))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(out[:, 0, 0], out[:, 1, 1])  # one draw per sample
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)


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
        (dict(embed_dim=97, num_heads=2), "embed_dim 97 is not a multiple of num_heads 2"),
        (dict(stage_starts=(3, 1)), r"stage_starts \(3, 1\)"),
        (dict(stage_starts=(16,)), "depth - 1 = 15"),
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
