"""Files for other libraries: they load there, and they come back whole."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models.video import mvit_v1_b, mvit_v2_s
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.mvit import MViT as TorchvisionMViT

from mvit_train import export as export_task
from mvit_train import models
from mvit_train.__main__ import main
from mvit_train.checkpoint import weights_fingerprint
from mvit_train.config import compose, to_dict
from mvit_train.data.clip import read_views
from mvit_train.export import export, torchvision_obstacles
from mvit_train.labels import Labels
from mvit_train.models import load_pretrained, mvit_b
from mvit_train.models.weight_files import read_weights

TINY = dict(blocks_per_stage=(1, 1), embed_dim=16, num_classes=3, num_frames=4, crop_size=32)
NAMES = ("a", "b", "c")


@pytest.mark.parametrize("format", ["slowfast", "torchvision", "safetensors"])
def test_an_exported_file_comes_back_whole_with_its_class_names(format, tmp_path):
    model, other = mvit_b(**TINY), mvit_b(**TINY)
    suffix = ".safetensors" if format == "safetensors" else ".pth"
    path = tmp_path / "deep" / f"w{suffix}"
    assert "names of 3 classes" in export(model, path, format, class_names=NAMES, epoch=3)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    report = load_pretrained(other, path, strict="exact", class_names=NAMES)
    assert (report.class_names, report.head, report.unused) == (NAMES, "loaded", ())
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    export(model, path, format, class_names=None)
    assert read_weights(path).class_names is None


def rewritten(path, format, names):
    """The exported file with other class names in it and all else as it was."""
    if format == "safetensors":
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        ours = json.loads(metadata["mvit_train"]) | {"class_names": names}
        save_file(load_file(path), path, metadata=metadata | {"mvit_train": json.dumps(ours)})
        return
    content = torch.load(path, weights_only=True)
    if format == "slowfast":
        content["class_names"] = names
    else:
        content._metadata["mvit_train"]["class_names"] = names
    torch.save(content, path)


@pytest.mark.parametrize("format", ["slowfast", "torchvision", "safetensors"])
def test_a_file_whose_class_list_was_edited_is_refused(format, tmp_path):
    path = tmp_path / f"w{'.safetensors' if format == 'safetensors' else '.pth'}"
    export(mvit_b(**TINY), path, format, class_names=NAMES)
    rewritten(path, format, list(NAMES))
    assert read_weights(path).class_names == NAMES
    rewritten(path, format, ["b", "a", "c"])
    with pytest.raises(
        ValueError, match=r"its 3 class names have the fingerprint \w{12}, but \w{12} is written beside"
    ):
        read_weights(path)


def test_pyslowfast_s_loader_finds_what_it_reads(tmp_path):
    model = mvit_b(**TINY)
    export(model, tmp_path / "w.pyth", "slowfast", class_names=NAMES, epoch=3)
    checkpoint = torch.load(tmp_path / "w.pyth", weights_only=True)
    assert checkpoint.keys() == {"model_state", "epoch", "class_names", "label_fingerprint"}
    assert checkpoint["epoch"] == 3
    assert checkpoint["model_state"].keys() == model.state_dict().keys()


def test_safetensors_carries_the_classes_and_the_model_s_arguments(tmp_path):
    model = mvit_b(**TINY)
    path = tmp_path / "w.safetensors"
    export(model, path, "safetensors", class_names=NAMES, node={"_target_": "mvit_train.models.mvit_b"})
    assert load_file(path).keys() == model.state_dict().keys()
    with safe_open(path, framework="pt") as file:
        ours = json.loads(file.metadata()["mvit_train"])
    assert ours == {
        "class_names": list(NAMES),
        "label_fingerprint": Labels(NAMES).fingerprint,
        "model": {"_target_": "mvit_train.models.mvit_b"},
    }
    assert load_pretrained(model, path).kind == "mvit_train"


def test_torchvision_loads_what_is_written_and_gives_the_same_logits(tmp_path, record_measured):
    model = models.mvit_v2_s(**TINY).eval()
    message = export(model, tmp_path / "w.pth", "torchvision", class_names=NAMES)
    assert "docs/weights.md" in message
    block = dict(kernel_q=[3, 3, 3], kernel_kv=[3, 3, 3])
    settings = [
        MSBlockConfig(1, 16, 16, stride_q=[1, 1, 1], stride_kv=[1, 8, 8], **block),
        MSBlockConfig(2, 16, 32, stride_q=[1, 2, 2], stride_kv=[1, 4, 4], **block),
    ]
    theirs = TorchvisionMViT(
        spatial_size=(32, 32),
        temporal_size=4,
        block_setting=settings,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=3,
    )
    theirs.load_state_dict(torch.load(tmp_path / "w.pth"))
    video = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected, found = model(video), theirs.eval()(video)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    record_measured("export: torchvision's logits of an exported MViTv2", difference, 1e-5)
    assert difference <= 1e-5


@pytest.mark.parametrize(("ours", "theirs"), [(models.mvit_b, mvit_v1_b), (models.mvit_v2_s, mvit_v2_s)])
def test_a_published_graph_is_told_which_builder_loads_it(ours, theirs, tmp_path):
    path = tmp_path / "w.pth"
    with torch.device("meta"):
        model = ours(num_classes=7)
    for name, parameter in model.named_parameters():  # one stored zero for each
        model.get_submodule(name.rpartition(".")[0]).register_parameter(
            name.rpartition(".")[2], torch.nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)
        )
    message = export(model, path, "torchvision", class_names=None)
    call = f"torchvision.models.video.{theirs.__name__}(num_classes=7)"
    assert f"{call}.load_state_dict(torch.load('{path}'))" in message
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in theirs(num_classes=7).state_dict().items()}
    assert {name: tensor.shape for name, tensor in torch.load(path).items()} == expected


@pytest.mark.parametrize(
    ("build", "overrides", "words"),
    [
        ("mvit_b", dict(cls_token=False), "no class token"),
        ("mvit_b", dict(mean_pooling=True), "the mean of its tokens before the head"),
        ("mvit_b", dict(pos_embed="joint"), "joint position embedding and relative positions in no axis"),
        ("mvit_v2_s", dict(rel_pos="space"), r"none position embedding and relative positions in \['h', 'w'\]"),
        ("mvit_v2_s", dict(pos_embed="separate"), "separate position embedding"),
        ("mvit_b", dict(pool="max"), "pooling by maximum or mean"),
        ("mvit_b", dict(pool_kernel="s"), "a pooling kernel of even size"),
        ("mvit_b", dict(crop_size=34), r"an input of \(4, 34, 34\)"),
        ("mvit_b_image", dict(num_frames=1), "images for input; joint"),
    ],
)
def test_what_torchvision_cannot_express_is_refused_with_the_reason(build, overrides, words, tmp_path):
    model = getattr(models, build)(**TINY | overrides)
    with pytest.raises(ValueError, match=rf"torchvision's MViT cannot express this model: .*{words}"):
        export(model, tmp_path / "w.pth", "torchvision", class_names=None)
    assert list(tmp_path.iterdir()) == []
    assert torchvision_obstacles(mvit_b(**TINY)) == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "w.pyth"
    path.write_text("before")

    def fail(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        export(mvit_b(**TINY), path, "slowfast", class_names=None)
    assert [file.name for file in tmp_path.iterdir()] == ["w.pyth"]
    assert path.read_text() == "before"


MODEL = ["model=mvit_b", "model.blocks_per_stage=[1,1]", "model.embed_dim=16", "clip.num_frames=4", "clip.crop_size=32"]


def test_a_foreign_file_is_converted_for_the_model_of_the_command_line(tmp_path, capsys):
    model = mvit_b(**TINY)
    torch.save({"model_state": model.state_dict(), "class_names": list(NAMES)}, tmp_path / "w.pyth")
    assert main(["task=export", f"weights={tmp_path}/w.pyth", "format=torchvision", *MODEL]) == 0
    assert f"{tmp_path}/w-torchvision.pth: 51 tensors, the names of 3 classes" in capsys.readouterr().out
    assert read_weights(tmp_path / "w-torchvision.pth").class_names == NAMES
    again = ["task=export", f"weights={tmp_path}/w-torchvision.pth", "format=slowfast"]
    assert main([*again, *MODEL, f"output={tmp_path}/new/x.pyth"]) == 0
    assert read_weights(tmp_path / "new" / "x.pyth").kind == "SlowFast"
    assert main([*again, *MODEL, f"output={tmp_path}/w-torchvision.pth"]) == 1
    assert "is what the weights are read from" in capsys.readouterr().err
    assert main([*again, *MODEL, "model.expand_in=attention"]) == 1
    assert "channels grow in: mlp in the file, attention in the model" in capsys.readouterr().err


def test_an_export_needs_one_source(tmp_path, capsys):
    assert main(["task=export"]) == 2
    assert "task=export needs ckpt=FILE, or the folder of a run, or weights=FILE" in capsys.readouterr().err
    assert main(["task=export", f"weights={tmp_path}"]) == 2
    assert f"weights = {tmp_path}: is no file" in capsys.readouterr().err


CLIP = [
    "clip.num_frames=4",
    "clip.sampling_rate=3",
    "clip.crop_size=32",
    "data.target_fps=25",
    "module.mean=[0.4,0.5,0.6]",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(model, checkpoint) with random weights, three classes, several labels per video."""
    file = tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt"
    file.parent.mkdir()
    torch.manual_seed(0)
    model = mvit_b(**TINY)
    with torch.no_grad():
        model.head.projection.weight *= 30  # probabilities far from each other
    cfg = compose(["experiment=k400_mvit_b", *MODEL, *CLIP])
    ours = {"config": to_dict(cfg, resolve=False), "class_names": list(NAMES), "multi_label": True}
    ours |= {"label_fingerprint": Labels(NAMES).fingerprint}
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7, "mvit_train": ours}, file)
    return model.eval(), file


@pytest.fixture(scope="module")
def exported(trained):
    """The folder of the run with best.pt2 and best.onnx, as the command line writes them."""
    folder = trained[1].parents[1]
    for format in ("pt2", "onnx"):
        assert main(["task=export", f"ckpt={folder}", f"format={format}"]) == 0
    return folder


def test_a_graph_says_what_it_takes_and_gives(trained, exported):
    extra = {"mvit_train.json": ""}
    torch.export.load(exported / "best.pt2", extra_files=extra)
    about = json.loads(extra["mvit_train.json"])
    assert about | {"version": None, "torch": None} == {
        "version": None,
        "torch": None,
        "input": {"name": "video", "type": "uint8, RGB", "shape": ["batch", 3, 4, 32, 32]},
        "outputs": {"probabilities": "sigmoid", "logits": "float32"},
        "multi_label": True,
        "class_names": ["a", "b", "c"],
        "label_fingerprint": Labels(NAMES).fingerprint,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.225, 0.225, 0.225],
        "clip": {
            "num_frames": 4,
            "sampling_rate": 3,
            "target_fps": 25,
            "sampling": "window",
            "count": "frames",
            "crop_size": 32,
            "interpolation": "bilinear",
            "short_side": 36,
        },
        "weights": {
            "file": "best.ckpt",
            "epoch": 7,
            "fingerprint": weights_fingerprint(trained[0].state_dict()),
        },
    }


@pytest.mark.parametrize(("program", "format"), [("run_onnx.py", "onnx"), ("run_pt2.py", "pt2")])
def test_the_examples_of_the_documentation_run_without_this_package(
    program, format, trained, exported, video, tmp_path, record_measured
):
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    blocks = {text.split("\n", 1)[0]: text for text in re.findall(r"```python\n# (.*?)```", page, re.DOTALL)}
    assert blocks.keys() == {"clip.py", "run_onnx.py", "run_pt2.py"}
    for name, text in blocks.items():
        (tmp_path / name).write_text(f"# {text}")
    (tmp_path / "mvit_train.py").write_text("raise ImportError('this package is not here')")
    clips = [str(video("a.mp4", 40, fps=25)), str(video("b.mp4", 24, fps=30, first_index=300))]
    result = subprocess.run(
        [sys.executable, program, str(exported / f"best.{format}"), *clips],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    sizes: dict = dict(num_frames=4, crop_size=32, mean=(0.4, 0.5, 0.6))
    sizes["sampling_rate"] = 3 * 30 / 25  # of 25 frames a second, where read_views counts 30
    for path, line in zip(clips, result.stdout.splitlines(), strict=True):
        with torch.no_grad():
            scores = trained[0](read_views(path, **sizes)).sigmoid()[0].numpy()
        name, score = line.removeprefix(f"{path} ").split()
        assert name == NAMES[np.argmax(scores)]
        record_measured(f"export: {program} of the documentation", abs(float(score) - scores.max()), 1e-4)
        assert abs(float(score) - scores.max()) <= 1e-4


def test_a_graph_that_differs_from_the_model_is_not_written(trained, tmp_path, monkeypatch, capsys):
    load = export_task.load_graph

    def wrong(*arguments):
        runner = load(*arguments)
        return lambda video: [scores * 1.001 for scores in runner(video)]

    monkeypatch.setattr(export_task, "load_graph", wrong)
    assert main(["task=export", f"ckpt={trained[1]}", "format=pt2", f"output={tmp_path}/w.pt2"]) == 1
    assert "w.pt2 does not give what the model gives: largest difference" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_graph_ends_in_its_format(trained, tmp_path, capsys):
    assert main(["task=export", f"ckpt={trained[1]}", "format=pt2", f"output={tmp_path}/w.onnx"]) == 1
    assert "w.onnx: the name of a file in format=pt2 ends in .pt2" in capsys.readouterr().err


def test_weights_of_elsewhere_become_a_graph_with_softmax(tmp_path, capsys):
    torch.save({"model_state": mvit_b(**TINY).state_dict()}, tmp_path / "w.pyth")
    assert main(["task=export", f"weights={tmp_path}/w.pyth", "format=pt2", *MODEL]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path}/w.pt2: " in told
    assert "no class names" in told
    assert "video: uint8 (batch, 3, 4, 32, 32), RGB -> probabilities (softmax), logits: float32 (batch, 3)" in told
    assert re.search(r"one clip, median ms .*\n  eager +\d.*\n  torch.export +\d", told)
