"""Attention: the fused path against the reference, and the reference against the formula."""

import pytest
import torch

from mvit_train import ops
from mvit_train.ops import attention
from mvit_train.ops.attention import attend


def inputs(num_queries: int, num_keys: int, positions: int | None, device: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(2, 3, n, 24, generator=generator)
        for name, n in (("q", num_queries), ("k", num_keys), ("v", num_keys))
    }
    if positions is not None:
        tensors["q_rel"] = torch.randn(2, 3, num_queries, positions, generator=generator)
        tensors["k_rel"] = (torch.rand(num_keys, positions, generator=generator) < 0.3).float()
    return {name: tensor.to(device) for name, tensor in tensors.items()}


@pytest.mark.parametrize("positions", [None, 5, 16])
def test_fused_attention_equals_the_reference_with_its_gradients(positions, device):
    results = {}
    for path in ("fast", "reference"):
        tensors = {n: x if n == "k_rel" else x.requires_grad_() for n, x in inputs(37, 21, positions, device).items()}
        with ops.force(path):
            out = attend(**tensors)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(device))
        results[path] = [out.detach(), *(x.grad for x in tensors.values() if x.grad is not None)]
    assert len(results["fast"]) == (4 if positions is None else 5)
    for fast, reference in zip(*results.values(), strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", [None, 5, 16])
@pytest.mark.parametrize("num_queries", [37, 200])  # at once, and 64 at a time
def test_attention_by_products_equals_the_reference_with_its_gradients(num_queries, positions, device, monkeypatch):
    monkeypatch.setattr(attention, "LOGITS", 1000)
    results = {}
    for attend_by in (attention.attend_by_products, attention.attend_reference):
        given = inputs(num_queries, 21, positions, device)
        tensors = {name: x if name == "k_rel" else x.requires_grad_() for name, x in given.items()}
        out = attend_by(**tensors)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(device))
        results[attend_by] = [out.detach(), *(x.grad for x in tensors.values() if x.grad is not None)]
    for products, reference in zip(*results.values(), strict=True):
        torch.testing.assert_close(products, reference, rtol=1e-4, atol=1e-5)


def test_attention_by_products_is_closer_to_float64_than_the_reference_in_bf16():
    tensors = inputs(200, 21, 16, "cpu")
    exact = attention.attend_reference(**{name: x.double() for name, x in tensors.items()})
    rounded = {name: x.bfloat16() for name, x in tensors.items()}
    errors = [
        (attend_by(**rounded).double() - exact).norm()
        for attend_by in (attention.attend_by_products, attention.attend_reference)
    ]
    assert errors[0] <= errors[1]
    assert errors[1] < 0.02 * exact.norm()


def test_the_relative_term_is_added_unscaled(device):
    x = inputs(4, 6, 5, device)
    logits = torch.einsum("bhqd,bhkd->bhqk", x["q"], x["k"]) / 24**0.5
    logits += torch.einsum("bhqp,kp->bhqk", x["q_rel"], x["k_rel"])
    with ops.force("fast"):
        torch.testing.assert_close(attend(**x), logits.softmax(-1) @ x["v"], rtol=1e-4, atol=1e-5)


def test_the_choice_is_restored_when_a_forced_path_fails():
    with pytest.raises(KeyError), ops.force("reference"):
        raise KeyError
    assert ops.forced() is None
