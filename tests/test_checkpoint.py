import errno
import os
import pickle
import subprocess

import pytest
import torch

from mvit_train.checkpoint import (
    RUN_ID_VARIABLE,
    AtomicCheckpointIO,
    DiskFullError,
    SaveError,
    read_checkpoint,
    resolve_checkpoint,
    run_folder,
    weights_fingerprint,
)

CONTENT = {"state_dict": {"w": torch.arange(3.0)}, "mvit_train": {"class_names": ["a"]}}


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.fixture
def no_run_id(monkeypatch):
    for name in (RUN_ID_VARIABLE, "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.setenv(name, "")  # so that monkeypatch takes back what run_folder sets
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_run_s_id_is_the_given_one_then_slurm_s_then_the_time(tmp_path, no_run_id):
    assert len(run_folder(tmp_path, "motion", None).name) == len("20261122-152000")
    no_run_id.delenv(RUN_ID_VARIABLE)
    no_run_id.setenv("SLURM_JOB_ID", "77")
    assert run_folder(tmp_path, "motion", None) == tmp_path / "motion" / "77"
    no_run_id.delenv(RUN_ID_VARIABLE)
    no_run_id.setenv("SLURM_ARRAY_JOB_ID", "70")
    no_run_id.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert run_folder(tmp_path, "motion", None).name == "70_3"
    assert run_folder(tmp_path, "motion", "mine").name == "mine"


def test_processes_started_for_further_devices_share_the_folder(tmp_path, no_run_id):
    first = run_folder(tmp_path, "motion", None)
    assert os.environ[RUN_ID_VARIABLE] == first.name
    assert run_folder(tmp_path, "motion", None) == first


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)

    def fail(checkpoint, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.arange(3.0))


class FullDisk:
    """A file on a disk that has room for `room` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [10, 50_000])
def test_a_full_disk_is_named_with_its_room_and_leaves_the_checkpoint_before(tmp_path, monkeypatch, room):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, FullDisk(file, room)))
    with pytest.raises(DiskFullError, match=r"last\.ckpt: its tensors alone are 400012 bytes, \d+ are free there"):
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "more": [torch.zeros(100_000)]}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.arange(3.0))


def test_a_disk_that_is_really_full_is_named(tmp_path):
    """A disk in memory with 200 KiB, for which one has to be root."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", tmp_path], check=False).returncode
    if mounted != 0:
        pytest.skip("a file system cannot be mounted here")
    try:
        path = tmp_path / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "more": torch.zeros(20_000)}, path)
        for size in (28_000, 60_000):  # whose end, or whose middle, finds no room
            with pytest.raises(DiskFullError, match="make room"):
                AtomicCheckpointIO().save_checkpoint({**CONTENT, "more": torch.zeros(size), "l": ["a" * 30_000]}, path)
        assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
        assert len(read_checkpoint(path)["more"]) == 20_000
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_run_folder_that_is_gone_and_a_disk_that_is_read_only_are_named(tmp_path, monkeypatch):
    gone = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(SaveError, match="checkpoints is gone, with all that was saved there"):
        AtomicCheckpointIO().save_checkpoint(CONTENT, gone)
    assert not gone.parent.parent.exists()
    AtomicCheckpointIO().save_checkpoint(CONTENT, tmp_path / "last.ckpt")

    def refuse(content, file):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(
        SaveError, match=r"last\.ckpt cannot be written: Read-only file system. What was saved before is"
    ):
        AtomicCheckpointIO().save_checkpoint(CONTENT, tmp_path / "last.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "last.ckpt")["state_dict"]["w"], torch.arange(3.0))


def test_a_checkpoint_that_holds_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**CONTENT, "extra": Malicious()}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad\.ckpt is no complete checkpoint of weights"):
        read_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "owned").exists()
    pickle.loads(pickle.dumps(Malicious()))  # what it would have done
    assert (tmp_path / "owned").exists()


def test_damaged_and_foreign_files_are_refused_with_their_name(tmp_path):
    torch.save(CONTENT, tmp_path / "good.ckpt")
    whole = (tmp_path / "good.ckpt").read_bytes()
    for name, content in (("half", whole[: len(whole) // 2]), ("empty", b""), ("text", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is no complete checkpoint"):
            read_checkpoint(tmp_path / name)
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="was not written by mvit_train"):
        read_checkpoint(tmp_path / "foreign.ckpt")


def test_a_run_folder_stands_for_its_best_checkpoint_then_its_last(tmp_path):
    with pytest.raises(ValueError, match="neither a checkpoint file nor a run folder"):
        resolve_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("last", "best"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
        assert resolve_checkpoint(tmp_path).stem == name
    assert resolve_checkpoint(tmp_path / "checkpoints" / "last.ckpt").stem == "last"


def test_a_fingerprint_changes_with_any_weight_and_not_with_their_order():
    weights = {"a": torch.randn(3, 2), "b": torch.zeros(2)}
    print_of = weights_fingerprint(weights)
    assert weights_fingerprint(dict(reversed(weights.items()))) == print_of
    weights["a"][1, 1] += 1e-3
    assert weights_fingerprint(weights) != print_of
