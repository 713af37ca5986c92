"""The linear layer and the MLP by oneDNN against PyTorch's, and where they are left to PyTorch."""

import pytest
import torch
from torch.nn.functional import gelu
from torch.nn.functional import linear as reference

from mvit_train import ops
from mvit_train.ops import linear as module
from mvit_train.ops.linear import linear, mlp

WITH_ONEDNN = pytest.mark.skipif(not module.ONEDNN, reason="oneDNN's product is for x86 CPUs")
WITH_BF16 = pytest.mark.skipif(torch.bfloat16 not in module.TYPES, reason="this CPU has no fast bfloat16")


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


@WITH_BF16
@pytest.mark.parametrize("layers", ["linear", "mlp"])
def test_under_autocast_it_is_in_bfloat16_with_gradients_in_float32(layers):
    ours, theirs = {"linear": (linear, reference), "mlp": (mlp, mlp_reference)}[layers]
    results = []
    for function in (ours, theirs):
        given = arguments() if layers == "linear" else mlp_arguments()
        with torch.autocast("cpu", torch.bfloat16):
            out = function(*given)
        assert out.dtype == torch.bfloat16
        out.backward(torch.ones_like(out))
        results.append([out.detach().float(), *(tensor.grad for tensor in given)])
    for one, other in zip(*results, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0.01 * other.abs().max().item())


@WITH_ONEDNN
def test_other_types_autocast_to_them_and_the_reference_are_left_to_pytorch(calls):
    in_float64 = arguments(dtype=torch.float64)
    assert torch.equal(linear(*in_float64), reference(*in_float64))
    given = arguments()
    with torch.autocast("cpu", torch.float16):
        assert linear(*given).dtype == torch.float16
    with ops.force("reference"):
        assert torch.equal(linear(*given), reference(*given))
    assert linear(*(tensor.to("meta") for tensor in given)).device.type == "meta"
    assert mlp(*(tensor.to("meta") for tensor in mlp_arguments())).shape == (2, 5, 40)
    assert not calls


def mlp_reference(x, weight1, bias1, weight2, bias2):
    return reference(gelu(reference(x, weight1, bias1)), weight2, bias2)


def mlp_arguments(shape=(2, 5, 24), dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    shapes = (shape, (96, shape[-1]), (96,), (40, 96), (40,))
    return [torch.randn(each, generator=generator).to(dtype).requires_grad_() for each in shapes]


@pytest.mark.parametrize("tokens", [3, 5, 2048])  # 10 in 4, 2 and 1 parts
@pytest.mark.parametrize("shape", [(24,), (2, 5, 24), (1, 2, 5, 24)])
def test_an_mlp_equals_its_three_operations_with_its_gradients(shape, tokens, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", tokens)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    results = []
    for function in (mlp, mlp_reference):
        given = mlp_arguments(shape)
        out = function(*given)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
        with torch.no_grad():
            results.append([out.detach(), function(*given), *(tensor.grad for tensor in given)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("tokens", [4, 2048])
def test_an_mlp_s_gradients_are_checked_by_differences(tokens, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", tokens)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    given = [tensor.detach() / 4 for tensor in mlp_arguments((2, 3, 2), torch.float64)]
    given = [given[0], given[1][:4], given[2][:4], given[3][:3, :4].contiguous(), given[4][:3]]
    given = [tensor.requires_grad_() for tensor in given]
    assert torch.autograd.gradcheck(mlp, given)
    assert torch.autograd.gradgradcheck(mlp, given)


def test_an_mlp_s_backward_goes_by_the_parts_of_its_forward(monkeypatch):
    """torch.set_num_threads may come between them."""
    gradients = []
    for threads in (1, 8):
        monkeypatch.setattr(module, "TOKENS", 3)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        given = mlp_arguments()
        out = mlp(*given)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        out.backward(torch.ones_like(out))
        gradients.append([tensor.grad for tensor in given])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("frozen", [{0}, {1, 2}, {3, 4}, {0, 1, 2}, {0, 1, 2, 3}, {2, 4}])
def test_what_needs_no_gradient_of_an_mlp_gets_none(frozen):
    given = mlp_arguments()
    for i in frozen:
        given[i].requires_grad_(False)
    mlp(*given).sum().backward()
    assert {i for i, tensor in enumerate(given) if tensor.grad is None} == frozen


def test_an_mlp_keeps_its_hidden_channels_once():
    def kept(function):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.shape), lambda _: None):
            function(*mlp_arguments((2, 50, 24)))
        return sum(shape.numel() for shape in sizes if shape[-1] == 96 and shape.numel() == 2 * 50 * 96)

    assert kept(mlp) == 2 * 50 * 96
    assert kept(mlp_reference) == 2 * kept(mlp)


@WITH_BF16
def test_a_sum_over_parts_is_not_rounded_after_each(monkeypatch):
    """In bfloat16 256 + 1 is 256: one part after the other, a thousand would end there."""
    monkeypatch.setattr(module, "TOKENS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    given = mlp_arguments((1000, 24), torch.bfloat16)
    mlp(*given).backward(torch.ones(1000, 40, dtype=torch.bfloat16))
    assert (given[4].grad == 1000).all()


@WITH_ONEDNN
def test_the_compiler_is_told_the_right_shapes_and_types():
    torch.library.opcheck(torch.ops.mvit_train.linear, [tensor.detach() for tensor in arguments()])
    torch.library.opcheck(torch.ops.mvit_train.mlp, [tensor.detach() for tensor in mlp_arguments()])


@WITH_ONEDNN
def test_no_export_for_other_machines_has_it():
    class Layer(torch.nn.Module):
        def forward(self, x, *weights):
            return mlp(linear(x, *weights[:2]), *weights[2:])

    weights = (*arguments((2, 5, 24))[1:], *mlp_arguments((2, 5, 40))[1:])
    exported = torch.export.export(Layer(), tuple(tensor.detach() for tensor in (torch.zeros(2, 5, 24), *weights)))
    operations = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert operations == {"aten.linear.default", "aten.gelu.default"}
