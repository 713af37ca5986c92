"""Mutated manifests, configurations, checkpoints and files of weights or scores, read as the tasks read them."""

import io
import json
import multiprocessing
import pickletools
import random
import re
import resource
import shutil
import signal
import struct
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from read_videos import Row, family, peak_mib, reset_peak

from mvit_train.checkpoint import load_weights, newest_checkpoint, read_checkpoint, saved_config, saved_labels
from mvit_train.config import check, compose
from mvit_train.data.manifest import read_splits
from mvit_train.models.pretrained import load_pretrained
from mvit_train.models.variants import mvit_b
from mvit_train.predictions import INFO_KEYS, load_predictions, save_predictions

CASE_SEC = 20
MAX_MIB = 512  # of one case, above what the process had before it
ROOM = 4 << 30  # bytes of address space above what a process starts with
TEXTS = (
    *("", " ", "\0", "\x1b[2J", "../../etc/passwd", "/etc/passwd", "..", "=1+1", '"', "'", ",,,,", "\n", "\r", "\t"),
    *("9" * 5000, "99999999999", "-1", "²", "٣", "1e999", "nan", "inf", "a;b", ";", "http://a/b.mp4", "concat:a|b"),
    *("${oc.env:HOME}", "${a.b}", "${", "${model}", "${oc.decode:${x}}", "!!python/object/apply:os.system [id]", "&a"),
    *(
        "*a",
        "{_target_: os.system}",
        "{_target_: mvit_train.__main__.main, argv: []}",
        "x" * 200_000,
        "[" * 3000,
        "???",
    ),
    *("null", "true", "{}", "[]", "<script>", "\ud800", "\u202e", "{" * 500, "- " * 500, "%s%n", "\ufeff"),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        2**70,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        [],
        {},
        [[]],
        {"_target_": 3},
    ),
    *("${clip}", "${oc.env:HOME}", "${model}", {"_target_": "os.system"}, {"_target_": "mvit_train.__main__.main"}),
    *({"_target_": "mvit_train.models.mvit_b", "_partial_": True}, {"_args_": [1]}, {1: 2}, {None: 3}, ["a"] * 2000),
    *({"_target_": "mvit_train.module.VideoClassifier.load_from_checkpoint", "checkpoint_path": "a"}, b"bytes", (1, 2)),
)
TINY = {"embed_dim": 16, "blocks_per_stage": [1, 1], "num_frames": 2, "crop_size": 32}


def mutate_text(text: str, rng: random.Random) -> bytes:
    """A few edits of a text by characters, words and lines, and now and then of its bytes or encoding."""
    for _ in range(rng.randint(1, 4)):
        lines, place = text.splitlines(keepends=True) or [""], rng.randrange(len(text) + 1)
        kind = rng.randrange(8)
        if kind == 0:
            text = text[:place] + rng.choice(TEXTS) + text[place:]
        elif kind == 1:
            text = text[:place] + text[place + rng.randint(1, 30) :]
        elif kind == 2:
            text = text[:place]
        elif kind == 3:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines) * rng.choice((1, 1, 2, 300)))
            text = "".join(lines)
        elif kind == 4:
            rng.shuffle(lines)
            text = "".join(lines)
        elif words := list(re.finditer(r"[^\s,:]+", text)):
            word = rng.choice(words)
            text = text[: word.start()] + rng.choice((*TEXTS, rng.choice(words)[0])) + text[word.end() :]
    data = text.encode(rng.choice(("utf-8",) * 12 + ("utf-16", "utf-8-sig")), errors="surrogatepass")
    return mutate_bytes(data, rng) if rng.random() < 0.1 else data


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, ranges cut out, repeated or overwritten, numbers set."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if not changed:
            return b""
        place, length = rng.randrange(len(changed)), rng.randint(1, 60)
        kind = rng.randrange(6)
        if kind == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place : place + length]
        elif kind == 2:
            changed[place:place] = changed[place : place + length]
        elif kind == 3:
            changed[place : place + length] = rng.randbytes(length)
        elif kind == 4:
            changed[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)))
        elif rng.random() < 0.2:
            del changed[place:]
    return bytes(changed)


def mutate_values(value: Any, rng: random.Random, share: float) -> Any:
    """A nest of dicts and lists in which some values, keys and parts are others."""
    if rng.random() < share:
        return rng.choice(VALUES)
    if isinstance(value, Mapping):
        items = [(key if rng.random() > share / 4 else rng.choice(TEXTS[:30])) for key in value]
        return {new: mutate_values(value[key], rng, share) for new, key in zip(items, value, strict=True)}
    if isinstance(value, list):
        return [mutate_values(item, rng, share) for item in value] * rng.choice((1,) * 30 + (2, 0))
    return value


def mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """A zip archive: the pickle in it changed by bytes or opcodes, members lost, doubled, renamed, compressed, emptied;
    or its bytes, most of them those of its directory."""
    if rng.random() < 0.3:
        tail = rng.randrange(len(data)) if rng.random() < 0.3 else max(len(data) - rng.randint(22, 3000), 0)
        return data[:tail] + mutate_bytes(data[tail:], rng)
    made = io.BytesIO()
    kind = rng.randrange(7)
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(made, "w") as target:
        names = archive.namelist()
        chosen = rng.choice(names)
        for name in names:
            content, compression = archive.read(name), zipfile.ZIP_STORED
            if kind <= 2 and name.endswith(("data.pkl", ".npy")):
                content = (
                    mutate_pickle(content, rng)
                    if name.endswith(".pkl")
                    else mutate_bytes(content[:128], rng) + content[128:]
                )
            if name == chosen:
                if kind == 3:
                    continue
                content = content[: rng.randrange(len(content) + 1)] if kind == 4 else content
                name = rng.choice(("../x", "/etc/x", "x/", name + "x")) if kind == 5 else name
                if kind == 6:
                    content, compression = bytes(50 << 20), zipfile.ZIP_DEFLATED
            target.writestr(name, content, compression)
    return made.getvalue()


def mutate_pickle(data: bytes, rng: random.Random) -> bytes:
    """Opcodes lost, doubled, swapped or put in the place of others, with globals of every kind; or bytes changed."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    try:
        starts = [place for _, _, place in pickletools.genops(data)]
    except ValueError:
        return mutate_bytes(data, rng)
    parts = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.randint(1, 4)):
        place, kind = rng.randrange(len(parts)), rng.randrange(5)
        if kind == 0:
            parts[place] = b""
        elif kind == 1:
            parts.insert(place, rng.choice(parts))
        elif kind == 2:
            parts[place] = rng.choice(parts)
        elif kind == 3:
            word = rng.choice(
                ("os\nsystem", "torch\nload", "torch.storage\nUntypedStorage", "builtins\nbytearray", "a\nb")
            )
            parts[place] = f"c{word}\n".encode()
        else:
            parts[place] = rng.choice(
                (b"0", b"2", b".", b"R", b"b", b"\x81", b"}", b"]", b")", b"K\xff", b"J\xff\xff\xff\x7f")
            )
    return b"".join(parts)


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header's JSON, its length, or bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))) + header + rest
    if kind == 1:
        header = mutate_text(header.decode(), rng)
    elif kind == 2:
        header = json.dumps(mutate_values(json.loads(header), rng, 0.1), default=str).encode()
    else:
        return mutate_bytes(data, rng)
    return struct.pack("<Q", len(header)) + header + rest


class Seeds:
    """What is mutated, made once in `folder`."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import save

        torch.manual_seed(0)
        self.folder = folder
        self.model = mvit_b(**TINY, num_classes=2)
        (folder / "videos").mkdir(exist_ok=True)
        cfg = compose(["experiment=motion", "data.root=.", *[f"model.{k}={v}" for k, v in TINY.items()]])
        from mvit_train.config import to_dict

        self.config = to_dict(cfg, resolve=False)
        ours = {"config": self.config, "class_names": ["a", "b"], "multi_label": False, "unreadable": {}}
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        moments = [
            {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1}]}
        ]
        content = {"mvit_train": ours, "state_dict": state, "epoch": 1, "global_step": 3, "optimizer_states": moments}
        self.checkpoint = _saved(content)
        self.foreign = _saved({"model_state": self.model.state_dict(), "cfg": "a: 1"})
        self.safetensors = save(
            self.model.state_dict(), metadata={"mvit_train": json.dumps({"class_names": ["a", "b"]})}
        )
        self.manifest = "path,label,start,end\n" + "".join(
            f"videos/clip {i}.mp4,{'run' if i % 2 else 'jump'},{i},{i + 10}\n" for i in range(8)
        )
        self.list = "".join(f"videos/clip_{i}.mp4 {i % 3}\n" for i in range(8))
        self.experiment = (
            "# @package _global_\n# Mine.\ndefaults:\n  - override /model: mvit_small\n  - override /data: folder\n"
            "name: mine\nclip:\n  num_frames: 8\n  sampling_rate: 4\n  crop_size: 64\n"
            "data:\n  root: .\n  batch_size: 2\n"
            "augment:\n  crop:\n    flip: 0.5\ntrainer:\n  max_epochs: 3\nmodule:\n  mean: [0.1, 0.2, 0.3]\n"
        )
        info = dict.fromkeys(INFO_KEYS) | {"data_root": ".", "failures": [], "config": {}}
        save_predictions(
            folder / "p.npz",
            video_ids=["a.mp4", "b.mp4"],
            labels=np.array([0, 1]),
            class_names=["x", "y"],
            frame_orders=["forward"],
            scores=np.full((1, 2, 2), 0.5, np.float32),
            evaluated=np.array([True, True]),
            info=info,
        )
        self.predictions = (folder / "p.npz").read_bytes()


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


# Each kind: makes a mutated file in the folder, and returns a function that reads it.
def manifest_case(seeds: Seeds, rng: random.Random, folder: Path) -> Callable[[], Any]:
    text = seeds.manifest if rng.random() < 0.7 else seeds.list
    (folder / "train.csv").write_bytes(mutate_text(text, rng))
    (folder / "val.csv").write_bytes(mutate_text(text, rng) if rng.random() < 0.3 else text.encode())
    classes = folder / "classes.txt"
    classes.unlink(missing_ok=True)
    if rng.random() < 0.5:
        classes.write_bytes(mutate_text("jump\nrun\nsit\n", rng) if rng.random() < 0.5 else b"jump\nrun\nsit\n")
    return lambda: [split.target_tensor() for split in read_splits(folder).values()]


def experiment_case(seeds: Seeds, rng: random.Random, folder: Path) -> Callable[[], Any]:
    file = folder / "mine.yaml"
    file.write_bytes(mutate_text(seeds.experiment, rng))
    return lambda: check(compose([f"experiment={file}"]))


def override_case(seeds: Seeds, rng: random.Random, folder: Path) -> Callable[[], Any]:
    line = rng.choice(("optim.lr=1e-3", "model.embed_dim=16", "data.root=.", "clip={num_frames: 8}", "+a.b=[1,2]"))
    words = mutate_text(line, rng).decode(errors="replace")
    return lambda: check(compose(["data=folder", "data.root=.", words]))


def saved_config_case(seeds: Seeds, rng: random.Random, folder: Path) -> Callable[[], Any]:
    config = mutate_values(seeds.config, rng, 0.01)
    if rng.random() < 0.05:
        config = dict(seeds.config)
        config["clip"] = config  # a circle
    elif rng.random() < 0.05:
        config = dict(seeds.config) | {f"b{i}": {f"x{j}": f"${{b{i + 1}}}" for j in range(9)} for i in range(12)}
    return lambda: check(compose(["task=predict", "input=[]"], saved=config))


def checkpoint_case(seeds: Seeds, rng: random.Random, folder: Path) -> Callable[[], Any]:
    file = folder / "last.ckpt"
    content = None
    if rng.random() < 0.3:
        content = torch.load(io.BytesIO(seeds.checkpoint), weights_only=True)
        state = content.pop("state_dict")
        content = mutate_values(content, rng, 0.03)
        if isinstance(content, dict) and rng.random() < 0.8:
            content["state_dict"] = state if rng.random() < 0.7 else mutate_values(dict(state), rng, 0.02)
    file.write_bytes(mutate_archive(seeds.checkpoint, rng) if content is None else _saved(content))

    def read() -> None:
        newest_checkpoint(folder)
        checkpoint = read_checkpoint(file)
        saved_labels(checkpoint, file)
        saved_config(checkpoint, file)
        wrapped = torch.nn.Module()
        wrapped.model = seeds.model
        load_weights(wrapped, checkpoint, file)

    return read


def weights_case(seeds: Seeds, rng: random.Random, folder: Path) -> Callable[[], Any]:
    is_safe = rng.random() < 0.5
    file = folder / ("w.safetensors" if is_safe else "w.pyth")
    file.write_bytes(mutate_safetensors(seeds.safetensors, rng) if is_safe else mutate_archive(seeds.foreign, rng))
    return lambda: load_pretrained(seeds.model, file, class_names=("a", "b"))


def predictions_case(seeds: Seeds, rng: random.Random, folder: Path) -> Callable[[], Any]:
    file = folder / "q.npz"
    file.write_bytes(mutate_archive(seeds.predictions, rng))
    return lambda: load_predictions(file)


# kind: how it is made and read, its share of the cases
CASES: dict[str, tuple[Callable[[Seeds, random.Random, Path], Callable[[], Any]], int]] = {
    "manifests": (manifest_case, 14),
    "experiment files": (experiment_case, 2),
    "overrides": (override_case, 1),
    "configurations of checkpoints": (saved_config_case, 2),
    "checkpoints": (checkpoint_case, 10),
    "files of weights": (weights_case, 7),
    "predictions": (predictions_case, 4),
}


def fuzz_texts(count: int, seed: int, folder: Path, keep: Path) -> dict[str, Row]:
    """`count` cases, most of them in one process after the other; rows by kind."""
    rows = {name: Row() for name in CASES}
    kinds = [name for name, (_, share) in CASES.items() for _ in range(share)]
    seeds = Seeds(folder)
    todo = [(number, kinds[number * 7919 % len(kinds)]) for number in range(count)]
    context = multiprocessing.get_context("fork")
    while todo:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, seeds, todo, seed, folder), daemon=True)
        process.start()
        theirs.close()
        began = time.monotonic()
        while todo:
            row = rows[todo[0][1]]
            try:
                if not ours.poll(2 * CASE_SEC):
                    raise TimeoutError
                outcome, text, mib = ours.recv()
            except (EOFError, TimeoutError) as error:
                row.cases += 1
                hung = isinstance(error, TimeoutError)
                row.hangs += hung
                row.crashes += not hung
                _keep(keep, todo.pop(0), folder)
                break
            number, _ = todo.pop(0)
            row.cases += 1
            row.seconds += time.monotonic() - began
            began = time.monotonic()
            row.worst_mib = max(row.worst_mib, mib)
            row.read += outcome == "read"
            if outcome == "error":
                row.errors[text] += 1
            elif outcome == "unclear" or mib > MAX_MIB:
                row.unclear.append(f"case {number}: {text or 'read'}, {mib:.0f} MiB")
        process.kill()
        process.join()
    return rows


def _keep(keep: Path, case: tuple[int, str], folder: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, keep / f"case-{case[0]}", dirs_exist_ok=True)


def _work(connection: Any, seeds: Seeds, todo: list[tuple[int, str]], seed: int, folder: Path) -> None:
    signal.signal(signal.SIGALRM, _too_long)
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for number, kind in todo:
        rng = random.Random(f"{seed} {number}")
        read = CASES[kind][0](seeds, rng, folder)
        before = reset_peak()
        signal.alarm(CASE_SEC)
        outcome, text = "read", ""
        try:
            read()
        except Exception as error:
            clear = isinstance(error, ValueError) and _raised_by_us(error)
            outcome = "error" if clear else "unclear"
            text = family(str(error)) if clear else f"{type(error).__name__}: {str(error)[:200]} ({_place(error)})"
        signal.alarm(0)
        connection.send((outcome, text, peak_mib() - before))


def _raised_by_us(error: Exception) -> bool:
    """As __main__ tells what is for the user."""
    last = list(traceback.walk_tb(error.__traceback__))[-1][0]
    return type(error).__module__.startswith("mvit_train.") or last.f_globals.get("__name__", "").startswith(
        "mvit_train."
    )


def _place(error: Exception) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/mvit_train/" in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {CASE_SEC} s")
