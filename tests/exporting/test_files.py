"""Graphs in files give what the model gives, for batches of any size, and carry their description."""

import importlib.util
import json

import onnx
import onnxruntime
import pytest
import torch

from mvit_train import models
from mvit_train.exporting import files
from mvit_train.exporting.files import check_installed, load_graph, write_graph, written_whole
from mvit_train.exporting.program import Deployed, trace

TINY = dict(blocks_per_stage=(1, 1), embed_dim=16, num_classes=3, num_frames=4, crop_size=32)
IMAGE = TINY | dict(num_frames=1)
MEAN, STD = (0.4, 0.45, 0.5), (0.2, 0.225, 0.25)

MODELS = {
    "v1, without class token, joint positions, maximum": lambda: models.mvit_b(
        **TINY, cls_token=False, pos_embed="joint", pool="max", pool_kernel="2s+1"
    ),
    "v2, class token, relative positions of odd grids, residual pooling": lambda: models.mvit_v2_s(
        **TINY | dict(crop_size=40), cls_token=True
    ),
    "v2, images, without class token": lambda: models.mvit_v2_s_image(**IMAGE, cls_token=False),
}


def deployed(build, multi_label=False):
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        model.head.projection.weight *= 50  # probabilities far from one third
    return Deployed(model, mean=MEAN, std=STD, multi_label=multi_label)


def largest_difference(module, runner):
    """Of a runner's scores from the model's, as a share of the largest, for batches of 1, 2 and 5."""
    size, found = module.model.input_size, []
    mean, std = (torch.tensor(values).view(3, *[1] * len(size)) for values in (MEAN, STD))
    for batch_size in (1, 2, 5):
        video = torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            logits = module.model((video / 255 - mean) / std)
            given = runner(video)
        probabilities = logits.sigmoid() if module.multi_label else logits.softmax(1)
        assert [scores.shape for scores in given] == [(batch_size, 3)] * 2
        assert probabilities.max() > 0.5
        found += [(a - b).abs().max() / b.abs().max() for a, b in zip(given, (probabilities, logits), strict=True)]
    return max(found).item()


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    """(module, its program, folder with w.pt2 and w.onnx) of MViT v1, scores of several labels."""
    module, folder = deployed(lambda: models.mvit_b(**TINY), multi_label=True), tmp_path_factory.mktemp("v1")
    program = trace(module)
    for format in ("pt2", "onnx"):
        write_graph(program, folder / f"w.{format}", format, {"class_names": ["ä", "b"]})
    return module, program, folder


@pytest.mark.parametrize("name", MODELS)
def test_both_files_give_the_model_s_scores_for_any_batch(name, tmp_path, record_measured):
    module = deployed(MODELS[name])
    program = trace(module)
    for format in ("pt2", "onnx"):
        write_graph(program, tmp_path / f"w.{format}", format, {})
        difference = largest_difference(module, load_graph(tmp_path / f"w.{format}", format, 1))
        record_measured(f"export: {format}, {name}", difference, 1e-5)
        assert difference <= 1e-5


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_several_labels_have_sigmoid_scores(v1, format, record_measured):
    module, _, folder = v1
    difference = largest_difference(module, load_graph(folder / f"w.{format}", format, 1))
    record_measured(f"export: {format}, v1, several labels", difference, 1e-5)
    assert difference <= 1e-5


def test_names_types_and_the_operator_set_of_the_onnx_file(v1):
    session = onnxruntime.InferenceSession(v1[2] / "w.onnx")
    found = [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]
    assert found == [
        ("video", "tensor(uint8)", ["batch", 3, 4, 32, 32]),
        ("probabilities", "tensor(float)", ["batch", 3]),
        ("logits", "tensor(float)", ["batch", 3]),
    ]
    model = onnx.load(v1[2] / "w.onnx")
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    onnx.checker.check_model(model)


def test_the_description_is_inside_and_paths_of_this_machine_are_not(v1):
    session = onnxruntime.InferenceSession(v1[2] / "w.onnx")
    extra = {"mvit_train.json": ""}
    torch.export.load(v1[2] / "w.pt2", extra_files=extra)
    texts = session.get_modelmeta().custom_metadata_map["mvit_train"], extra["mvit_train.json"]
    assert [json.loads(text) for text in texts] == [{"class_names": ["ä", "b"]}] * 2
    for file in v1[2].iterdir():
        content = file.read_bytes()
        assert b"LayerNormalization" in content or b"layer_norm" in content  # names are to be read, not packed
        assert b"models/mvit.py" not in content


def test_clips_of_another_length_are_refused(v1):
    video = torch.zeros(1, 3, 6, 32, 32, dtype=torch.uint8)
    for format, words in (("pt2", "expected|shape"), ("onnx", "Got: 6 Expected: 4")):
        with pytest.raises(Exception, match=words):
            load_graph(v1[2] / f"w.{format}", format, 1)(video)


def test_weights_beyond_a_protobuf_message_lie_beside_the_onnx_file(v1, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ONE_FILE_BYTES", 0)
    path = tmp_path / "new" / "w.onnx"
    with written_whole(path) as part:
        write_graph(v1[1], part, "onnx", {})
        assert not path.exists()
    assert sorted(file.name for file in path.parent.iterdir()) == ["w.onnx", "w.onnx.data"]
    video = v1[0].random_clips(1)
    found, expected = (load_graph(file, "onnx", 1)(video)[1] for file in (path, v1[2] / "w.onnx"))
    assert torch.equal(found, expected)


def test_what_fails_leaves_the_file_before_as_it_was(tmp_path):
    path = tmp_path / "w.onnx"
    path.write_text("before")

    def fail():
        with written_whole(path) as part:
            part.write_text("half")
            raise ValueError("no space left")

    with pytest.raises(ValueError, match="no space left"):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("w.onnx", "before")]


def test_missing_packages_are_named_with_the_extra_that_has_them(monkeypatch):
    check_installed("onnx")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in files.NEEDED[1:] else find(name))
    words = r"format=onnx needs onnxscript, onnxruntime: pip install 'mvit_train\[export\]'"
    with pytest.raises(ValueError, match=words):
        check_installed("onnx")
    check_installed("pt2")
