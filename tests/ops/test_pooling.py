"""Pooling: the fast path against the reference, values and gradients, over every shape the models use."""

import pytest
import torch
from torch.nn.functional import avg_pool3d, max_pool3d

from mvit_train import ops
from mvit_train.ops.pooling import pool_conv, pool_output, pool_window

CASES = [  # heads, grid, kernel, stride
    (1, (8, 56, 56), (3, 3, 3), (1, 8, 8)),  # MViT-B, stage 1, keys
    (1, (4, 28, 28), (3, 3, 3), (1, 1, 1)),  # MViTv2, queries
    (2, (4, 28, 28), (3, 3, 3), (1, 2, 2)),
    (4, (4, 14, 14), (3, 3, 3), (1, 1, 1)),
    (2, (3, 39, 39), (3, 3, 3), (1, 2, 2)),  # 312 pixels: 39 -> 20
    (2, (3, 13, 10), (3, 3, 3), (1, 4, 4)),
    (1, (8, 16, 16), (1, 9, 9), (1, 8, 8)),  # the rule s + 1
    (2, (1, 28, 28), (1, 3, 3), (1, 4, 4)),  # images
    (2, (8, 8, 8), (3, 3, 3), (2, 2, 2)),
    (1, (5, 6, 7), (2, 2, 2), (2, 2, 2)),  # even: the reference on both sides
]


def pooled_and_gradients(path, heads, thw, kernel, stride, num_cls, *, device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    dim, n = 16 * heads, num_cls + thw[0] * thw[1] * thw[2]
    qkv = torch.randn(2, n, 3 * dim, generator=generator).to(device, dtype).requires_grad_()
    weight = torch.randn(16, 1, *kernel, generator=generator).to(device).requires_grad_()
    with ops.force(path):
        out = pool_conv(qkv.chunk(3, dim=-1)[1], thw, weight.to(dtype), stride, num_cls=num_cls)
        with torch.no_grad():
            again = pool_conv(qkv.chunk(3, dim=-1)[1], thw, weight.to(dtype), stride, num_cls=num_cls)
    torch.testing.assert_close(out, again, rtol=0, atol=0)
    out.backward(torch.randn(out.shape, generator=generator).to(device, dtype))
    return out.detach(), qkv.grad, weight.grad


@pytest.mark.parametrize("num_cls", [0, 1])
@pytest.mark.parametrize(("heads", "thw", "kernel", "stride"), CASES)
def test_fast_convolution_equals_the_reference(heads, thw, kernel, stride, num_cls, device):
    fast = pooled_and_gradients("fast", heads, thw, kernel, stride, num_cls, device=device)
    reference = pooled_and_gradients("reference", heads, thw, kernel, stride, num_cls, device=device)
    t, h, w = pool_output(thw, kernel, stride)
    assert fast[0].shape == (2, num_cls + t * h * w, 16 * heads)
    for found, expected in zip(fast, reference, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_fast_convolution_in_bfloat16_is_as_near_to_float32_as_the_reference_in_bfloat16(device):
    case = CASES[2]
    exact = pooled_and_gradients("reference", *case, 1, device=device)
    errors = {}
    for path in ("fast", "reference"):
        found = pooled_and_gradients(path, *case, 1, device=device, dtype=torch.bfloat16)
        errors[path] = [(a.float() - b).abs().max() / b.abs().max() for a, b in zip(found, exact, strict=True)]
    for fast, reference in zip(errors["fast"], errors["reference"], strict=True):
        assert fast <= 1.5 * reference + 1e-3


def test_in_float64_both_paths_have_the_same_gradients_to_rounding(device):
    results = [
        pooled_and_gradients(path, *CASES[2], 1, device=device, dtype=torch.float64) for path in ("fast", "reference")
    ]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # the weight's gradient comes back in float32


def test_windows_on_tokens_equal_pytorchs_poolings_on_the_grid():
    thw, kernel, stride = (4, 9, 9), (1, 3, 3), (1, 2, 2)
    x = torch.randn(2, 1 + 4 * 81, 8)
    grid = x[:, 1:].transpose(1, 2).unflatten(2, thw)
    for kind, function in (("max", max_pool3d), ("avg", avg_pool3d)):
        for k, s in ((kernel, stride), ((3, 3, 3), (2, 2, 2))):
            out = pool_window(x, thw, k, s, kind, num_cls=1)
            expected = function(grid, k, s, tuple(n // 2 for n in k)).flatten(2).transpose(1, 2)
            torch.testing.assert_close(out[:, 1:], expected)
            torch.testing.assert_close(out[:, 0], x[:, 0], rtol=0, atol=0)
