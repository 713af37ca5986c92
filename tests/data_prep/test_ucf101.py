import json

import pytest

CLIPS = [f"v_{name}_g{g:02d}_c01" for name in ("ApplyEyeMakeup", "HandStandPushups") for g in (1, 8)]


@pytest.fixture
def ucf101(tmp_path, place):
    root = tmp_path / "ucf"
    for i, clip in enumerate(CLIPS):
        folder = "ApplyEyeMakeup" if i < 2 else "HandstandPushups"
        place(root, f"UCF-101/{folder}/{clip}.avi", 75, fps=25, first_index=i, codec="mpeg4")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    for number in "123":
        train, test = ("08", "01") if number == "1" else ("01", "08")
        names = ("ApplyEyeMakeup", "HandstandPushups")
        lines = [f"{name}/v_{name}_g{train}_c01.avi {i}" for i, name in enumerate(names, 1)]
        (lists / f"trainlist0{number}.txt").write_text("\r\n".join(lines) + "\r\n")
        lines = [f"{name}/v_{name}_g{test}_c01.avi" for name in names]
        (lists / f"testlist0{number}.txt").write_text("\n".join(lines))
    return root


def test_each_split_gets_a_manifest_and_a_file_is_probed_once(ucf101, tmp_path, prepare, table, probed, capsys):
    out = tmp_path / "out"
    assert prepare("ucf101", ucf101, out) == 0
    assert len(probed) == 4
    names = {"split1": ("g08", "g01"), "split2": ("g01", "g08"), "split3": ("g01", "g08")}
    for folder, groups in names.items():
        assert (out / folder / "classes.txt").read_text() == "ApplyEyeMakeup\nHandstandPushups\n"
        for split, group in zip(("train", "val"), groups, strict=True):
            assert table(out / folder / f"{split}.csv", "path", "label", "status") == [
                (f"{ucf101}/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_{group}_c01.avi", "ApplyEyeMakeup", "ok"),
                (f"{ucf101}/UCF-101/HandstandPushups/v_HandStandPushups_{group}_c01.avi", "HandstandPushups", "ok"),
            ]
    assert json.loads((out / "split1/summary.json").read_text())["splits"]["train"]["expected"] == {"official": 9537}
    assert "val: 2 of 3,783 official: 3,781 fewer" in capsys.readouterr().out


def test_a_group_on_both_sides_is_reported(ucf101, tmp_path, prepare, capsys):
    with (ucf101 / "ucfTrainTestlist/testlist01.txt").open("a") as stream:
        stream.write("\nApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi\n")
    assert prepare("ucf101", ucf101, tmp_path / "out") == 0
    assert "1 groups are in train and val: v_ApplyEyeMakeup_g08" in capsys.readouterr().out


MISTAKES = [
    ("classInd.txt", "0 A\n", "classInd.txt, line 1: '0 A' is not `1 CLASS`"),
    (
        "trainlist02.txt",
        "B/v_B_g01_c01.avi 1\n",
        "trainlist02.txt, line 1: 'B' is none of the 2 classes",
    ),
    ("trainlist03.txt", "ApplyEyeMakeup/v.avi 2\n", "trainlist03.txt, line 1: ApplyEyeMakeup has number 1, not 2"),
]


@pytest.mark.parametrize(("file", "text", "words"), MISTAKES)
def test_a_mistake_is_named_with_file_and_line(ucf101, tmp_path, prepare, capsys, file, text, words):
    (ucf101 / "ucfTrainTestlist" / file).write_text(text)
    assert prepare("ucf101", ucf101, tmp_path / "out") == 1
    assert words in capsys.readouterr().err
