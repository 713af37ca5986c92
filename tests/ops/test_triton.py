"""The GPU kernels against float64, values and gradients: on a GPU, or in Triton's interpreter, which knows no devices.

Weights are random, also those that start as 0 or 1. Bounds are of the largest value expected: in 32 bits the rounding
of float32 sums in another order, in 16 bits that of storing the inputs of products and the results.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mvit_train import ops
from mvit_train.ops import attention as attention_module
from mvit_train.ops.attention import attend, fused_channels
from mvit_train.ops.pooling import pool_conv, pool_norm, pool_norm_reference

pytest.importorskip("triton", reason="the kernels need Triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUND = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

POOLINGS = [  # batch, heads, channels of a head, grid, kernel in time, stride, class tokens
    (1, 1, 96, (2, 3, 9), 3, (1, 1, 1), 1),  # MViTv2's queries
    (1, 1, 96, (1, 11, 17), 3, (1, 8, 8), 1),  # MViT-B's first keys
    (1, 2, 24, (2, 5, 7), 3, (1, 2, 2), 1),  # odd grids
    (3, 1, 16, (1, 9, 6), 1, (1, 4, 4), 0),  # images, without a class token
    (1, 1, 72, (3, 4, 5), 3, (2, 2, 2), 0),  # MViTv2-L's heads; a stride in time
]
ATTENTIONS = [  # batch, heads, queries, keys, channels, relative columns, first query to which q is added
    (1, 2, 150, 70, 96, 36, 1),  # MViTv2-S where the fused kernel has too few channels
    (1, 1, 40, 130, 72, 60, 1),  # MViTv2-L alike
    (3, 1, 30, 40, 24, 5, 0),  # without a class token
    (1, 1, 65, 30, 96, 0, None),  # no relative position
    (1, 1, 20, 20, 16, 16, None),
]


def random(seed: int, *shape: int, dtype: torch.dtype, centre: float = 0.0) -> Tensor:
    """Equal for all types but for its rounding."""
    x = centre + torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).to(DEVICE).requires_grad_()


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor], path: Any) -> list[Tensor]:
    with ops.force(path):
        out = function(*inputs)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out))
    return [out.detach(), *(x.grad for x in inputs if x.grad is not None)]


def errors(function: Callable[..., Tensor], inputs: Callable[[torch.dtype], list[Tensor]], dtype: torch.dtype):
    """Of the output and each gradient, as a share of the largest value in float64."""
    found = with_gradients(function, inputs(dtype), "triton")
    expected = with_gradients(function, [x.detach().double().requires_grad_() for x in inputs(dtype)], "reference")
    assert all(x.shape == y.shape for x, y in zip(found, expected, strict=True))
    return [((x.double() - y).abs().max() / y.abs().max()).item() for x, y in zip(found, expected, strict=True)]


def pooling(case: tuple, dtype: torch.dtype) -> list[float]:
    batch, heads, dim, thw, kt, stride, num_cls = case
    tokens = num_cls + thw[0] * thw[1] * thw[2]

    def inputs(dtype: torch.dtype) -> list[Tensor]:
        packed = random(0, batch, tokens, 3 * heads * dim, dtype=dtype)
        weights = torch.float64 if dtype == torch.float64 else torch.float32  # autocast leaves parameters as they are
        kernel = random(1, dim, 1, kt, 3, 3, dtype=weights)
        return [packed, kernel, random(2, dim, dtype=weights, centre=1), random(3, dim, dtype=weights)]

    def keys(packed: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        part = packed.chunk(3, dim=-1)[1]  # read and differentiated where it lies
        return pool_norm(part, thw, weight, gamma, beta, stride, num_cls=num_cls, eps=1e-6)

    return errors(keys, inputs, dtype)


def attention(case: tuple, dtype: torch.dtype) -> list[float]:
    b, h, queries, keys, dim, columns, residual_from = case
    k_rel = (torch.rand(keys, max(columns, 1), generator=torch.Generator().manual_seed(4)) < 0.1).float().to(DEVICE)

    def inputs(dtype: torch.dtype) -> list[Tensor]:
        packed = [random(i, b, n, h, dim, dtype=dtype) for i, n in enumerate((queries, keys, keys))]
        return packed + ([random(5, b, h, queries, columns, dtype=dtype)] if columns else [])

    def attended(q: Tensor, k: Tensor, v: Tensor, q_rel: Tensor | None = None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        of_keys = None if q_rel is None else k_rel
        return attend(q, k, v, q_rel=q_rel, k_rel=of_keys, residual_from=residual_from)

    return errors(attended, inputs, dtype)


@pytest.mark.parametrize("case", POOLINGS)
def test_pooling_and_its_gradients(case, record_measured):
    found = max(pooling(case, torch.float32))
    record_measured(f"kernels/pool_norm {case} float32", found, BOUND[torch.float32])
    assert found <= BOUND[torch.float32]


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention_and_its_gradients(case, record_measured):
    found = max(attention(case, torch.float32))
    record_measured(f"kernels/attention {case} float32", found, BOUND[torch.float32])
    assert found <= BOUND[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kernel", "case"), [(pooling, POOLINGS[2]), (attention, ATTENTIONS[0])])
def test_in_16_bits(kernel, case, dtype, record_measured):
    found = max(kernel(case, dtype))
    record_measured(f"kernels/{kernel.__name__} {case} {str(dtype)[6:]}", found, BOUND[dtype])
    assert found <= BOUND[dtype]


@pytest.mark.parametrize("mode", ["values", "gradients"])
def test_the_operations_describe_themselves_to_the_compiler(mode):
    """Fake outputs have the shapes, types and strides of real ones, and gradients are registered."""
    from mvit_train.ops import triton_attention, triton_pooling

    grad = mode == "gradients"
    x = torch.randn(1, 7, 48, device=DEVICE)
    weights = [torch.randn(16, 1, 1, 3, 3, device=DEVICE), *(torch.randn(16, device=DEVICE) for _ in "gb")]
    q, k, v = (torch.randn(1, n, 1, 16, device=DEVICE).transpose(1, 2).requires_grad_(grad) for n in (5, 3, 3))
    q_rel, k_rel = torch.randn(1, 1, 5, 4, device=DEVICE).requires_grad_(grad), torch.ones(3, 4, device=DEVICE)
    tests = ("test_schema", "test_faketensor", *(["test_autograd_registration"] if grad else []))
    pool = (x[..., 16:32].requires_grad_(grad), [1, 2, 3], *(w.requires_grad_(grad) for w in weights))
    torch.library.opcheck(triton_pooling.pool_norm, (*pool, [1, 2, 2], 1, 1e-6, grad), test_utils=tests)
    torch.library.opcheck(triton_attention.attend, (q, k, v, q_rel, k_rel, 1), test_utils=tests)
    torch.library.opcheck(triton_attention.attend, (q, k, v, None, None, None), test_utils=tests)


def test_without_a_gpu_or_in_float64_nothing_chooses_a_kernel(monkeypatch):
    assert not ops.triton_takes(torch.zeros(1))
    monkeypatch.setattr(ops, "_is_ampere_or_later", lambda index: True)

    class OnGPU:
        device, dtype = torch.device("cuda", 0), torch.bfloat16

    assert ops.triton_takes(OnGPU()) is True  # pyright: ignore[reportArgumentType]
    OnGPU.dtype = torch.float64
    assert not ops.triton_takes(OnGPU())  # pyright: ignore[reportArgumentType]
    OnGPU.dtype = torch.bfloat16
    monkeypatch.setattr(ops, "KERNELS", False)
    assert not ops.triton_takes(OnGPU())  # pyright: ignore[reportArgumentType]


def test_a_kernel_that_the_convolution_has_not_takes_the_next_best_path():
    x, weight, gamma = torch.randn(1, 1 + 2 * 9 * 9, 16), torch.randn(16, 1, 1, 5, 5), torch.randn(16)
    arguments: Any = (x, (2, 9, 9), weight, gamma, gamma, (1, 4, 4))
    with ops.force("triton"):
        found = pool_norm(*arguments, num_cls=1, eps=1e-6)
    pooled = pool_conv(x, (2, 9, 9), weight, (1, 4, 4), num_cls=1).unflatten(-1, (1, 16))
    expected = torch.nn.functional.layer_norm(pooled, (16,), gamma, gamma, 1e-6)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, pool_norm_reference(*arguments, num_cls=1, eps=1e-6))


def test_the_fused_kernel_gets_a_number_of_channels_that_it_is_written_for():
    q, of_gpu = torch.zeros(1, 1, 1, 96), type("Q", (), {"device": torch.device("cuda"), "shape": (1, 1, 1, 96)})()
    assert [fused_channels(q, torch.zeros(1, p)) for p in (22, 36)] == [120, 136]
    assert [fused_channels(of_gpu, torch.zeros(1, p)) for p in (22, 32, 36)] == [128, 128, 160]  # pyright: ignore


def test_a_kernel_is_chosen_where_the_fused_one_has_too_few_channels(monkeypatch):
    """By the shapes of published models: MViTv2-S (96 + 22, 96 + 36), MViTv2-L (72 + 40, 72 + 60)."""
    monkeypatch.setattr(attention_module, "triton_takes", lambda x: True)
    monkeypatch.setattr(
        attention_module, "fused_channels", lambda q, q_rel: -(-(q.shape[-1] + q_rel.shape[-1]) // 32) * 32
    )
    chosen = {
        (dim, columns): attention_module._fastest(
            torch.zeros(1, 1, 1, dim, dtype=torch.float16), torch.zeros(1, columns, dtype=torch.float16)
        )
        for dim, columns in ((96, 22), (96, 36), (72, 40), (72, 60), (96, 100))
    }
    assert [name for name, path in chosen.items() if path == "triton"] == [(96, 36), (72, 60)]
    assert attention_module._fastest(torch.zeros(1, 1, 1, 96), torch.zeros(1, 36)) == "fast"  # float32
    assert attention_module._fastest(torch.zeros(1, 1, 1, 96, dtype=torch.float16), None) == "fast"
