import pytest

NAMES = ["April_09_brush_hair_u_nm_np1_ba_goo_0", "#20_Rhythm_(clap)_u_nm[1];&_2"]


@pytest.fixture
def hmdb51(tmp_path, place):
    root = tmp_path / "hmdb"
    for i, label in enumerate(("brush_hair", "clap")):
        for k, name in enumerate([*NAMES, "unused"]):
            place(root, f"{label}/{name}.avi", 75, first_index=10 * i + k, codec="mpeg4")
    for label in ("brush_hair", "clap"):
        for number, flags in (("1", "120"), ("2", "210"), ("3", "100")):
            lines = [f"{name}.avi {flag} " for name, flag in zip([*NAMES, "unused"], flags, strict=True)]
            file = root / f"testTrainMulti_7030_splits/{label}_test_split{number}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text("\n".join(lines) + "\n")
    return root


def test_flags_choose_the_split_and_names_may_be_strange(hmdb51, tmp_path, prepare, table, probed, capsys):
    out = tmp_path / "out"
    assert prepare("hmdb51", hmdb51, out) == 0
    assert len(probed) == 4
    for number, train, val in ((1, [0], [1]), (2, [1], [0]), (3, [0], [])):
        assert (out / f"split{number}/classes.txt").read_text() == "brush_hair\nclap\n"
        for split, wanted in (("train", train), ("val", val)):
            if wanted:
                assert table(out / f"split{number}/{split}.csv", "path", "label") == [
                    (f"{hmdb51}/{label}/{NAMES[i]}.avi", label) for label in ("brush_hair", "clap") for i in wanted
                ]
    assert not (out / "split3/val.csv").exists()
    printed = capsys.readouterr().out
    assert "train: 2 of 3,570 official: 3,568 fewer" in printed
    assert "2 files are used in neither split: brush_hair/unused, clap/unused" in printed


def test_archives_that_are_not_extracted_and_lists_that_are_incomplete_are_named(hmdb51, tmp_path, prepare, capsys):
    (hmdb51 / "testTrainMulti_7030_splits/clap_test_split2.txt").unlink()
    assert prepare("hmdb51", hmdb51, tmp_path / "out") == 1
    assert "clap_test_split2.txt is missing" in capsys.readouterr().err
    for video in hmdb51.rglob("*.avi"):
        video.unlink()
    (hmdb51 / "clap.rar").touch()
    assert prepare("hmdb51", hmdb51, tmp_path / "out") == 1
    assert "holds no video but 1 .rar: extract them, `unrar x FILE`" in capsys.readouterr().err
    assert prepare("hmdb51", tmp_path / "hmdb/clap", tmp_path / "out") == 1
    assert "no CLASS_test_split1.txt lies in or below it" in capsys.readouterr().err


def test_an_unknown_flag_is_named_with_file_and_line(hmdb51, tmp_path, prepare, capsys):
    (hmdb51 / "testTrainMulti_7030_splits/clap_test_split1.txt").write_text("a.avi 1\nb.avi 3\n")
    assert prepare("hmdb51", hmdb51, tmp_path / "out") == 1
    assert "clap_test_split1.txt, line 2: 'b.avi 3' is not `FILE FLAG` with flag 0, 1 or 2" in capsys.readouterr().err
