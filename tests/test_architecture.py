"""Who may import whom: lower layers never know higher ones, and heavy packages stay where they are used."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1] / "mvit_train"

# What a module of the package may import from the package; a missing row allows everything.
ALLOWED = {
    "known_labels": set(),
    "labels": {"known_labels"},
    "signatures": set(),
    "nodes": {"signatures"},
    "schema": {"signatures"},
    "redaction": set(),
    "plain_values": {"nodes", "redaction", "signatures"},
    "archive": set(),
    "torch_file": {"archive"},
    "config": {"nodes", "plain_values", "schema", "signatures"},
    "__main__": {"config", "checkpoint", "launch", "redaction", "schema", "sweep"},
    "ops": {"ops"},
    "models": {"labels", "models", "ops", "torch_file"},
    "data": {"data", "labels"},
    "optim": set(),
    "early_stop": set(),
    "linear_probe": {"data", "metrics", "module"},
    "average_precision": set(),
    "metrics": {"average_precision"},
    "statistics": set(),
    "calibration": {"statistics"},
    "view_curve": {"data", "metrics"},
    "cost": {"complexity", "models"},
    "temporal": {"schema"},
    "predictions": {"archive", "metrics"},
    "mp4": {"predictions"},
    "robustness": {"archive", "average_precision", "data", "metrics", "predictions", "statistics"},
    "report": {"calibration", "data", "labels", "metrics", "mp4", "papers", "predictions", "report", "statistics"}
    | {"robustness", "temporal"},
    "checkpoint": {"labels", "torch_file"},
    "preempt": {"launch"},
    "launch": {"redaction"},
    "strategy": set(),
    "sweep": {"config", "sweep_job"},
    "sweep_job": set(),
    "resume": {"checkpoint", "preempt"},
    "wandb_run": set(),
    "media": {"data", "metrics", "mp4", "wandb_run"},
    "telemetry": {"cost"},
    "metrics_log": {"predictions"},
    "tracking": {"media", "metrics_log", "redaction", "wandb_run"},
    "class_list": {"checkpoint", "data"},
    "view_scoring": {"data", "metrics", "view_curve"},
    "module": {"data", "labels", "metrics", "temporal", "optim", "view_curve", "view_scoring"},
    "memory": {"models", "ops"},
    "complexity": {"config", "memory", "models", "ops", "papers"},
    "benchmarks": {"benchmarks", "data", "models", "ops", "preempt", "strategy"},
    "scaling": {"benchmarks", "complexity", "config", "papers"},
    "benchmark": {"benchmarks", "complexity", "config", "scaling"},
    "checkup": {"benchmarks", "checkup", "complexity", "data", "memory", "models", "tracking"},
    "doctor": {"checkup", "config", "data", "models", "optim"},
    "papers": {"checkup", "config", "data", "models", "optim", "papers"},
    "exporting": {"exporting", "models", "ops"},
    "attention_overlay": {"models", "mp4"},
    "prediction": {"checkpoint", "config", "data", "labels", "metrics", "models", "module", "mp4", "prediction"}
    | {"attention_overlay", "redaction", "temporal"},
    "example_attention": {"data", "models", "module", "prediction", "predictions", "report"},
    "predict": {"data", "prediction", "predictions"},
    "demo": {"data", "demo", "prediction", "temporal"},
    "serve": {"config", "demo", "prediction"},
    "explain": {"checkup", "complexity", "config", "data", "models", "optim", "papers"},
}
ONLY_IN = {
    "triton": {"ops.triton_attention", "ops.triton_attention_backward", "ops.triton_norm", "ops.triton_pooling"},
    "hydra": {"config", "sweep"},
    "omegaconf": {"config", "sweep"},
    "submitit": {"sweep_job"},
    "lightning": {"__main__", "data.datamodule", "early_stop", "guard", "linear_probe", "module", "checkpoint"}
    | {"launch", "resume", "strategy"}
    | {"media", "metrics_log", "telemetry", "tracking", "train", "evaluate", "wandb_run"},
    "wandb": {"wandb_run"},
    "wandb_workspaces": {"dashboard"},
    "pytorchvideo": {
        "data.datamodule",
        "data.dataset",
        "data.decode",
        "data.image",
        "data.views",
        "benchmarks.loader",
        "benchmarks.peers",
    },
    "torchvision": {"benchmarks.peers", "data.pixel_ops", "data.transforms"},
    "fvcore": {"complexity"},
    "av": {"data.stream", "data.decode", "data.walk", "data.needed", "data.motion", "mp4", "report.examples"}
    | {"data.corruptions", "demo.answer"}
    | {"prediction.reading", "benchmarks.decode", "benchmarks.loader", "benchmarks.readers", "checkup.surroundings"},
    "plotly": {"report.page"},
    "PIL": {"data.corruptions", "data.image", "data.shapes", "media", "prediction.overlay", "wandb_run"},
    "torchmetrics": {"average_precision"},
    "onnxruntime": {"exporting.files"},
    "starlette": {"demo.app"},
    "uvicorn": {"serve"},
    "safetensors": {"export", "models.weight_files"},
}


def imports(root=ROOT, least=200):
    """(module, imported dotted name) for every import statement in the package."""
    found = []
    for file in sorted(root.rglob("*.py")):
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found.append((module, node.module))
    assert len(found) > least
    return found


def test_layers_import_only_what_lies_below_them():
    wrong = []
    for module, name in imports():
        part, layer = name.split("."), module.split(".")[0]
        if part[0] == "mvit_train" and len(part) > 1 and part[1] not in ALLOWED.get(layer, {part[1]}):
            wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_foreign_packages_are_imported_only_where_they_belong():
    wrong = []
    for module, name in imports():
        package = name.split(".")[0]
        if package in ONLY_IN and module not in ONLY_IN[package]:
            wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_models_work_with_torch_alone():
    code = (
        "import sys\n"
        "for name in ('lightning', 'hydra', 'omegaconf', 'av', 'pytorchvideo', 'torchvision', 'wandb', 'plotly',\n"
        "             'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from mvit_train.models import mvit_b, vit_b\n"
        "print(mvit_b.__module__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.returncode) == ("mvit_train.models.variants", 0), result.stderr


def test_files_hold_one_idea():
    files = [*ROOT.rglob("*.py"), *(ROOT.parent / "data_prep").rglob("*.py")]
    long = {str(file.relative_to(ROOT.parent)): len(file.read_text().splitlines()) for file in files}
    assert {name: lines for name, lines in long.items() if lines > 310} == {}


def test_data_prep_stands_on_the_data_formats_alone():
    known = {
        "mvit_train.labels",
        *(f"mvit_train.data.{name}" for name in ["manifest", "decode", "stream", "walk", "store"]),
    }
    prep = imports(ROOT.parent / "data_prep", least=50)
    wrong = [
        f"{module} imports {name}" for module, name in prep if name.split(".")[0] == "mvit_train" and name not in known
    ]
    assert wrong == []
    assert [f"{module} imports {name}" for module, name in imports() if name.split(".")[0] == "data_prep"] == []
