"""A node is a call written as a dict: `_target_` plus keyword arguments. Here nodes are checked, and called.

Nodes are plain dicts and lists here; `config` makes them from YAML.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from mvit_train.signatures import FitError, Product, Signature, did_you_mean, fit, read_signature, show

# What `_target_` may name; nothing else is ever imported. A trailing dot stands for everything below. No task is among
# them: a checkpoint's configuration must not run one.
ALLOWED_TARGETS = (
    *("mvit_train.models.", "mvit_train.data.", "mvit_train.optim.", "mvit_train.module.", "mvit_train.resume."),
    *("mvit_train.tracking.", "mvit_train.benchmark.", "mvit_train.benchmarks.", "mvit_train.scaling."),
    *("mvit_train.demo.settings.", "mvit_train.strategy.trainer", "lightning.pytorch.callbacks."),
)

UNKNOWN = Product(Any)  # in the place of a value that cannot be known: it fits everything


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one line each in `mistakes`."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = list(mistakes)
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        super().__init__("\n".join([f"{count} in the configuration", *(f"  {line}" for line in self.mistakes)]))


def locate(target: Any) -> Callable:
    """The class that `_target_` names, or the function that makes an object of one of the package's classes.

    Raises FitError; imports nothing outside ALLOWED_TARGETS.
    """
    if not isinstance(target, str) or not any(
        target.startswith(allowed) if allowed.endswith(".") else target == allowed for allowed in ALLOWED_TARGETS
    ):
        raise FitError(f"may only name {' or '.join(name + '*' * name.endswith('.') for name in ALLOWED_TARGETS)}")
    found = _import_longest(target)
    for name in target.removeprefix(found.__name__).split(".")[1:]:
        if not name or name.startswith("_") or not hasattr(found, name):
            public = [option for option in dir(found) if not option.startswith("_")]
            raise FitError(f"does not exist: {found.__name__} has no {name}{did_you_mean(name, public)}")
        if not inspect.ismodule(found):  # VideoClassifier.load_from_checkpoint
            raise FitError(f"is a part of {found.__name__}, not a class or function of its own")
        found = getattr(found, name)
    # What our modules import from elsewhere is reachable through them, but not ours: mvit_train.x.os.system.
    package = target.partition(".")[0]
    if not callable(found) or _package(found) != package:
        raise FitError(f"is no class or function of {package}")
    if not inspect.isclass(found) and _package(read_signature(found).kind) != package:
        raise FitError(f"makes no object of {package}")  # what it does instead is not for a configuration to ask
    return found


def call_node(node: dict[str, Any], **injected: Any) -> Any:
    """Calls what a checked node names, nested nodes first."""
    return _call(locate(node["_target_"]), node, injected)


class NodeChecker:
    """Walks nodes and collects every mistake.

    Args:
        injected: arguments that are passed to nodes later, by dotted path, and why they cannot be set.
        references: the interpolation, such as "${clip.num_frames}", that a value was read from, by dotted path.
    """

    def __init__(self, injected: Mapping[str, str], references: Mapping[str, str]) -> None:
        self.injected, self.references = injected, references
        self._mistakes: list[tuple[str, Callable[[], str]]] = []  # texts are made last, when all arguments are known
        self._known: list[str] = []  # dotted paths of all arguments there are

    def add(self, path: str, text: str, *value: Any) -> None:
        """Notes a mistake at a dotted path, with the value that is wrong where there is one."""
        shown = f"{path} = {show(value[0])}" if value else path
        self._mistakes.append((path, lambda: f"{shown}: {text}"))

    def mistakes(self) -> list[str]:
        """One line each. A mistake that a reference repeats is told where the value is written, and only there."""
        wrong = {path for path, _ in self._mistakes}
        lines = [text() for path, text in self._mistakes if not self._sources(path) & wrong]
        return list(dict.fromkeys(lines))

    def _sources(self, path: str) -> set[str]:
        """The paths that a value was read from: data.transform.flip, with transform: ${augment.crop}, from
        augment.crop.flip."""
        sources, waiting = set(), [path]
        while waiting:
            parts = waiting.pop().split(".")
            for end in range(len(parts), 0, -1):
                reference = re.fullmatch(r"\$\{([\w.]+)\}", self.references.get(".".join(parts[:end]), ""))
                source = ".".join([reference[1], *parts[end:]]) if reference else path
                if source != path and source not in sources:
                    sources.add(source)
                    waiting.append(source)
        return sources

    def check(self, node: dict[str, Any], path: str = "", target: Callable | None = None) -> Product:
        """Checks a node, and those in it, against its `_target_`, or a dict against `target`."""
        if target is None:
            try:
                target = locate(node["_target_"])
            except FitError as error:
                self.add(_join(path, "_target_"), str(error), node["_target_"])
                return UNKNOWN
        signature = read_signature(target)
        self._known += [_join(path, name) for name in signature.annotations]
        arguments = {}
        for name, value in node.items():
            if name != "_target_":
                self._check_argument(signature, name, value, path, arguments)
        self._check_missing(signature, node, path)
        self._check_arguments(target, signature, node, path, arguments)
        return Product(signature.kind)

    def _check_argument(self, signature: Signature, name: str, value: Any, path: str, arguments: dict) -> None:
        here = _join(path, name)
        if here in self.injected:
            self.add(here, f"cannot be set: {self.injected[here]}", value)
        elif name not in signature.annotations and not signature.open:
            self._mistakes.append((here, lambda: f"{here} = {show(value)}: {self._unknown(here, signature)}"))
        else:
            annotation = signature.annotations.get(name, Any)
            checked = self._check_value(value, annotation, here)
            try:
                fitted = fit(checked, annotation)
            except FitError as error:
                self.add(here, f"{error}{_quote_hint(here, value, annotation)}", value)
            else:
                arguments[name] = fitted if checked == value else value

    def _check_value(self, value: Any, annotation: Any, path: str) -> Any:
        """value with every node in it checked and replaced by its Product."""
        if isinstance(value, dict):
            if "_target_" in value:
                return self.check(value, path)
            if record := _dataclass_in(annotation):
                return self.check(value, path, record)
            return {key: self._check_value(item, Any, _join(path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._check_value(item, Any, f"{path}.{i}") for i, item in enumerate(value)]
        return value

    def _check_missing(self, signature: Signature, node: dict[str, Any], path: str) -> None:
        given = {name for name in signature.annotations if _join(path, name) in self.injected}
        for name in signature.required:
            if name not in node and name not in given:
                self.add(_join(path, name), f"is missing; {signature.name} needs it" if path else "is missing")
        for here in self.injected:
            parent, _, name = here.rpartition(".")
            if parent == path and name not in signature.annotations and not signature.open:
                self.add(_join(path, "_target_"), f"{signature.name} must accept {name}, but has no such argument")

    def _check_arguments(
        self, target: Callable, signature: Signature, node: dict[str, Any], path: str, arguments: dict[str, Any]
    ) -> None:
        method = getattr(target, "check_arguments", None)
        if method is None:
            return
        wrong = [mistaken for mistaken, _ in self._mistakes]
        for name in signature.annotations:
            here = _join(path, name)
            if any(mistaken == here or mistaken.startswith(f"{here}.") for mistaken in wrong):
                arguments.pop(name, None)
            elif name in signature.defaults:
                arguments.setdefault(name, signature.defaults[name])
        for name, message in method(arguments).items():
            value = [node[name]] if name in node else []
            self.add(_join(path, name), message, *value)

    def _unknown(self, path: str, signature: Signature) -> str:
        parent, _, name = path.rpartition(".")
        siblings = [option for option in signature.annotations if _join(parent, option) not in self.injected]
        near = did_you_mean(name, siblings, _join(parent, ""))
        elsewhere = [known for known in self._known if known.rpartition(".")[2] == name and not self._sources(known)]
        if elsewhere:
            near = f"; did you mean {' or '.join(elsewhere[:3])}?"
        options = "" if near else f"; there are {', '.join(siblings)}"
        unknown = f"{signature.name} has no argument {name}" if parent else "there is no such setting"
        return f"{unknown}{near}{options}"


def _package(thing: Any) -> str:
    return (getattr(thing, "__module__", None) or "").partition(".")[0]


def _import_longest(target: str) -> Any:
    """The module in which a dotted name lives."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise FitError(f"cannot be imported: {error}") from error
    raise FitError("does not exist")


def _call(target: Callable, node: dict[str, Any], injected: dict[str, Any]) -> Any:
    annotations = read_signature(target).annotations
    arguments = {}
    for name, value in node.items():
        if name != "_target_":
            annotation = annotations.get(name, Any)
            arguments[name] = fit(_call_nested(value, annotation), annotation)
    return target(**arguments, **injected)


def _call_nested(value: Any, annotation: Any) -> Any:
    if isinstance(value, dict):
        if "_target_" in value:
            return call_node(value)
        if record := _dataclass_in(annotation):
            return _call(record, value, {})
        return {key: _call_nested(item, Any) for key, item in value.items()}
    return [_call_nested(item, Any) for item in value] if isinstance(value, list) else value


def _dataclass_in(annotation: Any) -> type | None:
    """The dataclass that an annotation names, alone or with None."""
    found = [member for member in (annotation, *get_args(annotation)) if dataclasses.is_dataclass(member)]
    return found[0] if found else None  # pyright: ignore[reportReturnType]


def _quote_hint(path: str, value: Any, annotation: Any) -> str:
    if type(value) in (int, float):
        try:
            fit(str(value), annotation)
        except FitError:
            return ""
        return f"; to make it text, quote it: '{path}=\"...\"'"
    return ""


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
