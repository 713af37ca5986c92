import json

import pytest

from mvit_train.data.manifest import read_splits
from mvit_train.labels import Labels


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def targets(manifest):
    return manifest.target_tensor().tolist()


def test_manifests_with_class_names_share_the_training_split_s_alphabetical_order(tmp_path):
    write(tmp_path, train="path,label\na.mp4,run\nb c.mp4,jump\n", val="path,label\nd.mp4,run\n")
    splits = read_splits(tmp_path)
    assert splits["train"].labels.names == splits["val"].labels.names == ("jump", "run")
    assert splits["train"].paths == ("a.mp4", "b c.mp4")
    assert (targets(splits["train"]), targets(splits["val"])) == ([1, 0], [1])


def test_classes_txt_fixes_the_order_and_further_columns_are_left_alone(tmp_path):
    (tmp_path / "classes.txt").write_text("run\njump\n")
    write(tmp_path, train='path,fps,label\n"a,b.mp4",30,run\n', val="path,label\nb.mp4,1\n")
    splits = read_splits(tmp_path)
    assert splits["train"].paths == ("a,b.mp4",)
    assert (targets(splits["train"]), targets(splits["val"])) == ([0], [1])


def test_pytorchvideo_s_lists_are_read_and_split_at_the_last_blank(tmp_path):
    write(tmp_path, train="a b.mp4 0\n\nc.mp4 2\n", val="d.mp4 1\n")
    splits = read_splits(tmp_path)
    assert splits["train"].paths == ("a b.mp4", "c.mp4")
    assert splits["train"].labels.names == ("0", "1", "2")
    assert targets(splits["val"]) == [1]


def test_class_folders_of_any_video_suffix_are_read(tmp_path, caplog):
    for name in (
        "train/run/a.webm",
        "train/run/sub/b.MOV",
        "train/jump/c.avi",
        "train/jump/notes.txt",
        "val/run/d.mkv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    splits = read_splits(tmp_path)
    assert splits["train"].labels.names == ("jump", "run")
    assert splits["train"].paths == ("train/jump/c.avi", "train/run/a.webm", "train/run/sub/b.MOV")
    assert (splits["val"].paths, targets(splits["val"])) == (("val/run/d.mkv",), [1])
    assert "1 files are no videos" in caplog.text


def test_a_folder_without_splits_keeps_a_fifth_of_every_class_whatever_else_is_there(tmp_path):
    for name in ("run", "jump"):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i}.mp4").touch()
    splits = read_splits(tmp_path)
    assert [len(splits[split]) for split in ("train", "val")] == [16, 4]
    assert sorted(targets(splits["val"])) == [0, 0, 1, 1]
    assert not set(splits["train"].paths) & set(splits["val"].paths)
    (tmp_path / "jump" / "9.mp4").unlink()
    kept = set(read_splits(tmp_path)["val"].paths)
    assert {path for path in splits["val"].paths if path.startswith("run")} <= kept


def test_the_fingerprint_depends_on_videos_and_names_but_not_on_order(tmp_path):
    prints = []
    for rows in ("a.mp4,x\nb.mp4,y", "b.mp4,y\na.mp4,x", "a.mp4,y\nb.mp4,x"):
        prints.append(
            read_splits(write(tmp_path, train=f"path,label\n{rows}\n", val=f"path,label\n{rows}\n"))["val"].fingerprint
        )
    assert prints[0] == prints[1] != prints[2]


TABLE = [
    (
        "path,label\na.mp4,run\n",
        "path,label\na.mp4,swim\n",
        "1 labels are not among the 1 classes.*line 2: a.mp4: label 'swim'",
    ),
    (
        "a.mp4 0\n",
        "a.mp4 0\nb.mp4 7\nc.mp4 -1\n",
        r"2 labels .*\(names, or numbers 0 to 0\):\n  line 2: b.mp4: label '7'\n.*'-1'",
    ),
    ("a.mp4,3\n", "", "line 1: 'a.mp4,3' is neither `path label` with a whole number nor below a header"),
    ("label,youtube_id,time_start\nrun,x,0\n", "", "has no `path` column"),
    ("path,label\n", "", "lists no video"),
    ("path,label\n,run\n", "", "line 2: path is empty"),
    ("path,label\na.mp4,run\nb.mp4,\n", "", "line 3: b.mp4: label is empty"),
    ("path,label\na.mp4\n", "", "line 2: a.mp4: label is empty"),
    ("path,label\na.mp4,run;jump\nb.mp4,run;swim\n", "path,label\na.mp4,fly\n", "line 2: a.mp4: label 'fly'"),
    ("path,label,start,end\na.mp4,run,3,2\n", "", "line 2: start '3' and end '2' must be seconds"),
    ("path,label,start,end\na.mp4,run,,\nb.mp4,run,-1,2\n", "", "line 3: start '-1'"),
    ("path,label,start,end\na.mp4,run,x,2\n", "", "line 2: start 'x'"),
]


@pytest.mark.parametrize(("train", "val", "words"), TABLE)
def test_a_list_that_cannot_be_understood_is_refused_with_line_and_value(tmp_path, train, val, words):
    write(tmp_path, train=train, val=val or train)
    with pytest.raises(ValueError, match=f"(?s){words}"):
        read_splits(tmp_path)


def test_missing_folders_and_splits_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root: .*nowhere is not a folder"):
        read_splits(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds neither train\.csv and val\.csv nor folders of videos"):
        read_splits(tmp_path)
    write(tmp_path, train="path,label\na.mp4,x\n")
    with pytest.raises(ValueError, match=r"has no val\.csv"):
        read_splits(tmp_path)


def test_one_row_with_several_labels_makes_a_set_of_several_labels_where_none_is_an_answer_too(tmp_path):
    write(tmp_path, train="path,label\na.mp4,run;jump\nb.mp4,\nc.mp4,run\n", val="path,label\nd.mp4,jump\n")
    splits = read_splits(tmp_path)
    assert splits["train"].labels.names == ("jump", "run")
    assert [splits["train"].target(i) for i in range(3)] == [(1, 0), (), (1,)]
    assert targets(splits["train"]) == [[True, True], [False, False], [False, True]]
    assert splits["val"].multi_label
    assert targets(splits["val"]) == [[True, False]]
    (tmp_path / "classes.txt").write_text("a;b\nc\n")  # a name may hold the sign that joins names
    write(tmp_path, train="path,label\na.mp4,a;b\n", val="path,label\nd.mp4,c\n")
    assert not read_splits(tmp_path)["train"].multi_label
    assert targets(read_splits(tmp_path)["train"]) == [0]


def test_numbers_may_be_joined_too_and_the_same_label_twice_counts_once(tmp_path):
    write(tmp_path, train="path,label\na.mp4,2;0;2\n", val="path,label\nd.mp4,1\n")
    splits = read_splits(tmp_path)
    assert splits["train"].labels.names == ("0", "1", "2")
    assert splits["train"].target(0) == (2, 0)


def test_start_and_end_say_which_part_of_a_file_counts(tmp_path):
    rows = "path,label,start,end,fps\na.mp4,x,1.5,11.5,30\nb.mp4,x,,,30\nc.mp4,x,2,,30\n"
    write(tmp_path, train=rows, val="path,label\nd.mp4,x\n")
    splits = read_splits(tmp_path)
    assert [splits["train"].span(i) for i in range(3)] == [(1.5, 11.5), None, (2.0, float("inf"))]
    assert splits["train"].take([2, 0]).span(1) == (1.5, 11.5)
    assert splits["val"].span(0) is None


def test_folders_of_images_are_read_where_there_is_no_video(tmp_path):
    for name in ("train/run/a.JPEG", "train/jump/b.png", "val/run/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    splits = read_splits(tmp_path)
    assert splits["train"].paths == ("train/jump/b.png", "train/run/a.JPEG")
    (tmp_path / "train/run/a.mp4").touch()
    assert read_splits(tmp_path)["train"].paths == ("train/run/a.mp4",)


def test_a_class_list_changed_after_the_manifests_were_written_is_refused(tmp_path):
    write(tmp_path, train="path,label\na.mp4,0\n", val="path,label\nb.mp4,1\n")
    (tmp_path / "classes.txt").write_text("run\njump\n")
    summary = {"classes": {"fingerprint": Labels(("run", "jump")).fingerprint}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert len(read_splits(tmp_path)["train"]) == 1
    (tmp_path / "classes.txt").write_text("jump\nrun\n")
    with pytest.raises(ValueError, match=r"classes\.txt \(fingerprint \w+\) is not the class list that the manifests"):
        read_splits(tmp_path)
    (tmp_path / "summary.json").write_text("[]")  # somebody else's file of that name
    assert len(read_splits(tmp_path)["train"]) == 1
