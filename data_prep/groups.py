"""Which clips belong together, and a split that never divides them."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.listing import UserError
from data_prep.probe import content_digest

YOUTUBE_CLIP = re.compile(r"([A-Za-z0-9_-]{11})_\d+_\d+")
# v_Swing_g08_c01 -> v_Swing_g08, name-01 -> name, name (2) -> name, name_clip3 -> name, name copy 2 -> name
TRAILING_NUMBER = re.compile(
    r"(?P<source>.*?[^\W_].*?)"
    r"(?:[ ]*\(\d+\)|[ _.-]+(?:c|clip|seg|segment|part|shot|scene|cut|copy|cam|take)?[ _.-]*\d+|[ _.-]+copy)",
    re.IGNORECASE,
)

COUNTING_WORDS = frozenset(("", "video", "vid", "clip", "movie", "mov", "img", "file", "sample", "v", "c"))


def group_rule(name: str) -> Callable[[Path], str]:
    """From CLASS/.../FILE to its recording: `prefix`, `parent`, `none`, or a regular expression, of whose match in the
    file name it is the first group, or else all."""
    rules = {"prefix": by_prefix, "parent": lambda path: str(path.parent), "none": str}
    if name in rules:
        return rules[name]
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise UserError(f"--group-by {name!r} is not {', '.join(rules)}, and no regular expression: {error}") from error

    def by_pattern(path: Path) -> str:
        match = pattern.search(path.name)
        if match is None:
            raise UserError(f"--group-by {name!r} does not match in {path.name!r} ({path})")
        return match[1] if pattern.groups else match[0]

    return by_pattern


def by_prefix(path: Path) -> str:
    """A YouTube clip's id, or the file name up to the number of the clip.

    A name without a number stands for itself, and so does one that only counts: `video_01`, or CLASS_01 in CLASS/.
    """
    if match := YOUTUBE_CLIP.fullmatch(path.stem):
        return match[1]
    match = TRAILING_NUMBER.fullmatch(path.stem)
    if match is None:
        return path.stem
    words = _letters(match["source"])
    return str(path) if words in COUNTING_WORDS or words == _letters(path.parts[0]) else match["source"]


def _letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def merge_copies(groups: Mapping[Path, str]) -> dict[Path, str]:
    """The same groups, those that hold copies of one file made one. Only files of equal size are read."""
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in groups:
        sizes[path.stat().st_size].append(path)
    parent: dict[str, str] = {}

    def find(group: str) -> str:
        while (above := parent.get(group, group)) != group:
            group = above
        return group

    for paths in sizes.values():
        first: dict[str, str] = {}
        for path in paths if len(paths) > 1 else ():
            group = find(groups[path])
            same = find(first.setdefault(content_digest(path), group))
            if same != group:
                parent[max(same, group)] = min(same, group)
    return {path: find(group) for path, group in groups.items()}


def split_groups(videos: Sequence[tuple[str, str]], val_share: float) -> set[str]:
    """The groups that validate, of (class, group) per video: about `val_share` of every class, which ones by a hash.

    A class of two groups or more has one on either side, unless all of its groups are shared with classes that would
    lose their last training group.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)  # group -> class -> videos
    for label, group in videos:
        sizes[group][label] += 1
    total = Counter(label for label, _ in videos)
    wanted = {label: max(1, round(val_share * count)) for label, count in total.items()}
    in_val: Counter[str] = Counter()
    chosen: set[str] = set()

    def fits(group: str, most: Mapping[str, int]) -> bool:
        return all(in_val[label] + count <= min(most[label], total[label] - 1) for label, count in sizes[group].items())

    def choose(groups: Iterable[str], most: Mapping[str, int]) -> None:
        for group in groups:
            if group not in chosen and fits(group, most):
                chosen.add(group)
                in_val.update(sizes[group])

    by_hash = sorted(sizes, key=lambda group: hashlib.sha256(group.encode(errors="surrogateescape")).digest())
    choose(by_hash, wanted)
    for label in sorted(total):
        if not in_val[label]:  # every group is larger than its share: the smallest that leaves one to train on
            mine = [group for group in by_hash if label in sizes[group]]
            for group in sorted(mine, key=lambda group: sum(sizes[group].values())):
                if not in_val[label]:
                    choose([group], total)
    return chosen
