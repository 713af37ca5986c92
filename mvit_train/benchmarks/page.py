"""BENCHMARKS.md from the files that `task=benchmark` has written: `make benchmarks`.

    python -m mvit_train.benchmarks.page docs/benchmarks/*.json > BENCHMARKS.md

Every number on the page is of one of these files.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], Any]]

INTRODUCTION = """# Benchmarks

Made by `make benchmarks` from the files in [docs/benchmarks](docs/benchmarks), which `task=benchmark` has written;
[docs/benchmark.md](docs/benchmark.md) says how each is measured. Ratios are of
times in the same round, medians with the range over the rounds; above 1 ours is faster. What was tried and what it
gave: [docs/speed.md](docs/speed.md).
"""

GPU_COMMANDS = """Not measured: no GPU was at hand. On one:

```
python -m mvit_train task=benchmark 'benchmark.batch_sizes=[1,8,32]' 'benchmark.precisions=[bf16]' \\
    'benchmark.compile=[eager,compiled]'
python -m mvit_train task=benchmark what=kernels
python -m mvit_train task=benchmark what=scale
```
"""


def ratio(values: Sequence[float]) -> str:
    """Median, least and most of a ratio."""
    middle, least, most = values
    return f"**{middle:.2f}x** ({least:.2f} to {most:.2f})"


def number(value: float | None, form: str = ".1f", unit: str = "") -> str:
    """The value in a form; a dash for what was not measured."""
    return "-" if value is None else f"{value:{form}}{unit}"


MODEL: tuple[Column, ...] = (
    ("model", lambda row: row["model"]),
    ("mode", lambda row: row["compile"]),
    ("batch", lambda row: row["batch_size"]),
    ("precision", lambda row: row["precision"]),
    ("step", lambda row: row["step"]),
    ("who", lambda row: row["who"]),
    ("seconds", lambda row: number(row["seconds"], ".3f")),
    ("as fast as the first", lambda row: ratio(row["speed"])),
    ("clips/s", lambda row: number(row["clips_per_sec"], ".2f")),
    ("MB added", lambda row: number(row["added_mb"], ".0f")),
    ("MFU", lambda row: "-" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"),
)
DECODE: tuple[Column, ...] = (
    ("file", lambda row: row["file"]),
    ("MB", lambda row: number(row["megabytes"], ".2f")),
    ("who", lambda row: row["who"]),
    ("ms read", lambda row: number(row["milliseconds"][0])),
    ("ms with crop", lambda row: number(row["milliseconds"][1])),
    ("clips/s of a core", lambda row: number(1000 / row["milliseconds"][1])),
    ("ours is", lambda row: ratio(row["speed"])),
    ("pixels differ by", lambda row: number(row["difference"], "g")),
    ("packets", lambda row: "-" if row["packets"] is None else "{1:.0f} of {0:.0f}".format(*row["packets"])),
)
LOADER: tuple[Column, ...] = (
    ("files", lambda row: row["files"]),
    ("who", lambda row: row["who"]),
    ("clips/s", lambda row: number(row["clips_per_sec"])),
    ("per core-second", lambda row: number(row["clips_per_core_sec"])),
    ("ours is", lambda row: ratio(row["speed"])),
    ("per core", lambda row: ratio(row["speed_per_core"])),
    ("MB", lambda row: number(row["mb"], ".0f")),
)
CHECK: tuple[Column, ...] = (
    ("processes", lambda row: row["processes"]),
    ("computing, s", lambda row: number(row["measured"]["compute"], ".3f")),
    ("exchange alone, s", lambda row: number(row["measured"]["exchange"], ".3f")),
    ("step measured, s", lambda row: number(row["measured"]["step"], ".3f")),
    ("step predicted, s", lambda row: number(row["predicted"], ".3f")),
    ("error", lambda row: f"{100 * row['error']:+.0f} %"),
)
SCALE: tuple[Column, ...] = (
    ("experiment", lambda row: row["experiment"]),
    ("batch of a GPU", lambda row: row["batch_size"]),
    ("GPUs", lambda row: row["gpus"]),
    ("clips/s", lambda row: number(row["clips_per_sec"], ".0f")),
    ("efficiency", lambda row: f"{100 * row['efficiency']:.0f} %"),
    ("hours", lambda row: number(row["hours"])),
    ("dollars", lambda row: number(row["dollars"], ".0f")),
    ("from", lambda row: row["source"]),
)


def page(results: Iterable[Result]) -> str:
    """The whole page."""
    by_what: dict[str, list[Result]] = {}
    for result in results:
        by_what.setdefault(result["context"]["what"], []).append(result)
    parts = [INTRODUCTION, "## Measured\n"]
    for what, title, columns in (
        ("model", None, MODEL),
        ("kernels", "Operations", None),
        ("decode", "Reading clips", DECODE),
        ("loader", "Whole loaders", LOADER),
    ):
        for result in by_what.get(what, []):
            parts += [f"### {title or compared(result)}\n", about(result), markdown(result["rows"], columns)]
    scale = by_what.get("scale", [])
    for result in scale:
        if result["checks"]:
            parts += ["### Data-parallel steps, predicted and measured\n", about(result)]
            parts.append(markdown(result["checks"], CHECK))
    if not any("NVIDIA" in result["context"]["device"] for results in by_what.values() for result in results):
        parts += ["### On a GPU\n", GPU_COMMANDS]
    parts.append("## Predicted, not measured\n")
    for result in scale:
        if result["rows"]:
            parts += ["### Training on many GPUs\n", assumptions(result), markdown(result["rows"], SCALE)]
    return "\n".join(parts)


def compared(result: Result) -> str:
    """What of models was compared, how and with whom, for a title."""
    steps, modes, peers = (
        list(dict.fromkeys(row[key] for row in result["rows"])) for key in ("step", "compile", "who")
    )
    kinds = " and ".join({"forward": "forward passes", "train": "training steps"}[step] for step in steps)
    others = ", ".join(peer for peer in peers if peer != "ours")
    return f"{kinds.capitalize()}: {', '.join(modes)}, against {others}"


def about(result: Result) -> str:
    """The machine, the versions, the date and the command."""
    context = dict(result["context"])
    lines = [f"`{context.pop('command')}`", ""]
    del context["what"]
    lines.append("; ".join(f"{name}: {value}" for name, value in context.items()) + ".")
    lines += [f"- {note}" for note in result.get("notes", ())]
    return "\n".join(lines) + "\n"


def assumptions(result: Result) -> str:
    """What the prediction rests on."""
    s = result["settings"]
    return (
        f"Steps alone: no validation, no wait for data. {s['gpus_per_node']} GPUs a node at {s['gpu_link']:g} GB/s "
        f"each, {s['node_link']:g} GB/s between nodes, {s['latency_us']:g} us a message, "
        f"${s['dollars_per_gpu_hour']:g} a GPU-hour.\n\n`{result['context']['command']}`\n"
    )


def markdown(rows: Sequence[Row], columns: Sequence[Column] | None) -> str:
    """A table; without columns, of everything that the rows hold."""
    if not rows:
        return "Nothing.\n"
    chosen = columns or [(name, lambda row, name=name: plain(row[name])) for name in rows[0]]
    lines = [[name for name, _ in chosen], ["---"] * len(chosen)]
    lines += [[str(show(row)) for _, show in chosen] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def plain(value: Any) -> str:
    """A value in few digits."""
    if isinstance(value, list):
        return " to ".join(plain(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str("-" if value is None else value)


def main(arguments: Sequence[str]) -> int:
    """Prints the page of the files named. The exit status."""
    if not arguments:
        print("benchmarks.page: name the JSON files that task=benchmark has written", file=sys.stderr)
        return 2
    print(page([json.loads(Path(name).read_text(encoding="utf-8")) for name in arguments]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
