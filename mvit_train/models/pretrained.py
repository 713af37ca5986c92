"""Weights of a file into a model: checked against its graph, fitted, loaded, and reported.

report = load_pretrained(mvit_v2_s(), "MViTv2_S_16x4_k400_f302660347.pyth")
print(report)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvit_train.labels import Labels
from mvit_train.models.graph import Graph, fitting_variant
from mvit_train.models.mvit import MViT
from mvit_train.models.resize import Fitted, fit_parameter
from mvit_train.models.weight_files import HEAD, Weights, read_weights

Strict = Literal["exact", "backbone", "partial"]

# The share of the elements asked about that must come from the file: of all parameters, unchanged; of all but the
# head, and the two below where they start anew; of all parameters.
MIN_SHARE: dict[Strict, float] = {"exact": 1.0, "backbone": 1.0, "partial": 0.5}
CLASS_TOKEN = ("cls_token", "pos_embed_class")  # where the weights of images become those of a video
LAST_NORM = ("norm.weight", "norm.bias")  # where the file has no head: MaskFeat's pre-training


class Change(NamedTuple):
    """A tensor that did not come over as it is: its shapes in the file and in the model, and what was done."""

    before: tuple[int, ...] | None
    after: tuple[int, ...]
    how: str

    def __str__(self) -> str:
        before = "" if self.before in (None, self.after) else f"{self.before} to {self.after}, "
        return before + self.how


@dataclass(frozen=True)
class LoadReport:
    """What became of every parameter of the model, and of every tensor of the file.

    Args:
        path, kind: the file, and who named its parameters.
        loaded: parameters that are the file's.
        resized, inflated: parameters that were made from the file's, see `resize`.
        left_at_init: parameters that the file says nothing about.
        unused: tensors of the file, under our names where we have one, that the model has no place for.
        class_names: the file's, in the order of its scores; None if it does not say.
        head: what became of the classification layer, in words.
        share: of the elements that the level of `strict` asks about, how many came from the file.
    """

    path: Path
    kind: str
    loaded: tuple[str, ...]
    resized: dict[str, Change]
    inflated: dict[str, Change]
    left_at_init: tuple[str, ...]
    unused: tuple[str, ...]
    class_names: tuple[str, ...] | None
    head: str
    share: float

    @property
    def has_head(self) -> bool:
        return not set(HEAD) & set(self.left_at_init)

    def __str__(self) -> str:
        lines = [f"weights: {self.path} ({self.kind}), {len(self.loaded)} tensors loaded; head {self.head}"]
        for what, changes in (("resized", self.resized), ("inflated", self.inflated)):
            lines += _listed(what, [f"{name} ({change})" for name, change in changes.items()])
        return "\n".join([*lines, *_listed("left at init", self.left_at_init), *_listed("unused", self.unused)])


def load_pretrained(
    model: nn.Module, path: Path | str, *, strict: Strict = "backbone", class_names: Sequence[str] | None = None
) -> LoadReport:
    """Loads what `read_weights` reads into the model, and says what became of every tensor.

    Args:
        strict: what must come from the file, else ValueError. "exact": every parameter, unchanged; "backbone": all but
            the head, where positions may be resized and kernels inflated; "partial": half of the model's elements,
            even from another graph.
        class_names: the model's classes; the head's rows are found by name where the file's are known too.

    Raises ValueError where the file is refused, the model being as it was: with the share that matches, the first
    parameters that do not, how the graphs differ, and the variant that would fit.
    """
    if not isinstance(model, MViT):
        raise ValueError(f"weights: {path} can be read into an MViT, not into a {type(model).__name__}")
    path, weights = Path(path), read_weights(Path(path))
    parameters = dict(model.named_parameters())
    rows, head = _head(weights, parameters[HEAD[0]], class_names)
    fitted = dict(rows)
    for name in parameters.keys() - set(HEAD):
        if (found := fit_parameter(name, parameters[name].shape, weights.tensors, model.thw)) is not None:
            fitted[name] = found
    report = _report(path, weights, parameters, fitted, head, strict)
    _refuse(report, weights, model, strict)
    with torch.no_grad():
        for name, found in fitted.items():
            parameters[name].copy_(found.tensor)
    return report


def _head(weights: Weights, layer: Tensor, class_names: Sequence[str] | None) -> tuple[dict[str, Fitted], str]:
    """The rows of the classification layer that belong to the model's classes, and what was done in words."""
    if class_names is not None and len(class_names) != len(layer):
        raise ValueError(f"{len(class_names)} class names are given for a model of {len(layer)} classes")
    tensors = {name: weights.tensors[name] for name in HEAD if name in weights.tensors}
    if len(tensors) < len(HEAD) or tensors[HEAD[0]].shape[1:] != layer.shape[1:]:
        return {}, "left at init: the file has none that fits"
    num_rows, names = len(tensors[HEAD[0]]), weights.class_names
    if names is None or class_names is None:
        if num_rows != len(layer):
            return {}, f"replaced: {num_rows} classes in the file, {len(layer)} here"
        unnamed = _unnamed(class_names) if names is None else ""
        return {name: Fitted(tensor, "loaded", "", name) for name, tensor in tensors.items()}, f"loaded{unnamed}"
    ours, theirs = Labels(tuple(class_names)), Labels(names)
    comparison = ours.compare(theirs, mine="the model", its="the file")
    if comparison.kind == "same":
        return {name: Fitted(tensor, "loaded", "", name) for name, tensor in tensors.items()}, "loaded"
    if comparison.kind not in ("permuted", "subset"):
        return {}, f"replaced: {comparison.sentence}"
    order = torch.tensor([theirs.index[name] for name in class_names])
    rows = {name: Fitted(tensor[order], "resized", "rows by class name", name) for name, tensor in tensors.items()}
    return rows, f"rows by class name: {comparison.sentence}"


def _unnamed(class_names: Sequence[str] | None) -> str:
    """What to know of a head whose file names no classes."""
    labels = None if class_names is None else Labels(tuple(class_names))
    if labels is not None and (doubt := labels.doubt()):
        return f"; the file names no classes, their order is taken to be the same, but {doubt}"
    known = f": {labels.known()}" if labels is not None and labels.known() else ""
    return f"; the file names no classes, their order is taken to be the same{known}"


def _report(
    path: Path,
    weights: Weights,
    parameters: Mapping[str, Tensor],
    fitted: Mapping[str, Fitted],
    head: str,
    strict: Strict,
) -> LoadReport:
    changes: dict[str, dict[str, Change]] = {"loaded": {}, "resized": {}, "inflated": {}}
    asked = found = 0
    for name, parameter in parameters.items():
        fit = fitted.get(name)
        if fit is not None:
            before = None if fit.source is None else tuple(weights.tensors[fit.source].shape)
            changes[fit.change][name] = Change(before, tuple(parameter.shape), fit.how)
        if not (strict == "backbone" and name in HEAD):
            asked += parameter.numel()
            found += parameter.numel() * (fit is not None and (strict != "exact" or fit.change == "loaded"))
    used = {fit.source for fit in fitted.values()}
    return LoadReport(
        path=path,
        kind=weights.kind,
        loaded=tuple(changes["loaded"]),
        resized=changes["resized"],
        inflated=changes["inflated"],
        left_at_init=tuple(name for name in parameters if name not in fitted),
        unused=tuple(name for name in weights.tensors if name not in used),
        class_names=weights.class_names,
        head=head,
        share=found / asked,
    )


def _refuse(report: LoadReport, weights: Weights, model: MViT, strict: Strict) -> None:
    """Raises the ValueError that `load_pretrained` speaks of, or does nothing."""
    built = Graph.of(model.state_dict())
    file = Graph.of(weights.tensors)
    differences = file.differences(built)
    allowed = () if strict == "exact" else HEAD
    if strict == "backbone":
        allowed += CLASS_TOKEN * ((file.input, built.input) == ("images", "video"))
        allowed += LAST_NORM * (HEAD[0] not in weights.tensors)
    missing = [name for name in report.left_at_init if name not in allowed]
    if strict == "exact":
        missing += [*report.resized, *report.inflated]
    enough = report.share >= MIN_SHARE[strict] if strict == "partial" else not missing
    if enough and (strict == "partial" or not differences):
        return
    percent = math.floor(1000 * report.share) / 10
    of_what = {"exact": ", unchanged", "backbone": " of all but the head", "partial": ""}[strict]
    lines = [
        f"weights: {report.path} ({report.kind}) does not fit: {percent} % of the model's elements would come from it; "
        f"strict={strict!r} asks for {100 * MIN_SHARE[strict]:.0f} %{of_what}"
    ]
    lines += _listed("not in the file as the model has them", missing)
    lines += [f"  {difference}" for difference in differences]
    if strict == "exact" and not report.has_head:
        lines.append(f"  head {report.head}")
    if differences:
        variant = fitting_variant(weights.tensors, built.input)
        lines.append(f"  {variant} fits" if variant else "  none of the published variants fits")
    raise ValueError("\n".join(lines))


def _listed(what: str, names: Sequence[str], most: int = 4) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"  {len(names)} {what}: {', '.join(names[:most])}{more}"]
