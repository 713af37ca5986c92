"""The configuration: composed from conf/ and the command line, checked against the signatures it calls, built.

A YAML node is a call: `_target_` plus keyword arguments, and the signature is the schema. Only this file and
`__main__` know Hydra and OmegaConf; classes get plain arguments and never see the configuration.

    cfg = compose(["experiment=k400_mvit_b", "optim.lr=1e-3"])
    check(cfg)  # every mistake at once, before anything is built
    model = build(cfg.model, num_classes=400)
"""

import copy
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from mvit_train.nodes import UNKNOWN, ConfigError, NodeChecker, call_node
from mvit_train.plain_values import MAX_DEPTH, refuse_odd
from mvit_train.schema import Config
from mvit_train.signatures import did_you_mean, show

MAX_EXPERIMENT_BYTES = 1_000_000  # of a file of the user's own

# What depends on the machine, or on what is asked, not on the checkpoint that is used.
NOT_FROM_CHECKPOINT = ("trainer", "logger", "runs", "what", "benchmark", "weights", "format", "output", "input")
NOT_FROM_CHECKPOINT += ("top_k", "threshold", "timeline", "hop_sec", "overlay", "attention", "embeddings", "serve")
NOT_FROM_CHECKPOINT += ("corruptions", "severities", "checkpoints", "scale", "early_exit", "compile")

# Tasks that read no data: `data` is not checked for them, so that no folder has to be named.
WITHOUT_DATA = ("complexity", "benchmark", "export", "report")

# Arguments that a task passes to `build`, by dotted path, and why the configuration cannot set them.
INJECTED = {
    "model.num_classes": "the data's class list decides it",
    "module.model": "it is what `model` builds",
    "module.labels": "the class list comes from the data",
    "module.multi_label": "the data decides it",
    "module.config": "it is this configuration",
    "trainer.default_root_dir": "it is the run folder, runs/name/run_id",
    "trainer.logger": "it is what `logger` builds",
    "trainer.callbacks": "the task adds its own",
    "trainer.plugins": "the task adds its own",
}


def conf_dir() -> Path:
    """Absolute path of conf/: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def compose(overrides: Sequence[str], saved: Mapping[str, Any] | None = None) -> DictConfig:
    """conf/config.yaml, or the configuration that a checkpoint has saved, changed by the overrides of a command line.

    `experiment` may also name a file outside of conf/, written like those in it: experiment=FOLDER/experiment.yaml.
    Raises ConfigError for overrides that cannot be parsed and for choices that conf/ does not have. Unknown keys are
    let in: `check` reports them together with all other mistakes.
    """
    mistakes: list[str] = []
    overrides, own = _experiment_file(overrides)
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        parsed = [override for line in overrides if (override := _parse_override(line, mistakes))]
        if mistakes:
            raise ConfigError(mistakes)
        values = [override for override in parsed if not _is_choice(override) and not override.is_delete()]
        choices = [override for override in parsed if override not in values]
        try:
            cfg = hydra.compose("config", overrides=[override.input_line or "" for override in choices])
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
            text = str(error.__cause__ or error).partition("Config search path")[0]
            raise ConfigError([" ".join(text.split())]) from error
    OmegaConf.set_struct(cfg, False)
    try:
        cfg = cast(DictConfig, OmegaConf.merge(cfg, own))
    except OmegaConfBaseException as error:  # a list in the place of a node
        raise ConfigError([f"experiment: {str(error).splitlines()[0]}"]) from error
    if saved is not None:
        refuse_odd(saved, "of the checkpoint: ")
        cfg = _choose(OmegaConf.create(dict(saved)), choices, cfg)
    for override in values:
        _set_value(cfg, override.key_or_group, _value(override))
    if str(cfg.get("weights")).startswith("<") and cfg.get("task") != "train":
        cfg.weights = None  # what an experiment starts from matters to its training alone
    refuse_odd(to_dict(cfg, resolve=False))
    OmegaConf.set_struct(cfg, True)
    return cfg


def check(cfg: DictConfig) -> None:
    """Compares every node with the signature it configures. Raises one ConfigError that lists all mistakes.

    A class may add checks that types cannot express, such as whether a folder exists: `check_arguments(arguments)`, a
    classmethod that returns {argument: message}. It gets the arguments converted to their annotated types, defaults
    filled in; nested nodes are still dicts with `_target_`. Arguments that are already known to be wrong, and injected
    ones, are left out: read with `.get`.
    """
    references: dict[str, str] = {}
    checker = NodeChecker(INJECTED, references)
    plain = _plain(cfg, "", checker, references)
    data, task = plain.get("data"), plain.get("task")
    if isinstance(data, dict) and (
        task in ("doctor", "predict", "serve")
        or plain.get("what") == "loader"
        or (task == "explain" and data.get("root") is None)
    ):
        # The doctor reports on the folder with everything else; predict and the loader take `input`, serve uploads.
        data["root"] = "."
    elif task in WITHOUT_DATA and "data" in plain:
        plain["data"] = UNKNOWN
    checker.check(plain, target=Config)
    if mistakes := checker.mistakes():
        raise ConfigError(mistakes)


def to_dict(cfg: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """The configuration as plain values, interpolations replaced by theirs or, for a checkpoint, kept: a later
    override of `clip.num_frames` then still reaches everything that refers to it."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=resolve))


def to_yaml(cfg: DictConfig, *, resolve: bool = True) -> str:
    """The configuration as YAML, interpolations replaced by their values."""
    return OmegaConf.to_yaml(cfg, resolve=resolve)


def build(node: DictConfig | dict[str, Any], **injected: Any) -> Any:
    """Calls what a checked node names, nested nodes first. `injected`: further arguments, which only the task knows."""
    plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node
    return call_node(cast(dict[str, Any], plain), **injected)


def _experiment_file(overrides: Sequence[str]) -> tuple[list[str], DictConfig]:
    """The overrides with what an experiment of the user's own chooses from conf/, and the values that it sets."""
    lines = list(overrides)
    place = next((i for i, line in enumerate(lines) if re.match(r"experiment=.*\.ya?ml$", line)), None)
    if place is None:
        return lines, OmegaConf.create()
    file = Path(lines[place].partition("=")[2].strip("'\""))
    try:
        _refuse_aliases(file)
        own = cast(DictConfig, OmegaConf.load(file))
        refuse_odd(to_dict(own, resolve=False), f"{file}: ")
        entries = [entry for entry in own.pop("defaults", []) if entry != "_self_"]
        choices = {key.split("/")[-1]: value for entry in entries for key, value in entry.items()}
    except ConfigError:
        raise
    except (OSError, TypeError, AttributeError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"experiment = {file}: cannot be read as an experiment: {error}"]) from error
    given = {line.partition("=")[0] for line in lines}
    lines[place : place + 1] = [f"{key}={value}" for key, value in choices.items() if key not in given]
    return ["~experiment", *lines], own


def _refuse_aliases(file: Path) -> None:
    """ValueError for YAML that names a part to repeat it: ten lines of it unfold to gigabytes."""
    if file.stat().st_size > MAX_EXPERIMENT_BYTES:
        raise ValueError(f"it is larger than {MAX_EXPERIMENT_BYTES} bytes")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(file.read_text(encoding="utf-8"))):
        raise ValueError("it has YAML aliases (*name), which are not read; refer to values by ${key}")


def _parse_override(line: str, mistakes: list[str]) -> Override | None:
    if "=" not in line and not line.startswith("~"):
        mistakes.append(f"{line}: is no override; write key=value")
        return None
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException as error:
        mistakes.append(f"{line}: cannot be read ({error}){_quoted(line)}")
        return None
    key = override.key_or_group
    if not key or override.is_hydra_override():
        mistakes.append(f"{line}: {'settings of Hydra itself have no effect here' if key else 'has no key'}")
    elif override.is_sweep_override():
        mistakes.append(f"{line}: several values; a list is written {key}=[a,b]{_quoted(line)}")
    elif (options := _is_choice(override)) and not override.is_delete():
        value = override.value()
        for choice in value if isinstance(value, list) else [value]:
            # A choice may lie deeper, `model=v2/small`: Hydra finds it itself.
            if choice is not None and choice not in options and "/" not in str(choice):
                nearest = did_you_mean(choice, options)
                mistakes.append(f"{key} = {show(choice)}: conf/{key} has {', '.join(options)}{nearest}")
    return override


def _is_choice(override: Override) -> list[str]:
    """What may be chosen, if the override names a folder of conf/ and not a key."""
    return GlobalHydra.instance().config_loader().get_group_options(override.key_or_group)


def _choose(saved: DictConfig, choices: Sequence[Override], composed: DictConfig) -> DictConfig:
    """A checkpoint's configuration with the nodes that the command line chooses anew, and those of the machine."""
    for key in NOT_FROM_CHECKPOINT:
        if key in composed:
            saved[key] = composed._get_node(key)
    for override in choices:
        key = override.key_or_group.replace("/", ".")
        if key not in composed:
            raise ConfigError(
                [f"{override.input_line}: a checkpoint brings its own; leave it out or set single values"]
            )
        saved[key] = composed._get_node(key)
    return saved


def _value(override: Any) -> Any:
    """What an override sets. A run id is text as it stands: a Slurm job's is a number, and 007 another than 7."""
    value = override.value()
    is_id = override.key_or_group == "run_id" and isinstance(value, int | float) and not isinstance(value, bool)
    return override.input_line.partition("=")[2] if is_id else value


def _set_value(cfg: DictConfig, key: str, value: Any) -> None:
    """Sets a value, known or not. A node that is read from elsewhere becomes a copy of its own first: with
    data.transform: ${augment.crop}, data.transform.flip=0 leaves augment.crop as it is."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        parent = OmegaConf.select(cfg, ".".join(parts[: end - 1])) if end > 1 else cfg
        name = parts[end - 1]
        if isinstance(parent, DictConfig) and name in parent and OmegaConf.is_interpolation(parent, name):
            parent[name] = copy.deepcopy(parent[name])
    try:
        OmegaConf.update(cfg, key, value, merge=True, force_add=True)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{key} = {show(value)}: {str(error).splitlines()[0]}"]) from error


def _quoted(line: str) -> str:
    """How a value with special characters is written, ready to be copied into a shell."""
    key, _, value = line.partition("=")
    quoted = shlex.quote(f'{key}="{value}"')
    return f"; if the value is text, quote it: {quoted}"


def _plain(node: Any, path: str, checker: NodeChecker, references: dict[str, str]) -> Any:
    """node as dicts and lists without interpolations; those that cannot be resolved are noted and become UNKNOWN."""
    if path.count(".") > MAX_DEPTH:
        raise ConfigError([f"{path}: nodes refer to each other in a circle"])
    keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    unresolved = cast(Any, OmegaConf.to_container(node, resolve=False))
    items = {}
    for key in keys:
        here, raw = f"{path}.{key}" if path else str(key), unresolved[key]
        try:
            value = node[key]
            if OmegaConf.is_interpolation(node, key):
                references[here] = str(raw)
            items[key] = _plain(value, here, checker, references) if OmegaConf.is_config(value) else value
        except MissingMandatoryValue:
            checker.add(here, f"has no value yet; give {here}=...")
            items[key] = UNKNOWN
        except OmegaConfBaseException as error:
            checker.add(here, str(error).splitlines()[0], raw)
            items[key] = UNKNOWN
    return items if isinstance(node, DictConfig) else list(items.values())
