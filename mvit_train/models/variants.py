"""Every published model as a function: its differences from MViT-B 16x4, any of which can be overridden.

Top-1 is on Kinetics-400 with 5 temporal x 1 spatial views, or on ImageNet-1K with the centre crop, as the papers say.
"""

from typing import Any

from mvit_train.models.mvit import MViT


def mvit_b(**overrides) -> MViT:
    """MViT-B 16x4 (MViT, Table 4): 78.4 % top-1, 36.6 M parameters, 70.8 G."""
    return MViT(**overrides)


def mvit_b_32x3(**overrides) -> MViT:
    """MViT-B 32x3 (MViT, Table 4): 80.2 % top-1, 36.6 M parameters, 170 G."""
    return mvit_b(**dict(num_frames=32) | overrides)


def mvit_b_64x3(**overrides) -> MViT:
    """MViT-B 64x3 (MViT, Table 4): 81.2 % top-1 with 3 x 3 views, 36.6 M parameters, 456 G."""
    return mvit_b(**dict(num_frames=64) | overrides)


def mvit_b_24_32x3(**overrides) -> MViT:
    """The graph of PySlowFast's released "32x3" file: 24 blocks, kernels s + 1; 80.4 % top-1, 53.1 M, 236 G."""
    return mvit_b(
        **dict(num_frames=32, blocks_per_stage=(2, 3, 16, 3), pool_kernel="s+1", drop_path_rate=0.3) | overrides
    )


def mvit_s(**overrides) -> MViT:
    """MViT-S 16x4 (MViT, Tables 3c and 4): 76.0 % top-1; paper: 26.1 M parameters, 32.9 G.

    No configuration was released, and the depth of the first stage cannot be read from the paper: with 3 blocks this
    graph has 26.0 M and 30.1 G.
    """
    small: dict[str, Any] = dict(
        patch_kernel=(3, 8, 8),
        patch_stride=(2, 8, 8),
        embed_dim=128,
        blocks_per_stage=(3, 7, 6),
        kv_stride=(1, 4, 4),
    )
    return mvit_b(**small | overrides)


def vit_b(**overrides) -> MViT:
    """The paper's ViT-B baseline, 8 frames with stride 8 (MViT, Tables 1 and 4): 68.5 % top-1, 87.2 M, 180 G."""
    baseline: dict[str, Any] = dict(
        num_frames=8,
        patch_kernel=(1, 16, 16),
        patch_stride=(1, 16, 16),
        embed_dim=768,
        num_heads=12,
        blocks_per_stage=(12,),
        kv_stride=None,
        pos_embed="joint",
    )
    return MViT(**baseline | overrides)


def mvit_b_image(**overrides) -> MViT:
    """MViT-B-16 for images (MViT, Table 17): 83.0 % top-1, 37.0 M parameters, 7.8 G."""
    image: dict[str, Any] = dict(
        num_classes=1000,
        num_frames=1,
        patch_kernel=(7, 7),
        patch_stride=(4, 4),
        kv_stride=(1, 4, 4),
        pool_kernel=(1, 3, 3),
        pos_embed="joint",
        drop_path_rate=0.1,
        dropout=0.0,
    )
    return MViT(**image | overrides)


def mvit_b_24_image(**overrides) -> MViT:
    """MViT-B-24 for images (MViT, Table 17; MViTv2, Table 2): 83.4 % top-1, 53.5 M parameters, 11.0 G."""
    return mvit_b_image(**dict(blocks_per_stage=(2, 3, 16, 3), drop_path_rate=0.3) | overrides)


def mvit_b_24_wide_320_image(**overrides) -> MViT:
    """MViT-B-24-wide for images of 320 pixels (MViT, Table 17): 84.8 % top-1, 73.0 M parameters, 32.8 G."""
    return mvit_b_24_image(**dict(embed_dim=112, crop_size=320) | overrides)


def mvit_v2_s(**overrides) -> MViT:
    """MViTv2-S 16x4 (MViTv2, Table 10): 81.0 % top-1, 34.5 M parameters, 64.5 G."""
    v2: dict[str, Any] = dict(
        expand_in="attention", full_q_pooling=True, pos_embed="none", rel_pos="space_time", residual_pooling=True
    )
    return MViT(**v2 | overrides)


def mvit_v2_b(**overrides) -> MViT:
    """MViTv2-B 32x3 (MViTv2, Table 10): 82.9 % top-1, 51.2 M parameters, 225 G."""
    return mvit_v2_s(**dict(num_frames=32, blocks_per_stage=(2, 3, 16, 3), drop_path_rate=0.3) | overrides)


def mvit_v2_l(**overrides) -> MViT:
    """MViTv2-L 40x3 at 312 pixels (MViTv2, Table 10): 86.1 % top-1 with 5 x 3 views, 213 M parameters, 2828 G."""
    large: dict[str, Any] = dict(
        num_frames=40,
        crop_size=312,
        embed_dim=144,
        num_heads=2,
        blocks_per_stage=(2, 6, 36, 4),
        drop_path_rate=0.75,
    )
    return mvit_v2_s(**large | overrides)


def mvit_v2_s_image(**overrides) -> MViT:
    """MViTv2-S for images (MViTv2, Table 2): 83.6 % top-1, 34.9 M parameters, 7.0 G."""
    v2: dict[str, Any] = dict(
        expand_in="attention",
        full_q_pooling=True,
        pos_embed="none",
        rel_pos="space",
        residual_pooling=True,
        cls_token=False,
    )
    return mvit_b_image(**v2 | overrides)


def mvit_v2_t_image(**overrides) -> MViT:
    """MViTv2-T for images (MViTv2, Table 2): 82.3 % top-1, 24.2 M parameters, 4.7 G."""
    return mvit_v2_s_image(**dict(blocks_per_stage=(1, 2, 5, 2)) | overrides)


def mvit_v2_b_image(**overrides) -> MViT:
    """MViTv2-B for images (MViTv2, Table 2): 84.4 % top-1, 51.5 M parameters, 10.2 G."""
    return mvit_v2_s_image(**dict(blocks_per_stage=(2, 3, 16, 3), drop_path_rate=0.3) | overrides)


def mvit_v2_l_image(**overrides) -> MViT:
    """MViTv2-L for images (MViTv2, Table 2): 85.3 % top-1, 218 M parameters, 43.9 G.

    The released ImageNet-1K weights expand in the MLP; with expand_in="attention" it is 214 M and 41.9 G.
    """
    large: dict[str, Any] = dict(
        embed_dim=144, num_heads=2, blocks_per_stage=(2, 6, 36, 4), expand_in="mlp", drop_path_rate=0.5
    )
    return mvit_v2_s_image(**large | overrides)


def mvit_v2_h_image(**overrides) -> MViT:
    """MViTv2-H for images (MViTv2, Table 2): 88.0 % top-1 pre-trained on ImageNet-21K, 667 M parameters, 120 G.

    The released ImageNet-21K weights have a class token: cls_token=True.
    """
    huge: dict[str, Any] = dict(embed_dim=192, num_heads=3, blocks_per_stage=(4, 8, 60, 8), drop_path_rate=0.8)
    return mvit_v2_s_image(**huge | overrides)


VARIANTS = (
    mvit_b,
    mvit_b_32x3,
    mvit_b_64x3,
    mvit_b_24_32x3,
    mvit_s,
    vit_b,
    mvit_b_image,
    mvit_b_24_image,
    mvit_b_24_wide_320_image,
    mvit_v2_s,
    mvit_v2_b,
    mvit_v2_l,
    mvit_v2_t_image,
    mvit_v2_s_image,
    mvit_v2_b_image,
    mvit_v2_l_image,
    mvit_v2_h_image,
)
