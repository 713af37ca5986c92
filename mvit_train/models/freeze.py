"""Stages that fine-tuning leaves as they are."""

from torch import nn

from mvit_train.models.mvit import MViT

EMBEDDINGS = ("patch_embed.", "pos_embed", "cls_token")


def freeze_stages(model: nn.Module, num_stages: int) -> None:
    """Takes the first stages out of the training, with the patch embedding, positions and class token before them.

    No gradient is asked for, so the optimiser leaves them out and nothing of them is kept for the backward pass. Drop
    path goes on in them. num_stages 0 freezes nothing; all of the stages leave the last norm and the head to train.

    Raises ValueError if the model has fewer stages.
    """
    if not num_stages:
        return
    if not isinstance(model, MViT):
        raise ValueError(f"module.frozen_stages is of an MViT, not of a {type(model).__name__}")
    if not 0 < num_stages <= len(model.blocks_per_stage):
        raise ValueError(f"module.frozen_stages is {num_stages}, the model has {len(model.blocks_per_stage)} stages")
    for name, parameter in model.named_parameters():
        if name.startswith(EMBEDDINGS):
            parameter.requires_grad_(False)
    for block in model.blocks[: sum(model.blocks_per_stage[:num_stages])]:
        block.requires_grad_(False)
