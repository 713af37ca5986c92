"""torch.compile takes the models whole, and activation checkpointing changes memory only."""

import copy

import pytest
import torch

from mvit_train.models import MViT, mvit_b, mvit_b_image, mvit_v2_s, mvit_v2_s_image

SMALL = dict(blocks_per_stage=(1, 2, 1), embed_dim=16, crop_size=32, num_classes=5)
BUILDERS = {
    "v1 video": lambda **kwargs: mvit_b(**SMALL, num_frames=4, kv_stride=(1, 4, 4), **kwargs),
    "v2 video": lambda **kwargs: mvit_v2_s(**SMALL, num_frames=4, kv_stride=(1, 4, 4), **kwargs),
    "v1 image": lambda **kwargs: mvit_b_image(**SMALL, **kwargs),
    "v2 image": lambda **kwargs: mvit_v2_s_image(**SMALL, **kwargs),
}


def clip(model: MViT) -> torch.Tensor:
    return torch.randn(2, 3, *model.input_size, generator=torch.Generator().manual_seed(0))


def logits_and_gradients(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_one_graph(name, training, bf16):
    model = BUILDERS[name](drop_path_rate=0.1).train(training)
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        explained = torch._dynamo.explain(model)(clip(model))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
    torch._dynamo.reset()


@pytest.mark.parametrize("name", BUILDERS)
def test_one_graph_gives_the_same_logits_and_gradients(name):
    model = BUILDERS[name](drop_path_rate=0.0, dropout=0.0)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    for found, expected in zip(
        logits_and_gradients(compiled, clip(model)), logits_and_gradients(model, clip(model)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item() + 1e-6)
    torch._dynamo.reset()


def saved_bytes(model: MViT) -> int:
    """What the forward pass keeps for the backward pass, beside the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(clip(model))
    assert out.requires_grad
    return sum(saved.values())


@pytest.mark.parametrize("name", ["v1 video", "v2 video"])
def test_activation_checkpointing_keeps_less_and_gives_the_same_gradients(name, record_measured):
    plain = BUILDERS[name](drop_path_rate=0.3)
    checkpointed = BUILDERS[name](drop_path_rate=0.3, activation_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, checkpointed):
        torch.manual_seed(0)  # drop path and dropout: the second pass over a block must draw the same
        results.append(logits_and_gradients(model, clip(model)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    share = saved_bytes(checkpointed) / saved_bytes(plain)
    record_measured(f"activation checkpointing, {name}: share of the memory kept for the backward pass", share, 0.25)
    assert share < 0.25
