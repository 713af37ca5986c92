"""Videos written come back: pictures, times, sizes; a failed one leaves nothing."""

import io

import av
import numpy as np
import pytest

from mvit_train.mp4 import write_mp4


def read(source):
    """(seconds, (H, W, 3)) of every frame, and the stream's codec, pixel format and rate in bits per second."""
    with av.open(source) as container:
        stream = container.streams.video[0]
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        return frames, (stream.codec_context.name, stream.codec_context.pix_fmt, len(container.streams))


def picture(index, size=(48, 64)):
    """A grey ramp with a bright square that moves with `index`: smooth, so that little is lost."""
    image = np.repeat(np.linspace(40, 120, size[1]).astype(np.uint8)[None, :, None], size[0], 0).repeat(3, 2)
    image[8:24, 2 * index : 2 * index + 12] = (230, 60, 30)
    return image


@pytest.mark.parametrize("in_memory", [False, True])
def test_pictures_and_uneven_times_come_back(tmp_path, in_memory):
    times = [0.0, 0.1, 0.15, 0.2, 0.9, 1.001, 3.0]
    frames = [(time, picture(index)) for index, time in enumerate(times)]
    target = io.BytesIO() if in_memory else tmp_path / "deep" / "a.mp4"
    write_mp4(target, iter(frames), crf=10)
    if in_memory:
        target.seek(0)
    else:
        assert [file.name for file in target.parent.iterdir()] == ["a.mp4"]
    found, kind = read(target if in_memory else str(target))
    assert kind == ("h264", "yuv420p", 1)
    assert [time for time, _ in found] == pytest.approx(times, abs=1e-4)
    for (_, image), (_, wanted) in zip(found, frames, strict=True):
        assert np.abs(image.astype(int) - wanted).mean() < 4


@pytest.mark.parametrize("size", [(47, 63), (48, 63), (1, 1)])
def test_odd_sides_get_their_last_pixels_twice(tmp_path, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 1), np.uint8).repeat(3, 2)
    write_mp4(tmp_path / "a.mp4", [(0.0, image)], crf=0)
    ((_, found),), _ = read(str(tmp_path / "a.mp4"))
    assert found.shape[:2] == tuple(side + side % 2 for side in size)
    assert np.abs(found[: size[0], : size[1]].astype(int) - image).max() <= 3
    assert np.array_equal(found[-1], found[size[0] - 1])
    assert np.array_equal(found[:, -1], found[:, size[1] - 1])


def test_a_limited_rate_is_kept(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 120, 160, 3), np.uint8)
    for name, limit in (("free", None), ("limited", 200_000)):
        write_mp4(tmp_path / name, ((i / 30, image) for i, image in enumerate(noise)), max_bits_per_sec=limit)
    free, limited = (8 * (tmp_path / name).stat().st_size / 2 for name in ("free", "limited"))
    assert free > 1_500_000
    assert limited < 400_000


@pytest.mark.parametrize(
    ("times", "sizes", "message"),
    [
        ([], [], "no frame"),
        ([0, 1, 1], [(8, 8)] * 3, r"frame at 1\.000 s: the one before is at 1\.000 s"),
        ([0, 1], [(8, 8), (8, 10)], r"its shape is \(8, 10, 3\), of the first \(8, 8, 3\)"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(tmp_path, times, sizes, message):
    target = tmp_path / "a.mp4"
    target.write_text("old")
    frames = [(time, np.zeros((*size, 3), np.uint8)) for time, size in zip(times, sizes, strict=True)]
    with pytest.raises(ValueError, match=message):
        write_mp4(target, frames)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.mp4", "old")]
