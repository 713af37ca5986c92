"""What a check found, and the screen that shows it: `task=doctor`."""

import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH = 110
MAX_NAMED = 3

Level = Literal["ok", "warning", "failure"]
MARKS: dict[Level, str] = {"ok": "ok", "warning": "warn", "failure": "FAIL"}


@dataclass(frozen=True)
class Finding:
    """One line of the screen. "warning": the run would go on, but not as its owner wants; "failure": it would fail."""

    level: Level
    text: str


def ok(text: str) -> Finding:
    return Finding("ok", text)


def warning(text: str) -> Finding:
    return Finding("warning", text)


def failure(text: str) -> Finding:
    return Finding("failure", text)


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What `check` finds, one by one. Where it breaks off, a failure that says so: it never hides the other checks."""
    try:
        yield from check()
    except Exception as error:  # whatever a broken machine or folder brings up
        lines = str(error).strip().splitlines()
        more = f" (and {len(lines) - 2} more lines)" if len(lines) > 2 else ""
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        yield failure(f"{name}: {kind}{' '.join(' '.join(lines[:2]).split())}{more}")


def show(finding: Finding) -> str:
    """The finding with its level, wrapped to the screen, the user's home folder written as ~."""
    return textwrap.fill(
        _with_tilde(finding.text),
        WIDTH,
        initial_indent=_mark(finding),
        subsequent_indent=" " * len(_mark(finding)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _mark(finding: Finding) -> str:
    return f"  {MARKS[finding.level]:5}"


def _with_tilde(text: str) -> str:
    home = os.path.expanduser("~")
    return text if home in ("/", "~") else re.sub(rf"(?<![\w/.~-]){re.escape(home)}(?=/)", "~", text)


def verdict(findings: Sequence[Finding]) -> str:
    """The last lines: every failure again, as far as it fits a line, and how many warnings there are."""
    failures = [finding for finding in findings if finding.level == "failure"]
    num_warnings = sum(finding.level == "warning" for finding in findings)
    also = f"{num_warnings} warning{'s' * (num_warnings != 1)}"
    if not failures:
        return f"\nNothing would fail; {also}."
    count = "1 thing" if len(failures) == 1 else f"{len(failures)} things"
    lines = [_mark(finding) + _with_tilde(finding.text) for finding in failures]
    shortened = [text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..." for text in lines]
    return "\n".join([f"\n{count} would fail; {also}.", *shortened])


def named(names: Iterable[str]) -> str:
    """The first few, and how many more: "a, b, c and 9 more"."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def size(num_bytes: float) -> str:
    """12.3 GB, 45 MB, 678 kB: 1e9, 1e6 and 1e3 bytes."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= one:
            number = num_bytes / one
            return f"{number:.1f} {unit}" if number < 100 and unit != "MB" else f"{number:.0f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"
