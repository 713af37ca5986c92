"""Readers of video files that are compared: ours, and those of other packages where they are installed.

Each opens the file anew and decodes with one thread.
"""

import importlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from mvit_train.data.decode import DecodedVideo


@dataclass(frozen=True)
class Span:
    """`indices` of the frames wanted, from a window [start, end) in seconds."""

    start: Fraction
    end: Fraction
    indices: list[int]


Reader = Callable[[Path, Span], Tensor]  # (3, T, H, W), 0 to 255


def ours(path: Path, span: Span) -> Tensor:
    with DecodedVideo(path, num_frames=len(span.indices)) as video:
        clip = video.get_clip(span.start, span.end)["video"]
    assert clip is not None
    return clip


def pytorchvideo(path: Path, span: Span) -> Tensor:
    """Its PyAV decoder and its subsampling: all frames of the window, as float32."""
    video: Any = importlib.import_module("pytorchvideo.data.encoded_video").EncodedVideo.from_path(
        str(path), decode_audio=False, decoder="pyav"
    )
    clip = video.get_clip(span.start, span.end)["video"]
    video.close()
    return clip[:, torch.linspace(0, clip.shape[1] - 1, len(span.indices)).long()]


def torchcodec(path: Path, span: Span) -> Tensor:
    decoders: Any = importlib.import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="exact")
    return decoder.get_frames_at(span.indices).data.transpose(0, 1)


def decord(path: Path, span: Span) -> Tensor:
    package: Any = importlib.import_module("decord")
    reader = package.VideoReader(str(path), ctx=package.cpu(0), num_threads=1)
    return torch.from_numpy(reader.get_batch(span.indices).asnumpy()).permute(3, 0, 1, 2)


def opencv(path: Path, span: Span) -> Tensor:
    """Seeks to the first frame, grabs all and retrieves the wanted ones."""
    cv2: Any = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_POS_FRAMES, span.indices[0])
    frames = []
    for index in range(span.indices[0], span.indices[-1] + 1):
        capture.grab()
        if index in span.indices:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)


READERS: dict[str, Reader] = {
    "ours": ours,
    "pytorchvideo": pytorchvideo,
    "torchcodec": torchcodec,
    "decord": decord,
    "opencv": opencv,
}
# What must be imported.
PACKAGES = {
    "pytorchvideo": "pytorchvideo.data",
    "torchcodec": "torchcodec.decoders",
    "decord": "decord",
    "opencv": "cv2",
}


def installed() -> dict[str, Reader]:
    """The readers that work here: their package can be imported, and reads a small video. torchcodec takes FFmpeg from
    the system and notices only then that there is none."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        trial = _draw_trial(Path(folder) / "trial.mp4")
        for name, reader in READERS.items():
            try:
                importlib.import_module(PACKAGES.get(name, __name__))
                reader(trial, Span(Fraction(0), Fraction(8, 30), [0, 7]))
            except (ImportError, OSError, RuntimeError):
                continue
            found[name] = reader
    return found


def _draw_trial(path: Path) -> Path:
    """Eight grey frames."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((96, 64), 128, np.uint8), "yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
