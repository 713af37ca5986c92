"""The demo page in a browser: a clip's classes, frame-order test and attention; what is refused, and how it ends."""

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import uvicorn
from PIL import Image
from torch import nn

from mvit_train import serve
from mvit_train.config import ConfigError, build, check, compose, to_dict
from mvit_train.demo.answer import RefusedError, TimeLimit, read_facts, time_sentence
from mvit_train.demo.app import UPLOAD, make_app
from mvit_train.demo.queue import Queue
from mvit_train.demo.settings import Settings
from mvit_train.labels import Labels
from mvit_train.predict import Predictor

ROOT = Path(serve.__file__).parents[1]
CLASSES = ("alpha", "<b>beta</b>", "gamma")
SMALL = ["experiment=motion", "trainer.accelerator=cpu"]
NASTY = "<img src=x onerror=alert(1)> ü.mp4"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights, with a head made larger so that its scores spread."""
    torch.manual_seed(3)
    cfg, labels = compose(SMALL), Labels(CLASSES)
    model = build(cfg.model, num_classes=len(labels))
    with torch.no_grad():
        model.head.projection.weight.mul_(40)
    config = to_dict(cfg, resolve=False)
    module = build(cfg.module, model=model, labels=labels, multi_label=False, config=config)
    ours = {"config": config, "class_names": list(CLASSES), "label_fingerprint": labels.fingerprint}
    ours |= {"multi_label": False, "unreadable": {}, "data_fingerprint": ""}
    path = tmp_path_factory.mktemp("run") / "tiny.ckpt"
    torch.save({"state_dict": module.state_dict(), "epoch": 0, "global_step": 1, "mvit_train": ours}, path)
    return path


@contextmanager
def command(checkpoint, log, *overrides):
    """`task=serve` at a free port, as a process, and the address that it prints; whatever it says goes into `log`."""
    line = [
        sys.executable,
        "-m",
        "mvit_train",
        *SMALL[1:],
        "task=serve",
        f"ckpt={checkpoint}",
        "serve.port=0",
        *overrides,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        first = process.stdout.readline()
        assert first.startswith("http://"), log.read_text()
        yield process, first.split()[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def address(checkpoint, tmp_path_factory):
    with command(checkpoint, tmp_path_factory.mktemp("log") / "log", "serve.max_seconds=4") as (_, found):
        yield found


def drop(browser, path, name):
    """Drops a file onto the page and waits for the end of the answer: the text of the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    browser.evaluate(f"""(() => {{
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob("{content}"), (c) => c.charCodeAt(0))], {json.dumps(name)}));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", {{ dataTransfer: data, bubbles: true }}));
    }})()""")
    return answered(browser)


def answered(browser):
    browser.evaluate("""new Promise((done) => {
        const hidden = (id) => document.getElementById(id).hidden;
        const over = () => hidden("state") && (!hidden("attention") || !hidden("error"));
        const look = () => (over() ? done() : setTimeout(look, 50));
        look();
    })""")
    return browser.evaluate("document.querySelector('main').innerText")


def open_page(browser, address):
    browser.open(address)
    browser.evaluate("""new Promise((done) => {
        const look = () => (document.body.dataset.ready ? done() : setTimeout(look, 20));
        look();
    })""")


def test_a_dropped_video_is_answered_with_what_the_predictor_says(browser, address, checkpoint, video):
    path = video("a.mp4", 60, fps=25)
    open_page(browser, address)
    text = drop(browser, path, NASTY)
    scores = Predictor.load(checkpoint, overrides=["data.num_workers=0"]).scores(
        path, frame_orders=("forward", "shuffle", "reverse", "freeze"), video_id=NASTY
    )
    shown = browser.evaluate("[...document.querySelectorAll('#classes .name')].map((line) => line.innerText)")
    mean = scores["forward"].mean(0)
    for line, index in zip(shown, mean.argsort(descending=True), strict=True):
        assert line.split("\n") == [CLASSES[index], f"{100 * mean[index]:.1f}\u00a0%"]
    orders = browser.evaluate(
        "[...document.querySelectorAll('#orders td:nth-child(3)')].map((c) => c.innerText.trim())"
    )
    assert orders == [f"{100 * table.mean(0).max():.1f}\u00a0%" for table in scores.values()]
    facts = ["60", "25.0 fps", "2.4 s", "64 \u00d7 48"]
    assert browser.evaluate("[...document.querySelectorAll('dd')].map((f) => f.innerText)") == [NASTY, *facts]
    assert "Does it use time?" in text
    assert browser.evaluate("document.getElementById('sentence').innerText").startswith("The model ")
    playing = """(async () => {
        const video = document.getElementById("overlay");
        if (video.readyState < 2) await new Promise((done) => video.addEventListener("loadeddata", done));
        return [video.videoWidth, video.videoHeight, video.duration > 0.5];
    })()"""
    assert browser.evaluate(playing) == [512, 256, True]
    assert browser.evaluate("document.querySelectorAll('main img, main b b').length") == 0
    assert browser.errors() == []
    assert all(url.startswith((address, "blob:", "data:")) for url in browser.requests())


def test_what_cannot_be_answered_gets_a_message_and_the_next_clip_an_answer(browser, address, video, tmp_path):
    good = video("a.mp4", 60, fps=25)
    (tmp_path / "text").write_bytes(b"no video")
    (tmp_path / "cut").write_bytes(good.read_bytes()[:1500])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "playlist").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\n{good}\n#EXT-X-ENDLIST\n")
    open_page(browser, address)
    told = {name: drop(browser, tmp_path / name, f"{name}.mp4") for name in ("text", "cut", "empty")}
    told["list"] = drop(browser, tmp_path / "playlist", "list.m3u8")
    told["long"] = drop(browser, video("long.mp4", 150), "long.mp4")
    for name in ("text", "cut"):
        assert f"{name}.mp4: not a video, or its header is damaged or missing" in told[name]
    assert "list.m3u8: not a video" in told["list"]  # FFmpeg would follow it to other files of the server
    assert "empty.mp4: the file is empty" in told["empty"]
    assert "the video lasts 5.0 s, the limit is 4 s (serve.max_seconds)" in told["long"]
    assert not any("Top classes" in text for text in told.values())
    assert "Top classes" in drop(browser, good, "good.mp4")
    failures = [event for event in browser.errors() if event.get("entry", {}).get("source") != "network"]
    assert failures == []  # a status of 413 is an entry of its own


def test_audio_and_encrypted_videos_are_told_apart(browser, address, shared_videos):
    open_page(browser, address)
    assert "no video stream, only audio" in drop(browser, shared_videos / "moviepy_crunching.mp3", "a.mp3")
    assert "damaged or encrypted" in drop(browser, shared_videos / "mp4parse_short-cenc.mp4", "b.mp4")


def test_a_still_image_has_no_frame_order_test(browser, address, tmp_path):
    Image.new("RGB", (80, 60), "red").save(tmp_path / "still.png")
    open_page(browser, address)
    text = drop(browser, tmp_path / "still.png", "still.png")
    assert "a still image, shown to the model as a video without motion" in text
    assert "Does it use time?" not in text
    assert browser.evaluate("document.querySelector('#player img').naturalWidth") == 80
    assert browser.errors() == []


def test_the_webcam_records_a_clip(browser, address):
    open_page(browser, address)
    wait = """(async () => {
        RECORDING.dispatchEvent(new Event("click"));
        while (document.getElementById("record").hidden) await new Promise((done) => setTimeout(done, 50));
        about.max_seconds = 2; // the browser records so long
        document.getElementById("record").click();
    })()""".replace("RECORDING", "document.getElementById('camera')")
    browser.evaluate(wait)
    text = answered(browser)
    assert "webcam.webm" in text
    assert "640 \u00d7 480" in text
    assert "Top classes" in text
    assert browser.errors() == []


def test_a_signal_ends_it_with_status_0_and_strangers_are_warned_of(checkpoint, tmp_path):
    with command(checkpoint, tmp_path / "log", "serve.host=0.0.0.0") as (process, address):
        with socket.create_connection(("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))):
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        log = (tmp_path / "log").read_text()
        assert "anyone who can reach this machine can use the page" in log
        assert "Traceback" not in log


# The application, with another answer in the place of a model's


@contextmanager
def application(answer, **settings):
    """Its address, in a thread of this process."""
    limit = TimeLimit(SimpleNamespace(blocks=[]), timeout_sec=60)
    listening = serve.listen(Settings(port=0))
    server = uvicorn.Server(
        uvicorn.Config(make_app(answer, limit, Settings(**settings), {}), log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def post(url, body=b"clip", *, begun=lambda: None, **headers):
    """The status, and the JSON lines of the answer; begun: is called when the first one is there."""
    request = urllib.request.Request(url, body, {"content-type": UPLOAD} | headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            lines = [json.loads(answer.readline())]
            begun()
            return answer.status, lines + [json.loads(line) for line in answer]
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode()
            return error.code, [json.loads(text)] if text.startswith("{") else text


def test_ten_visitors_are_answered_one_after_the_other_and_their_files_deleted():
    running, together, files = [], [], []
    waiting, go = threading.Semaphore(0), threading.Event()

    def answer(path, name):
        assert go.wait(30)
        running.append(name)
        together.append(len(running))
        files.append(path)
        yield {"content": path.read_text()}
        running.remove(name)

    def visit(i):
        return post(f"{url}/clips?name={i}.mp4", f"clip {i}".encode(), begun=waiting.release)

    with application(answer) as url, ThreadPoolExecutor(10) as pool:
        answers = pool.map(visit, range(10))
        assert all(waiting.acquire(timeout=30) for _ in range(10))
        go.set()
        answers = list(answers)
    assert together == [1] * 10
    assert sorted(lines[0]["ahead"] for _, lines in answers) == list(range(10))
    for i, (status, lines) in enumerate(answers):
        ahead = [line["ahead"] for line in lines[:-1]]
        assert [status, lines[-1]] == [200, {"content": f"clip {i}"}]
        assert ahead == sorted(set(ahead), reverse=True)
        assert ahead[-1] == 0
    assert not any(path.parent.exists() for path in files)


def test_who_leaves_gives_up_the_place_and_leaves_no_file():
    files, go = [], threading.Event()

    def answer(path, name):
        files.append(path)
        yield {"name": name}
        if name == "first.mp4":
            assert go.wait(30)

    with application(answer) as url:
        request = urllib.request.Request(f"{url}/clips?name=first.mp4", b"clip", {"content-type": UPLOAD})
        with urllib.request.urlopen(request, timeout=30) as first:
            assert [json.loads(first.readline()), json.loads(first.readline())] == [{"ahead": 0}, {"name": "first.mp4"}]
        go.set()
        assert post(f"{url}/clips?name=second.mp4")[1][-1] == {"name": "second.mp4"}
    assert len(files) == 2
    assert not any(path.parent.exists() for path in files)


def test_uploads_that_break_a_limit_or_come_from_elsewhere_are_refused(caplog):
    def answer(path, name):
        raise KeyError("a bug")
        yield

    with application(answer, max_megabytes=0.001) as url:
        assert post(f"{url}/clips", b"x" * 1001) == (
            413,
            [{"error": "the file is larger than 0.001 MB (serve.max_megabytes)"}],
        )
        assert post(f"{url}/clips", **{"content-type": "text/plain"})[0] == 415
        assert post(f"{url}/clips", host="evil.example")[0] == 400
        assert post(f"{url}/clips")[1][-1] == {"error": "the server failed at this clip; its log says more"}
    assert "a bug" in caplog.text


def test_the_place_in_the_line_is_told_as_it_moves():
    async def visits():
        queue = Queue(3)
        with queue.place() as first:
            with queue.place():
                last = queue.place()
                line = queue.ahead(last.__enter__())
                assert [ahead async for ahead in queue.ahead(first)] == []
                assert queue.is_full
                assert await anext(line) == 2
            assert await anext(line) == 1  # the second one gave up
        assert [ahead async for ahead in line] == []
        last.__exit__(None, None, None)
        assert not queue.is_full

    asyncio.run(asyncio.wait_for(visits(), 10))


# Parts


def test_a_computation_ends_at_a_block_of_the_model_once_its_time_is_over():
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Identity()])
    limit = TimeLimit(model, timeout_sec=0)
    with pytest.raises(RefusedError, match=re.escape("longer than 0 s (serve.timeout_sec)")), limit.running():
        model.blocks[0](torch.zeros(1))
    model.blocks[0](torch.zeros(1))  # nothing runs out where nobody waits
    limit.close()
    with pytest.raises(RefusedError, match="being stopped"):
        model.blocks[0](torch.zeros(1))


@pytest.mark.parametrize(
    ("shuffle", "reverse", "freeze", "expected"),
    [
        ((0.2, 0.8), (0.9, 0.1), (0.9, 0.1), "used the order of the frames on this clip: with the same frames"),
        ((0.7, 0.3), (0.9, 0.1), (0.9, 0.1), "shuffled a falls from 90% to 70%"),
        ((0.85, 0.15), (0.4, 0.6), (0.9, 0.1), "in reverse it says b"),
        ((0.85, 0.15), (0.95, 0.05), (0.4, 0.6), "but not their order"),
        ((0.85, 0.15), (0.95, 0.05), (0.9, 0.1), "did not need time"),
    ],
)  # fmt: skip
def test_a_sentence_says_whether_time_was_used(shuffle, reverse, freeze, expected):
    orders = {"forward": (0.9, 0.1), "shuffle": shuffle, "reverse": reverse, "freeze": freeze}
    assert expected in time_sentence({order: torch.tensor(row) for order, row in orders.items()}, ["a", "b"])
    assert time_sentence({"forward": torch.tensor([0.9, 0.1])}, ["a", "b"]) == ""


def test_facts_are_counted_where_the_header_is_silent(shared_videos):
    (facts,) = read_facts(shared_videos / "moviepy_no_duration.webm")
    assert [facts["frames"], round(facts["seconds"], 1), facts["width"], facts["height"]] == [74, 4.9, 1280, 720]


def test_what_is_missing_or_wrong_is_told_before_a_model_is_read(checkpoint, monkeypatch):
    with pytest.raises(ConfigError, match=r"serve\.max_seconds = 0(\.0)?: must be more than 0"):
        check(compose([*SMALL, "task=serve", f"ckpt={checkpoint}", "serve.max_seconds=0"]))
    with pytest.raises(ConfigError, match="task=serve needs ckpt="):
        check(compose([*SMALL, "task=serve"]))
    cfg = compose([*SMALL, "task=serve", "ckpt=nowhere", "serve.port=0"])
    with serve.listen(Settings(port=0)) as taken, pytest.raises(ValueError, match="in use"):
        serve.listen(Settings(port=taken.getsockname()[1]))
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"task=serve needs starlette, uvicorn: pip install 'mvit_train\[serve\]'"):
        serve.run(cfg)
