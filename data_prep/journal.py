"""What has been done so far: one JSON line per file, appended at once, so that any interruption costs a file."""

import dataclasses
import json
import zlib
from collections.abc import Hashable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, TypeVar

from data_prep.probe import Key, Probe


class HasKey(Protocol):
    """A task."""

    @property
    def path(self) -> str: ...

    @property
    def key(self) -> Hashable: ...


class Result(Protocol):
    """What a journal holds: a frozen dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Hashable: ...

    @property
    def reason(self) -> str: ...

    @property
    def verified(self) -> bool: ...


R = TypeVar("R", bound=Result)


@dataclasses.dataclass(frozen=True)
class Shard:
    """Share `index` of `count`: the files whose path's checksum says so, the same on every machine."""

    index: int = 0
    count: int = 1

    def has(self, task: HasKey) -> bool:
        return zlib.crc32(task.path.encode(errors="surrogateescape")) % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class Journal:
    """Appends to OUT/probe-<i>of<n>.jsonl, or what `stem` says; every shard has its own file."""

    def __init__(self, out: Path, shard: Shard, stem: str = "probe") -> None:
        self._file = out / f"{stem}-{shard.index}of{shard.count}.jsonl"

    def __enter__(self) -> "Journal":
        torn = self._file.exists() and self._file.read_bytes()[-1:] not in (b"", b"\n")
        self._stream = self._file.open("a", encoding="ascii")
        if torn:  # a line that a crash has cut off
            self._stream.write("\n")
        return self

    def append(self, result: Result) -> None:
        self._stream.write(json.dumps(dataclasses.asdict(result)) + "\n")
        self._stream.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()


def read_journals(out: Path) -> dict[Key, Probe]:
    """Results of all shards; of several for a file a verified one, and then a good one."""
    return {result.key: result for result in read_results(out, "probe", Probe)}


def read_results(out: Path, stem: str, kind: type[R]) -> list[R]:
    """One result per key, from the journals of all shards: of several a verified one, and then a good one."""
    found: dict[Hashable, R] = {}
    names = {field.name for field in dataclasses.fields(kind)}
    for file in sorted(out.glob(f"{stem}-*of*.jsonl")):
        for line in file.read_text(encoding="ascii", errors="replace").splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue  # cut off by a crash: done again
            if not isinstance(values, dict) or set(values) != names:
                continue  # of another version
            result = kind(**values)
            before = found.get(result.key)
            if before is None or _order(result) > _order(before):
                found[result.key] = result
    return list(found.values())


def _order(result: Result) -> tuple[bool, bool]:
    return result.verified, not result.reason
