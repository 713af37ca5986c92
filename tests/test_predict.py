"""Files of one's own to classes: which files, the evaluation's scores, timelines, overlays, failures told."""

import csv
import io
import json
import math
import os
import re
import shutil
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mvit_train.__main__ import main
from mvit_train.config import ConfigError, build, check, compose, to_dict
from mvit_train.data.clip import read_views
from mvit_train.data.decode import DecodedVideo
from mvit_train.data.stream import DecodeError
from mvit_train.data.transforms import TestCrops
from mvit_train.export import export
from mvit_train.labels import Labels
from mvit_train.mp4 import write_mp4
from mvit_train.predict import Prediction, Predictor, Segment, overlay_paths
from mvit_train.prediction import reading
from mvit_train.prediction.overlay import MIN_SIDE, drawer, enlarged
from mvit_train.prediction.reading import sliding_windows, upright_frames, watched, window_starts
from mvit_train.prediction.sources import find_inputs
from mvit_train.prediction.timeline import segments

CLASSES = ("alpha", "beta", "gamma")
SMALL = ["experiment=motion", "trainer.accelerator=cpu"]


# Which files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.mp4", "a.MP4", "sub/c.avi", "sub/deep/d.png", "sub/notes.md", ".hidden/e.mp4", "e[1].mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub" / "list.txt").write_text("c.avi\n\nb.mp4\nmissing.mp4\n")
    (tmp_path / "m.csv").write_text("label,path\n0,b.mp4\n1,sub/c.avi\n")
    (tmp_path / "n.csv").write_text("b.mp4,0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("b.mp4", ["b.mp4"]),
        ("e[1].mp4", ["e[1].mp4"]),
        ("nowhere.mp4", ["nowhere.mp4"]),
        (".", ["a.MP4", "b.mp4", "e[1].mp4", "sub/c.avi", "sub/deep/d.png"]),
        ("*.mp4", ["b.mp4", "e[1].mp4"]),
        ("**/*", ["a.MP4", "b.mp4", "e[1].mp4", "sub/c.avi", "sub/deep/d.png"]),
        (["b.mp4", "sub", "b.mp4"], ["b.mp4", "sub/c.avi", "sub/deep/d.png"]),
        ("sub/list.txt", ["sub/c.avi", "b.mp4", "sub/missing.mp4"]),
        ("m.csv", ["b.mp4", "sub/c.avi"]),
        ("n.csv", ["b.mp4"]),
    ],
)
def test_a_file_folder_pattern_or_list_stands_for_files(folder, asked, found):
    paths = find_inputs(Path(asked) if isinstance(asked, str) else [Path(entry) for entry in asked])
    assert [str(path) for path in paths] == found


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("clips/*.mp4", r"no video or image matches clips/\*\.mp4$"),
        ("sub/*.md", r"no video or image matches sub/\*\.md; 1 matches are something else"),
        ("empty", "empty holds no video or image among its 0 files"),
        ("empty.txt", "empty.txt lists no file"),
        ([], "the list is empty"),
    ],
)
def test_what_stands_for_no_file_is_refused(folder, asked, message):
    (folder / "empty").mkdir()
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=message):
        find_inputs([Path(entry) for entry in asked] if isinstance(asked, list) else Path(asked))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["input=null"], "task=predict needs input="),
        (["top_k=0"], "top_k = 0: must be at least 1"),
        (["threshold=1.5"], "threshold = 1.5: is a score"),
        (["hop_sec=1"], r"hop_sec = 1(\.0)?: is for timeline=true"),
        (["timeline=true", "hop_sec=0"], "must be more than 0 seconds"),
        (["format=onnx"], "task=predict writes table, json, csv"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(random_run, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(compose([*SMALL, "task=predict", "input=a.mp4", f"ckpt={random_run}", *overrides]))


# A model and videos. Its weights are random, so that its scores are of no use but differ between any two videos.


def small_module(model, *, multi_label=False, lines=()):
    cfg = compose([*SMALL, *lines])
    labels = Labels(CLASSES)
    return build(cfg.module, model=model, labels=labels, multi_label=multi_label, config=to_dict(cfg, resolve=False))


@pytest.fixture(scope="session")
def random_run(tmp_path_factory):
    """A run folder whose checkpoint has random weights, a head made larger so that its scores spread."""
    folder = tmp_path_factory.mktemp("random") / "run"
    write_checkpoint(folder / "checkpoints" / "best.ckpt")
    return folder


def write_checkpoint(path, *, multi_label=False):
    torch.manual_seed(3)
    model = build(compose(SMALL).model, num_classes=len(CLASSES))
    with torch.no_grad():
        model.head.projection.weight.mul_(40)
    module = small_module(model, multi_label=multi_label)
    labels = Labels(CLASSES)
    ours = {"class_names": list(CLASSES), "label_fingerprint": labels.fingerprint, "multi_label": multi_label}
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"config": module.config, "unreadable": {}, "data_fingerprint": "", **ours}
    torch.save({"state_dict": module.state_dict(), "epoch": 0, "global_step": 1, "mvit_train": entry}, path)
    return model


@pytest.fixture(scope="session")
def videos(tmp_path_factory, video):
    """Class folders of barcode videos in several containers, and one that is no video."""
    root = tmp_path_factory.mktemp("data")
    drawn = [
        video("a.mp4", 60, fps=25),
        video("b.avi", 50, codec="mpeg4", first_index=200),
        video("c.mkv", 90, first_index=700),
        video("d.mp4", 20, first_index=1500, rotation=90),
    ]
    for split, places in (("train", drawn[:3]), ("val", drawn)):
        for name, path in zip((*CLASSES, "alpha"), places, strict=False):
            target = root / split / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (root / "val" / "beta" / "broken.mp4").write_bytes(b"not a video")
    return root


def command(capsys, *arguments):
    """Exit status, standard output and standard error of a command line."""
    status = main([*SMALL[1:], "data.num_workers=0", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.usefixtures("own_environment")
@pytest.mark.parametrize("views", ["1x1", "3x3"])
def test_scores_are_those_of_the_evaluation(random_run, videos, capsys, views):
    assert command(capsys, "task=evaluate", f"ckpt={random_run}", f"data.root={videos}", f"views={views}")[0] == 0
    (file,) = random_run.glob(f"evaluate-{views}-*/predictions.npz")
    saved = np.load(file)
    orders = saved["frame_orders"].tolist()
    predictor = Predictor.load(random_run, overrides=["trainer.accelerator=cpu", "data.num_workers=0"])
    assert saved["evaluated"].sum() == 4
    for row, video_id in enumerate(saved["video_ids"].tolist()):
        path = videos / video_id
        if not saved["evaluated"][row]:
            with pytest.raises(DecodeError, match="not a video"):
                predictor(path, views)
            continue
        found = predictor(path, views)
        np.testing.assert_allclose(found.probabilities, saved["scores"][orders.index("forward"), row], atol=1e-6)
        assert found.view_scores.shape == (eval(views.replace("x", "*")), 3)
        assert found.agreement == (found.view_scores.argmax(1) == found.probabilities.argmax()).float().mean()
        scores = predictor.scores(path, views, ("forward", "shuffle", "reverse", "freeze"), video_id=video_id)
        for order, table in scores.items():
            np.testing.assert_allclose(table.mean(0), saved["scores"][orders.index(order), row], atol=1e-6)
    assert np.ptp(saved["scores"][0][saved["evaluated"]], axis=0).max() > 0.02  # the videos are told apart


def test_the_embedding_is_what_the_classification_layer_sees(random_run, videos, tmp_path):
    model = write_checkpoint(tmp_path / "w.ckpt").eval()
    path = videos / "val" / "alpha" / "a.mp4"
    found = Predictor.load(random_run, overrides=["data.num_workers=0"])(path, "2x3")
    clips = read_views(path, views="2x3", num_frames=8, sampling_rate=4, crop_size=32)
    with torch.inference_mode():
        logits = model(clips)
        model.head = nn.Identity()
        features = model(clips)
    torch.testing.assert_close(found.embedding, features.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.view_scores, logits.softmax(1), atol=1e-5, rtol=1e-4)


def test_reading_processes_give_the_same(random_run, videos):
    paths = sorted(videos.glob("val/*/*.*"))
    alone, several = (
        list(Predictor.load(random_run, overrides=[f"data.num_workers={n}"]).stream(paths, "2x1")) for n in (0, 2)
    )
    assert len(paths) == len(alone) == len(several) == 5
    for a, b in zip(alone, several, strict=True):
        if isinstance(a, DecodeError):
            assert str(a) == str(b)
        else:
            assert isinstance(b, Prediction)
            assert torch.equal(a.probabilities, b.probabilities)


def test_half_precision_is_the_evaluation_s(random_run, videos):
    path = videos / "val" / "alpha" / "a.mp4"
    full, half = (
        Predictor.load(random_run, overrides=[f"trainer.precision={name}", "data.num_workers=0"])(path)
        for name in ("32-true", "bf16-mixed")
    )
    difference = (full.probabilities - half.probabilities).abs().max()
    assert 0 < difference < 0.1


# Output


@pytest.mark.usefixtures("own_environment")
def test_json_lines_name_what_could_not_be_read(random_run, videos, capsys, tmp_path):
    Image.new("RGB", (40, 50), "red").save(tmp_path / "still.png")
    files = [videos / "val/alpha/a.mp4", videos / "val/beta/broken.mp4", tmp_path / "still.png", "nowhere.mp4"]
    status, out, err = command(
        capsys, "task=predict", f"ckpt={random_run}", f"input=[{','.join(map(str, files))}]", "format=json", "top_k=2"
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [line["file"] for line in lines] == [str(file) for file in files]
    assert [line.get("error") for line in lines] == [
        None,
        "not a video, or its header is damaged or missing",
        None,
        "no such file",
    ]
    for line in (lines[0], lines[2]):
        assert [len(line["classes"]), line["views"]] == [2, 5]
        assert line["classes"][0]["probability"] >= line["classes"][1]["probability"]
    assert "shown 8 times" in lines[2]["notice"]
    assert "2 of 4 files failed" in err
    assert f"{files[1]}: not a video" in err


@pytest.mark.usefixtures("own_environment")
def test_table_and_csv_agree_and_the_file_gets_what_the_screen_would(random_run, videos, capsys, tmp_path):
    asked = ("task=predict", f"ckpt={random_run}", f"input={videos}/val/alpha", "views=2x1")
    status, table, _ = command(capsys, *asked)
    assert status == 0
    status, out, _ = command(capsys, *asked, "format=csv", f"output={tmp_path}/deep/p.csv")
    assert (status, out) == (0, "")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "deep" / "p.csv").read_text())))
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(2, abs=1e-4)
    lines = table.splitlines()
    assert lines[0].split() == ["file", "rank", "class", "probability", "views", "that", "agree"]
    for line, row in zip(lines[1:], rows, strict=True):
        assert f"{row['rank']}  {row['class']}" in line
        assert f"{100 * float(row['probability']):.1f} %" in line
        if row["rank"] == "1":
            assert f"{round(2 * float(row['agreement']))} of 2" in line


def test_each_result_is_there_before_the_next_file_is_read(random_run, videos, monkeypatch, tmp_path):
    seen = []
    output = tmp_path / "p.json"
    read = reading.TestViews.read

    def watching(self, index, rng):
        seen.append(len(output.read_text().splitlines()))
        return read(self, index, rng)

    monkeypatch.setattr(reading.TestViews, "read", watching)
    asked = ("task=predict", f"ckpt={random_run}", f"input={videos}/val", "format=json", f"output={output}")
    assert main([SMALL[1], "data.num_workers=0", *asked]) == 1
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("own_environment")
def test_several_labels_are_those_above_the_threshold(videos, capsys, tmp_path):
    model = write_checkpoint(tmp_path / "m.ckpt", multi_label=True).eval()
    path = videos / "val" / "alpha" / "a.mp4"
    with torch.inference_mode():
        clips = read_views(path, views="5x1", num_frames=8, sampling_rate=4, crop_size=32)
        scores = dict(zip(CLASSES, model(clips).sigmoid().mean(0).tolist(), strict=True))
    between = sorted(scores.values())
    for threshold, count in ((0.0, 3), ((between[0] + between[1]) / 2, 2), (1.0, 0)):
        status, out, _ = command(
            capsys, "task=predict", f"ckpt={tmp_path}/m.ckpt", f"input={path}", "format=json", f"threshold={threshold}"
        )
        found = {row["class"]: row["probability"] for row in json.loads(out)["classes"]}
        assert (status, len(found)) == (0, count)
        assert found == pytest.approx({name: scores[name] for name in found}, abs=1e-5)


@pytest.mark.usefixtures("own_environment")
@pytest.mark.parametrize("names", [CLASSES, None])
def test_a_file_of_weights_does_too_and_unknown_classes_are_numbered(random_run, videos, capsys, tmp_path, names):
    model = write_checkpoint(tmp_path / "w.ckpt")
    export(model, tmp_path / "w.safetensors", "safetensors", class_names=names)
    path = videos / "val" / "alpha" / "a.mp4"
    status, out, _ = command(
        capsys, SMALL[0], "task=predict", f"weights={tmp_path}/w.safetensors", f"input={path}", "format=json"
    )
    wanted = Predictor.load(random_run, overrides=["data.num_workers=0"])(path)
    shown = {row["class"]: row["probability"] for row in json.loads(out)["classes"]}
    assert status == 0
    expected = dict(zip(names or "012", wanted.probabilities.tolist(), strict=True))
    assert shown == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("own_environment")
def test_embeddings_are_saved_for_what_could_be_read(random_run, videos, capsys, tmp_path):
    status, _, _ = command(
        capsys, "task=predict", f"ckpt={random_run}", f"input={videos}/val/beta", f"embeddings={tmp_path}/e.npz"
    )
    saved = np.load(tmp_path / "e.npz")
    path = videos / "val" / "beta" / "b.avi"
    assert (status, saved["ids"].tolist()) == (1, [str(path)])
    wanted = Predictor.load(random_run, overrides=["data.num_workers=0"])(path).embedding
    np.testing.assert_allclose(saved["embeddings"], wanted[None], atol=1e-6)


# Timelines


class Brightness(nn.Module):
    """Class 0, 1 or 2 for dark, grey or bright clips, whose pixels are normalised to -2 .. 2.4."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-4.0], [0.0], [4.0]]))
            self.head.bias.copy_(torch.tensor([0.0, 4.0, 0.0]))

    def forward(self, video):
        return self.head(video.mean((1, 2, 3, 4))[:, None])


@pytest.fixture
def brightness():
    """A predictor with a known answer: clips of 8 frames x 4 at 30 fps, 1.07 s."""
    cfg = compose([*SMALL, "data.root=.", "data.num_workers=1", "data.eval_batch_size=7"])
    return Predictor(
        small_module(Brightness()),
        build(cfg.data),
        device=torch.device("cpu"),
        precision=torch.inference_mode,
        source=Path("stub"),
    )


def shades(path, parts, *, fps=10):
    """A video of plain frames, (seconds, grey level) after each other."""
    levels = [level for seconds, level in parts for _ in range(round(seconds * fps))]
    write_mp4(path, ((i / fps, np.full((32, 32, 3), level, np.uint8)) for i, level in enumerate(levels)))
    return path


def test_the_parts_of_a_video_of_minutes_are_found(brightness, tmp_path):
    parts = [(61, 20), (2, 120), (47, 240), (33, 120), (40, 20)]  # two windows disagree only where they must
    found = brightness.timeline(shades(tmp_path / "long.mp4", parts))
    assert [part.class_index for part in found.segments] == [0, 1, 2, 1, 0]
    edges = np.cumsum([0, *(seconds for seconds, _ in parts)])
    hop = 8 * 4 / 30 / 2
    assert [found.segments[0].start_sec, found.segments[-1].end_sec] == pytest.approx([0, 183], abs=0.1)
    for before, after, edge in zip(found.segments, found.segments[1:], edges[1:], strict=False):
        assert before.end_sec == after.start_sec == pytest.approx(edge, abs=hop / 2 + 0.1)
    spare = found.segments[-1].end_sec - 2 * hop
    assert len(found.view_scores) == math.ceil(spare / hop - 1e-6) + 1
    assert min(part.probability for part in found.segments) > 0.8
    share = (found.view_scores.argmax(1) == found.probabilities.argmax()).double().mean()
    assert found.agreement == pytest.approx(share.item())


def test_windows_are_read_one_by_one_and_no_frame_twice(brightness, tmp_path, monkeypatch):
    path = shades(tmp_path / "a.mp4", [(30, 20)])
    decoded = []
    original = reading._frames

    def counted(stream):
        for tick, frame in original(stream):
            decoded.append(tick)
            yield tick, frame

    monkeypatch.setattr(reading, "_frames", counted)
    for window in sliding_windows(path, brightness.data, 1, None):
        assert len(decoded) <= 10 * window.end_sec + 2  # of 10 frames a second
    assert len(decoded) == len(set(decoded)) >= 299


@pytest.mark.parametrize(
    "drawing",
    [
        dict(name="a.mp4", num_frames=100),
        dict(name="a.avi", num_frames=80, codec="mpeg4", fps=25),
        dict(name="a.mkv", num_frames=75, fps=24),
        dict(name="turned.mp4", num_frames=60, rotation=90),
        dict(name="short.mp4", num_frames=9),
    ],
    ids=lambda drawing: drawing["name"],
)
@pytest.mark.parametrize(("crops", "hop_sec"), [(1, None), (3, 0.4)])
def test_a_window_is_read_as_a_clip_of_an_evaluation_is(brightness, video, drawing, crops, hop_sec):
    path = video(**drawing)
    found = list(sliding_windows(path, brightness.data, crops, hop_sec))
    with DecodedVideo(path, num_frames=8) as reader:
        duration = reader.duration
        for window in found:
            clip = reader.get_clips([(window.start_sec, window.start_sec + 32 / 30)])[0]
            wanted = TestCrops(32, crops)({"video": clip})["video"]
            assert np.array_equal(window.views, wanted)
    starts = [window.start_sec for window in found]
    assert starts == sorted(set(starts))
    assert found[-1].end_sec == pytest.approx(float(duration), abs=1e-6)
    assert np.diff(starts).max(initial=0) <= (hop_sec or 16 / 30) + 1e-9


def test_starts_of_windows():
    times = [Fraction(10), Fraction(4), Fraction(5, 2)]
    assert [float(start) for start in window_starts(*times)] == [0, 2.5, 5, 6]
    assert window_starts(Fraction(8), Fraction(4), Fraction(2)) == [0, 2, 4]
    assert window_starts(Fraction(3), Fraction(3), Fraction(3, 2)) == [0]
    assert window_starts(Fraction(0), Fraction(0), Fraction(0)) == [0]


def test_equal_neighbours_become_one_segment():
    scores = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    assert segments([(0, 2), (1, 3), (2, 4)], scores, ("a", "b")) == (
        Segment(0, 2.5, 0, "a", pytest.approx(0.8)),
        Segment(2.5, 4, 1, "b", pytest.approx(0.8)),
    )


def test_a_timeline_of_a_damaged_video_ends_with_what_could_be_read(brightness, video, tmp_path):
    whole = bytearray(video("long.mp4", 300).read_bytes())
    (tmp_path / "cut.mp4").write_bytes(whole[:300])
    with av.open(io.BytesIO(bytes(whole))) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for place, size in places[120:200]:
        whole[place : place + size] = bytes(size)
    (tmp_path / "hole.mp4").write_bytes(whole)
    found = brightness.timeline(tmp_path / "hole.mp4")
    assert 3 < found.segments[-1].end_sec < 4.2
    assert re.match(r"read up to [34]\.\d s: no frame decodes near \d\.\d s", found.damage)
    with pytest.raises(DecodeError):
        brightness.timeline(tmp_path / "cut.mp4")


@pytest.mark.usefixtures("own_environment")
def test_timelines_in_every_format(random_run, video, capsys):
    path = video("b.mp4", 150, first_index=100)
    asked = ("task=predict", f"ckpt={random_run}", f"input={path}", "timeline=true", "hop_sec=0.5")
    status, out, _ = command(capsys, *asked, "format=json")
    (line,) = (json.loads(line) for line in out.splitlines())
    assert (status, line["views"]) == (0, 9)  # at 0, 0.5, ... 3.5, and the last at 3.93 s
    parts = line["segments"]
    assert [parts[0]["start_sec"], parts[-1]["end_sec"]] == [0, 5]
    assert all(a["end_sec"] == b["start_sec"] and a["class"] != b["class"] for a, b in pairwise(parts))
    rows = list(csv.DictReader(io.StringIO(command(capsys, *asked, "format=csv")[1])))
    assert [(row["class"], float(row["start_sec"])) for row in rows] == [(p["class"], p["start_sec"]) for p in parts]
    table = command(capsys, *asked)[1].splitlines()
    bars = [row for row in table if row.endswith("|")]
    assert "9" in table[1].split()[-1]
    assert len(bars) == len(parts)
    for bar, part in zip(bars, parts, strict=True):
        drawn = bar.split("|")[1]
        assert drawn.index("#") == pytest.approx(40 * part["start_sec"] / 5, abs=1)
        assert drawn.count("#") == pytest.approx(40 * (part["end_sec"] - part["start_sec"]) / 5, abs=1.1)


def test_a_still_image_has_one_window(brightness, tmp_path):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "a.png")
    found = brightness.timeline(tmp_path / "a.png")
    assert [(part.class_index, part.start_sec, part.end_sec) for part in found.segments] == [(2, 0, 2)]
    assert "sees no motion" in found.notice


# Processes that read


def numbers(path, then):
    yield from (1, 2)
    then(path)


def hang(path):
    time.sleep(60)


def die(path):
    os._exit(3)


def refuse(path):
    raise DecodeError(str(path), "no frame")


@pytest.mark.parametrize(
    ("then", "message"),
    [(hang, r"could not be read within 0\.5 s"), (die, r"the process that read it died \(3\)"), (refuse, "no frame")],
)
def test_a_reader_that_hangs_dies_or_gives_up_is_told(tmp_path, then, message):
    seen = []
    began = time.monotonic()
    with pytest.raises(DecodeError, match=message):
        seen.extend(watched(numbers, tmp_path, then, timeout_sec=0.5))
    assert time.monotonic() - began < 20
    assert list(watched(numbers, tmp_path, str, timeout_sec=5)) == [1, 2]


# Overlays


@pytest.mark.usefixtures("own_environment")
@pytest.mark.parametrize("timeline", ["true", "false"])
def test_an_overlay_is_the_video_with_the_answer_in_it(random_run, video, capsys, tmp_path, timeline):
    path = video("b.avi", 50, codec="mpeg4", fps=20, first_index=200)
    target = tmp_path / "deep" / "o.mp4"
    status, _, _ = command(
        capsys, "task=predict", f"ckpt={random_run}", f"input={path}", f"overlay={target}", f"timeline={timeline}"
    )
    assert status == 0
    with av.open(str(target)) as container:
        drawn = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    plain = [(time_sec, enlarged(image)) for time_sec, image in upright_frames(path)]
    assert [time_sec for time_sec, _ in drawn] == pytest.approx([i / 20 for i in range(50)], abs=1e-3)
    height = plain[0][1].shape[0]
    assert height >= MIN_SIDE
    for (_, image), (_, wanted) in zip(drawn, plain, strict=True):
        changed = np.abs(image.astype(int) - wanted).mean(axis=2) > 40
        assert changed[: height // 4, : wanted.shape[1] // 2].mean() > 0.05  # the panel
        assert changed[height // 2 : height * 9 // 10].mean() < 0.05  # the picture
        assert (changed[-14:].mean() > 0.3) == (timeline == "true")  # the bar


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("size", [(320, 320), (1080, 1920), (320, 4000)])
def test_text_is_readable_on_black_and_on_white_and_grows_with_the_frame(level, size):
    frame = np.full((*size, 3), level, np.uint8)
    image = drawer(size, (), [("a class of a long name", 0.02), ("b", 0.01)])(0.0, frame)
    line = min(size) // 20
    top = image[line // 2 : line // 2 + line * 3 // 2, line // 2 : line * 6].astype(int).mean(axis=2)
    assert top.max() >= 250
    assert np.median(top) < 120  # white text on a ground that is dark, whatever the frame is
    rows = np.flatnonzero((top >= 250).any(axis=1))
    assert 0.5 * line < np.ptp(rows) < 1.5 * line
    assert np.array_equal(frame[-1], image[-1])


def test_long_names_and_many_rows_stay_in_the_frame():
    rows = [("an action with a name that never ends and goes on " * 3, 0.5)] * 100
    black = np.zeros((320, 320, 3), np.uint8)
    image = drawer((320, 320), (), rows)(0.0, black)
    assert image[:, -8:].max() == 0
    assert image[-90:].max() == 0
    assert drawer((320, 320), (), [])(0.0, black).max() >= 250  # it says that no class reaches the threshold


def test_the_bar_s_cursor_moves_with_the_time():
    parts = (Segment(0, 6, 0, "a", 0.9), Segment(6, 10, 1, "b", 0.8))
    draw = drawer((320, 400), parts, ())
    frame = np.full((320, 400, 3), 128, np.uint8)
    for time_sec in (1.0, 5.0, 9.0):
        bar = draw(time_sec, frame)[-6].min(axis=1)
        assert np.flatnonzero(bar > 240).mean() == pytest.approx(40 * time_sec, abs=2)
    assert not np.array_equal(draw(5.0, frame)[:40, :200], draw(7.0, frame)[:40, :200])  # another segment's name


def test_overlays_of_several_files_go_to_a_folder(tmp_path):
    paths = [tmp_path / name for name in ("a.mp4", "sub/a.mp4", "a.avi")]
    targets = overlay_paths(tmp_path / "o", paths, "x")
    names = [str(target.relative_to(tmp_path / "o")) for target in targets.values()]
    assert names == ["a.mp4", "sub/a.mp4", "a.avi.mp4"]
    assert overlay_paths(tmp_path / "o.mp4", paths[:1], "x") == {paths[0]: tmp_path / "o.mp4"}
    with pytest.raises(ValueError, match="is one file, but input=x are 3"):
        overlay_paths(tmp_path / "o.mp4", paths, "x")
    with pytest.raises(ValueError, match=r"a\.mp4 is an input"):
        overlay_paths(tmp_path, paths, "x")


def test_real_videos_have_timelines_and_upright_frames(brightness, shared_videos):
    failed = {}
    files = sorted(path for path in shared_videos.iterdir() if path.suffix in (".mp4", ".mov", ".webm", ".mkv"))
    assert len(files) >= 20
    for path in files:
        try:
            found = brightness.timeline(path)
        except DecodeError as error:
            failed[path.name] = error.reason
        else:
            assert found.segments[0].start_sec == 0
            assert torch.isfinite(found.probabilities).all()
    assert set(failed) == {"mp4parse_opus_audioinit.mp4", "mp4parse_short-cenc.mp4"}
    turned = next(upright_frames(shared_videos / "decord_video_90.mov"))[1]
    with DecodedVideo(shared_videos / "decord_video_90.mov", num_frames=1) as reader:
        assert np.array_equal(turned, reader.get_clips([(0, 0.01)])[0][:, 0].permute(1, 2, 0))
