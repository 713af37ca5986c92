"""Nothing that comes from a stranger runs code, reads other files, fills the memory, or learns a secret."""

import ast
import io
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.kinetics_replacements import extract
from mvit_train.__main__ import main
from mvit_train.checkpoint import load_weights, newest_checkpoint, read_checkpoint
from mvit_train.config import ConfigError, build, check, compose
from mvit_train.data.decode import DecodeError, open_video
from mvit_train.data.manifest import read_splits
from mvit_train.data.stream import MAX_PIXELS, VideoStream
from mvit_train.labels import Labels
from mvit_train.models.weight_files import read_weights
from mvit_train.nodes import locate
from mvit_train.predictions import load_predictions
from mvit_train.redaction import CleanFormatter, clean, find_secret
from mvit_train.robustness import load_robustness
from mvit_train.signatures import FitError

ROOT = Path(__file__).parents[1]
SECRET = "s3cr3t-0123456789-value"


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def saved(path, content):
    torch.save(content, path)
    return path


def good(**changed):
    ours = {"config": {"name": "a"}, "class_names": ["a", "b"], "unreadable": {}}
    return {"mvit_train": ours, "state_dict": {"w": torch.zeros(3)}, "global_step": 1, **changed}


@pytest.mark.parametrize("where", ["state_dict", "optimizer_states", "mvit_train", "nested"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_code_is_refused_and_the_code_never_runs(tmp_path, where, legacy):
    marker, file = tmp_path / "ran", tmp_path / "a.ckpt"
    evil = [{"a": Evil(marker)}] if where == "nested" else Evil(marker)
    torch.save(good(**{where: evil}), file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="no complete checkpoint of weights"):
        read_checkpoint(file)
    assert newest_checkpoint(tmp_path) is None
    for name in ("a.pth", "a.pyth", "a.pt", "a.safetensors"):
        shutil.copy(file, tmp_path / name)
        with pytest.raises(ValueError, match="weights: "):
            read_weights(tmp_path / name)
    assert not marker.exists()


def test_a_bare_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(ValueError, match="no complete checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("read", [read_checkpoint, read_weights, load_predictions, load_robustness])
def test_a_compressed_archive_is_refused_before_it_unfolds(tmp_path, read):
    file = saved(tmp_path / "small.pth", good())
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
        bomb.writestr("archive/data/99", bytes(50 << 20))
    assert (tmp_path / "a.pth").stat().st_size < 200_000
    with pytest.raises(ValueError, match="compressed"):
        read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.empty(10**9, 10**3, device="meta"),
        torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (10**9, 10**9)),
    ],
    ids=["expanded", "meta", "sparse"],
)
def test_a_tensor_that_is_larger_than_its_file_is_refused(tmp_path, tensor):
    with pytest.raises(ValueError, match=r"claim|not dense"):
        read_checkpoint(saved(tmp_path / "a.ckpt", good(state_dict={"w": tensor})))


@pytest.mark.parametrize(
    "changed",
    [
        {"mvit_train": 3},
        {"mvit_train": {"config": []}},
        {"mvit_train": {"config": {}, "class_names": [1, 2]}},
        {"mvit_train": {"config": {}, "class_names": "ab"}},
        {"state_dict": [1]},
        {"state_dict": {"w": 3}},
        {"state_dict": {3: torch.zeros(1)}},
        {"global_step": "x"},
    ],
)
def test_a_malformed_checkpoint_is_an_error_of_ours(tmp_path, changed):
    with pytest.raises(ValueError, match="is malformed"):
        read_checkpoint(saved(tmp_path / "a.ckpt", good(**changed)))


def test_weights_of_another_shape_are_an_error_of_ours(tmp_path):
    with pytest.raises(ValueError, match="does not fit the model"):
        load_weights(torch.nn.Linear(2, 2), {"state_dict": {"weight": torch.zeros(3, 3)}}, tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        *("mvit_train.__main__.main", "mvit_train.wandb_sync.main", "mvit_train.wandb_run.WandbRun"),
        *("mvit_train.data.manifest.read_splits", "mvit_train.data.datamodule.cache_folder", "mvit_train.serve.run"),
        *("mvit_train.module.VideoClassifier.load_from_checkpoint", "mvit_train.labels.Labels.read"),
        *("lightning.pytorch.callbacks.ModelCheckpoint.load_state_dict", "lightning.pytorch.callbacks.os.system"),
        *("mvit_train.models.torch.load", "mvit_train.models.pretrained.torch.hub.load", "builtins.eval"),
    ],
)
def test_a_configuration_names_components_and_never_what_acts(target):
    with pytest.raises(FitError):
        locate(target)
    node = {"_target_": "mvit_train.models.mvit_b", "embed_dim": {"_target_": target, "argv": []}}
    with pytest.raises(FitError):
        build(node, num_classes=2)


@pytest.mark.parametrize(
    "place",
    [
        {"model": {"_target_": "mvit_train.models.mvit_b", "embed_dim": {"_target_": "mvit_train.__main__.main"}}},
        {"data": {"transform": {"_target_": "os.system", "command": "true"}}},
        {"module": {"mean": [{"_target_": "os.getcwd"}]}},
        {"model": {"_target_": "mvit_train.models.mvit_b", "_partial_": True}},
        {"model": {"_target_": "mvit_train.models.mvit_b", "_args_": [1]}},
        {"name": "${oc.env:HF_TOKEN}"},
        {"name": "${oc.decode:${name}}"},
        {"name": "${oc.${seed}:HF_TOKEN}"},
        {"model": {"a": "${model}", "b": "${model}"}},
        {f"b{i}": {f"x{j}": f"${{b{i + 1}}}" for j in range(9)} for i in range(12)},
        {"name": {"a": ["x"] * 6000}},
        {"name": object()},
    ],
    ids=lambda place: str(place).partition(" at 0x")[0][:40],
)
def test_the_configuration_in_a_checkpoint_is_only_data(place, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    saved = {"name": "a", "seed": 0, "data": {}, "model": {}, **place}
    with pytest.raises(ConfigError) as refused:
        check(compose(["task=predict", "input=[]"], saved=saved))
    assert SECRET not in str(refused.value)


def test_a_circle_in_a_checkpoint_s_configuration_ends():
    saved: dict = {"name": "a"}
    saved["clip"] = saved
    with pytest.raises(ConfigError, match="deep"):
        compose(["task=predict"], saved=saved)


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch ran']",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "name: " + "[" * 3000,
        "- a list",
        "name: a\n" + "#" * 1_100_000,
        "name: ${oc.env:HOME}",
        "\0",
    ],
    ids=lambda text: text[:20],
)
def test_an_experiment_file_is_only_data(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    with pytest.raises(ConfigError):
        check(compose(["experiment=mine.yaml"]))
    assert not Path("ran").exists()


def manifest(folder, path, label="a"):
    folder.mkdir(exist_ok=True)
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text(f'path,label\nvideos/0.mp4,a\n"{path}",{label}\n')
    return folder


@pytest.mark.parametrize("path", ["../x.mp4", "/etc/passwd", "a/../../x.mp4", "videos/../../../etc/passwd"])
def test_a_manifest_names_no_file_outside_of_its_folder(tmp_path, path):
    root = manifest(tmp_path / "set", path)
    with pytest.raises(ValueError, match=rf"train\.csv, line 3: .* leads out of data\.root={root}.*data\.also_from="):
        read_splits(root)
    assert len(read_splits(root, [Path("/")])["train"]) == 2


def test_a_folder_whose_name_begins_alike_is_another_one(tmp_path):
    root = manifest(tmp_path / "set", f"{tmp_path}/set-of-others/x.mp4")
    with pytest.raises(ValueError, match="leads out"):
        read_splits(root)


@pytest.mark.parametrize("path", ["a\0.mp4", "a\x1b[2J.mp4", "a\nb.mp4"])
def test_a_path_with_control_characters_is_refused(tmp_path, path):
    with pytest.raises(ValueError, match="control character"):
        read_splits(manifest(tmp_path / "set", path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"path,label\n" + b"x" * 200_000 + b",a\n", b"a 99999999999\n"])
def test_a_manifest_of_nonsense_is_an_error_of_ours(tmp_path, content):
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"no manifest in UTF-8|class number is at most"):
        read_splits(tmp_path)


def test_a_class_list_of_nonsense_is_an_error_of_ours(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"run\n\x8e\n")
    with pytest.raises(ValueError, match="no class list in UTF-8"):
        Labels.read(tmp_path / "classes.txt")


def test_an_archive_of_replacements_writes_videos_below_its_folder_only(tmp_path):
    """data_prep's: paths that lead elsewhere, links and devices."""
    members = {"../../up.mp4": tarfile.REGTYPE, "/abs.mp4": tarfile.REGTYPE, "..": tarfile.REGTYPE}
    members |= {"soft.mp4": tarfile.SYMTYPE, "hard.mp4": tarfile.LNKTYPE, "pipe.mp4": tarfile.FIFOTYPE}
    members |= {"device.mp4": tarfile.CHRTYPE, "a.sh": tarfile.REGTYPE, ".hidden.mp4": tarfile.REGTYPE}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in members.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 3 * (kind == tarfile.REGTYPE)
            archive.addfile(member, io.BytesIO(b"abc"))
    out = tmp_path / "deep" / "er" / "out"
    extract(tmp_path / "a.tar", out)
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir())
    assert written == ["a.tar", "deep/er/out/abs.mp4", "deep/er/out/up.mp4"]


def test_a_link_out_of_the_manifest_s_folder_is_not_followed(tmp_path, video):
    from mvit_train.data.dataset import TestViews
    from mvit_train.data.transforms import TestCrops
    from mvit_train.data.views import clip_sampler

    root = manifest(tmp_path / "set", "videos/1.mp4")
    (root / "videos").mkdir()
    shutil.copy(video("a.mp4", 20), tmp_path / "private.mp4")
    (root / "videos/0.mp4").symlink_to(tmp_path / "private.mp4")
    shutil.copy(video("a.mp4", 20), root / "videos/1.mp4")
    sampler = clip_sampler("window", num_frames=2, sampling_rate=2, num_clips=1, target_fps=30)

    def failures(also_from):
        split = read_splits(root, also_from)["train"]
        views = TestViews(split, clip_sampler=sampler, num_frames=2, transform=TestCrops(32, 1, "bilinear"))
        return [views[index]["failures"] for index in range(2)]

    assert failures([]) == [[(0, "a link that leads out of data.root and data.also_from")], []]
    assert failures([tmp_path]) == [[], []]


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile other.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nother.mp4\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ts", ".jpg"])
def test_a_playlist_is_not_followed_whatever_its_suffix(tmp_path, video, kind, suffix):
    shutil.copy(video("a.mp4", 20), tmp_path / "other.mp4")
    (tmp_path / f"list{suffix}").write_text(PLAYLISTS[kind])
    with pytest.raises(DecodeError):
        open_video(tmp_path / f"list{suffix}", num_frames=2)


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9/a.mp4", "concat:other.mp4|other.mp4", "subfile,,start,0,end,9,,:a", "-i"]
)
def test_names_are_files_and_never_addresses(tmp_path, monkeypatch, video, name):
    monkeypatch.chdir(tmp_path)
    shutil.copy(video("a.mp4", 20), "other.mp4")
    with pytest.raises(DecodeError, match="no such file"):
        VideoStream(name)


def test_a_picture_is_no_program(tmp_path):
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(DecodeError, match="not an image"):
        open_video(tmp_path / "a.jpg", num_frames=1)
    Image.new("RGB", (9, 9)).save(tmp_path / "b.jpg", "PNG")  # ImageNet has such
    open_video(tmp_path / "b.jpg", num_frames=1)


def test_a_frame_of_gigabytes_is_refused(tmp_path, video, monkeypatch):
    assert 7680 * 4320 < MAX_PIXELS < 2 * 7680 * 4320
    monkeypatch.setattr("mvit_train.data.stream.MAX_PIXELS", 64 * 48 - 1)
    with open_video(video("a.mp4", 20), num_frames=2) as opened, pytest.raises(DecodeError):
        opened.get_clip(0, 1)


def test_frames_that_take_too_much_together_are_refused(video, monkeypatch):
    monkeypatch.setattr("mvit_train.data.decode.MAX_READ_BYTES", 3 * 64 * 48 * 3)
    with (
        open_video(video("a.mp4", 20), num_frames=8) as opened,
        pytest.raises(DecodeError, match="64 x 48 pixels take"),
    ):
        opened.get_clip(0, opened.duration)


@pytest.mark.parametrize("name", ["a\x1b]0;x\x07", "a\nb", "a\0", "\u202eabc", "\ud800"])
def test_class_names_are_printable(name):
    with pytest.raises(ValueError, match="printable"):
        Labels(("a", name))
    assert len(Labels(("<b>x</b>", "=1+1", "|a|", "مَشی‌کردن", "走る"))) == 5


def test_markup_in_a_class_name_stays_text_in_the_page():
    from mvit_train.report import page

    source = Path(page.__file__).read_text()
    assert 'json.dumps(data).replace("<", "\\\\u003c")' in source
    scripts = [(Path(page.__file__).parent / name).read_text() for name in page.SCRIPTS]
    assert not any("innerHTML" in script or "insertAdjacentHTML" in script for script in scripts)


FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads"),
    *("yaml.load", "yaml.unsafe_load", "shelve.open", "torch.jit.load", "torch.hub.load", "tempfile.mktemp"),
    *("tar.extractall", "archive.extractall", "joblib.load", "dill.load", "ctypes.pythonapi"),
}


def test_the_package_never_calls_what_runs_code():
    """By name, over the syntax trees: also torch.load without weights_only, numpy.load with pickles, and a shell."""
    wrong, num_calls = [], 0
    for file in [*(ROOT / "mvit_train").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            num_calls += 1
            name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            is_bad = name in FORBIDDEN or keywords.get("shell", "False") != "False"
            is_bad |= name == "torch.load" and keywords.get("weights_only") != "True"
            is_bad |= name == "np.load" and keywords.get("allow_pickle") != "False"
            if is_bad:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert num_calls > 3000
    assert wrong == []


def test_secrets_are_masked_where_text_is_printed(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("SHORT_KEY", "abc")
    assert clean(f"x {SECRET} abc") == "x *** abc"
    assert clean("token=abcdef --api-key=xyz a.password = 'p w': no") == "token=*** --api-key=*** a.password = ***: no"
    assert clean("https://me:pw@host/x and https:/me:pw@host") == "https://me:***@host/x and https:/me:***@host"
    assert clean("a\x1b[31mb\x07\nc\td") == "a\\x1b[31mb\\x07\nc\td"
    assert find_secret(f"a{SECRET}b") == "the value of $HF_TOKEN"
    assert find_secret("/mnt/https:/me:pw@host") == "a password in a URL"
    assert find_secret("data/a:b/c@d") is None
    record = logging.makeLogRecord({"msg": f"x {SECRET}"})
    assert CleanFormatter().format(record) == "x ***"


@pytest.mark.parametrize(
    "argument",
    [f"logger.notes={SECRET}", f"+token={SECRET}", f"--token={SECRET}", f"data.root=/mnt/https://me:{SECRET}@h"],
)
def test_a_secret_in_a_command_line_is_neither_used_nor_repeated(tmp_path, monkeypatch, capsys, argument):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert main(["data=folder", "data.root=.", argument]) == 2
    printed = "".join(capsys.readouterr())
    assert SECRET not in printed
    assert list(tmp_path.iterdir()) == []


PLANTED = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_plantedplantedplanted1",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIplanted2EXAMPLEKEY",
    "HTTPS_PROXY": "http://me:planted3password@127.0.0.1:9",
    "NETRC_PASSWORD": "planted4netrcpasswordplanted4netrcpassword",
    "GIT_PASSWORD": "planted5gitpassword",
}


def everything(folder):
    """(name, bytes) of every file, and of every member of those that are archives."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            yield str(file), content
            if zipfile.is_zipfile(io.BytesIO(content)):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    yield from ((f"{file}:{name}", archive.read(name)) for name in archive.namelist())


def test_no_byte_that_a_run_writes_holds_a_secret(tmp_path, folder):
    home, place = tmp_path / "home", tmp_path / "work"
    for made in (home, place):
        made.mkdir()
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {PLANTED['NETRC_PASSWORD']}\n")
    (home / ".netrc").chmod(0o600)
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://me:{PLANTED['GIT_PASSWORD']}@example.com/a.git"],
    ):
        subprocess.run(["git", *words], cwd=place, check=True)
    names = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY")
    environment = {**os.environ, **{name: PLANTED[name] for name in names}, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith(("MVIT_TRAIN", "SLURM"))}
    result = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "mvit_train",
                f"data.root={folder}",
                "logger.wandb=offline",
                "run_id=a",
                "views=1x1",
            ),
            *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "clip.num_frames=2", "clip.crop_size=32"),
            *("trainer.max_steps=2", "trainer.accelerator=cpu", "trainer.devices=1", "data.num_workers=1"),
        ],
        cwd=place,
        env=environment,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    written = [
        (name, content)
        for name, content in everything(tmp_path)
        if not name.startswith((f"{home}/.netrc", f"{place}/.git/"))
    ]
    kinds = {Path(name).suffix for name, _ in written}
    assert {".wandb", ".ckpt", ".html", ".json", ".yaml", ".csv", ".npz"} <= kinds
    written += [("stdout", result.stdout), ("stderr", result.stderr)]
    found = [
        f"{secret} in {name}"
        for name, content in written
        for secret, value in PLANTED.items()
        if value.encode() in content
    ]
    assert found == []


def test_the_names_in_an_npz_file_are_no_objects(tmp_path):
    np.savez(tmp_path / "p.npz", video_ids=np.array([Evil(tmp_path / "ran")], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        load_predictions(tmp_path / "p.npz")
    assert not (tmp_path / "ran").exists()


def test_a_header_of_weights_that_nests_without_end_is_an_error_of_ours(tmp_path):
    header = json.dumps({"__metadata__": {"mvit_train": "[" * 100_000}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="no complete safetensors"):
        read_weights(tmp_path / "a.safetensors")


def test_a_few_hundred_mutated_files_are_read_or_refused(tmp_path):
    """`make fuzz` has many more."""
    result = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests/fuzz"),
            "--videos",
            "400",
            "--texts",
            "80",
            "--keep",
            str(tmp_path / "kept"),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "numbers set" in result.stdout
