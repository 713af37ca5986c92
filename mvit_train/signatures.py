"""What a callable accepts, and whether a value that YAML can write fits an annotation.

`read_signature` gives the arguments of a class or function; `fit` turns a YAML value into what an annotation asks for.

    fit([2, 4, 4], tuple[int, int, int])  ->  (2, 4, 4)
    fit("videos", Path)                   ->  Path("videos")
    fit("1e-3", float)                    ->  0.001
    fit("abc", float | None)              ->  FitError: must be float or null
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin


class FitError(ValueError):
    """A value that does not fit its annotation; the text says what would."""


class Node:
    """Annotation of a field that holds a call: `_target_` and its arguments."""


@dataclasses.dataclass(frozen=True)
class Product:
    """Stands for what a nested node will build, while nothing is built yet. kind: its class, or Any if unknown."""

    kind: Any


@dataclasses.dataclass(frozen=True)
class Signature:
    """The keyword arguments of a callable.

    annotations: by argument. defaults: of the arguments that need not be given. open: takes any other keyword too.
    kind: the class of what it returns, or Any. forwards: the arguments are those of the class it returns.
    """

    name: str
    annotations: dict[str, Any]
    defaults: dict[str, Any]
    open: bool
    kind: Any
    forwards: bool = False

    @property
    def required(self) -> list[str]:
        return [name for name in self.annotations if name not in self.defaults]


def read_signature(target: Callable) -> Signature:
    """The arguments of a class or function. A factory that takes **overrides passes them to what it returns:
    `def mvit_b(**overrides) -> MViT` accepts the arguments of MViT, none of them required."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except NameError:  # foreign code that annotates with names it imports under TYPE_CHECKING
        signature = inspect.signature(target)
    named = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    is_open = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    annotations = {p.name: p.annotation for p in named}
    defaults = {p.name: p.default for p in named if p.default is not p.empty}
    if inspect.isclass(target):
        return Signature(target.__name__, annotations, defaults, is_open, target)
    name = getattr(target, "__name__", str(target))
    kind = get_origin(signature.return_annotation) or signature.return_annotation
    if not inspect.isclass(kind) or kind is inspect.Parameter.empty:
        return Signature(name, annotations, defaults, is_open, Any)
    if not is_open:
        return Signature(name, annotations, defaults, False, kind)
    inner = read_signature(kind)
    optional = dict.fromkeys(inner.annotations, None)  # the factory may give any of them itself
    return Signature(name, inner.annotations | annotations, optional | defaults, inner.open, kind, forwards=True)


def fit(value: Any, annotation: Any) -> Any:
    """value as the annotation wants it, or FitError. Objects that YAML cannot write (built nodes) pass unchanged."""
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(value, Product) and value.kind is Any:
        return value
    if annotation in (Any, inspect.Parameter.empty, object) or isinstance(annotation, str | ForwardRef | TypeVar):
        return value
    if not isinstance(value, NoneType | bool | int | float | str | list | tuple | dict | Product):
        return value
    if origin is Annotated:
        return fit(value, args[0])
    if origin in (Union, UnionType):
        return _fit_union(value, annotation, args)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        raise FitError(f"must be {describe(annotation)}{did_you_mean(value, [str(choice) for choice in args])}")
    cls = origin or annotation
    if isinstance(value, Product):
        return _fit_product(value, annotation, cls)
    if cls in (tuple, set, frozenset) or (inspect.isclass(cls) and issubclass(list, cls)):
        return _fit_list(value, annotation, cls, args)
    if inspect.isclass(cls) and issubclass(dict, cls) and isinstance(value, dict):
        return _fit_dict(value, annotation, *(args or (Any, Any)))
    return _fit_scalar(value, annotation, cls)


def describe(annotation: Any) -> str:
    """The annotation in words: `tuple[int, int] | None` -> "a list of 2 int or null"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (None, NoneType):
        return "null"
    if origin is Annotated:
        return describe(args[0])
    if origin in (Union, UnionType):
        choices = dict.fromkeys(_choices(args))
        members = [f"one of {', '.join(choices)}"] if choices else []
        members += [describe(member) for member in args if get_origin(member) is not Literal]
        return " or ".join(dict.fromkeys(members))
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(str(choice) for choice in args)
    cls = origin or annotation
    if cls is tuple and args and Ellipsis not in args:
        return f"a list of {len(args)} {' or '.join(dict.fromkeys(describe(member) for member in args))}"
    if cls is tuple or (inspect.isclass(cls) and issubclass(list, cls)):
        return f"a list of {describe(args[0])}" if args else "a list"
    if inspect.isclass(cls) and issubclass(dict, cls):
        return "a mapping"
    if cls is Node or (inspect.isclass(cls) and cls not in (bool, int, float, str, Path)):
        kind = "" if cls is Node else f" that makes {cls.__name__}"
        return f"a node with `_target_`{kind}"
    return "a path" if cls is Path else getattr(cls, "__name__", str(cls))


def did_you_mean(word: Any, options: Collection[str], prefix: str = "") -> str:
    """ "; did you mean x?" for the nearest option, and a second one that is near too; or nothing."""
    near = get_close_matches(str(word), options, n=1) + get_close_matches(str(word), options, n=2, cutoff=0.8)[1:]
    return f"; did you mean {' or '.join(prefix + option for option in near)}?" if near else ""


def _fit_union(value: Any, annotation: Any, members: tuple) -> Any:
    # A member that is the value's own type first: 3 stays an int in `float | int`.
    for member in sorted(members, key=lambda member: member is not type(value)):
        try:
            return fit(value, member)
        except FitError:
            continue
    raise FitError(f"must be {describe(annotation)}{did_you_mean(value, _choices(members))}")


def _choices(members: tuple) -> list[str]:
    return [str(choice) for member in members if get_origin(member) is Literal for choice in get_args(member)]


def _fit_product(value: Product, annotation: Any, cls: Any) -> Product:
    try:
        fits = cls is Node or not inspect.isclass(cls) or issubclass(value.kind, cls)
    except TypeError:  # a Protocol that cannot be asked
        fits = True
    if not fits:
        raise FitError(f"must be {describe(annotation)}, but its `_target_` makes {value.kind.__name__}")
    return value


def _fit_list(value: Any, annotation: Any, cls: Any, args: tuple) -> Any:
    if not isinstance(value, list | tuple):
        raise FitError(f"must be {describe(annotation)}")
    if cls is tuple and args and Ellipsis not in args:
        if len(value) != len(args):
            raise FitError(f"must be {describe(annotation)}, got {len(value)}")
        members: Iterable[Any] = args
    else:
        members = [args[0] if args else Any] * len(value)
    items = []
    for item, member in zip(value, members, strict=True):
        try:
            items.append(fit(item, member))
        except FitError as error:
            raise FitError(f"must be {describe(annotation)}: {show(item)} {error}") from None
    return cls(items) if cls in (tuple, set, frozenset) else items


def _fit_dict(value: dict, annotation: Any, key_type: Any, value_type: Any) -> dict:
    items = {}
    for key, item in value.items():
        try:
            items[fit(key, key_type)] = fit(item, value_type)
        except FitError as error:
            raise FitError(f"must be {describe(annotation)}: {show(key)}: {show(item)} {error}") from None
    return items


def _fit_scalar(value: Any, annotation: Any, cls: Any) -> Any:
    if value is None and cls in (None, NoneType):
        return value
    if type(value) is cls and cls in (bool, int, float, str):
        return value
    if cls is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if cls is Path and isinstance(value, str):
        return Path(value)
    if inspect.isclass(cls) and cls not in (bool, int, float, str) and isinstance(value, cls):
        return value
    raise FitError(f"must be {describe(annotation)}")


def show(value: Any) -> str:
    """value on one line as YAML would write it, shortened."""
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(show(item) for item in value) + "]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = "''" if value == "" else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
