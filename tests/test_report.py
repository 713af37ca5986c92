import base64
import json
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mvit_train.papers.header import Header
from mvit_train.predictions import Predictions, load_predictions, save_predictions
from mvit_train.report import page, write_metrics, write_report
from mvit_train.report.confusions import similar_order
from mvit_train.report.examples import add_attention, choose_clips, small_mp4
from mvit_train.report.page import expected, read_curves
from mvit_train.temporal import FRAME_ORDERS

NASTY = "<img src=x onerror=alert(1)> & \"quotes\" 'too' </script><b>"
MOTIONS = ["left", "right", "up", "down", "clockwise", "counterclockwise", "grow", "shrink", "blink", NASTY]
MIRRORED = {0: 1, 1: 0, 2: 3, 3: 2, 6: 7, 7: 6}


def draw_video(path: Path, *, codec="libx264", size=(96, 64), num_frames=12, noise=0, pix_fmt="yuv420p") -> None:
    generator = np.random.default_rng(0)
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for index in range(num_frames):
            image = np.full((size[1], size[0], 3), (24, 28, 48), dtype=np.uint8)
            image += generator.integers(0, noise + 1, image.shape, dtype=np.uint8)
            left = 4 + index * (size[0] - 28) // num_frames
            image[20:44, left : left + 20] = (240, 170, 60)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def probabilities(predicted: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """(N, K) softmax scores with the given highest class."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(len(predicted), classes))
    logits[np.arange(len(predicted)), predicted] = logits.max(axis=1) + generator.uniform(0.2, 3, len(predicted))
    scores = np.exp(logits)
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def make_run(
    run_dir: Path, class_names: list[str], videos_per_class: int, failed: tuple[int, ...] = (), suffix: str = ".mp4"
) -> Path:
    """A run folder as an evaluation and a training leave it; every video is a copy of the same small drawing."""
    classes, generator = len(class_names), np.random.default_rng(1)
    labels = np.repeat(np.arange(classes), videos_per_class)
    mirror = np.array([MIRRORED.get(label, label) for label in labels])
    guess = generator.integers(0, classes, len(labels))
    lucky = generator.random(len(labels))
    predicted = {
        "forward": np.where(lucky < 0.9, labels, guess),
        "shuffle": np.where(lucky < 0.5, labels, guess),
        "reverse": np.where(lucky < 0.85, mirror, guess),
        "freeze": np.where(lucky < 0.3, labels, guess),
    }
    scores = np.stack([probabilities(predicted[order], classes, seed) for seed, order in enumerate(FRAME_ORDERS)])
    evaluated = np.ones(len(labels), dtype=bool)
    evaluated[list(failed)] = False
    scores[:, ~evaluated] = np.nan
    videos = run_dir / "videos"
    videos.mkdir(parents=True)
    names = [f"{row}{suffix}" for row in range(len(labels))]
    draw_video(videos / names[0], codec="libx264" if suffix == ".mp4" else "mpeg4")
    for name in names[1:]:
        (videos / name).hardlink_to(videos / names[0])
    info = {
        "experiment": "motion <tiny> & co",
        "split": "val",
        "views": "5x1",
        "ensemble": "mean",
        "data_root": str(videos),
        "checkpoint": {"path": "runs/motion/best.ckpt", "fingerprint": "c0ffee12", "epoch": 19, "global_step": 1200},
        "label_fingerprint": "ab12cd34",
        "label_note": None,
        "linear_probe": None,
        "data_fingerprint": "98fe76dc",
        "failures": [{"video": names[row], "reason": "truncated <moov>"} for row in failed[:1]],
        "substituted": [{"video": "train/b.mp4", "reason": "zero bytes <long>"}],
        "config": {"model": {"_target_": "mvit_train.models.mvit.mvit_tiny", "depth": 4}, "seed": 1},
        "created": "2026-11-22T15:00:00+00:00",
    }
    save_predictions(
        run_dir / "predictions.npz",
        video_ids=names,
        labels=labels,
        class_names=class_names,
        frame_orders=list(FRAME_ORDERS),
        scores=scores,
        evaluated=evaluated,
        info=info,
    )
    lines = ["epoch,step,train/loss,train/top1,val/loss,val/top1,optim/lr"]
    for step in range(0, 1200, 10):
        loss = 2.3 * np.exp(-step / 400)
        lines.append(
            f"{step // 60},{step},{loss + generator.normal() / 20:.4f},{100 - 38 * loss:.2f},,,{1e-3 - step / 2e6}"
        )
        if step % 60 == 50:
            lines.append(f"{step // 60},{step},,,{loss + 0.1:.4f},{95 - 36 * loss:.2f},")
    (run_dir / "metrics.csv").write_text("\n".join(lines))
    return run_dir


@pytest.fixture(scope="session")
def ten(tmp_path_factory) -> Path:
    """A reported run of 10 classes, 200 videos, 2 of them failed."""
    run_dir = make_run(tmp_path_factory.mktemp("run") / "ten", MOTIONS, 20, failed=(3, 77))
    write_metrics(run_dir)
    write_report(run_dir)
    return run_dir


@pytest.fixture(scope="session")
def four_hundred(tmp_path_factory) -> Path:
    names = [f"{'riding or driving a ' if index % 7 == 0 else ''}class {index:03d}" for index in range(399)] + [NASTY]
    run_dir = make_run(tmp_path_factory.mktemp("run") / "four_hundred", names, 5, suffix=".avi")
    write_metrics(run_dir)
    write_report(run_dir)
    return run_dir


def page_data(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def tiny_predictions(**changed) -> dict:
    """Three videos of two classes; in reverse every prediction flips."""
    forward = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32)
    info = dict.fromkeys(("experiment", "split", "views", "data_root", "created"), "x")
    info |= {"checkpoint": {}, "label_fingerprint": "l", "data_fingerprint": "d", "failures": []}
    info |= {"substituted": [], "config": {}, "ensemble": "mean", "label_note": None, "linear_probe": None}
    fields = {
        "video_ids": ["a.mp4", "b.mp4", "ü/c.mp4"],
        "labels": np.array([0, 1, 1]),
        "class_names": ["open", "close"],
        "frame_orders": ["forward", "reverse"],
        "scores": np.stack([forward, forward[:, ::-1]]),
        "evaluated": np.array([True, True, True]),
        "info": info,
    }
    return fields | changed


def test_predictions_come_back_as_they_were_saved(tmp_path):
    fields = tiny_predictions()
    save_predictions(tmp_path / "predictions.npz", **fields)
    loaded = load_predictions(tmp_path / "predictions.npz")
    for name, value in fields.items():
        np.testing.assert_equal(getattr(loaded, name), value)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.array([0, 1])}, "labels"),
        ({"class_names": ["open"]}, "scores have shape"),
        ({"frame_orders": []}, "scores have shape"),
        ({"info": {"experiment": "x"}}, "info lacks split"),
        ({"scores": np.full((2, 3, 2), np.nan, np.float32)}, r"NaN scores of 3 evaluated videos .*a\.mp4"),
    ],
)
def test_predictions_that_contradict_themselves_are_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        save_predictions(tmp_path / "predictions.npz", **tiny_predictions(**changed))


def test_metrics_equal_those_counted_by_hand(tmp_path):
    save_predictions(tmp_path / "predictions.npz", **tiny_predictions())
    metrics = write_metrics(tmp_path)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["orders"]["forward"]["top1"] == pytest.approx(200 / 3)
    assert metrics["orders"]["forward"]["mean_class_accuracy"] == 75
    assert metrics["orders"]["forward"]["per_class"]["close"] == {
        "videos": 2,
        "top1": 50.0,
        "most_predicted": "open",
        "most_predicted_share": 50.0,
    }
    assert metrics["orders"]["reverse"]["top1"] == pytest.approx(100 / 3)
    assert metrics["change"]["reverse"]["top1"] == pytest.approx(-100 / 3)
    assert metrics["time"]["mirrored_pairs"] == []  # only one of two videos of "close" is called "open" in reverse
    assert metrics["videos"] == {"expected": 3, "evaluated": 3, "failed": 0}


def test_a_single_frame_order_other_than_forward_is_reported_alone(tmp_path):
    fields = tiny_predictions(frame_orders=["shuffle"], scores=tiny_predictions()["scores"][:1])
    save_predictions(tmp_path / "predictions.npz", **fields)
    metrics = write_metrics(tmp_path)
    assert list(metrics["orders"]) == ["shuffle"]
    assert metrics["change"] == {}
    assert "time" not in metrics
    assert write_report(tmp_path).exists()


def test_failed_videos_are_left_out_of_the_accuracy_and_listed(ten):
    text = (ten / "metrics.json").read_text()
    metrics = json.loads(text)
    assert "NaN" not in text
    assert metrics["videos"] == {"expected": 200, "evaluated": 198, "failed": 2}
    assert metrics["failures"] == [
        {"video": "3.mp4", "reason": "truncated <moov>"},
        {"video": "77.mp4", "reason": "not all of its views were scored"},
    ]
    assert sum(row["videos"] for row in metrics["orders"]["forward"]["per_class"].values()) == 198
    assert page_data((ten / "report.html").read_text())["metrics"]["failures"] == metrics["failures"]


def test_metrics_of_no_evaluated_video_are_refused(tmp_path):
    nothing = np.full((2, 3, 2), np.nan, np.float32)
    save_predictions(tmp_path / "predictions.npz", **tiny_predictions(scores=nothing, evaluated=np.zeros(3, bool)))
    with pytest.raises(ValueError, match="none of 3 videos"):
        write_metrics(tmp_path)


def test_the_mirrored_classes_are_found(ten):
    time = json.loads((ten / "metrics.json").read_text())["time"]
    assert time["mirrored_pairs"] == [["left", "right"], ["up", "down"], ["grow", "shrink"]]
    assert time["mirrored"]["forward"] > 80 > 20 > time["mirrored"]["reverse"]
    assert time["other"]["reverse"] > 80


def test_strings_of_the_data_are_escaped(ten):
    page = (ten / "report.html").read_text()
    assert "onerror=alert" in page
    assert "<img src=x" not in page
    assert "<title>motion &lt;tiny&gt; &amp; co" in page
    assert page_data(page)["classes"] == MOTIONS


def test_a_report_of_400_classes_stays_below_15_megabytes(four_hundred):
    page = (four_hundred / "report.html").read_text()
    assert len(page.encode()) < 15e6
    clips = page_data(page)["clips"]
    assert 16 < len(clips) <= 24
    assert all(len(base64.b64decode(clip["mp4"])) <= 160_000 for clip in clips)


def test_the_clips_are_of_different_classes_where_there_are_enough(four_hundred):
    predictions = load_predictions(four_hundred / "predictions.npz")
    chosen = choose_clips(predictions)
    assert len({row for _, row in chosen}) == len(chosen) == 24
    for group in ("wrong", "right", "hurt"):
        rows = [row for name, row in chosen if name == group]
        assert len({predictions.labels[row] for row in rows}) == len(rows) == 8
        right = predictions.scores[0, rows].argmax(axis=1) == predictions.labels[rows]
        assert (right != (group == "wrong")).all()


def several_labels(run_dir: Path) -> Path:
    """A reported run of videos that show up to three of ten classes, or none; the last class is shown by none."""
    make_run(run_dir, MOTIONS, 4)
    plain = load_predictions(run_dir / "predictions.npz")
    generator = np.random.default_rng(2)
    labels = plain.truth() | (generator.random((40, 10)) < 0.1)
    labels[:, 9] = False
    labels[[0, 7]] = False
    scores = np.clip(plain.scores * 0.5 + generator.random(plain.scores.shape) * 0.3, 0, 1).astype(np.float32)
    scores[0, labels] += 0.2
    save_predictions(
        run_dir / "predictions.npz",
        video_ids=plain.video_ids,
        labels=labels,
        class_names=plain.class_names,
        frame_orders=plain.frame_orders,
        scores=scores,
        evaluated=plain.evaluated,
        info=plain.info | {"ensemble": "max", "label_note": "the 10 classes of <data> are those of the checkpoint"},
    )
    curves = (run_dir / "metrics.csv").read_text().replace("train/top1", "train/other").replace("val/top1", "val/mAP")
    (run_dir / "metrics.csv").write_text(curves)
    write_metrics(run_dir)
    write_report(run_dir)
    return run_dir


@pytest.fixture(scope="session")
def many_labels(tmp_path_factory) -> Path:
    return several_labels(tmp_path_factory.mktemp("run") / "several")


def test_several_labels_a_video_are_reported_by_their_average_precision(many_labels):
    metrics = json.loads((many_labels / "metrics.json").read_text())
    predictions = load_predictions(many_labels / "predictions.npz")
    assert (predictions.multi_label, predictions.labels.dtype) == (True, np.dtype(bool))
    forward, shuffle = (metrics["orders"][order]["mAP"] for order in ("forward", "shuffle"))
    assert metrics["change"]["shuffle"] == {"mAP": pytest.approx(shuffle - forward), "interval": None}
    assert "time" not in metrics
    assert metrics["orders"]["forward"]["per_class"][NASTY] == {"videos": 0, "AP": None}
    data = page_data((many_labels / "report.html").read_text())
    assert (data["confusions"], data["sentence"]) == (None, None)
    for clip in data["clips"]:
        assert clip["labels"] == np.flatnonzero(predictions.labels[int(clip["video"].split(".")[0])]).tolist()
        assert (clip["predicted"]["forward"][0] in clip["labels"]) == (clip["group"] != "wrong")


def test_a_file_of_version_0_1_is_still_read(tmp_path):
    fields = tiny_predictions()
    save_predictions(tmp_path / "predictions.npz", **fields)
    with np.load(tmp_path / "predictions.npz") as file:
        arrays = dict(file)
    info = json.loads(str(arrays["info"]))
    del info["ensemble"], info["label_note"], info["linear_probe"]
    np.savez(tmp_path / "predictions.npz", **arrays | {"info": np.array(json.dumps(info))})
    assert load_predictions(tmp_path / "predictions.npz").info["ensemble"] == "mean"


def test_failed_videos_are_never_chosen_as_clips():
    fields = tiny_predictions(evaluated=np.array([False, True, True]))
    fields["scores"][:, 0] = np.nan
    assert sorted(row for _, row in choose_clips(Predictions(**fields))) == [1, 2]


def test_a_small_h264_mp4_is_passed_on_unchanged(tmp_path):
    draw_video(tmp_path / "a.mp4")
    assert small_mp4(tmp_path / "a.mp4") == (tmp_path / "a.mp4").read_bytes()


@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("big.mp4", {"size": (320, 240), "num_frames": 60, "noise": 40}),
        ("old.avi", {"codec": "mpeg4"}),
        ("deep.mp4", {"pix_fmt": "yuv444p"}),
        ("odd.mkv", {"codec": "mpeg4", "size": (402, 322)}),
    ],
)
def test_other_videos_become_small_short_silent_h264(tmp_path, name, drawing):
    draw_video(tmp_path / name, **drawing)
    (tmp_path / "small.mp4").write_bytes(small_mp4(tmp_path / name))
    with av.open(str(tmp_path / "small.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert min(stream.width, stream.height) <= 160
        assert not container.streams.audio
        times_sec = [frame.time for frame in container.decode(stream)]
        assert times_sec == pytest.approx([index / 8 for index in range(min(len(times_sec), 33))], abs=0.01)
        assert len(times_sec) == min(drawing.get("num_frames", 12), 33)  # 4 s at 8 frames/s
    assert (tmp_path / "small.mp4").stat().st_size < 160_000


def test_a_clip_that_cannot_be_read_leaves_a_note(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    fields = tiny_predictions()
    fields["info"] |= {"data_root": str(tmp_path)}
    save_predictions(tmp_path / "predictions.npz", **fields)
    write_metrics(tmp_path)
    clips = page_data(write_report(tmp_path).read_text())["clips"]
    assert len(clips) == 3
    assert all(clip["note"].startswith("This video cannot be shown: ") and "mp4" not in clip for clip in clips)


def test_curves_skip_empty_cells_and_keep_the_later_row_of_a_step(tmp_path):
    rows = ["epoch,step,train/loss,val/loss", "0,0,2.0,", "0,10,1.5,", "0,10,,1.7", "0,10,1.4,", "1,20,nan,"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    assert read_curves(tmp_path / "metrics.csv") == {
        "train/loss": {"step": [0, 10], "value": [2.0, 1.4]},
        "val/loss": {"step": [10], "value": [1.7]},
    }
    assert read_curves(tmp_path / "missing.csv") == {}


@pytest.mark.parametrize(
    ("text", "number", "views", "band"),
    [
        ("96 to 99.5 % top-1 with 5x1 views (docs)", "top-1", "5x1", (96.0, 99.5)),
        ("96 to 99.5 % top-1 with 5x1 views (docs)", "top-1", "5x3", None),
        ("96 to 99.5 % top-1 with 5x1 views (docs)", "mAP", "5x1", None),
        ("78.4 % top-1, 93.5 % top-5 with 5x1 views (paper)", "top-1", "5x1", None),
        (None, "top-1", "5x1", None),
    ],
)
def test_a_band_is_read_only_where_one_is_stated_for_this_number_and_these_views(text, number, views, band):
    assert Header(text).band(number, views) == band


def test_the_page_tells_what_the_file_of_the_experiment_expects():
    metrics = {"experiment": "motion", "views": "5x1", "orders": {"forward": {"top1": 1.0}}}
    told = expected(metrics)
    assert told is not None
    assert told["text"].startswith(f"{told['band'][0]:g} to {told['band'][1]:g} % top-1 with 5x1 views")
    assert told["file"] == "conf/experiment/motion.yaml"
    assert expected(metrics | {"experiment": "../config"}) is None
    assert expected(metrics | {"experiment": "of my own"}) is None


def test_similar_classes_come_next_to_each_other():
    generator = np.random.default_rng(0)
    group = generator.permutation(np.repeat(np.arange(8), 5))
    table = np.where(group[:, None] == group, generator.integers(1, 4, (40, 40)), 0)
    table[0, 1] += 1  # one mistake between groups
    table += 20 * np.eye(40, dtype=int)
    order = similar_order(table)
    assert sorted(order) == list(range(40))
    assert np.count_nonzero(np.diff(group[order])) == 7
    assert similar_order(np.eye(3)) == [0, 1, 2]  # nothing is confused


def test_attention_is_shown_in_turn_of_the_groups_until_its_bytes_are_spent(tmp_path):
    for row, size in {4: 900_000, 5: 900_000, 6: 600_000, 8: 100_000}.items():
        (tmp_path / f"{row}.mp4").write_bytes(bytes(size))
    clips = [{"group": group} for group in ("wrong", "wrong", "wrong", "right", "right")]
    add_attention(clips, [4, 7, 5, 6, 8], tmp_path)
    sizes = [len(base64.b64decode(clip["attention"])) if "attention" in clip else None for clip in clips]
    assert sizes == [900_000, None, None, 600_000, 100_000]
    assert clips[1] == {"group": "wrong"}
    assert clips[2]["attention_note"] == f"{tmp_path.name}/5.mp4 (0.9 MB) is too large for this page."


@pytest.fixture(scope="session")
def everything(tmp_path_factory) -> Path:
    """A reported run whose page has every optional part."""
    run_dir = make_run(tmp_path_factory.mktemp("run") / "everything", MOTIONS, 12)
    plain = load_predictions(run_dir / "predictions.npz")
    orders = ["forward", "shuffle", "shuffle_2", "reverse"]
    scores = plain.scores[[0, 1, 1, 2]]
    better = (scores > np.take_along_axis(scores, plain.labels[None, :, None], axis=2)).sum(axis=2)
    info = plain.info | {"experiment": "motion", "model": {"params": 157_194, "gflops": 0.0467}}
    info |= {"view_order": [[2, 0], [0, 0], [4, 0]], "views": "5x1"}
    save_predictions(
        run_dir / "predictions.npz",
        video_ids=plain.video_ids,
        labels=plain.labels,
        class_names=plain.class_names,
        frame_orders=orders,
        scores=scores,
        evaluated=plain.evaluated,
        info=info,
        label_ranks=np.stack([better + 1, better, better], axis=2),
    )
    lines = (run_dir / "metrics.csv").read_text().splitlines()
    (run_dir / "metrics.csv").write_text(
        "\n".join([f"{lines[0]},train/clips_per_sec,train/data_wait", *(f"{line},90.5,0.02" for line in lines[1:])])
    )
    metrics = write_metrics(run_dir)
    metrics["robustness"] = {  # of `robustness.robustness`
        "severities": [1, 3],
        "videos": 120,
        "clean": 90.0,
        "top1": {"noise": [80.0, 60.0], "motion_blur": [75.0, 20.0]},
        "mean": {"noise": 70.0, "motion_blur": 47.5},
        "mean_corruption_accuracy": 58.75,
        "relative": 65.3,
        "intervals": None,
    }
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    _, row = choose_clips(load_predictions(run_dir / "predictions.npz"))[0]
    draw_video(run_dir / "attention" / f"{row}.mp4", size=(256, 128))
    write_report(run_dir)
    return run_dir


DRAWN = "[...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('svg.main-svg').length > 0)"


def names_in_table(browser) -> list[str]:
    return browser.evaluate(
        "[...document.querySelectorAll('#class-table tbody tr:not([hidden]) th')].map(cell => cell.textContent)"
    )


@pytest.mark.parametrize(("run", "scheme"), [("ten", "light"), ("ten", "dark"), ("four_hundred", "dark")])
def test_the_page_draws_its_charts_without_errors_or_network(browser, request, run, scheme):
    run_dir = request.getfixturevalue(run)
    browser.look(scheme)
    browser.open((run_dir / "report.html").as_uri())
    assert browser.evaluate(DRAWN) == [True] * 6  # orders, calibration, confusion, 3 curves
    assert browser.evaluate("document.querySelectorAll('#order-chart .bars .point').length") == 4
    assert sorted(names_in_table(browser)) == sorted(load_predictions(run_dir / "predictions.npz").class_names)
    assert browser.evaluate("document.querySelectorAll('#views, #robustness').length") == 0
    assert browser.errors() == []
    requests = browser.requests()
    assert requests[0].startswith("file:")
    assert all(url.startswith(("data:", "blob:")) for url in requests[1:])


def test_every_optional_part_is_shown_where_there_are_numbers_for_it(browser, everything):
    browser.look()
    browser.open((everything / "report.html").as_uri())
    assert browser.evaluate(DRAWN) == [True] * 9  # orders, calibration, views, confusion, 5 curves
    text = browser.evaluate("document.getElementById('main').innerText")
    metrics = json.loads((everything / "metrics.json").read_text())
    top1, (low, high) = metrics["orders"]["forward"]["top1"], metrics["intervals"]["forward"]["top1"]
    assert f"95 % interval {low:.1f} to {high:.1f}" in text
    assert f"{top1:.1f} % is below it" in text  # the drawing is right in nine of ten videos, the band begins at 96
    assert "conf/experiment/motion.yaml" in text
    assert "157 k parameters, 0.0467 G multiply-adds a view" in text
    assert f"Shuffling the frames costs {-metrics['shuffles']['change']:.1f} points of top-1" in text
    assert "mean of the shuffles" in text
    assert f"Expected calibration error {metrics['calibration']['forward']['ece']:.1f} %" in text
    assert (
        browser.evaluate("document.getElementById('views-chart').data[0].y")
        == metrics["views_curve"]["top1"]["forward"]
    )
    heat = browser.evaluate("[...document.querySelectorAll('#robustness tbody tr')].map(row => row.innerText)")
    assert [row.split() for row in heat] == [
        ["motion", "blur", "75.0", "20.0", "47.5", "\u221242.5"],
        ["noise", "80.0", "60.0", "70.0", "\u221220.0"],
    ]
    assert "Throughput (clips per second)" in text
    assert "Waiting for data (share of the time)" in text
    assert "58.8 %, 65.3 % of that without corruption (90.0 %)" in text
    browser.evaluate("document.querySelector('.clip').click()")
    assert browser.evaluate("document.querySelectorAll('#dialog video').length") == 2
    assert "Where the model looks" in browser.evaluate("document.getElementById('dialog').innerText")
    assert browser.errors() == []


def test_the_page_of_several_labels_has_average_precisions_and_no_confusion(browser, many_labels):
    browser.look()
    browser.open((many_labels / "report.html").as_uri())
    assert browser.evaluate(DRAWN) == [True] * 5  # orders, calibration, 3 curves
    assert browser.errors() == []
    text = browser.evaluate("document.getElementById('main').innerText")
    assert "mAP" in text
    assert "max sigmoid" in text
    assert "1 of 10 classes are shown by no video" in text
    assert "the 10 classes of <data> are those of the checkpoint" in text
    assert not [
        word for word in ("Top-1", "Top-5", "Confusion", "confused", "NaN", "undefined", "null") if word in text
    ]
    head = browser.evaluate(
        "[...document.querySelectorAll('#class-table th[scope=col]')].map(cell => cell.textContent)"
    )
    assert head == ["Class", "Videos that show it", "AP %, forward", "shuffled", "Change", "reverse", "freeze"]
    assert names_in_table(browser)[-1] == NASTY  # shown by no video: neither best nor worst
    browser.evaluate("document.querySelector('.clip').click()")
    assert browser.evaluate("document.getElementById('dialog').open") is True
    assert browser.errors() == []


def test_the_page_of_one_order_compares_no_orders(browser, tmp_path):
    run_dir = make_run(tmp_path / "one", MOTIONS, 2)
    plain = load_predictions(run_dir / "predictions.npz")
    fields = {name: getattr(plain, name) for name in ("video_ids", "labels", "class_names", "evaluated", "info")}
    save_predictions(run_dir / "predictions.npz", **fields, frame_orders=["forward"], scores=plain.scores[:1])
    write_metrics(run_dir)
    browser.look()
    browser.open(write_report(run_dir).as_uri())
    text = browser.evaluate("document.getElementById('main').innerText")
    assert not [word for word in ("shuffle", "reverse", "frozen", "Change", "frames forward") if word in text]
    browser.evaluate("document.querySelector('.clip').click()")
    assert "In each frame order" not in browser.evaluate("document.getElementById('dialog').innerText")
    assert browser.errors() == []


INKS = {"dark": "154, 164, 178", "light": "89, 97, 110"}


@pytest.mark.parametrize(("before", "after"), [("light", "dark"), ("dark", "light")])
def test_the_charts_follow_a_change_of_the_colour_scheme_and_the_button(browser, ten, before, after):
    browser.look(before)
    browser.open((ten / "report.html").as_uri())
    fill = "getComputedStyle(document.querySelector('#order-chart .ytick text')).fill"
    assert browser.evaluate(fill) == f"rgb({INKS[before]})"
    browser.look(after)
    wait = f"""new Promise(done => {{
        const over = frames => {fill} === 'rgb({INKS[after]})' || frames === 0;
        const look = frames => over(frames) ? done({fill}) : requestAnimationFrame(() => look(frames - 1));
        look(120);
    }})"""
    assert browser.evaluate(wait) == f"rgb({INKS[after]})"
    assert browser.evaluate("document.getElementById('theme').innerText") == f"{before.capitalize()} colours"
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(fill) == f"rgb({INKS[before]})"
    body = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert body == {"dark": "rgb(15, 18, 22)", "light": "rgb(246, 247, 249)"}[before]


def test_paper_is_white(browser, ten):
    browser.look("dark")
    browser.open((ten / "report.html").as_uri())
    theme = "document.documentElement.dataset.theme"
    browser.evaluate(
        "addEventListener('beforeprint', () => { window.printed = document.documentElement.dataset.theme; })"
    )
    assert base64.b64decode(browser.call("Page.printToPDF")["data"]).startswith(b"%PDF")
    assert browser.evaluate(f"[window.printed, {theme}]") == ["light", "dark"]
    assert browser.errors() == []


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of "#rrggbb"."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_texts_stand_out_as_much_as_wcag_aa_asks_in_both_colour_schemes():
    style = (Path(page.__file__).with_name("page.css")).read_text()
    schemes = re.findall(r":root[^{]*\{(.*?)\}", style, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", scheme))
        pairs = [(text, ground) for text in ("ink", "soft", "accent", "good", "bad") for ground in ("page", "card")]
        pairs += [("ink", "warn-page"), ("accent", "warn-page"), ("soft", "line")]
        for text, ground in pairs:
            light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


@pytest.mark.parametrize("run", ["everything", "four_hundred", "many_labels"])
def test_nothing_is_wider_than_the_window_of_a_phone(browser, request, run):
    browser.look(width=360)
    browser.open((request.getfixturevalue(run) / "report.html").as_uri())
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
    assert browser.evaluate("Math.max(...[...document.querySelectorAll('.chart')].map(c => c.scrollWidth))") < 330
    assert browser.errors() == []


def test_class_names_appear_as_text_in_tables_charts_and_dialog(browser, ten):
    browser.look()
    browser.open((ten / "report.html").as_uri())
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert NASTY in browser.evaluate("document.getElementById('confused').textContent")
    assert NASTY in names_in_table(browser)
    assert "<img src=x" in browser.evaluate("document.getElementById('confusion-chart').textContent")
    failures = browser.evaluate("document.getElementById('failures').textContent")
    assert "2 of 200 videos could not be evaluated" in failures
    assert "1 training video could not be read" in failures
    health = browser.evaluate("document.getElementById('health').textContent")
    assert "truncated <moov>" in health
    assert "zero bytes <long>" in health


@pytest.mark.parametrize("run", ["ten", "four_hundred"])  # mp4 passed on, avi encoded anew
def test_a_click_on_a_clip_plays_its_video_and_escape_closes_it(browser, request, run):
    browser.look()
    browser.open((request.getfixturevalue(run) / "report.html").as_uri())
    browser.evaluate("document.querySelector('.clip').focus(); document.querySelector('.clip').click()")
    assert browser.evaluate("document.getElementById('dialog').open") is True
    playing = """(async () => {
        const video = document.querySelector('#dialog video');
        const start = video.currentTime;
        await new Promise((done, fail) => {
            video.addEventListener('timeupdate', () => video.currentTime > start && done());
            video.addEventListener('error', () => fail(video.error.message)); });
        return [video.paused, video.duration, video.videoWidth, video.videoHeight];
    })()"""
    assert browser.evaluate(playing) == [False, pytest.approx(1.45, abs=0.1), 96, 64]
    text = browser.evaluate("document.getElementById('dialog').innerText")
    assert all(order in text for order in FRAME_ORDERS)
    assert browser.evaluate("document.querySelectorAll('#dialog .guess').length") == 3
    browser.press("Escape")
    assert browser.evaluate("document.getElementById('dialog').open") is False
    assert browser.evaluate("document.activeElement.className") == "clip"
    assert browser.errors() == []


@pytest.mark.parametrize("run", ["ten", "four_hundred"])
def test_classes_are_sorted_by_click_and_key_and_filtered_by_name_quickly(browser, request, run):
    run_dir = request.getfixturevalue(run)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    per_class, needy = metrics["orders"]["forward"]["per_class"], metrics["classes_that_need_time"]["classes"]
    browser.look()
    browser.open((run_dir / "report.html").as_uri())

    def accuracies() -> list[float]:
        return [per_class[name]["top1"] for name in names_in_table(browser)]

    assert accuracies() == sorted(row["top1"] for row in per_class.values())  # the worst first
    browser.evaluate("document.querySelectorAll('#class-table thead button')[0].focus()")
    browser.press("Enter")
    assert names_in_table(browser) == sorted(per_class, key=str.lower)
    browser.press("Enter")
    assert names_in_table(browser) == sorted(per_class, key=str.lower, reverse=True)
    browser.press("Tab")
    browser.press("Tab")
    browser.press("Enter")
    assert accuracies() == sorted((row["top1"] for row in per_class.values()), reverse=True)
    sorts = "[...document.querySelectorAll('#class-table thead th')].map(head => head.getAttribute('aria-sort'))"
    assert browser.evaluate(sorts)[:4] == [None, None, "descending", None]
    column = browser.evaluate(
        "[...document.querySelectorAll('#class-table thead th')].findIndex(head => head.textContent === 'Change')"
    )
    seconds = f"""(() => {{ const start = performance.now();
        document.querySelectorAll('#class-table thead button')[{column}].click();
        document.querySelectorAll('#class-table thead button')[{column}].click();
        document.body.offsetHeight; return (performance.now() - start) / 1000; }})()"""
    assert browser.evaluate(seconds) < 2
    change = {row["class"]: row["change"] for row in needy}
    assert [change[name] for name in names_in_table(browser)] == sorted(change.values())
    browser.evaluate("document.getElementById('worst').click()")
    assert accuracies() == sorted(row["top1"] for row in per_class.values())
    box = "document.getElementById('class-filter')"
    browser.evaluate(f"{box}.value = ' COUNTER'; {box}.dispatchEvent(new Event('input'))")
    found = [name for name in per_class if "counter" in name]
    assert names_in_table(browser) == found
    assert (
        browser.evaluate("document.getElementById('class-count').innerText")
        == f"{len(found)} of {len(per_class)} classes"
    )
    assert browser.errors() == []


@pytest.mark.parametrize("run", ["ten", "four_hundred"])
def test_a_click_on_a_confused_pair_shows_where_it_lies(browser, request, run):
    run_dir = request.getfixturevalue(run)
    names = load_predictions(run_dir / "predictions.npz").class_names
    table = load_predictions(run_dir / "predictions.npz").confusions()["forward"].fill_diagonal_(0)
    browser.look()
    browser.open((run_dir / "report.html").as_uri())
    button = "document.querySelector('#confused button')"
    label, called = (int(index) for index in browser.evaluate(f"{button}.dataset.pair").split(","))
    assert table[label, called] == table.max()
    browser.evaluate(f"{button}.click()")
    text = browser.evaluate("document.getElementById('confusion-text').innerText")
    assert text.startswith(" ".join(f"{names[label]} called {names[called]}: {table.max()} of".split()))
    chart = "document.getElementById('confusion-chart')"
    box = browser.evaluate(f"{chart}.layout.shapes[0]")
    column, row = round(box["x0"] + 0.5), round(box["y0"] + 0.5)
    assert browser.evaluate(f"{chart}.data[0].text[{row}][{column}]").startswith(
        names[label].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    shown = "[...document.querySelectorAll('#confusion-chart .ytick text')].length"
    assert browser.evaluate(shown) == min(len(names), 17)
    browser.evaluate("document.getElementById('confusion-all').click()")
    assert browser.evaluate(f"{chart}.layout.yaxis.range") == [len(names) - 0.5, -0.5]
    browser.evaluate("document.querySelector('#class-table .link').click()")  # the worst class, mistaken for another
    assert browser.evaluate("document.activeElement.id") == "confusion-all"
    worst = names_in_table(browser)[0]
    assert browser.evaluate("document.getElementById('confusion-text').textContent").startswith(f"{worst} called ")
    assert browser.errors() == []


def test_a_box_drawn_over_the_map_zooms_and_a_double_click_shows_all_again(browser, four_hundred):
    browser.look()
    browser.open((four_hundred / "report.html").as_uri())
    corner = browser.evaluate("""(() => {
        document.getElementById('confusion-chart').scrollIntoView({ behavior: 'instant' });
        const box = document.querySelector('#confusion-chart .nsewdrag').getBoundingClientRect();
        return [box.left, box.top]; })()""")
    ticks = "document.querySelectorAll('#confusion-chart .ytick text').length"
    assert browser.evaluate(ticks) == 0

    def mouse(kind: str, x: float, y: float, clicks: int = 1) -> None:
        browser.call(
            "Input.dispatchMouseEvent", type=kind, x=corner[0] + x, y=corner[1] + y, button="left", clickCount=clicks
        )

    mouse("mousePressed", 100, 100)
    mouse("mouseMoved", 130, 130)
    mouse("mouseMoved", 150, 150)
    mouse("mouseReleased", 150, 150)
    until = """new Promise(done => {
        const look = frames => %s || !frames ? done(frames > 0) : requestAnimationFrame(() => look(frames - 1));
        look(200);
    })"""
    assert browser.evaluate(until % f"{ticks} > 20 && {ticks} < 60")
    # A loaded machine may need more than 300 ms, plotly's limit, between the two clicks.
    browser.evaluate("void (document.getElementById('confusion-chart')._context.doubleClickDelay = 60_000)")
    for clicks in (1, 2):  # right of the names that are there now
        mouse("mousePressed", 300, 200, clicks)
        mouse("mouseReleased", 300, 200, clicks)
    assert browser.evaluate(until % f"{ticks} === 0")
    assert browser.errors() == []


def test_the_confusion_of_another_order_and_arrangement_can_be_chosen(browser, ten):
    browser.look()
    browser.open((ten / "report.html").as_uri())
    for control, value in (("confusion-sort", "list"), ("confusion-order", "reverse")):
        browser.evaluate(f"document.getElementById('{control}').value = '{value}'")
        browser.evaluate(f"document.getElementById('{control}').dispatchEvent(new Event('change'))")
    assert browser.evaluate("document.getElementById('confusion-chart').data[0].z[0][1]") > 50  # left is called right
    assert browser.evaluate("document.getElementById('confusion-chart').data[0].z[0][0]") is None  # and never left
    pairs = browser.evaluate("[...document.querySelectorAll('#confused button')].slice(0, 6).map(b => b.dataset.pair)")
    assert sorted(pairs) == sorted(f"{label},{called}" for label, called in MIRRORED.items())


def test_the_first_stop_of_the_tab_key_skips_to_the_results(browser, ten):
    browser.look()
    browser.open((ten / "report.html").as_uri())
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "main"
    names = "[...document.querySelectorAll('button, select, input, [tabindex=\"0\"]')]"
    unnamed = f"{names}.filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))"
    assert browser.evaluate(f"{unnamed}.map(e => e.outerHTML)") == []
