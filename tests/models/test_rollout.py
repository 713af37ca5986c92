"""Attention rollout against arithmetic by hand and against matrices written out; input x gradient."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from mvit_train.models import MViT, attention, mvit_b, mvit_b_image, mvit_v2_s, mvit_v2_s_image, rollout, vit_b
from mvit_train.models.rollout import (
    attention_rollout,
    attention_rows,
    cubes_to_pixels,
    gradient_saliency,
    saliency,
    uniform_rollout,
)

SMALL = dict(num_frames=4, crop_size=32, embed_dim=8, blocks_per_stage=(1, 2, 1), num_classes=5)
MODELS = {
    "v1": lambda: mvit_b(**SMALL),
    "v1 mean of tokens": lambda: mvit_b(**SMALL, cls_token=False),
    "v1 mean pooling beside a class token": lambda: mvit_b(**SMALL, mean_pooling=True),
    "v1 max": lambda: mvit_b(**SMALL, pool="max", pool_kernel="2s+1"),
    "v1 avg, strides in time": lambda: mvit_b(
        **SMALL, pool="avg", pool_kernel="s", q_strides=((2, 2, 2), (1, 2, 2)), kv_stride=(2, 4, 4)
    ),
    "v1 without key pooling, odd grid": lambda: mvit_b(**SMALL | dict(crop_size=44), kv_stride=None),
    "v2": lambda: mvit_v2_s(**SMALL),
    "v2 mean of tokens, odd grid": lambda: mvit_v2_s(**SMALL | dict(crop_size=44), cls_token=False),
    "v2 without residual pooling": lambda: mvit_v2_s(**SMALL, residual_pooling=False, rel_pos="space"),
    "ViT": lambda: vit_b(num_frames=2, crop_size=32, embed_dim=16, num_heads=4, blocks_per_stage=(3,), num_classes=5),
    "v1 image": lambda: mvit_b_image(crop_size=32, embed_dim=8, blocks_per_stage=(1, 2, 1)),
    "v2 image": lambda: mvit_v2_s_image(crop_size=32, embed_dim=8, blocks_per_stage=(1, 2, 1)),
}


@pytest.fixture(params=MODELS)
def case(request, randomised):
    """A random model in float64 and a batch of two inputs."""
    model = randomised(MODELS[request.param]()).double()
    shape = (2, 3, *model.input_size)
    return model, torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("heads", ["mean", "max", 0, 3])
def test_rollout_is_the_product_of_matrices_written_out(case, heads, monkeypatch):
    model, video = case
    expected = written_out(model, video, heads, monkeypatch)
    monkeypatch.setattr(rollout, "MAX_ELEMENTS", 1000)  # several parts of a block's queries, the last one shorter
    found = attention_rollout(model, video, heads=heads)
    assert found.shape == (2, *model.thw)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.flatten(1).sum(1), 1, rtol=1e-12)


def written_out(model: MViT, video: torch.Tensor, heads: str | int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """r R_L ... R_1 with whole matrices, from the queries and keys that the model hands to `attend`."""
    used = []
    real = attention.attend
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "attend", lambda q, k, v, **rel: used.append((q, k, rel)) or real(q, k, v, **rel))
        model(video)
    assert len(used) == len(model.blocks)
    num_cls = int(model.cls_token is not None)
    maps = []
    for sample in range(len(video)):
        whole, grid = np.eye(num_cls + np.prod(model.thw)), model.thw
        for block, (q, k, rel) in zip(model.blocks, used, strict=True):
            each = head_matrices(q[sample], k[sample], rel, sample)
            one = heads * len(each) // used[-1][0].shape[1] if isinstance(heads, int) else None
            fused = each[one] if one is not None else getattr(each, heads)(axis=0)
            fused = fused / fused.sum(1, keepdims=True)
            keys, _ = windows(block.attn.pool_k, grid, num_cls)
            skip, after = windows(block.pool_skip, grid, num_cls)
            paths = fused @ keys + skip
            if block.attn.residual_pooling:
                queries, after = windows(block.attn.pool_q, grid, num_cls)
                queries[:num_cls] = 0
                paths += queries
            whole = paths / paths.sum(1, keepdims=True) @ whole
            grid = after
        rows = whole[:1] if num_cls and not model.mean_pooling else whole[num_cls:]
        row = rows.mean(0)[num_cls:]
        maps.append((row / row.sum()).reshape(model.thw))
    return np.stack(maps)


def head_matrices(q: torch.Tensor, k: torch.Tensor, rel: dict, sample: int) -> np.ndarray:
    """(H, N', M) by numpy."""
    logits = np.einsum("hnd,hmd->hnm", q.numpy(), k.numpy()) / q.shape[-1] ** 0.5
    if rel["q_rel"] is not None:
        logits += np.einsum("hnp,mp->hnm", rel["q_rel"][sample].numpy(), rel["k_rel"].numpy())
    weights = np.exp(logits - logits.max(2, keepdims=True))
    return weights / weights.sum(2, keepdims=True)


def windows(pool, grid: tuple[int, int, int], num_cls: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The matrix of a pooling whose windows weigh all their positions alike, position by position, and its grid."""
    if pool is None:
        return np.eye(num_cls + np.prod(grid)), grid
    kernel, stride = pool.spec.kernel, pool.spec.stride
    covered = []  # for each axis and output position, the input positions
    for n, k, s in zip(grid, kernel, stride, strict=True):
        pad, starts = (k - 1) // 2, []
        while len(starts) * s - pad + k <= n + pad:
            starts.append(len(starts) * s - pad)
        covered.append([[i for i in range(first, first + k) if 0 <= i < n] for first in starts])
    after = tuple(len(axis) for axis in covered)
    matrix = np.zeros((num_cls + np.prod(after), num_cls + np.prod(grid)))
    matrix[:num_cls, :num_cls] = np.eye(num_cls)
    for out, axes in enumerate(product(*covered), start=num_cls):
        for place in product(*axes):
            matrix[out, num_cls + np.ravel_multi_index(place, grid)] = 1 / np.prod([len(axis) for axis in axes])
    return matrix, after


def test_attention_computed_again_gives_what_the_block_gave(case, monkeypatch):
    model, video = case
    monkeypatch.setattr(rollout, "MAX_ELEMENTS", 500)
    seen, checked = [], 0
    for block in model.blocks:
        block.attn.register_forward_hook(lambda module, args, output: seen.append((module, args[0], output)))
    with torch.no_grad():
        model(video)
        for attn, x, output in seen:
            weights = torch.cat([part for _, part in attention_rows(attn, x)], dim=2)
            q, _, v = attn.pooled_qkv(x)
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
            made = torch.einsum("bhnm,bmhd->bnhd", weights, v)
            if attn.residual_pooling:
                made[:, attn.num_cls :] += q[:, attn.num_cls :]
            torch.testing.assert_close(attn.proj(made.flatten(2)), output, rtol=1e-9, atol=1e-12)
            checked += 1
    assert checked == len(model.blocks)


def plain(**arguments) -> MViT:
    """An image model on a grid of 4 x 4, without a class token, that sees nothing but its positions."""
    settings = dict(
        num_frames=1, crop_size=8, patch_kernel=(2, 2), patch_stride=(2, 2), embed_dim=4, blocks_per_stage=(1,),
        kv_stride=None, pos_embed="joint", cls_token=False, pool="max", num_classes=2,
    )  # fmt: skip
    model = MViT(**settings | arguments).double().eval()
    with torch.no_grad():
        for parameter in (*model.patch_embed.parameters(), model.pos_embed):
            parameter.zero_()
        for block in model.blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.zero_()
    return model


def test_uniform_attention_by_hand_where_the_query_is_pooled():
    model = plain(blocks_per_stage=(1, 1), q_strides=((1, 2, 2),), pool_kernel=(1, 3, 3))
    found = attention_rollout(model, torch.zeros(1, 3, 8, 8).double())[0, 0]
    # Windows of the skip path's max pooling, kernel 3 and stride 2, along an axis: positions 0 1, and 1 2 3.
    along = np.array([1 / 4, 1 / 4 + 1 / 6, 1 / 6, 1 / 6])
    after_second = 0.5 / 16 + 0.5 * np.outer(along, along)
    np.testing.assert_allclose(found, 0.5 / 16 + 0.5 * after_second, rtol=1e-12)


def test_uniform_attention_of_a_class_token_is_a_uniform_map():
    model = plain(cls_token=True)
    found = attention_rollout(model, torch.zeros(1, 3, 8, 8).double())
    np.testing.assert_allclose(found, np.full((1, 1, 4, 4), 1 / 16), rtol=1e-12)


@pytest.mark.parametrize("kv_stride", [None, (1, 2, 2)])
def test_attention_to_one_position_by_hand(kv_stride):
    model = plain(kv_stride=kv_stride, pool_kernel="s")
    with torch.no_grad():  # the token in row 1, column 2 alone has a key, to which every query is alike
        model.pos_embed[0, 1 * 4 + 2, 0] = 1
        attn = model.blocks[0].attn
        attn.qkv.weight[4, 0], attn.qkv.bias[0] = 100, 100
    found = attention_rollout(model, torch.zeros(1, 3, 8, 8).double())[0, 0]
    seen = np.zeros((4, 4))
    if kv_stride is None:
        seen[1, 2] = 1
    else:
        seen[0:2, 2:4] = 1 / 4
    np.testing.assert_allclose(found, 0.5 * seen + 0.5 / 16, rtol=1e-12)


def test_the_uniform_map_is_that_of_a_model_whose_attention_is_uniform(case):
    model, video = case
    with torch.no_grad():
        for block in model.blocks:
            for name, parameter in block.attn.named_parameters():
                if name.startswith(("qkv", "norm_q", "rel_pos")):
                    parameter.zero_()
    found = uniform_rollout(model)
    for sample in attention_rollout(model, video):
        torch.testing.assert_close(found.double(), sample, rtol=1e-5, atol=1e-8)
    relative = saliency(model, video)
    torch.testing.assert_close(relative, torch.ones_like(relative), rtol=1e-5, atol=1e-5)
    assert found.std() > 0 or not any(block.pool_skip or block.attn.pool_k for block in model.blocks)


def test_a_head_counts_in_the_last_block_and_must_exist():
    model = mvit_b(**SMALL).eval()
    video = torch.zeros(1, 3, *model.input_size[1:]).unsqueeze(2).expand(-1, -1, 4, -1, -1)
    with pytest.raises(ValueError, match="heads 4: the last block has heads 0 to 3"):
        attention_rollout(model, video, heads=4)
    with pytest.raises(ValueError, match="training mode"):
        attention_rollout(model.train(), video)


def test_rollout_leaves_no_hook_behind_and_the_model_as_it_was():
    model = mvit_b(**SMALL).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention_rollout(model, torch.zeros(1, 3, *model.input_size))
    assert not any(block.attn._forward_pre_hooks for block in model.blocks)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Linear(nn.Module):
    """Logits linear in the input: of class k the sum over weight[k] * video."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bcthw,kcthw->bk", video, self.weight)


def test_gradient_saliency_of_a_linear_model_is_input_times_weight():
    model = Linear(3, 2, 4, 4).eval()
    video = torch.randn(5, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    each = (video[:, None] * model.weight).detach().abs().sum(2)  # (B, K, T, H, W)
    with torch.no_grad():
        torch.testing.assert_close(gradient_saliency(model, video, 1), each[:, 1])
        top = model(video).argmax(1)
        torch.testing.assert_close(gradient_saliency(model, video), each[torch.arange(5), top])
    assert len(top.unique()) > 1
    assert model.weight.grad is None
    with pytest.raises(ValueError, match="class_index 3: the model has classes 0 to 2"):
        gradient_saliency(model, video, 3)


@pytest.mark.parametrize(
    ("kernel", "stride", "num_frames"), [((3, 7, 7), (2, 4, 4), 12), ((1, 8, 8), (1, 8, 8), 4), ((7, 7), (4, 4), 1)]
)
def test_a_cube_lies_in_pixels_where_the_patch_embedding_reads_it(kernel, stride, num_frames):
    model = MViT(**SMALL | dict(patch_kernel=kernel, patch_stride=stride, num_frames=num_frames, crop_size=64))
    cube = tuple(n // 2 for n in model.thw)
    maps = torch.zeros(1, *model.thw)
    maps[(0, *cube)] = 1
    with torch.no_grad():
        model.patch_embed.proj.weight.fill_(1)
    video = torch.zeros(1, 3, *model.input_size, requires_grad=True)
    token = np.ravel_multi_index(cube, model.thw)
    read = torch.autograd.grad(model.patch_embed(video)[0, token, 0], video)[0].sum(1)
    read = (read if read.ndim == 4 else read[:, None])[0]
    shown = cubes_to_pixels(model, maps)[0]
    assert shown.shape == read.shape
    for axis in range(3):
        place = torch.arange(shown.shape[axis], dtype=torch.float32)
        along = [image.sum([other for other in range(3) if other != axis]) for image in (shown, read)]
        centres = [(image @ place / image.sum()).item() for image in along]
        assert centres[0] == pytest.approx(centres[1], abs=1e-4), axis
    torch.testing.assert_close(cubes_to_pixels(model, torch.full_like(maps, 0.25)), torch.full_like(shown[None], 0.25))


def test_both_methods_give_maps_in_pixels():
    for name, frames in (("v2", 4), ("v2 image", 1)):
        model = MODELS[name]().eval()
        video = torch.randn(2, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
        for method in ("rollout", "gradient"):
            found = saliency(model, video, method)
            assert found.shape == (2, frames, 32, 32)
            assert (found.min() >= 0, found.std() > 0) == (True, True)
