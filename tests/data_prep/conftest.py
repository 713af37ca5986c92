"""Small faithful copies of data sets: real videos under the names that they have there."""

import csv
import importlib
import io
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def place(video):
    """`place(root, "train/a.mp4", first_index=3)` puts a drawn video of ten seconds there."""

    def put(root, name, num_frames=50, fps=5, **kwargs):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video("a" + path.suffix, num_frames, fps=fps, **kwargs), path)
        return path

    return put


@pytest.fixture
def prepare():
    """`prepare("ucf101", root, out, ...)`: the exit code of the command, which probes in this process."""

    def run(command, root, out, *arguments):
        module = importlib.import_module(f"data_prep.{command}")
        return module.main(["--root", str(root), "--out", str(out), "--workers", "0", *map(str, arguments)])

    return run


@pytest.fixture
def table():
    """`table(file, "path", "label")`: the rows of a csv, those columns of them."""

    def read(file, *columns):
        rows = list(csv.DictReader(io.StringIO(Path(file).read_text(encoding="utf-8"))))
        return [tuple(row[name] for name in columns) if len(columns) > 1 else row[columns[0]] for row in rows]

    return read


@pytest.fixture
def contents():
    """{relative path: bytes} of all files below a folder."""

    def read(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture
def probed(monkeypatch):
    """The names of the files that get probed, in order."""
    from data_prep import pool

    names, probe = [], pool.probe

    def spy(task):
        names.append(Path(task.path).name)
        return probe(task)

    monkeypatch.setattr(pool, "probe", spy)
    return names
