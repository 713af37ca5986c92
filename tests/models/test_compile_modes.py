"""compile=blocks and compile=full: equal results with fewer graphs than blocks, and a model that stays what it was."""

import copy
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mvit_train.models import MViT, mvit_b, mvit_v2_s
from mvit_train.models.compiled import compiled
from mvit_train.models.layers import DropPath

SMALL: dict[str, Any] = dict(embed_dim=16, crop_size=32, num_frames=4, num_classes=5, kv_stride=(1, 4, 4), dropout=0.0)


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def clips(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def logits_and_gradients(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(3)  # what stochastic depth draws
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def counted(monkeypatch: pytest.MonkeyPatch, backend: str = "aot_eager") -> CompileCounterWithBackend:
    """Blocks are compiled by this backend instead of inductor, whose C++ takes long, and counted."""
    counter = CompileCounterWithBackend(backend)
    own = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **kwargs: own(self, backend=counter, **kwargs))
    return counter


@pytest.mark.parametrize(("build", "checkpointing"), [(mvit_b, False), (mvit_v2_s, True)])
def test_blocks_of_a_kind_share_a_graph(build, checkpointing, monkeypatch):
    model: MViT = build(**SMALL, blocks_per_stage=(5,), drop_path_rate=0.2, activation_checkpointing=checkpointing)
    expected = logits_and_gradients(model, clips(2))
    names = list(model.state_dict())
    counter = counted(monkeypatch)
    with compiled(model, "blocks"):
        found = logits_and_gradients(model, clips(2))
        assert list(model.state_dict()) == names
        copy.deepcopy(model)  # as the moving average of the weights does
    assert counter.frame_count == 2  # the first, where nothing is drawn, and one for all others, whatever their rate
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4 * y.abs().max().item() + 1e-6)
    compiled_frames = counter.frame_count
    model(clips(2))
    assert counter.frame_count == compiled_frames  # outside nothing is compiled


def test_a_compiled_block_skips_the_samples_that_are_dropped(monkeypatch):
    model = mvit_v2_s(**SMALL, blocks_per_stage=(2,), drop_path_rate=0.75)
    expected = logits_and_gradients(model, clips(8))
    counter = counted(monkeypatch)
    with compiled(model, "blocks"):
        found = logits_and_gradients(model, clips(8))
        frames = counter.frame_count
        logits_and_gradients(model, clips(8))
        assert counter.frame_count == frames  # other samples are drawn, shapes stay
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4 * y.abs().max().item() + 1e-6)


def test_by_inductor_a_block_gives_the_same_logits_and_gradients():
    model = mvit_v2_s(**SMALL, blocks_per_stage=(1,), drop_path_rate=0.0)
    expected = logits_and_gradients(model, clips(2))
    with compiled(model, "blocks"):
        found = logits_and_gradients(model, clips(2))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4 * y.abs().max().item() + 1e-6)


@pytest.mark.parametrize("how", ["full", "graphs"])
def test_the_whole_model_is_one_graph_with_its_draws(how, monkeypatch):
    model = mvit_v2_s(**SMALL, blocks_per_stage=(1, 1), drop_path_rate=0.5)
    own = torch.nn.Module.compile
    counter = CompileCounterWithBackend("aot_eager")
    modes: list[str | None] = []

    def compile_by_counter(self: torch.nn.Module, *, mode: str | None = None, **kwargs: Any) -> None:
        modes.append(mode)
        own(self, backend=counter, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_by_counter)
    with compiled(model, how):
        model(clips(8)).sum().backward()
    assert (counter.frame_count, modes) == (1, ["reduce-overhead" if how == "graphs" else None])


def test_another_model_has_no_blocks():
    with (
        pytest.raises(ValueError, match="compile=blocks: Linear is not an MViT"),
        compiled(torch.nn.Linear(1, 1), "blocks"),
    ):
        pass


# Stochastic depth


def test_a_fixed_number_is_drawn_from_8_samples_on_and_its_mean_is_the_branch():
    torch.manual_seed(0)
    drop = DropPath(0.75).train()
    model_mean = torch.zeros(10)
    for _ in range(4000):
        kept = drop.draw(torch.empty(10, 2))
        assert kept is not None
        assert kept.dtype == torch.int64
        assert len(kept) == len(kept.unique()) == 2  # round(2.5), to even
        model_mean.index_add_(0, kept, torch.full((2,), 10 / 2))
    assert (model_mean / 4000 - 1).abs().max() < 0.13  # 4 standard deviations of a mean of 0 or 5


def test_small_batches_draw_independently():
    torch.manual_seed(0)
    factors = torch.stack([DropPath(0.3).train().draw(torch.empty(7, 2)) for _ in range(3000)])  # pyright: ignore
    assert factors.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert factors.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (factors == 0).sum(1).unique().numel() > 4  # the number varies


def test_nothing_is_drawn_in_evaluation_without_a_rate_or_where_all_would_be_kept():
    assert DropPath(0.5).eval().draw(torch.empty(8)) is None
    assert DropPath(0.0).train().draw(torch.empty(8)) is None
    assert DropPath(0.05).train().draw(torch.empty(8)) is None  # 7.6 of 8
    assert len(DropPath(0.99).train().draw(torch.empty(8))) == 1  # pyright: ignore


def test_a_skipped_sample_is_what_the_skip_path_makes_of_it_and_the_draw_repeats_itself():
    model = mvit_b(**SMALL, blocks_per_stage=(3,), drop_path_rate=0.5)
    block = model.blocks[2].train()
    x = torch.randn(8, 1 + 2 * 64, 16, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([6, 1])
    out = block(x, kept, kept)
    dropped = [i for i in range(8) if i not in kept]
    torch.testing.assert_close(out[dropped], x[dropped], rtol=0, atol=0)
    factor = torch.zeros(8).index_fill(0, kept, 4.0)
    torch.testing.assert_close(out, block(x, factor, factor))  # computed for all, and multiplied
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(model.blocks[2].drop_path.draw(x))
    assert torch.equal(*draws)


def test_the_expected_output_of_a_block_is_that_of_independent_draws():
    torch.manual_seed(0)
    block = mvit_b(**SMALL, blocks_per_stage=(3,), drop_path_rate=0.5).blocks[2].train()
    x = torch.randn(1, 1 + 2 * 64, 16).expand(8, -1, -1)
    with torch.no_grad():
        mean = torch.stack([block(x, block.drop_path.draw(x), None) for _ in range(400)]).mean((0, 1))
        plain = torch.stack([block(x[:1], block.drop_path.draw(x[:1]), None) for _ in range(3200)]).mean((0, 1))
    spread = (block(x[:1]) - x[:1]).abs().max()
    assert (mean - plain).abs().max() < 0.1 * spread
