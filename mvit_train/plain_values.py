"""What a configuration may consist of: plain values and references to others of them, few enough to look at all.

Checkpoints bring configurations along, and so do experiments that are passed on. Interpolations that compute something
are refused in all of them: `${oc.env:HF_TOKEN}` would copy a secret into everything that the run writes.
"""

import re
from collections.abc import Mapping
from typing import Any

from mvit_train.nodes import ConfigError
from mvit_train.redaction import find_secret
from mvit_train.signatures import show

MAX_DEPTH = 20
MAX_VALUES = 5_000  # both as written and with every reference replaced by what it stands for
REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")


def refuse_odd(config: Any, source: str = "") -> None:
    """ConfigError unless `config`, references not resolved, is made of dicts, lists, texts, numbers and null.

    source: where it comes from, such as "a.ckpt: ".
    """
    mistakes, count = [], 0
    waiting: list[tuple[str, Any, int]] = [("", config, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise ConfigError([f"{source}more than {MAX_VALUES} values"])
        if isinstance(value, Mapping | list | tuple):
            if depth > MAX_DEPTH:
                raise ConfigError([f"{source}{path[:80]}: nodes in nodes, more than {MAX_DEPTH} deep"])
            items = dict(value.items() if isinstance(value, Mapping) else enumerate(value))
            waiting += [(f"{path}.{key}" if path else str(key), item, depth + 1) for key, item in items.items()]
            mistakes += [f"{source}{path}: key {key!r} is no text" for key in items if not isinstance(key, str | int)]
        elif isinstance(value, str):
            if secret := find_secret(value):
                mistakes.append(f"{source}{path}: holds {secret}, which every file of the run would repeat")
            elif "${" in REFERENCE.sub("", value):
                mistakes.append(
                    f"{source}{path} = {show(value)}: only references such as ${{clip.num_frames}} are resolved; what "
                    "the environment holds can be written by the shell"
                )
        elif not isinstance(value, bool | int | float | None):
            mistakes.append(f"{source}{path}: a {type(value).__name__} is no plain value")
    if mistakes:
        raise ConfigError(mistakes)
    if _expanded(config, config, {}, []) > MAX_VALUES:
        raise ConfigError([f"{source}more than {MAX_VALUES} values once references are resolved"])


def _expanded(value: Any, root: Any, known: dict[str, int], within: list[str]) -> int:
    """How many values `value` has once its references are resolved. ConfigError: a reference leads back to itself."""
    if isinstance(value, str):
        total = 1
        for name in REFERENCE.findall(value):
            if name in within or len(within) > MAX_DEPTH:
                raise ConfigError([f"{within[0]}: nodes refer to each other in a circle"])
            if name not in known:
                known[name] = _expanded(_at(root, name), root, known, [*within, name])
            total += known.get(name, 1)
        return total
    if isinstance(value, Mapping | list | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        return 1 + sum(_expanded(item, root, known, within) for item in items)
    return 1


def _at(root: Any, name: str) -> Any:
    for part in name.split("."):
        if isinstance(root, Mapping) and part in root:
            root = root[part]
        elif isinstance(root, list | tuple) and part.isdecimal() and int(part) < len(root):
            root = root[int(part)]
        else:
            return None
    return root
