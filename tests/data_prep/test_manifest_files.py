import json

import pytest

from data_prep.summary import verdict


@pytest.fixture
def mine(tmp_path, place):
    for i in range(4):
        place(tmp_path, f"mine/run/{i}.mp4", 20, first_index=i)
    return tmp_path / "mine"


@pytest.mark.parametrize("name", ["train.csv", "classes.txt", "experiment.yaml", "summary.json"])
def test_a_user_s_file_is_never_overwritten(mine, tmp_path, prepare, capsys, probed, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    assert prepare("folder", mine, out) == 1
    assert f"{out / name} was not written by data_prep" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "precious"
    assert probed == []


def test_a_file_of_ours_that_was_edited_is_the_user_s(mine, tmp_path, prepare, capsys):
    out = tmp_path / "out"
    assert prepare("folder", mine, out) == 0
    assert prepare("folder", mine, out) == 0
    (out / "classes.txt").write_text("run fast\n")
    assert prepare("folder", mine, out) == 1
    assert "classes.txt was changed since data_prep wrote it, so it is not overwritten" in capsys.readouterr().err
    assert (out / "classes.txt").read_text() == "run fast\n"


def test_a_crash_between_two_files_is_made_good_by_the_next_run(mine, tmp_path, prepare, contents, monkeypatch, place):
    from data_prep import manifest_files

    out, replace = tmp_path / "out", manifest_files._replace
    assert prepare("folder", mine, out) == 0
    place(tmp_path, "mine/run/4.mp4", 20, first_index=4)
    written = []

    def crash(file, content):
        if len(written) == 3:
            raise OSError("No space left on device")
        written.append(file.name)
        replace(file, content)

    monkeypatch.setattr(manifest_files, "_replace", crash)
    assert prepare("folder", mine, out) == 1
    monkeypatch.setattr(manifest_files, "_replace", replace)
    assert prepare("folder", mine, out) == 0
    assert prepare("folder", mine, tmp_path / "fresh") == 0
    found, fresh = contents(out), contents(tmp_path / "fresh")
    assert found["train.csv"] == fresh["train.csv"]
    assert len(json.loads(found["summary.json"])["files"]) == len(found) - 2  # but itself and the journal


def test_names_that_a_manifest_cannot_hold_are_broken(mine, tmp_path, prepare, table):
    (mine / "run/0.mp4").rename(mine / "run/0\n1.mp4")
    assert prepare("folder", mine, tmp_path / "out") == 0
    assert table(tmp_path / "out/broken.csv", "reason") == ["its name holds a line break: rename it"]


def test_verify_upgrades_what_was_only_opened_and_retry_looks_again(mine, tmp_path, prepare, probed, table):
    (mine / "run/3.mp4").write_bytes(b"broken")
    out = tmp_path / "out"
    for arguments, count in ((["--no-verify"], 4), ([], 4), (["--no-verify"], 0), ([], 0), (["--retry"], 1)):
        probed.clear()
        assert prepare("folder", mine, out, *arguments) == 0
        assert len(probed) == count, arguments
    assert len(table(out / "broken.csv", "path")) == 1


COPIES = {"annotated": {"val": 100}, "A's copy": {"val": 90}, "B's copy": {"val": 80}}
VERDICTS = [
    (100, COPIES, "100 of 100 annotated: complete"),
    (90, COPIES, "90 of 100 annotated; as many as A's copy"),
    (83, COPIES, "83 of 100 annotated; 3 more than B's copy, 80"),
    (99, {"official": {"val": 100}}, "99 of 100 official: 1 fewer"),
    (7, {}, "7 of 8; no expected count is known"),
]


@pytest.mark.parametrize(("found", "expected", "words"), VERDICTS)
def test_a_count_is_compared_with_the_copies_people_hold(found, expected, words):
    assert verdict("val", found, 8, expected) == words
