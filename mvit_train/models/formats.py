"""The parameter names of other libraries, and ours: PySlowFast's, with fused query, key and value.

Each library is a table of (its beginning of a name, ours); of a block's parameters what follows `blocks.7.` is looked
up. `to_ours` also takes the spellings of older files; `from_ours` writes what the library itself writes. Both are
functions of dicts; sizes are not touched (see `resize`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["SlowFast", "facebookresearch/mvit", "pytorchvideo", "torchvision"]
Table = tuple[tuple[str, str], ...]

PREFIXES = ("module.", "model.", "backbone.")  # DistributedDataParallel's, Lightning's and PTVMViT's, MaskFeat's

PYTORCHVIDEO: Table = (
    ("patch_embed.patch_model.", "patch_embed.proj."),
    ("cls_positional_encoding.cls_token", "cls_token"),
    ("cls_positional_encoding.pos_embed", "pos_embed"),
    ("norm_embed.", "norm."),
    ("head.proj.", "head.projection."),
)
TORCHVISION: Table = (
    ("conv_proj.", "patch_embed.proj."),
    ("pos_encoding.class_token", "cls_token"),
    ("pos_encoding.class_pos", "pos_embed_class"),
    ("pos_encoding.spatial_pos", "pos_embed_spatial"),
    ("pos_encoding.temporal_pos", "pos_embed_temporal"),
    *((f"attn.pool_{x}.pool.", f"attn.pool_{x}.") for x in "qkv"),
    *((f"attn.pool_{x}.norm_act.0.", f"attn.norm_{x}.") for x in "qkv"),
    ("attn.project.0.", "attn.proj."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.3.", "mlp.fc2."),
    ("project.", "proj."),
    ("head.1.", "head.projection."),
)
TABLES: dict[Kind, Table] = {
    "SlowFast": (),
    "facebookresearch/mvit": (),
    "pytorchvideo": PYTORCHVIDEO,
    "torchvision": TORCHVISION,
}
# Read, never written: PySlowFast before its release, and PyTorchVideo's second names for the same tensors.
OLD_NAMES: Table = (
    ("patch_embed.project.", "patch_embed.proj."),
    *((f"attn.pool_{x}.conv.", f"attn.pool_{x}.") for x in "qkv"),
    *((f"attn.pool_{x}.norm.", f"attn.norm_{x}.") for x in "qkv"),
    *((f"attn._attention_pool_{x}.pool.", f"attn.pool_{x}.") for x in "qkv"),
    *((f"attn._attention_pool_{x}.norm.", f"attn.norm_{x}.") for x in "qkv"),
)


def to_ours(state_dict: Mapping[str, Tensor]) -> tuple[Kind, dict[str, Tensor]]:
    """Which library's names these are, and the tensors under ours. Names that no table knows stay as they are.

    Raises ValueError for names that are no MViT's, and for two different tensors that would get one name.
    """
    stripped = _renamed(state_dict, _without_prefixes)
    kind = _kind(stripped)
    table = TABLES[kind] + OLD_NAMES
    tensors = _renamed(stripped, lambda name: _translated(name, table))
    return kind, {name: _our_rank(name, tensor) for name, tensor in _fused(tensors).items()}


def from_ours(state_dict: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """The tensors as the library names and shapes them; PyTorchVideo's query, key and value come apart."""
    table = tuple((ours, theirs) for theirs, ours in TABLES[kind])
    tensors = {}
    for name, tensor in state_dict.items():
        if kind == "pytorchvideo" and ".attn.qkv." in name:
            for x, part in zip("qkv", tensor.chunk(3), strict=True):
                tensors[name.replace(".qkv.", f".{x}.")] = part.clone()
        elif kind == "torchvision" and (name == "cls_token" or name.startswith("pos_embed")):
            flat = tensor.flatten() if name in ("cls_token", "pos_embed_class") else tensor[0]
            tensors[_translated(name, table)] = flat
        elif kind == "facebookresearch/mvit" and ".attn.pool_" in name:
            tensors[name] = tensor.squeeze(2)
        else:
            tensors[_translated(name, table)] = tensor
    return tensors


def _kind(names: Mapping[str, Tensor]) -> Kind:
    if "conv_proj.weight" in names:
        return "torchvision"
    if any(name.startswith(("patch_embed.patch_model.", "cls_positional_encoding.")) for name in names):
        return "pytorchvideo"
    if any(name.startswith("rev_backbone.") for name in names):
        raise ValueError("these are the weights of a reversible MViT, which is not built here")
    if not any(name.startswith("blocks.0.attn.") for name in names) or not _stem(names):
        first = ", ".join(sorted(names)[:5]) or "none at all"
        raise ValueError(
            "these are not the parameters of an MViT as PySlowFast, facebookresearch/mvit, PyTorchVideo or torchvision "
            f"names them (a timm model has other names still): {first}"
        )
    images = any(".attn.pool_" in name and tensor.ndim == 4 for name, tensor in names.items())
    return "facebookresearch/mvit" if images else "SlowFast"


def _stem(names: Iterable[str]) -> bool:
    return any(name.startswith(("patch_embed.proj.", "patch_embed.project.")) for name in names)


def _without_prefixes(name: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def _translated(name: str, table: Table) -> str:
    block, rest = re.fullmatch(r"(blocks\.\d+\.)?(.*)", name, re.DOTALL).groups("")  # pyright: ignore[reportOptionalMemberAccess]
    for before, after in table:
        if rest.startswith(before):
            return block + after + rest.removeprefix(before)
    return name


def _renamed(state_dict: Mapping[str, Tensor], rename) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        new = rename(name)
        if new in tensors and not torch.equal(tensors[new], tensor):
            raise ValueError(f"two different tensors would both be {new}; one of them is {name}")
        tensors[new] = tensor
    return tensors


def _fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate query, key and value layers as one, in this order."""
    fused = {}
    for name, tensor in tensors.items():
        apart = re.fullmatch(r"(blocks\.\d+\.attn\.)([qkv])(\.(?:weight|bias))", name)
        if apart is None:
            fused[name] = tensor
        elif apart[2] == "q":
            parts = [apart[1] + x + apart[3] for x in "qkv"]
            if missing := [part for part in parts if part not in tensors]:
                raise ValueError(f"{name} is there without {', '.join(missing)}")
            fused[f"{apart[1]}qkv{apart[3]}"] = torch.cat([tensors[part] for part in parts])
    return fused


def _our_rank(name: str, tensor: Tensor) -> Tensor:
    if name == "cls_token" or name.startswith("pos_embed"):
        return tensor.reshape((1,) * (3 - tensor.ndim) + tensor.shape)
    if ".attn.pool_" in name and tensor.ndim == 4:
        return tensor.unsqueeze(2)  # (d, 1, h, w) of the image models -> (d, 1, 1, h, w)
    return tensor
