"""Random weights of torchvision's and PyTorchVideo's models, through a file into ours: logits and gradients agree."""

import pytest
import torch
from pytorchvideo.models.hub import mvit_base_16x4
from torchvision.models.video import mvit_v1_b, mvit_v2_s

from mvit_train import models, ops
from mvit_train.benchmarks.peers import torchvision_twin
from mvit_train.models import load_pretrained, mvit_b, mvit_b_image
from mvit_train.models.formats import to_ours

LOGITS, GRADIENTS = 1e-5, 1e-9  # of the largest number of a tensor; in float32, and in float64
LOGITS_15 = 1e-4  # PyTorchVideo 0.1.5: the LayerNorms of its poolings add 1e-5, ours 1e-6


@pytest.fixture
def compare(tmp_path, record_measured, relative_difference):
    """`compare(what, ours, theirs)`: saves their weights, loads them into our model, and compares what the two make of
    one random clip: the logits in float32, and the gradients in float64, for in float32 rounding decides near-ties of
    the skip path's max pooling, and gradients then go elsewhere; torchvision's own change by 2e-3 when its input moves
    by 1e-7. `bound` is that of the logits, and `gradients` that of the gradients, or None."""

    def check(what, ours, theirs, *, bound=LOGITS, gradients=GRADIENTS, container=lambda state: state):
        path = tmp_path / "theirs.pth"
        torch.save(container(theirs.state_dict()), path)
        assert load_pretrained(ours, path, strict="exact").unused == ()
        video = torch.randn(1, 3, *ours.input_size, generator=torch.Generator().manual_seed(1))
        weighting = torch.randn(ours.head.projection.out_features, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected, found = theirs.eval()(video), ours.eval()(video)
        difference = relative_difference(found, expected)
        record_measured(f"logits/{what}", difference, bound)
        assert difference <= bound
        if gradients is not None:
            for model in (theirs, ours):
                (model.double()(video.double()) @ weighting.double()).sum().backward()
            worst = worst_gradient(ours, theirs)
            record_measured(f"gradients/{what}", max(worst.values()), gradients)
            assert {name: value for name, value in worst.items() if value > gradients} == {}

    def worst_gradient(ours, theirs):
        """By parameter. The bias of a key's LayerNorm moves all logits of a query alike: its gradient is zero, and what
        rounding leaves of it is seen against that of the weight beside it."""
        _, expected = to_ours({name: parameter.grad for name, parameter in theirs.named_parameters()})
        found = {name: parameter.grad for name, parameter in ours.named_parameters()}
        assert found.keys() == expected.keys()
        scale = {name: expected[name.replace("norm_k.bias", "norm_k.weight")].abs().max() for name in expected}
        return {name: ((found[name] - expected[name]).abs().max() / scale[name]).item() for name in expected}

    return check


@pytest.mark.parametrize("path", ["reference", "fast"])
@pytest.mark.parametrize(
    ("version", "num_frames", "crop_size", "overrides"),
    [
        ("v1", 16, 64, {}),
        ("v1", 4, 64, {}),
        ("v1", 4, 72, {}),  # 18 -> 9 -> 5 positions
        ("v1", 8, 64, dict(pool_kernel="s+1")),
        ("v1", 8, 64, dict(full_kv_pooling=False, kv_stride=(1, 4, 4))),
        ("v1", 4, 64, dict(expand_in="attention")),
        ("v2", 16, 64, {}),
        ("v2", 4, 64, {}),
        ("v2", 4, 72, {}),
        ("v2", 4, 76, {}),  # 19 -> 10, where tables are sized for 19 -> 9: interpolated in every forward
        ("v2", 4, 64, dict(expand_in="mlp")),  # MaskFeat's and one of the MViTv2-L
    ],
)
def test_torchvision_s_weights_give_torchvision_s_logits_and_gradients(
    version, num_frames, crop_size, overrides, path, compare, four_blocks, randomised
):
    build = {"v1": models.mvit_b, "v2": models.mvit_v2_s}[version]
    ours = build(**four_blocks | overrides, num_frames=num_frames, crop_size=crop_size)
    what = "".join(f" {name}={value}" for name, value in overrides.items())
    with ops.force(path):
        compare(
            f"torchvision {version} {num_frames}x{crop_size}{what} {path}", ours, randomised(torchvision_twin(ours))
        )


def test_torchvision_s_mvit_v1_b_is_mvit_b(compare, randomised):
    with ops.force("fast"):
        compare("torchvision mvit_v1_b() fast", models.mvit_b(), randomised(mvit_v1_b()), gradients=None)


def test_torchvision_s_mvit_v2_s_is_mvit_v2_s(compare, randomised):
    with ops.force("fast"):
        compare("torchvision mvit_v2_s() fast", models.mvit_v2_s(), randomised(mvit_v2_s()))


@pytest.mark.parametrize("norm_eps", [1e-5, 1e-6])
@pytest.mark.parametrize(
    ("what", "ours", "theirs"),
    [
        (
            "16x64",
            dict(num_frames=16, crop_size=64),
            dict(spatial_size=64, temporal_size=16, pool_kv_stride_adaptive=[1, 8, 8], pool_kvq_kernel=[3, 3, 3]),
        ),
        (
            "4x64 s+1",
            dict(num_frames=4, crop_size=64, pool_kernel="s+1", kv_stride=(1, 4, 4)),
            dict(spatial_size=64, temporal_size=4, pool_kv_stride_adaptive=[1, 4, 4]),
        ),
        (
            "4x64 joint, no class token",
            dict(num_frames=4, crop_size=64, pos_embed="joint", cls_token=False),
            dict(
                spatial_size=64,
                temporal_size=4,
                pool_kv_stride_adaptive=[1, 8, 8],
                pool_kvq_kernel=[3, 3, 3],
                sep_pos_embed=False,
                cls_embed_on=False,
            ),
        ),
    ],
)
def test_pytorchvideo_s_weights_give_pytorchvideo_s_logits_and_gradients(
    what, ours, theirs, norm_eps, compare, four_blocks, randomised, pytorchvideo_twin
):
    twin = with_pool_norm_eps(randomised(pytorchvideo_twin(**theirs)), norm_eps)
    bound, gradients = (LOGITS_15, 3e-4) if norm_eps == 1e-5 else (LOGITS, GRADIENTS)
    compare(
        f"pytorchvideo {what}, pool norm eps {norm_eps}",
        mvit_b(**four_blocks | ours),
        twin,
        bound=bound,
        gradients=gradients,
        container=lambda state: {"model_state": state},
    )


def test_pytorchvideo_s_image_model_is_ours_with_separate_tables(compare, four_blocks, randomised, pytorchvideo_twin):
    twin = pytorchvideo_twin(
        spatial_size=64,
        temporal_size=1,
        conv_patch_embed_kernel=[7, 7],
        conv_patch_embed_stride=[4, 4],
        conv_patch_embed_padding=[3, 3],
        use_2d_patch=True,
        pool_kv_stride_adaptive=[1, 4, 4],
        pool_kvq_kernel=[1, 3, 3],
    )
    ours = mvit_b_image(**four_blocks | dict(crop_size=64, pos_embed="separate"))
    compare("pytorchvideo image", ours, with_pool_norm_eps(randomised(twin), 1e-6))


def test_pytorchvideo_s_hub_model_is_ours(compare, randomised):
    compare("pytorchvideo mvit_base_16x4", mvit_b(), randomised(mvit_base_16x4()), bound=LOGITS_15, gradients=None)


def with_pool_norm_eps(model, eps):
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("norm_q", "norm_k", "norm_v") and module is not None:
            module.eps = eps
    return model
