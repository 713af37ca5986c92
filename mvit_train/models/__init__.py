"""Multiscale Vision Transformers; needs torch alone."""

from mvit_train.models.mvit import MViT, mvit_b, vit_b

__all__ = ["MViT", "mvit_b", "vit_b"]
