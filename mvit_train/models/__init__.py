"""Multiscale Vision Transformers; needs torch alone."""

from mvit_train.models.mvit import MViT
from mvit_train.models.pretrained import LoadReport, load_pretrained
from mvit_train.models.variants import (
    VARIANTS,
    mvit_b,
    mvit_b_24_32x3,
    mvit_b_24_image,
    mvit_b_24_wide_320_image,
    mvit_b_32x3,
    mvit_b_64x3,
    mvit_b_image,
    mvit_s,
    mvit_v2_b,
    mvit_v2_b_image,
    mvit_v2_h_image,
    mvit_v2_l,
    mvit_v2_l_image,
    mvit_v2_s,
    mvit_v2_s_image,
    mvit_v2_t_image,
    vit_b,
)

__all__ = [
    "VARIANTS",
    "LoadReport",
    "MViT",
    "load_pretrained",
    "mvit_b",
    "mvit_b_24_32x3",
    "mvit_b_24_image",
    "mvit_b_24_wide_320_image",
    "mvit_b_32x3",
    "mvit_b_64x3",
    "mvit_b_image",
    "mvit_s",
    "mvit_v2_b",
    "mvit_v2_b_image",
    "mvit_v2_h_image",
    "mvit_v2_l",
    "mvit_v2_l_image",
    "mvit_v2_s",
    "mvit_v2_s_image",
    "mvit_v2_t_image",
    "vit_b",
]
