"""The linear layer by oneDNN against PyTorch's, and where it is left to PyTorch."""

import pytest
import torch
from torch.nn.functional import linear as reference

from mvit_train import ops
from mvit_train.ops import linear as module
from mvit_train.ops.linear import linear

WITH_ONEDNN = pytest.mark.skipif(not module.ONEDNN, reason="oneDNN's product is for x86 CPUs")


def arguments(shape=(2, 5, 24), *, bias=True, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(shape, generator=generator), torch.randn(40, shape[-1], generator=generator)
    tensors = [x, weight, torch.randn(40, generator=generator) if bias else None]
    return [None if tensor is None else tensor.to(dtype).requires_grad_() for tensor in tensors]


@pytest.fixture
def calls(monkeypatch):
    """How many products oneDNN has made."""
    made, product = [], module._product
    monkeypatch.setattr(module, "_product", lambda *given: made.append(1) or product(*given))
    return made


@WITH_ONEDNN
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (3, 24), (2, 5, 24), (1, 1569, 96)])
def test_it_equals_pytorch_s_with_its_gradients(shape, bias, calls):
    results = []
    for function in (linear, reference):
        given = arguments(shape, bias=bias)
        out = function(*given)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
        results.append([out.detach(), *(tensor.grad for tensor in given if tensor is not None)])
    assert len(calls) == 2  # the layer, and the gradient of its input
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@WITH_ONEDNN
def test_its_gradients_are_checked_by_differences(monkeypatch):
    monkeypatch.setattr(module, "_by_onednn", lambda *given: True)
    monkeypatch.setattr(module, "_product", reference)  # oneDNN knows no float64
    given = arguments((2, 3, 4), dtype=torch.float64)
    assert torch.autograd.gradcheck(linear, given)
    assert torch.autograd.gradgradcheck(linear, given)


@WITH_ONEDNN
@pytest.mark.parametrize("frozen", ["input", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(frozen):
    x, weight, bias = arguments()
    {"input": x, "weight": weight, "bias": bias}[frozen].requires_grad_(False)
    linear(x, weight, bias).sum().backward()
    has_none = [name for name, tensor in (("input", x), ("weight", weight), ("bias", bias)) if tensor.grad is None]
    assert has_none == [frozen]


def test_other_types_autocast_and_the_reference_are_left_to_pytorch(calls):
    in_float64 = arguments(dtype=torch.float64)
    assert torch.equal(linear(*in_float64), reference(*in_float64))
    given = arguments()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(*given).dtype == torch.bfloat16
    with ops.force("reference"):
        assert torch.equal(linear(*given), reference(*given))
    assert linear(*(tensor.to("meta") for tensor in given)).device.type == "meta"
    assert not calls


@WITH_ONEDNN
def test_no_export_for_other_machines_has_it():
    class Layer(torch.nn.Module):
        def forward(self, x, weight, bias):
            return linear(x, weight, bias)

    exported = torch.export.export(Layer(), tuple(tensor.detach() for tensor in arguments()))
    assert {str(node.target) for node in exported.graph.nodes if node.op == "call_function"} == {"aten.linear.default"}
