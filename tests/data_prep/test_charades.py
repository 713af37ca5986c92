import pytest

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
CLASSES = "c000 Holding some clothes\nc001 Putting clothes somewhere\nc002 Taking some clothes, gently\n"


@pytest.fixture
def charades(tmp_path, place):
    root = tmp_path / "charades"
    for i, name in enumerate(("46GP8", "N11GT", "0IH69")):
        place(root, f"Charades_v1_480/{name}.mp4", first_index=i)
    (root / "Charades").mkdir()
    (root / "Charades/Charades_v1_classes.txt").write_text(CLASSES)
    train = [
        '46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking",food;stove,"He, ""cooks"".",'
        "c002 0.00 9.10;c000 2.50 11.20;c002 9.20 9.50,9.80",
        "N11GT,0KZ7,Bedroom,6,7,Yes,,,,,10.00",
        "GONE1,0KZ7,Bedroom,6,7,Yes,,,,c001 1.0 2.0,10.00",
    ]
    (root / "Charades/Charades_v1_train.csv").write_text(HEADER + "\n".join(train) + "\n")
    (root / "Charades/Charades_v1_test.csv").write_text(HEADER + "0IH69,X,Y,6,7,Yes,,,,c001 1.00 2.00,10.00\n")
    return root


def test_several_classes_are_joined_and_their_times_kept_beside(charades, tmp_path, prepare, table, capsys):
    out = tmp_path / "out"
    assert prepare("charades", charades, out) == 0
    videos = f"{charades}/Charades_v1_480"
    assert (out / "classes.txt").read_text() == (
        "Holding some clothes\nPutting clothes somewhere\nTaking some clothes, gently\n"
    )
    assert table(out / "train.csv", "path", "label", "status") == [
        (f"{videos}/46GP8.mp4", "Holding some clothes;Taking some clothes, gently", "ok"),
        (f"{videos}/N11GT.mp4", "", "ok"),  # a negative for every class
    ]
    assert table(out / "val.csv", "label") == ["Putting clothes somewhere"]
    assert table(out / "segments.csv", "path", "label", "start", "end") == [
        (f"{videos}/46GP8.mp4", "Taking some clothes, gently", "0.0", "9.1"),
        (f"{videos}/46GP8.mp4", "Holding some clothes", "2.5", "9.8"),  # 11.2 is after the end
        (f"{videos}/46GP8.mp4", "Taking some clothes, gently", "9.2", "9.5"),
        (f"{videos}/0IH69.mp4", "Putting clothes somewhere", "1.0", "2.0"),
    ]
    assert table(out / "missing.csv", "video_id", "label") == [("GONE1", "Putting clothes somewhere")]
    printed = capsys.readouterr().out
    assert "warning: 1 actions end after their video: cut to its length" in printed
    assert "train: 2 of 7,985 annotated: 7,983 fewer" in printed


MISTAKES = [
    ("train.csv", HEADER + "A,,,,,,,,,c009 1 2,10\n", "train.csv, line 2: A: actions 'c009 1 2' with length '10'"),
    ("train.csv", HEADER + "A,,,,,,,,,c000 1,10\n", "are not `CODE START END;...` and seconds"),
    ("train.csv", "id,length\nA,1\n", "train.csv: has no column actions"),
    ("classes.txt", "c000 a\nc002 b\n", "classes.txt, line 2: 'c002 b' is not `c001 NAME`"),
    ("classes.txt", "c000 a;b\n", "classes.txt, line 1: 'a;b' holds ';', which separates classes"),
]


@pytest.mark.parametrize(("file", "text", "words"), MISTAKES)
def test_a_mistake_is_named_with_file_and_line(charades, tmp_path, prepare, capsys, file, text, words):
    (charades / f"Charades/Charades_v1_{file}").write_text(text)
    assert prepare("charades", charades, tmp_path / "out") == 1
    assert words in capsys.readouterr().err
