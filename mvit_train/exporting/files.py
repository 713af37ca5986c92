"""Graphs as files, .pt2 and .onnx: written with their description inside, and read back by what runs them."""

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mvit_train.exporting.program import INPUT, OUTPUTS

GraphFormat = Literal["pt2", "onnx"]
Runner = Callable[[Tensor], Sequence[Tensor]]
"""Clips, uint8 (B, 3, T, S, S), to probabilities and logits, (B, K) each."""

DESCRIPTION = "mvit_train"  # metadata_props of .onnx; with .json behind it a file within .pt2
OPSET = 20  # the first with GELU as one operator; onnxruntime reads it since 1.18, of May 2024
NEEDED = ("onnx", "onnxscript", "onnxruntime")

# A .onnx file is one protobuf message, of 2 GB at most; weights beyond this go into FILE.onnx.data beside it.
ONE_FILE_BYTES = 1_500_000_000


def check_installed(format: GraphFormat) -> None:
    """Raises ValueError if a package is missing that this format needs."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if format == "onnx" and missing:
        raise ValueError(f"format=onnx needs {', '.join(missing)}: pip install 'mvit_train[export]'")


def write_graph(program: ExportedProgram, path: Path, format: GraphFormat, description: Mapping[str, Any]) -> None:
    """Writes the graph, its weights and its description. path: ends in the format's name."""
    text = json.dumps(description)
    if format == "pt2":
        torch.export.save(program, path, extra_files={f"{DESCRIPTION}.json": text})
        return
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it reports every constant that it leaves unfolded
    onnx = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes={INPUT: {0: "batch"}},
        verbose=False,
    )
    assert onnx is not None
    onnx.model.metadata_props[DESCRIPTION] = text
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    onnx.save(path, external_data=num_bytes > ONE_FILE_BYTES)


def load_graph(path: Path, format: GraphFormat, num_threads: int) -> Runner:
    """The file as others run it. num_threads: of onnxruntime; torch has its own setting."""
    if format == "pt2":
        return torch.export.load(path).module()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda video: [torch.from_numpy(scores) for scores in session.run(list(OUTPUTS), {INPUT: video.numpy()})]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place for a file of this name, which takes the place of `path` once all went well and vanishes otherwise, with
    whatever was written beside it."""
    folder = path.with_name(f".{path.name}.{os.getpid()}.part")
    folder.mkdir(parents=True)
    try:
        yield folder / path.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):  # what it refers to comes first
            with file.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(file, path.with_name(file.name))
    finally:
        shutil.rmtree(folder)
