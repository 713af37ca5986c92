"""What has been probed so far: one JSON line per file, appended at once, so that any interruption costs a file."""

import dataclasses
import json
import zlib
from pathlib import Path
from types import TracebackType

from data_prep.probe import Key, Probe, Task


@dataclasses.dataclass(frozen=True)
class Shard:
    """Share `index` of `count`: the files whose path's checksum says so, the same on every machine."""

    index: int = 0
    count: int = 1

    def has(self, task: Task) -> bool:
        return zlib.crc32(task.path.encode(errors="surrogateescape")) % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class Journal:
    """Appends to OUT/probe-<i>of<n>.jsonl; every shard has its own file."""

    def __init__(self, out: Path, shard: Shard) -> None:
        self._file = out / f"probe-{shard.index}of{shard.count}.jsonl"

    def __enter__(self) -> "Journal":
        torn = self._file.exists() and self._file.read_bytes()[-1:] not in (b"", b"\n")
        self._stream = self._file.open("a", encoding="ascii")
        if torn:  # a line that a crash has cut off
            self._stream.write("\n")
        return self

    def append(self, result: Probe) -> None:
        self._stream.write(json.dumps(dataclasses.asdict(result)) + "\n")
        self._stream.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()


def read_journals(out: Path) -> dict[Key, Probe]:
    """Results of all shards; of several for a file a verified one, and then a good one."""
    found: dict[Key, Probe] = {}
    names = {field.name for field in dataclasses.fields(Probe)}
    for file in sorted(out.glob("probe-*of*.jsonl")):
        for line in file.read_text(encoding="ascii", errors="replace").splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue  # cut off by a crash: probed again
            if not isinstance(values, dict) or set(values) != names:
                continue  # of another version
            result = Probe(**values)
            before = found.get(result.key)
            if before is None or _order(result) > _order(before):
                found[result.key] = result
    return found


def _order(result: Probe) -> tuple[bool, bool]:
    return result.verified, not result.reason
