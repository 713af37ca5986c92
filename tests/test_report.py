import base64
import json
import os
import re
import select
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mvit_train.predictions import Predictions, load_predictions, save_predictions
from mvit_train.report import write_metrics, write_report
from mvit_train.report.examples import choose_clips, small_mp4
from mvit_train.report.page import read_curves
from mvit_train.temporal import FRAME_ORDERS

NASTY = "<img src=x onerror=alert(1)> & \"quotes\" 'too' </script><b>"
MOTIONS = ["left", "right", "up", "down", "clockwise", "counterclockwise", "grow", "shrink", "blink", NASTY]
MIRRORED = {0: 1, 1: 0, 2: 3, 3: 2, 6: 7, 7: 6}


def draw_video(path: Path, *, codec="libx264", size=(96, 64), num_frames=12, noise=0, pix_fmt="yuv420p") -> None:
    generator = np.random.default_rng(0)
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


class Chromium:
    """Drives a headless Chromium through its DevTools pipe: messages are JSON, each ended by a zero byte."""

    def __init__(self, binary: str, profile: Path) -> None:
        read_command, self.commands = os.pipe()
        self.answers, write_answer = os.pipe()
        # The pipe must be descriptors 3 and 4 of the browser: the shell renames them.
        switches = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
        command = f'exec "$0" {switches} --disable-component-update --remote-debugging-pipe --user-data-dir="$1"'
        self.process = subprocess.Popen(
            ["bash", "-c", f"{command} 3<&{read_command} 4>&{write_answer}", binary, str(profile)],
            pass_fds=(read_command, write_answer),
            stderr=subprocess.DEVNULL,
        )
        os.close(read_command)
        os.close(write_answer)
        self.buffer, self.count, self.events = b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def receive(self) -> dict:
        while b"\0" not in self.buffer:
            assert select.select([self.answers], [], [], 60)[0], "Chromium does not answer"
            chunk = os.read(self.answers, 1 << 16)
            assert chunk, "Chromium has ended"
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **params) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def evaluate(self, script: str):
        """The value of a JavaScript expression, or what its promise resolves to."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Escape": 27}[key])

    def errors(self) -> list[dict]:
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.commands)
        os.close(self.answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no chromium binary on the PATH (Debian: apt-get install chromium)")
    chromium = Chromium(binary, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.mark.parametrize(("run", "scheme"), [("ten", "light"), ("ten", "dark"), ("four_hundred", "dark")])
def test_the_page_draws_its_charts_without_errors_or_network(browser, request, run, scheme):
    run_dir = request.getfixturevalue(run)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open((run_dir / "report.html").as_uri())
    charts = "[...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('svg.main-svg').length > 0)"
    assert browser.evaluate(charts) == [True] * 6  # 3 curves, orders, classes, confusion
    bars = "document.querySelectorAll('#class-chart .bars .point').length"
    assert browser.evaluate(bars) == 4 * len(load_predictions(run_dir / "predictions.npz").class_names)
    assert browser.errors() == []
    requests = browser.requests()
    assert requests[0].startswith("file:")
    assert all(url.startswith(("data:", "blob:")) for url in requests[1:])


def test_the_page_of_several_labels_has_average_precisions_and_no_confusion(browser, many_labels):
    browser.open((many_labels / "report.html").as_uri())
    charts = "[...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('svg.main-svg').length > 0)"
    assert browser.evaluate(charts) == [True] * 5  # 3 curves, orders, classes
    assert browser.errors() == []
    text = browser.evaluate("document.getElementById('main').innerText")
    assert "mAP" in text
    assert "max sigmoid" in text
    assert "1 of 10 classes are shown by no video" in text
    assert "the 10 classes of <data> are those of the checkpoint" in text
    assert not [word for word in ("Top-1", "Top-5", "Confusion", "confused", "NaN", "undefined", "±") if word in text]
    head = browser.evaluate(
        "[...document.querySelectorAll('#class-table th[scope=col]')].map(cell => cell.textContent)"
    )
    assert head == ["Class", "Videos that show it", *[f"AP %, {order}" for order in FRAME_ORDERS]]
    assert browser.evaluate("document.querySelectorAll('#class-table tbody tr').length") == 9
    browser.evaluate("document.querySelector('.clip').click()")
    assert browser.evaluate("document.getElementById('dialog').open") is True
    assert browser.errors() == []


def test_the_page_of_one_order_compares_no_orders(browser, tmp_path):
    run_dir = make_run(tmp_path / "one", MOTIONS, 2)
    plain = load_predictions(run_dir / "predictions.npz")
    fields = {name: getattr(plain, name) for name in ("video_ids", "labels", "class_names", "evaluated", "info")}
    save_predictions(run_dir / "predictions.npz", **fields, frame_orders=["forward"], scores=plain.scores[:1])
    write_metrics(run_dir)
    browser.open(write_report(run_dir).as_uri())
    text = browser.evaluate("document.getElementById('main').innerText")
    assert not [word for word in ("shuffled", "reversed", "frozen", "Change", "frames forward") if word in text]
    browser.evaluate("document.querySelector('.clip').click()")
    assert "In each frame order" not in browser.evaluate("document.getElementById('dialog').innerText")
    assert browser.errors() == []


@pytest.mark.parametrize(
    ("before", "after", "ink"), [("light", "dark", "154, 164, 178"), ("dark", "light", "89, 97, 110")]
)
def test_the_charts_follow_a_change_of_the_colour_scheme(browser, ten, before, after, ink):
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": before}])
    browser.open((ten / "report.html").as_uri())
    fill = "getComputedStyle(document.querySelector('#order-chart .ytick text')).fill"
    assert browser.evaluate(fill) != f"rgb({ink})"
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": after}])
    wait = f"""new Promise(done => {{
        const over = frames => {fill} === 'rgb({ink})' || frames === 0;
        const look = frames => over(frames) ? done({fill}) : requestAnimationFrame(() => look(frames - 1));
        look(120);
    }})"""
    assert browser.evaluate(wait) == f"rgb({ink})"


def test_class_names_appear_as_text_in_tables_charts_and_dialog(browser, ten):
    browser.open((ten / "report.html").as_uri())
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert NASTY in browser.evaluate("document.getElementById('confused').innerText")
    assert "<img src=x onerr" in browser.evaluate("document.getElementById('class-chart').textContent")
    failures = browser.evaluate("document.getElementById('failures').textContent")
    assert "truncated <moov>" in failures
    assert "1 training videos could not be read" in failures
    assert "zero bytes <long>" in failures


@pytest.mark.parametrize("run", ["ten", "four_hundred"])  # mp4 passed on, avi encoded anew
def test_a_click_on_a_clip_opens_a_playing_video_and_escape_closes_it(browser, request, run):
    browser.open((request.getfixturevalue(run) / "report.html").as_uri())
    browser.evaluate("document.querySelector('.clip').focus(); document.querySelector('.clip').click()")
    assert browser.evaluate("document.getElementById('dialog').open") is True
    playing = """(async () => {
        const video = document.querySelector('#dialog video');
        if (video.readyState < 2) await new Promise((done, fail) => {
            video.addEventListener('loadeddata', done);
            video.addEventListener('error', () => fail(video.error.message)); });
        return [video.readyState >= 2, video.duration, video.videoWidth, video.videoHeight];
    })()"""
    assert browser.evaluate(playing) == [True, pytest.approx(1.45, abs=0.1), 96, 64]
    text = browser.evaluate("document.getElementById('dialog').innerText")
    assert all(order in text for order in FRAME_ORDERS)
    assert browser.evaluate("document.querySelectorAll('#dialog .guess').length") == 3
    browser.press("Escape")
    assert browser.evaluate("document.getElementById('dialog').open") is False
    assert browser.evaluate("document.activeElement.className") == "clip"
    assert browser.errors() == []


def test_the_confusion_and_the_order_of_the_classes_can_be_chosen(browser, ten):
    browser.open((ten / "report.html").as_uri())

    def choose(control: str, value: str) -> None:
        browser.evaluate(f"document.getElementById('{control}').value = '{value}'")
        browser.evaluate(f"document.getElementById('{control}').dispatchEvent(new Event('change'))")

    choose("confusion-order", "reverse")
    assert browser.evaluate("document.getElementById('confusion-chart').data[0].z[0][1]") > 50  # left is called right
    choose("sort", "name")
    labels = browser.evaluate(
        "[...document.querySelectorAll('#class-chart .ytick')].map(tick => tick.textContent.trim())"
    )
    assert labels[:3] == ["left", "right", "up"]
