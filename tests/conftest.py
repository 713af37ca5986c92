"""Videos drawn on the fly, every frame carrying its own index as black and white blocks that survive lossy coding."""

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # tests/ops: kernels on the CPU; Triton asks when it is first imported

ROWS, COLUMNS, BLOCK = 3, 4, 16  # 12 bits, least significant first, in 64 x 48 pixels
SHARED_VIDEOS = Path(__file__).parents[2] / "shared" / "videos"

# Key frames are rare enough for windows to start between them; most frames of a codec that has B-frames are such.
CODEC_OPTIONS = {
    "libx264": {"g": "12", "bf": "2", "preset": "ultrafast", "x264-params": "b-adapt=0:scenecut=0"},
    "libx265": {"g": "12", "bf": "2", "preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"g": "12", "deadline": "realtime", "cpu-used": "8"},
    "mpeg4": {"g": "12", "bf": "2"},
    "mpeg2video": {"g": "12", "bf": "2"},
}


def barcode(index: int, block: int = BLOCK) -> np.ndarray:
    """`index` as an RGB image (H, W, 3)."""
    bits = (index >> np.arange(ROWS * COLUMNS) & 1).reshape(ROWS, COLUMNS)
    grey = np.kron(bits, np.ones((block, block))) * 255
    return grey.astype(np.uint8)[..., None].repeat(3, axis=-1)


def draw_video(
    path: Path,
    num_frames: int,
    *,
    codec: str = "libx264",
    fps: Fraction | int = 30,
    times: Sequence[int] | None = None,
    tick: Fraction | None = None,
    first_index: int = 0,
    block: int = BLOCK,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Frames `first_index`, `first_index + 1`... from 0 on at `fps`, or at `times` in units of `tick` (1 / fps)."""
    tick = tick or 1 / Fraction(fps)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps), options=CODEC_OPTIONS[codec] | (options or {}))
        stream.width, stream.height, stream.pix_fmt = COLUMNS * block, ROWS * block, "yuv420p"
        stream.codec_context.time_base = tick
        if rotation:
            stream.set_display_rotation(rotation)  # a player turns the picture counter-clockwise by these degrees
        for index, time in enumerate(times or range(num_frames), first_index):
            frame = av.VideoFrame.from_ndarray(barcode(index, block), "rgb24")
            frame.pts, frame.time_base = time, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`video("a.mp4", 90, fps=25)` is the path of a `draw_video`, drawn once per session for equal arguments."""
    folder, drawn = tmp_path_factory.mktemp("videos"), {}
    av.logging.set_level(av.logging.ERROR)  # encoders report their settings otherwise

    def make(name: str, num_frames: int, **kwargs: Any) -> Path:
        key = name, num_frames, repr(sorted(kwargs.items()))
        if key not in drawn:
            place = folder / str(len(drawn))
            place.mkdir()
            drawn[key] = draw_video(place / name, num_frames, **kwargs)
        return drawn[key]

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, video: Callable[..., Path]) -> Path:
    """A folder as users have it: two class folders of twelve short videos each; three quarters are for training."""
    folder = tmp_path_factory.mktemp("mine")
    for name, first in (("low", 0), ("high", 2048)):
        (folder / name).mkdir()
        for i in range(12):
            shutil.copy(video("a.mp4", 20 + i, first_index=first + i), folder / name / f"{i}.mp4")
    return folder


@pytest.fixture(scope="session")
def two_splits(tmp_path_factory: pytest.TempPathFactory, video: Callable[..., Path]) -> Callable[..., Path]:
    """`two_splits(num_train=4, num_val=3)`: a folder with manifests of so many videos of each of two classes, and one
    more for validation, the third, that cannot be read."""

    def make(*, num_train: int, num_val: int) -> Path:
        folder = tmp_path_factory.mktemp("two_classes")
        rows: dict[str, list[str]] = {"train": [], "val": []}
        for name, first in (("low", 0), ("high", 2048)):
            for i in range(num_train + num_val):
                file = f"{name}{i}.mp4"
                shutil.copy(video("a.mp4", 24 + i, first_index=first + 5 * i), folder / file)
                rows["train" if i < num_train else "val"].append(f"{file},{name}\n")
        (folder / "empty.mp4").touch()
        rows["val"].insert(2, "empty.mp4,low\n")
        for split, lines in rows.items():
            (folder / f"{split}.csv").write_text("path,label\n" + "".join(lines))
        return folder

    return make


@pytest.fixture
def command_line(tmp_path: Path) -> Callable[..., None]:
    """`command_line(*arguments)` runs the command in a process of its own, which may start others; it must succeed."""

    def run(*arguments: str) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "mvit_train", *arguments],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]

    return run


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests that train: no run id or W&B mode of elsewhere, and one thread, since models this small lose by two."""
    monkeypatch.setenv("MVIT_TRAIN_RUN_ID", "")
    monkeypatch.delenv("MVIT_TRAIN_RUN_ID")
    monkeypatch.setenv("WANDB_MODE", "offline")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def read_barcodes() -> Callable[[Any], list[int]]:
    """The indices in a clip (3, T, H, W), whatever its size."""

    def read(clip: Any) -> list[int]:
        grey = np.asarray(clip).mean(axis=0)
        rows, columns = grey.shape[1] // ROWS, grey.shape[2] // COLUMNS
        blocks = grey[:, : rows * ROWS, : columns * COLUMNS].reshape(-1, ROWS, rows, COLUMNS, columns)
        centres = blocks[:, :, rows // 4 : -(rows // 4), :, columns // 4 : -(columns // 4)]  # edges blur
        bits = centres.mean(axis=(2, 4)).reshape(-1, ROWS * COLUMNS) > 127
        return (bits << np.arange(ROWS * COLUMNS)).sum(axis=1).tolist()

    return read


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """The folder of real videos that lies beside the repository."""
    if not SHARED_VIDEOS.is_dir():
        pytest.skip(f"the real videos are not here: {SHARED_VIDEOS}")
    return SHARED_VIDEOS


class Chromium:
    """Drives a headless Chromium through its DevTools pipe: messages are JSON, each ended by a zero byte."""

    def __init__(self, binary: str, profile: Path) -> None:
        read_command, self.commands = os.pipe()
        self.answers, write_answer = os.pipe()
        # The pipe must be descriptors 3 and 4 of the browser: the shell renames them.
        # A test pattern is the webcam, and nobody is asked whether a page may have it.
        switches = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream --disable-sync "
        switches += "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
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
        code, text = {"Escape": (27, ""), "Tab": (9, ""), "Enter": (13, "\r")}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def look(self, scheme: str = "light", width: int = 1280) -> None:
        """The colour scheme that the reader prefers, and the width of the window."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )

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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium, one for all tests; `open` starts each page anew."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no chromium binary on the PATH (Debian: apt-get install chromium)")
    chromium = Chromium(binary, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


MEASURED = "measured"


@pytest.fixture
def record_measured(request: pytest.FixtureRequest) -> Callable[[str, float, float], None]:
    """`record_measured(what, found, bound)`: the run ends with a table of how close equalities were."""

    def record(what: str, found: float, bound: float) -> None:
        request.node.user_properties.append((MEASURED, (what, float(found), float(bound))))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    measured = sorted({tuple(value) for name, value in properties if name == MEASURED})
    if measured:
        terminalreporter.section("measured differences")
        for what, found, bound in measured:
            terminalreporter.write_line(f"{found:9.1e}  (at most {bound:.0e})  {what}")
