"""Batches from worker processes that hang, die and are killed: the stream goes on, and says what was left out."""

import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import Dataset, Sampler

from mvit_train.__main__ import main
from mvit_train.data.dataset import TestViews, TrainClips, collate
from mvit_train.data.decode import DecodedVideo
from mvit_train.data.loader import ResilientLoader
from mvit_train.data.manifest import Manifest
from mvit_train.data.sampler import EpochShuffle, Shard
from mvit_train.data.transforms import RandomResizedCrop, TestCrops
from mvit_train.data.views import RandomClip, UniformClips
from mvit_train.labels import Labels

HANGS, DIES, DIES_ONCE, RAISES = "hangs", "dies", "dies once", "raises"


class Numbers(Dataset):
    """Item i is i + 100 * epoch, or -1 if it is condemned; some misbehave in ways that a DecodeError cannot tell."""

    def __init__(self, length, trouble=None, flag=None):
        self.length, self.trouble, self.flag = length, trouble or {}, flag
        self.condemned, self.place = {}, None

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        epoch, video = index
        if video in self.condemned:
            return -1
        if self.trouble.get(video) == RAISES:
            raise ValueError(f"no item {video}")
        if self.place is not None:
            self.place.begin(video)
            trouble = self.trouble.get(video)
            if trouble == HANGS:
                signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))  # deaf to all but SIGKILL
                time.sleep(1000)
            if trouble == DIES or (trouble == DIES_ONCE and not self.flag.exists()):
                if self.flag:
                    self.flag.touch()
                faulthandler.disable()  # pytest's would print
                os.kill(os.getpid(), signal.SIGSEGV)
        return video + 100 * epoch

    def name(self, video):
        return f"number {video}"


class Epochs(Sampler):
    epoch = 0

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __iter__(self):
        return ((self.epoch, i) for i in range(self.length))

    def set_epoch(self, epoch):
        self.epoch = epoch


def make(dataset, num_workers, persistent=True, timeout_sec=60.0, batch_size=3, sampler=None):
    return ResilientLoader(
        dataset,
        timeout_sec=timeout_sec,
        batch_size=batch_size,
        sampler=sampler or Epochs(len(dataset)),
        num_workers=num_workers,
        collate_fn=lambda items: {"numbers": torch.tensor(items), "pid": os.getpid()},
        persistent_workers=persistent and num_workers > 0,
    )


def numbers(loader, epochs=2):
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        found += [batch["numbers"].tolist() for batch in loader]
    return found


def expected(length, epochs=2, left_out=()):
    batches = []
    for epoch in range(epochs):
        row = [-1 if i in left_out else i + 100 * epoch for i in range(length)]
        batches += [row[i : i + 3] for i in range(0, length, 3)]
    return batches


def living(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


WORKERS = pytest.mark.parametrize(("num_workers", "persistent"), [(1, False), (1, True), (3, False), (3, True)])


@WORKERS
def test_an_undisturbed_stream_is_that_of_one_process(num_workers, persistent):
    assert numbers(make(Numbers(20), 0)) == expected(20)
    loader = make(Numbers(20), num_workers, persistent)
    assert len(loader) == 7
    assert numbers(loader) == expected(20)
    assert loader.num_lost == 0


@WORKERS
def test_an_item_that_hangs_is_condemned_and_all_others_come_in_order(num_workers, persistent):
    dataset = Numbers(20, {7: HANGS})
    loader = make(dataset, num_workers, persistent, timeout_sec=1.5)
    assert numbers(loader) == expected(20, left_out=[7])
    assert dataset.condemned == {7: "could not be read within 1.5 s"}
    assert loader.num_lost == 1


@WORKERS
def test_an_item_that_kills_two_workers_is_condemned_and_all_others_come_in_order(num_workers, persistent):
    dataset = Numbers(20, {4: DIES})
    loader = make(dataset, num_workers, persistent)
    assert numbers(loader) == expected(20, left_out=[4])
    assert dataset.condemned == {4: "the process that read it died (SIGSEGV)"}
    assert loader.num_lost == 2


def test_an_item_at_which_a_worker_died_once_is_read_again(tmp_path, caplog):
    dataset = Numbers(20, {4: DIES_ONCE}, tmp_path / "flag")
    loader = make(dataset, 2)
    assert numbers(loader) == expected(20)
    assert (dataset.condemned, loader.num_lost) == ({}, 1)
    assert "number 4: the process that read it died (SIGSEGV); reading it again" in caplog.text


def test_an_item_at_which_a_worker_dies_in_each_epoch_is_read_again_each_time(tmp_path):
    flag = tmp_path / "died"
    loader = make(Numbers(9, {4: DIES_ONCE}, flag), 2)
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        assert [batch["numbers"].tolist() for batch in loader] == expected(9, epochs=3)[3 * epoch : 3 * epoch + 3]
        flag.unlink()
    assert loader.num_lost == 3


def test_killed_workers_leave_nothing_in_the_folder_of_temporary_files(tmp_path):
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_loader import Numbers, make\n"
        "loader = make(Numbers(30), 2, batch_size=1)\n"
        "for number, batch in enumerate(loader):\n"
        "    if number % 10 == 5:\n"
        "        os.kill(batch['pid'], signal.SIGKILL)\n"
        "assert loader.num_lost == 3\n"
    )
    here, environ = str(Path(__file__).parent), os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, here], env=environ, timeout=60, check=True)
    assert not list(tmp_path.glob("pymp-*"))


@WORKERS
def test_workers_killed_from_outside_cost_nothing_but_time(num_workers, persistent):
    loader, found = make(Numbers(60), num_workers, persistent), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for step, batch in enumerate(loader):
            found.append(batch["numbers"].tolist())
            if step in (2, 3, 9):
                os.kill(batch["pid"], signal.SIGKILL)
    assert found == expected(60)
    assert 4 <= loader.num_lost <= 6  # the same one may have been meant twice


def test_an_exception_keeps_its_type_and_says_where_it_was_raised():
    with pytest.raises(ValueError, match="no item 5") as raised:
        numbers(make(Numbers(9, {5: RAISES}), 2))
    assert "raised in a reading process:\nTraceback" in raised.value.__notes__[0]


def test_losses_that_no_video_explains_end_the_run_after_a_few(monkeypatch):
    loader = make(Numbers(9), 2)
    loader.collate_fn = lambda items: os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"4 reading processes were lost while they read no video: .* \(SIGKILL\)"):
        list(loader)
    assert loader._watched.condemned == {}


@pytest.mark.parametrize("persistent", [False, True])
def test_an_iteration_may_be_abandoned_and_leaves_nothing_behind(persistent):
    loader = make(Numbers(30), 2, persistent)
    pids = set()
    for batch in loader:
        pids.add(batch["pid"])
        break
    assert numbers(loader) == expected(30)
    for batch in loader:
        pids.add(batch["pid"])
    loader.__del__()
    assert not any(living(pid) for pid in pids)


@pytest.mark.parametrize("persistent", [False, True])
def test_only_persistent_workers_outlive_an_epoch(persistent):
    loader = make(Numbers(30), 2, persistent)
    first, second = ({batch["pid"] for batch in loader} for _ in range(2))
    assert (first == second) is persistent
    assert all(living(pid) is persistent for pid in second)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    code = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_loader import Numbers, make\n"
        "for batch in make(Numbers(60), 1):\n"
        "    print(batch['pid'], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    deadline = time.monotonic() + 20
    while living(int(result.stdout)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not living(int(result.stdout))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, video):
    """Two class folders of eight short videos."""
    folder = tmp_path_factory.mktemp("loader")
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(8):
            shutil.copy(video("a.mp4", 20 + i), folder / name / f"{name}{i}.mp4")
    return folder


@pytest.fixture
def stuck(monkeypatch):
    """Makes the decoder hang at some files, as FFmpeg might."""
    names = set()
    get_frames = DecodedVideo.get_frames

    def hang(self, times):
        if self.name in names:
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
            time.sleep(1000)
        return get_frames(self, times)

    monkeypatch.setattr(DecodedVideo, "get_frames", hang)
    return names


def manifest(folder):
    names = tuple(f"{name}/{name}{i}.mp4" for name in ("a", "b") for i in range(8))
    return Manifest.of(folder, zip(names, (0,) * 8 + (1,) * 8, strict=True), Labels(("a", "b")))


def read(dataset, sampler, num_workers, epochs):
    loader = ResilientLoader(
        dataset, batch_size=4, sampler=sampler, collate_fn=collate, num_workers=num_workers, timeout_sec=2
    )
    batches = []
    for epoch in range(epochs):
        if isinstance(sampler, EpochShuffle):
            sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def equal(a, b):
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_training_video_at_which_the_decoder_hangs_is_replaced_like_an_unreadable_one(folder, stuck, num_workers):
    def clips():
        return TrainClips(
            manifest(folder),
            clip_sampler=RandomClip(Fraction(16, 30)),
            num_frames=4,
            transform=RandomResizedCrop(crop_size=24),
        )

    known = clips()
    known.condemned[5] = "could not be read within 2 s"
    expected = read(known, EpochShuffle(16, batch_size=4, seed=0), 0, 2)
    undisturbed = read(clips(), EpochShuffle(16, batch_size=4, seed=0), 0, 2)
    assert sum(not equal(a, b) for a, b in zip(expected, undisturbed, strict=True)) == 2  # one of them in each epoch
    stuck.add("a5.mp4")
    found = read(clips(), EpochShuffle(16, batch_size=4, seed=0), num_workers, 2)
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_test_video_at_which_the_decoder_hangs_is_reported_as_failed(folder, stuck, num_workers):
    dataset = TestViews(
        manifest(folder), clip_sampler=UniformClips(Fraction(16, 30), 2), num_frames=4, transform=TestCrops(42, 1)
    )
    undisturbed = read(dataset, Shard(16), 0, 1)
    stuck.add("b3.mp4")
    found = read(dataset, Shard(16), num_workers, 1)
    assert [failure for batch in found for failure in batch["failures"]] == [(11, "could not be read within 2 s")]
    rows = [row for batch in undisturbed for row in zip(batch["video_index"], batch["video"], strict=True)]
    others = [clip for index, clip in rows if index != 11]
    assert torch.equal(torch.cat([batch["video"] for batch in found]), torch.stack(others))


def test_a_run_goes_on_without_the_videos_at_which_the_decoder_hangs_and_names_them(folder, stuck, tmp_path, caplog):
    stuck |= {"a5.mp4", "b7.mp4"}
    for split, numbers in (("train", range(6)), ("val", range(6, 8))):
        rows = [f"{name}/{name}{i}.mp4,{name}\n" for name in ("a", "b") for i in numbers]
        (folder / f"{split}.csv").write_text("path,label\n" + "".join(rows))
    overrides = [
        *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "optim.warmup_epochs=0", "module.max_unreadable=0.5"),
        *("clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "views=2x1", "frame_order=forward"),
        *("data.num_workers=2", "data.timeout_sec=2", "data.batch_size=4", "data.eval_batch_size=2"),
        *("trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.devices=1", "logger.wandb=off"),
    ]
    assert main([*overrides, f"data.root={folder}", f"runs={tmp_path}", "run_id=a"]) == 0
    metrics = json.loads((tmp_path / "motion" / "a" / "metrics.json").read_text())
    reason = "could not be read within 2 s"
    assert metrics["videos"] == {"expected": 4, "evaluated": 3, "failed": 1}
    assert metrics["failures"] == [{"video": "b/b7.mp4", "reason": reason}]
    assert metrics["substituted"] == [{"video": "a/a5.mp4", "reason": reason}]
    assert f"unreadable training video, replaced by another one: a/a5.mp4: {reason}" in caplog.text


def test_workers_leave_the_signals_of_a_cluster_to_their_parent():
    loader = make(Numbers(20), 2)
    found = []
    for batch in loader:
        found.append(batch["numbers"].tolist())
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(batch["pid"], number)
    assert found == expected(20, epochs=1)
    assert loader.num_lost == 0


def test_an_interpreter_that_ends_with_workers_at_work_ends_them():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_loader import Numbers, make\n"
        "loader = make(Numbers(20), 2)\n"
        "batches = iter(loader)\n"
        "print(next(batches)['pid'])\n"
    )
    here = str(Path(__file__).parent)
    result = subprocess.run([sys.executable, "-c", code, here], capture_output=True, text=True, timeout=60, check=True)
    assert not living(int(result.stdout))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_loader_goes_on_where_its_state_says_and_reads_nothing_before_that(num_workers):
    loader = make(Numbers(20), num_workers)
    batches = iter(loader)
    seen = [next(batches)["numbers"].tolist() for _ in range(3)]
    state = loader.state_dict()
    assert state == {"epoch": 0, "of": 7, "videos": 20, "step_size": 3, "batches": 3}
    # Reading what was read already raises.
    other = make(Numbers(20, dict.fromkeys(range(9), RAISES)), num_workers)
    other.load_state_dict(state)
    assert seen + [batch["numbers"].tolist() for batch in other] == expected(20, epochs=1)
    other.sampler.set_epoch(1)
    with pytest.raises(ValueError, match="no item"):  # the next epoch is whole again
        next(iter(other))


def test_a_state_at_the_end_of_an_epoch_begins_the_next_one_and_one_of_other_data_is_refused():
    loader = make(Numbers(20), 0)
    assert len(list(loader)) == 7
    state = loader.state_dict()
    loader.load_state_dict(state)
    loader.sampler.set_epoch(1)
    assert numbers(loader, epochs=1) == expected(20, epochs=1)
    other = make(Numbers(21), 0, batch_size=4)
    other.load_state_dict({**state, "batches": 3})
    with pytest.raises(ValueError, match=r"3 batches into an epoch of 7, with 20 videos; here an epoch has 21"):
        next(iter(other))


@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 4)), ((1, 3), (2, 2)), ((2, 2), (1, 3)), ((1, 2), (2, 4))])
def test_an_epoch_goes_on_with_the_videos_that_are_left_for_another_number_of_processes(before, after):
    def loaders(world_size, batch_size):
        shuffles = [
            EpochShuffle(50, batch_size=batch_size, seed=0, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        return [make(Numbers(50), 0, batch_size=batch_size, sampler=shuffle) for shuffle in shuffles]

    first, second = loaders(*before), loaders(*after)
    seen = []
    for loader in first:
        batches = iter(loader)
        seen += [number for _ in range(4) for number in next(batches)["numbers"].tolist()]
    for loader in second:
        loader.load_state_dict(first[0].state_dict())
    rest = [batch["numbers"].tolist() for loader in second for batch in loader]
    assert len({len(batch) for batch in rest}) == 1
    seen += [number for batch in rest for number in batch]
    assert len(set(seen)) == len(seen) > 50 - after[0] * after[1]  # none twice, and less than a step is left out


class Recorder(LightningModule):
    """Writes down what it is trained on; saves after `save_at` batches and stops."""

    def __init__(self, path, save_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.path, self.save_at, self.seen = path, save_at, []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, batch["numbers"].tolist()))
        return (self.weight * batch["numbers"].float().mean()).sum()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if len(self.seen) == self.save_at:
            self.trainer.save_checkpoint(self.path)
            self.trainer.should_stop = True


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning", "ignore:.*treespec:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("save_at", [3, 7, 9, 14])
def test_lightning_keeps_the_place_in_its_checkpoint_and_goes_on_from_there(tmp_path, num_workers, save_at):
    def fit(save_at=None, ckpt_path=None):
        trainer = Trainer(
            max_epochs=3,
            min_epochs=0,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path,
        )
        module = Recorder(tmp_path / "a.ckpt", save_at)
        trainer.fit(module, make(Numbers(20), num_workers), ckpt_path=ckpt_path)
        return module.seen, module.weight.item()

    whole, weight = fit()
    assert len(whole) == 21
    first, _ = fit(save_at=save_at)
    assert len(first) == save_at
    second, resumed_weight = fit(ckpt_path=tmp_path / "a.ckpt")
    assert first + second == whole
    assert resumed_weight == weight
