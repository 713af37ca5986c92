"""Names: every foreign layout becomes ours, and ours becomes theirs."""

import json
from pathlib import Path

import pytest
import torch

from mvit_train.benchmarks.peers import torchvision_twin
from mvit_train.models import mvit_b, mvit_b_image, mvit_v2_s
from mvit_train.models.formats import from_ours, to_ours

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = dict(num_frames=4, crop_size=32)


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("build", [mvit_b, mvit_v2_s])
def test_our_names_are_torchvision_s_and_back(build, four_blocks, randomised):
    ours = randomised(build(**four_blocks | SMALL))
    theirs = from_ours(ours.state_dict(), "torchvision")
    torchvision_twin(ours).load_state_dict(theirs)
    kind, back = to_ours(theirs)
    assert kind == "torchvision"
    assert same(back, ours.state_dict())


def test_our_names_are_pytorchvideo_s_and_back(four_blocks, randomised, pytorchvideo_twin):
    ours = randomised(mvit_b(**four_blocks | SMALL))
    theirs = from_ours(ours.state_dict(), "pytorchvideo")
    twin = pytorchvideo_twin(
        spatial_size=32, temporal_size=4, pool_kv_stride_adaptive=[1, 8, 8], pool_kvq_kernel=[3, 3, 3]
    )
    twin.load_state_dict(theirs)
    kind, back = to_ours(theirs)
    assert kind == "pytorchvideo"
    assert same(back, ours.state_dict())


@pytest.mark.parametrize("file", ["v1_tiny.json", "k400_mvit_b_16x4.json", "in1k_mvitv2_t.json"])
def test_pyslowfast_s_names_are_ours(file):
    shapes = {name: tuple(shape) for name, shape in json.loads((GOLDEN / file).read_text())["state_dict"]}
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    kind, ours = to_ours(tensors)
    assert kind == "SlowFast"
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == shapes
    assert from_ours(ours, "SlowFast").keys() == shapes.keys()


def apart(state):
    """Query, key and value as SlowFast had them from July 2021 to June 2022."""
    parts = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            parts |= {name.replace("qkv", x): part for x, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            parts[name] = tensor
    return parts


def before_release(state):
    renamed = {}
    for name, tensor in state.items():
        for x in "qkv":
            name = name.replace(f"attn.pool_{x}.weight", f"attn.pool_{x}.conv.weight")
            name = name.replace(f"attn.norm_{x}.", f"attn.pool_{x}.norm.")
        renamed[name.replace("patch_embed.proj.", "patch_embed.project.")] = tensor
    return renamed


def twice(state):
    """PyTorchVideo since 2022 names its pooling modules twice."""
    more = {
        name.replace(f"attn.{part}_{x}.", f"attn._attention_pool_{x}.{part}."): tensor
        for name, tensor in state.items()
        for x in "qkv"
        for part in ("pool", "norm")
        if f"attn.{part}_{x}." in name
    }
    assert more
    return state | more


def prefixed(prefix):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        apart,
        before_release,
        lambda state: twice(from_ours(state, "pytorchvideo")),
        lambda state: {name: t for name, t in twice(state).items() if "pool_q.weight" not in name},
        prefixed("module."),
        prefixed("model."),
        prefixed("backbone."),
        prefixed("module.model.backbone."),
        lambda state: prefixed("model.")(from_ours(state, "pytorchvideo")),
        lambda state: prefixed("module.")(from_ours(state, "torchvision")),
    ],
)
def test_every_spelling_that_was_ever_written_is_read(change, four_blocks, randomised):
    ours = randomised(mvit_b(**four_blocks | SMALL)).state_dict()
    assert same(to_ours(change(ours))[1], ours)


def test_facebookresearch_mvit_s_flat_pooling_kernels_get_a_time_axis(four_blocks, randomised):
    ours = randomised(mvit_b_image(**four_blocks | dict(crop_size=32))).state_dict()
    theirs = from_ours(ours, "facebookresearch/mvit")
    assert theirs["blocks.0.attn.pool_k.weight"].shape == (16, 1, 3, 3)
    kind, back = to_ours(theirs)
    assert kind == "facebookresearch/mvit"
    assert same(back, ours)


def test_names_of_something_else_are_refused_with_the_first_of_them(four_blocks):
    with pytest.raises(ValueError, match=r"not the parameters of an MViT .*: fc\.bias, fc\.weight"):
        to_ours({"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match="none at all"):
        to_ours({})
    with pytest.raises(ValueError, match="reversible"):
        to_ours({"rev_backbone.layers.0.F.norm.weight": torch.zeros(1)})
    state = mvit_b(**four_blocks | SMALL).state_dict()
    with pytest.raises(ValueError, match=r"two different tensors would both be norm\.weight"):
        to_ours({**state, "module.norm.weight": torch.zeros(64)})
    lacking = apart(state)
    del lacking["blocks.1.attn.v.bias"]
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.q\.bias is there without blocks\.1\.attn\.v\.bias"):
        to_ours(lacking)
