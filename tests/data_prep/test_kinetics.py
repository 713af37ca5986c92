"""CVDF's tree with everything that is known to go wrong in it, and the other layouts people hold."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from data_prep import command
from data_prep.journal import Shard
from mvit_train.data.manifest import read_splits

TRAIN = '''label,youtube_id,time_start,time_end,split
abseiling,--abcdefghi,10,20,train
"massaging person's head",-bcdefghijk,3,13,train
"""playing guitar""",ccc_ccccc_1,0.0,10.0,train
passing American football (in game),dddddddddd1,5,15,train
abseiling,eeeeeeeeee1,0,10,train
abseiling,ffffffffff1,0,10,train
playing guitar,rrrrrrrrrr1,0,10,train
playing guitar,gggggggggg1,0,10,train
abseiling,vvvvvvvvvv1,99,109,train
'''
VAL = """label,youtube_id,time_start,time_end,split
passing american football (in game),vvvvvvvvvv1,0,10,val
massaging person's head,wwwwwwwwww1,3,13,val
"""
HEADER = "label,youtube_id,time_start,time_end,split\n"
CLASSES = "abseiling\nmassaging person's head\npassing American football (in game)\nplaying guitar\n"
REPLACED = "replacement/replacement_for_corrupted_k400/rrrrrrrrrr1_000000_000010.mp4"


@pytest.fixture
def k400(tmp_path, place):
    root = tmp_path / "k400"
    place(root, "train/--abcdefghi_000010_000020.mp4", first_index=1)
    place(root, "train/-bcdefghijk_000003_000013.mp4", first_index=2)
    whole = place(root, "train/ccc_ccccc_1_000000_000010.mp4", first_index=3).read_bytes()
    place(root, "train/dddddddddd1_000005_000015.mp4", 10, first_index=4)
    (root / "train/eeeeeeeeee1_000000_000010.mp4").write_bytes(b"")
    (root / "train/ffffffffff1_000000_000010.mp4").write_bytes(whole[: len(whole) // 2])  # "moov atom not found"
    (root / "train/rrrrrrrrrr1_000000_000010.mp4").write_bytes(whole[: len(whole) // 3])
    place(root, REPLACED, first_index=5)
    place(root, "train/vvvvvvvvvv1_000099_000109.mp4", first_index=6)
    place(root, "train/unlisted__1_000000_000010.mp4", first_index=7)
    place(root, "val/vvvvvvvvvv1_000000_000010.mp4", first_index=8)
    place(root, "val/wwwwwwwwww1_000003_000013.mp4", first_index=2)  # the same bytes as -bcdefghijk
    (root / "annotations").mkdir()
    (root / "annotations/train.csv").write_text(TRAIN)
    (root / "annotations/val.csv").write_text(VAL)
    (root / "annotations/test.csv").write_text("youtube_id,time_start,time_end,split\nttttttttttt,0,10,test\n")
    return root


def test_cvdf_s_flat_folders_become_a_manifest_and_lists_of_what_is_wrong(k400, tmp_path, prepare, contents, capsys):
    before, out = contents(k400), tmp_path / "out"
    assert prepare("kinetics", k400, out, "--set", "k400") == 0
    assert contents(k400) == before
    size = {path.name: path.stat().st_size for path in k400.rglob("*.mp4")}
    assert (out / "train.csv").read_text() == (
        "path,label,start,end,duration,num_frames,fps,width,height,codec,bytes,status\n"
        f"{k400}/train/--abcdefghi_000010_000020.mp4,abseiling,,,10,50,5,64,48,h264,"
        f"{size['--abcdefghi_000010_000020.mp4']},ok\n"
        f"{k400}/train/-bcdefghijk_000003_000013.mp4,massaging person's head,,,10,50,5,64,48,h264,"
        f"{size['-bcdefghijk_000003_000013.mp4']},ok\n"
        f"{k400}/train/ccc_ccccc_1_000000_000010.mp4,playing guitar,,,10,50,5,64,48,h264,"
        f"{size['ccc_ccccc_1_000000_000010.mp4']},ok\n"
        f"{k400}/train/dddddddddd1_000005_000015.mp4,passing American football (in game),,,2,10,5,64,48,h264,"
        f"{size['dddddddddd1_000005_000015.mp4']},short\n"
        f"{k400}/{REPLACED},playing guitar,,,10,50,5,64,48,h264,{(k400 / REPLACED).stat().st_size},replaced\n"
        f"{k400}/train/vvvvvvvvvv1_000099_000109.mp4,abseiling,,,10,50,5,64,48,h264,"
        f"{size['vvvvvvvvvv1_000099_000109.mp4']},ok\n"
    )
    assert (out / "classes.txt").read_text() == CLASSES
    assert (out / "missing.csv").read_text() == (
        "split,video_id,time_start,time_end,label,reason\ntrain,gggggggggg1,0,10,playing guitar,no file of this id\n"
    )
    assert (out / "broken.csv").read_text() == (
        "split,video_id,time_start,time_end,label,path,reason\n"
        f"train,eeeeeeeeee1,0,10,abseiling,{k400}/train/eeeeeeeeee1_000000_000010.mp4,empty file\n"
        f"train,ffffffffff1,0,10,abseiling,{k400}/train/ffffffffff1_000000_000010.mp4,"
        '"not a video, or its header is damaged or missing"\n'
    )
    assert (out / "duplicates.csv").read_text() == (
        "kind,split,video_id,time_start,time_end,label,path\n"
        f"id in two splits,train,vvvvvvvvvv1,99,109,abseiling,{k400}/train/vvvvvvvvvv1_000099_000109.mp4\n"
        "id in two splits,val,vvvvvvvvvv1,0,10,passing American football (in game),"
        f"{k400}/val/vvvvvvvvvv1_000000_000010.mp4\n"
        f"content in two splits,train,-bcdefghijk,3,13,massaging person's head,"
        f"{k400}/train/-bcdefghijk_000003_000013.mp4\n"
        f"content in two splits,val,wwwwwwwwww1,3,13,massaging person's head,"
        f"{k400}/val/wwwwwwwwww1_000003_000013.mp4\n"
    )
    printed = capsys.readouterr().out
    assert "train: 6 of 246,534 annotated; 234,578 fewer than the archived non-local copy, 234,584" in printed
    assert "warning: 4 classes, 400 are expected" in printed
    assert "test: 1 videos are annotated, but no file of this split is there" in printed
    assert f"1 files have no annotation and are left out: {k400}/train/unlisted__1_000000_000010.mp4" in printed


def test_what_is_written_is_what_training_reads(k400, tmp_path, prepare):
    out = tmp_path / "out"
    assert prepare("kinetics", k400, out) == 0
    splits = read_splits(out, [k400])
    assert [len(splits[split]) for split in ("train", "val")] == [6, 2]
    assert splits["train"].labels.names == tuple(CLASSES.splitlines())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["classes"]["fingerprint"] == splits["train"].labels.fingerprint
    for split in ("train", "val"):
        assert summary["splits"][split]["fingerprints"]["manifest"] == splits[split].fingerprint


def test_an_interrupted_run_goes_on_and_a_finished_one_probes_nothing(k400, tmp_path, prepare, probed, monkeypatch):
    out, probe_all = tmp_path / "out", command.probe_all

    def interrupted(tasks, workers, **limits):
        for count, result in enumerate(probe_all(tasks, workers)):
            if count == 4:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(command, "probe_all", interrupted)
    assert prepare("kinetics", k400, out) == 130
    assert {path.name for path in out.iterdir()} == {"probe-0of1.jsonl"}
    first = probed[:4]  # the fifth was probed, but not noted
    with (out / "probe-0of1.jsonl").open("a") as stream:
        stream.write('{"path": "cut off by a cra')
    monkeypatch.setattr(command, "probe_all", probe_all)
    probed.clear()
    assert prepare("kinetics", k400, out) == 0
    assert len(probed) == 10 - 4
    assert not set(first) & set(probed)
    probed.clear()
    assert prepare("kinetics", k400, out) == 0
    assert probed == []
    shutil.copy(k400 / REPLACED, k400 / "train/eeeeeeeeee1_000000_000010.mp4")  # the user mended one
    assert prepare("kinetics", k400, out) == 0
    assert probed == ["eeeeeeeeee1_000000_000010.mp4"]


def test_shards_share_the_work_and_the_last_one_writes_the_files(
    k400, tmp_path, prepare, contents, probed, capsys, monkeypatch
):
    # By the name alone, so that no share is empty by the chance of where the test's folder lies.
    monkeypatch.setattr(Shard, "has", lambda self, task: sum(Path(task.path).name.encode()) % self.count == self.index)
    one, many = tmp_path / "one", tmp_path / "many"
    assert prepare("kinetics", k400, one) == 0
    whole = sorted(probed)
    probed.clear()
    capsys.readouterr()
    for i in (2, 0):
        assert prepare("kinetics", k400, many, "--shard", f"{i}/3") == 0
        assert not (many / "train.csv").exists()
    assert "files remain for other shares. The last of them writes the manifest" in capsys.readouterr().out
    assert prepare("kinetics", k400, many, "--shard", "1/3") == 0
    assert sorted(probed) == whole
    assert {path.name for path in many.glob("*.jsonl")} == {f"probe-{i}of3.jsonl" for i in range(3)}
    for folder in (one, many):
        for journal in folder.glob("*.jsonl"):
            journal.unlink()
    assert contents(one) == contents(many)


def test_the_replacements_archive_is_extracted_once_to_out(k400, tmp_path, prepare, contents, table, probed):
    with tarfile.open(k400 / "replacement_for_corrupted_k400.tgz", "w:gz") as tar:
        tar.add(k400 / "replacement/replacement_for_corrupted_k400", "../replacement_for_corrupted_k400")
    shutil.rmtree(k400 / "replacement")
    before, out = contents(k400), k400 / "manifest"
    assert prepare("kinetics", k400, out) == 0
    assert {name: data for name, data in contents(k400).items() if not name.startswith("manifest/")} == before
    assert ("replacement/rrrrrrrrrr1_000000_000010.mp4", "replaced") in table(out / "train.csv", "path", "status")
    probed.clear()
    assert prepare("kinetics", k400, out) == 0
    assert probed == []


def test_class_folders_need_no_annotations_and_any_container_will_do(tmp_path, place, prepare, table):
    root, out = tmp_path / "compress", tmp_path / "out"
    place(root, "train_256/playing_guitar/--abcdefghi.mp4")  # the non-local copy: ids without times
    place(root, "train_256/abseiling/bbbbbbbbbb1_000001_000011.mkv", first_index=1)
    place(root, "val_256/playing_guitar/_cccccccc_1.webm", first_index=2, codec="libvpx-vp9")
    assert prepare("kinetics", root, out) == 0
    assert (out / "classes.txt").read_text() == "abseiling\nplaying guitar\n"
    assert table(out / "train.csv", "path", "label") == [
        (f"{root}/train_256/abseiling/bbbbbbbbbb1_000001_000011.mkv", "abseiling"),
        (f"{root}/train_256/playing_guitar/--abcdefghi.mp4", "playing guitar"),
    ]
    assert table(out / "val.csv", "path", "label", "codec") == [
        (f"{root}/val_256/playing_guitar/_cccccccc_1.webm", "playing guitar", "vp9")
    ]


def test_files_join_by_id_when_their_names_have_no_times_or_others(tmp_path, place, prepare, table):
    root, out = tmp_path / "k400", tmp_path / "out"
    place(root, "train/aaaaaaaaaa1.mp4")
    place(root, "train/bbbbbbbbbb1_000077_000087.mp4", first_index=1)  # kinetics-dataset#39
    place(root, "train/cccccccccc1_000050_000060.mp4", first_index=2)  # the second row's; the first row has no file
    place(root, "train/dddddddddd1.mp4", 200, first_index=3)  # as downloaded, 40 s: not cut
    (root / "annotations").mkdir()
    rows = ["aaaaaaaaaa1,1,11", "bbbbbbbbbb1,2,12", "cccccccccc1,0,10", "cccccccccc1,50,60", "dddddddddd1,20,30"]
    text = "label,youtube_id,time_start,time_end,split,is_cc\n" + "".join(f"run,{row},train,0\n" for row in rows)
    (root / "annotations/kinetics_train.csv").write_text(text)
    assert prepare("kinetics", root, out) == 0
    assert table(out / "train.csv", "path", "start", "end") == [
        (f"{root}/train/aaaaaaaaaa1.mp4", "", ""),
        (f"{root}/train/bbbbbbbbbb1_000077_000087.mp4", "", ""),
        (f"{root}/train/cccccccccc1_000050_000060.mp4", "", ""),
        (f"{root}/train/dddddddddd1.mp4", "20", "30"),
    ]
    assert table(out / "missing.csv", "video_id", "time_start") == [("cccccccccc1", "0")]


def test_kinetics_600_is_read_from_its_text_lists(tmp_path, place, prepare, table):
    root, out = tmp_path / "k600", tmp_path / "out"
    place(root, "train/part 1/--abcdefghi_000010_000020.mp4")
    place(root, "train/part 1/bbbbbbbbbb1_000001_000011.mp4", first_index=1)
    (root / "annotations").mkdir()
    (root / "annotations/train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nrun,--abcdefghi,10,20,train\n"
    )
    (root / "annotations/train.txt").write_text("run,--abcdefghi,10,20,train\njump,bbbbbbbbbb1,1,11,train\n")
    assert prepare("kinetics", root, out, "--set", "k600") == 0
    assert table(out / "train.csv", "label") == ["run", "jump"]
    assert prepare("kinetics", root, out, "--set", "k400") == 0
    assert table(out / "train.csv", "label") == ["run"]


MISTAKES = [
    (HEADER + "run,short,0,10,train\n", "train.csv, line 2: 'short' is not a YouTube id of 11 characters"),
    (HEADER + "run,aaaaaaaaaa1,soon,10,train\n", "train.csv, line 2: time_start is 'soon', not seconds"),
    (HEADER + "run,aaaaaaaaaa1,0,10,train\n,bbbbbbbbbb1,0,10,train\n", "train.csv, line 3: label '' of bbbbbbbbbb1"),
    ("", "train.csv has no row"),
    ("nonsense\n", "train.csv, line 1: 'nonsense' has neither the column youtube_id nor a path named after one"),
    (None, "1 files lie in no folder of a class, such as"),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_a_mistake_is_one_line_with_file_and_line(tmp_path, place, prepare, capsys, text, words):
    place(tmp_path, "k400/train/aaaaaaaaaa1_000000_000010.mp4")
    if text is not None:
        (tmp_path / "k400/train.csv").write_text(text)
    assert prepare("kinetics", tmp_path / "k400", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("data_prep.kinetics: ")
    assert error.count("\n") == 1


def test_folders_that_are_not_there_or_hold_nothing_are_named(tmp_path, prepare, capsys):
    assert prepare("kinetics", tmp_path / "nowhere", tmp_path / "out") == 1
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert prepare("kinetics", tmp_path, tmp_path / "out") == 1
    assert "no file named after a YouTube id" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
