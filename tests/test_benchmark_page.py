"""BENCHMARKS.md is what `make benchmarks` makes of the results in docs/benchmarks."""

import json
from pathlib import Path

import pytest

from mvit_train.benchmarks.page import main, page

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = {"command": "python -m mvit_train task=benchmark", "date": "2026-11-23", "device": "a CPU"}
ROW = {
    "model": "mvit_b",
    "compile": "eager",
    "batch_size": 1,
    "precision": "fp32",
    "step": "train",
    "who": "ours",
    "seconds": 5.5,
    "speed": [1.21, 1.14, 1.39],
    "clips_per_sec": 0.18,
    "added_mb": 1125.0,
    "mfu": None,
}
SCALE_ROW = {
    "experiment": "k400_mvit_b",
    "source": "500 clips/s",
    "batch_size": 4,
    "gpus": 8,
    "clips_per_sec": 3900.0,
    "efficiency": 0.97,
    "hours": 6.9,
    "dollars": 165.0,
}
SETTINGS = {"gpus_per_node": 8, "gpu_link": 360.0, "node_link": 50.0, "latency_us": 10.0, "dollars_per_gpu_hour": 3.0}


def result(what, device="a CPU", **content):
    return {"context": CONTEXT | {"what": what, "device": device}, "notes": ["decord is absent"], **content}


def test_the_page_of_this_project_is_made_of_its_results(capsys):
    files = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))
    assert files
    assert main([str(file) for file in files]) == 0
    assert capsys.readouterr().out == (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    kinds = {json.loads(file.read_text())["context"]["what"] for file in files}
    assert {"model", "kernels", "decode", "loader", "scale"} <= kinds


def test_measured_and_predicted_stand_apart_and_every_row_is_there():
    scale = result("scale", settings=SETTINGS, checks=[], rows=[SCALE_ROW])
    rows = [ROW | {"step": "forward"}, ROW, ROW | {"who": "torchvision"}]
    text = page([result("model", rows=rows), result("model", rows=rows[1:]), scale])
    measured, predicted = text.split("## Predicted, not measured")
    assert (
        "| mvit_b | eager | 1 | fp32 | train | ours | 5.500 | **1.21x** (1.14 to 1.39) | 0.18 | 1125 | - |" in measured
    )
    assert "torchvision" in measured
    assert "decord is absent" in measured
    assert "### Forward passes and training steps: eager, against torchvision" in measured
    assert "### Training steps: eager, against torchvision" in measured
    assert "k400_mvit_b" not in measured
    assert "| k400_mvit_b | 4 | 8 | 3900 | 97 % | 6.9 | 165 | 500 clips/s |" in predicted
    assert "360 GB/s" in predicted


@pytest.mark.parametrize(("device", "missing"), [("AMD EPYC", True), ("NVIDIA H200", False)])
def test_the_page_says_that_nothing_was_measured_on_a_gpu_until_something_is(device, missing):
    assert ("Not measured: no GPU was at hand" in page([result("model", device, rows=[ROW])])) == missing


def test_rows_of_a_new_kind_are_shown_whole():
    text = page([result("kernels", rows=[{"op": "pooling", "ratio": [1.5, 1.4, 1.6], "gbytes": None}])])
    assert "| op | ratio | gbytes |" in text
    assert "| pooling | 1.5 to 1.4 to 1.6 | - |" in text


def test_no_file_is_a_mistake(capsys):
    assert main([]) == 2
    assert "name the JSON files" in capsys.readouterr().err
