import json
from pathlib import Path

import pytest
import torch

from mvit_train.models import mvit_b
from mvit_train.optim import AdamWCosine, SGDCosine, layer_of, num_layers, parameter_groups

RECIPES = json.loads((Path(__file__).parent / "golden" / "recipes.json").read_text())


@pytest.mark.parametrize("golden", RECIPES["lr"], ids=lambda golden: golden["desc"])
def test_the_learning_rate_is_the_official_one_at_every_fractional_epoch(golden):
    recipe = AdamWCosine(lr=1.6e-3, lr_batch=512, warmup_epochs=golden["warmup_epochs"])
    peak = recipe.scaled_lr(golden["clips_per_step"])
    assert peak == pytest.approx(golden["base_lr"])
    for epoch, lr in golden["lr_at_epoch"]:
        assert peak * recipe.factor(epoch, golden["max_epochs"]) == pytest.approx(lr, rel=1e-9)


def test_the_schedule_moves_with_every_step_of_the_optimiser():
    recipe = AdamWCosine(lr=1.0, lr_batch=1, warmup_epochs=1)
    model = torch.nn.Linear(2, 2)
    optimizer, schedule = recipe.build(model, clips_per_step=1, steps_per_epoch=4, max_epochs=3)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([recipe.factor(step / 4, 3) for step in range(12)])
    assert max(rates) == rates[4] == 1.0


def test_one_dimensional_tensors_are_exempt_from_decay_and_embeddings_are_not():
    """Counts and sizes as in PySlowFast's MViT-B: 108 decayed tensors, 205 others with 91,888 parameters."""
    with torch.device("meta"):
        model = mvit_b()
    decayed, exempt = parameter_groups(model, 0.05)
    assert (len(decayed["params"]), len(exempt["params"])) == (108, 205)
    assert sum(p.numel() for p in exempt["params"]) == 91_888
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.05, 0.0)
    assert any(p is model.cls_token for p in decayed["params"])


def test_impossible_recipes_are_refused_with_their_values():
    with pytest.raises(ValueError, match=r"lr=-1"):
        AdamWCosine(lr=-1)
    with pytest.raises(ValueError, match=r"warmup_epochs 30 exceeds trainer\.max_epochs 10"):
        AdamWCosine(lr=1).build(torch.nn.Linear(1, 1), clips_per_step=1, steps_per_epoch=1, max_epochs=10)
    with pytest.raises(ValueError, match=r"layer_decay 1\.5 must be more than 0 and at most 1"):
        SGDCosine(lr=1, layer_decay=1.5)


def test_layer_decay_gives_every_layer_its_rate_and_loses_no_parameter():
    """PySlowFast: lr * decay^(depth + 1 - layer); embeddings are layer 0, block i is i + 1, the head depth + 1."""
    with torch.device("meta"):
        model = mvit_b()
    assert num_layers(model) == 18
    optimizer, _ = AdamWCosine(lr=1.0, lr_batch=1, layer_decay=0.75, warmup_epochs=0).build(
        model, clips_per_step=1, steps_per_epoch=1, max_epochs=1
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            assert group["initial_lr"] == pytest.approx(0.75 ** (17 - layer_of(name, 17))), name
            assert group["weight_decay"] == (0.0 if parameter.ndim <= 1 else 0.05), name
    assert seen == set(names.values())
    examples = [
        "patch_embed.proj.weight",
        "pos_embed_spatial",
        "cls_token",
        "blocks.0.norm1.weight",
        "blocks.15.attn.qkv.weight",
        "norm.weight",
        "head.projection.weight",
    ]
    assert set(examples) <= seen
    assert [layer_of(name, 17) for name in examples] == [0, 0, 0, 1, 16, 17, 17]


def test_sgd_takes_the_official_step():
    weight = torch.nn.Linear(3, 2, bias=False)
    before = weight.weight.detach().clone()
    recipe = SGDCosine(lr=0.5, lr_batch=4, warmup_epochs=0, weight_decay=0.1)
    optimizer, _ = recipe.build(weight, clips_per_step=2, steps_per_epoch=1, max_epochs=1)
    weight.weight.grad = torch.ones(2, 3)
    optimizer.step()
    step = torch.ones(2, 3) + 0.1 * before
    torch.testing.assert_close(weight.weight.detach(), before - 0.25 * (step + 0.9 * step))  # Nesterov


def test_frozen_parameters_are_left_alone():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1)) == 2
