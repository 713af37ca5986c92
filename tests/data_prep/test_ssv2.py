import json

import pytest

LABELS = {"Holding something": "1", "Approaching something with your camera": "0"}
TRAIN = [
    {"id": "3", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]},
    {"id": "1", "label": "approaching a cup", "template": "Approaching [something] with your camera"},
    {"id": "9", "label": "holding a cup", "template": "Holding [something]"},
]
VAL = [{"id": "7", "label": "holding a pen", "template": "Holding [something]"}]


@pytest.fixture
def ssv2(tmp_path, place):
    root = tmp_path / "ssv2"
    for i in (1, 3, 7):
        place(root, f"20bn-something-something-v2/{i}.webm", 36, fps=12, first_index=i, codec="libvpx-vp9")
    (root / "20bn-something-something-v2/8.webm").write_bytes(b"not listed")
    return root


def write(root, prefix="", **files):
    (root / "labels").mkdir(exist_ok=True)
    for name, value in {"labels": LABELS, "train": TRAIN, "validation": VAL, "test": [{"id": "100"}], **files}.items():
        (root / "labels" / f"{prefix}{name}.json").write_text(json.dumps(value))


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_classes_are_templates_in_the_order_of_labels_json(ssv2, tmp_path, prepare, table, capsys, prefix):
    write(ssv2, prefix)
    out = tmp_path / "out"
    assert prepare("ssv2", ssv2, out) == 0
    assert (out / "classes.txt").read_text() == "Approaching something with your camera\nHolding something\n"
    folder = f"{ssv2}/20bn-something-something-v2"
    assert table(out / "train.csv", "path", "label", "duration", "codec", "status") == [
        (f"{folder}/3.webm", "Holding something", "3", "vp9", "ok"),
        (f"{folder}/1.webm", "Approaching something with your camera", "3", "vp9", "ok"),
    ]
    assert table(out / "val.csv", "path") == [f"{folder}/7.webm"]
    assert table(out / "missing.csv", "split", "video_id", "label") == [("train", "9", "Holding something")]
    assert not (out / "test.csv").exists()
    printed = capsys.readouterr().out
    assert "train: 2 of 168,913 annotated: 168,911 fewer" in printed
    assert "test: 1 ids are listed, but no file of them is there" in printed
    assert f"1 files are in none of the lists: {folder}/8.webm" in printed


def test_the_test_split_has_no_labels(ssv2, tmp_path, prepare, table):
    write(ssv2, test=[{"id": "8"}])
    assert prepare("ssv2", ssv2, tmp_path / "out") == 0
    assert table(tmp_path / "out/broken.csv", "split", "video_id", "label") == [("test", "8", "")]


MISTAKES = [
    ({"labels": {"a": "0", "b": "2"}}, "labels.json: the numbers of its 2 classes are not 0 to 1, each once"),
    ({"labels": {"a": "x"}}, "labels.json: not every class has a number"),
    (
        {"train": [{"id": "1", "template": "Flying"}]},
        "train.json, entry 1: template 'Flying' of 1 is none",
    ),
    ({"train": [{"id": "a.webm"}]}, "train.json, entry 1: {'id': 'a.webm'} has no id that is a number"),
    ({"validation": TRAIN}, "validation.json: id 3 is in train already"),
    ({"train": {}}, "train.json: holds a dict, expected is a list"),
]


@pytest.mark.parametrize(("files", "words"), MISTAKES)
def test_a_mistake_is_named_with_file_and_entry(ssv2, tmp_path, prepare, capsys, files, words):
    write(ssv2, **files)
    assert prepare("ssv2", ssv2, tmp_path / "out") == 1
    assert words in capsys.readouterr().err


def test_lists_that_are_not_there_are_named(ssv2, tmp_path, prepare, capsys):
    assert prepare("ssv2", ssv2, tmp_path / "out") == 1
    assert "the class list: none of labels.json, something-something-v2-labels.json is in" in capsys.readouterr().err
