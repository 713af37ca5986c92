"""Heat over frames: which pixels, which colours, at which times; the files that `task=predict` writes."""

import io
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch

from mvit_train.__main__ import main
from mvit_train.attention_overlay import INFERNO, attention_clip, attention_overlay, inferno, playing_times
from mvit_train.config import ConfigError, build, check, compose, to_dict
from mvit_train.data.views import Views
from mvit_train.labels import Labels
from mvit_train.models import mvit_b, mvit_b_image, mvit_v2_s
from mvit_train.models.rollout import saliency
from mvit_train.predict import Predictor
from mvit_train.prediction.attention import timed_views
from mvit_train.prediction.reading import evaluation_views

SMALL = dict(crop_size=32, embed_dim=8, blocks_per_stage=(1, 1), num_classes=5)


def decoded(source) -> list[tuple[float, np.ndarray]]:
    with av.open(source) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_heat_lies_where_the_map_is_above_its_mean_and_nowhere_else():
    frames = np.full((2, 32, 48, 3), 100, np.uint8)
    maps = np.ones((2, 4, 6))
    maps[1, 1, 2] = 100
    drawn = attention_overlay(frames, maps)
    assert drawn.shape == (2, 256, 768, 3)  # 8 times as large, twice as wide
    plain, hot = drawn[:, :, :384], drawn[:, :, 384:]
    assert (plain == 100).all()
    assert (hot[0] == 100).all()
    changed = (hot[1] != 100).any(-1)
    assert (changed[64:128, 128:192].all(), changed[:32].any(), changed[:, 256:].any()) == (True, False, False)
    # 8 x 8 pixels a cube became 64 x 64: its centre is where rows 95 and 96 meet, half a pixel from their middles
    heat = (1 - 0.5 / 64) ** 2
    expected = 100 + 0.8 * heat * (inferno(np.array(heat)) - 100)
    assert np.abs(hot[1, 95:97, 159:161] - expected).max() <= 1


def test_the_heat_between_two_cubes_is_the_mean_of_theirs():
    frames = np.zeros((1, 256, 256, 3), np.uint8)
    maps = np.array([[[0.0, 8.0, 0.0, 0.0]]])  # the mean is 2, so the hottest is 4 times as much: heat 1, others 0
    hot = attention_overlay(frames, maps)[0, 128, 256:].astype(float)
    for pixel, heat in ((96, 1 - 0.5 / 64), (128, 0.5 - 0.5 / 64), (143, 0.25 + 0.5 / 64)):
        np.testing.assert_allclose(hot[pixel], 0.8 * heat * inferno(np.array(heat)), atol=1)
    assert hot[200:].max() == 0


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_map_that_is_the_same_everywhere_leaves_the_frames_as_they_are(value):
    frames = np.random.default_rng(0).integers(0, 256, (3, 260, 280, 3), dtype=np.uint8)
    drawn = attention_overlay(frames, np.full((3, 7, 7), value))
    np.testing.assert_array_equal(drawn, np.concatenate((frames, frames), axis=2))


def test_slight_differences_stay_dark():
    frames = np.full((1, 256, 256, 3), 128, np.uint8)
    maps = np.linspace(0.99, 1.01, 16).reshape(1, 4, 4)
    assert np.abs(attention_overlay(frames, maps).astype(int) - 128).max() <= 2


def test_inferno_goes_through_its_colours_and_gets_brighter():
    np.testing.assert_array_equal(inferno(np.linspace(0, 1, 16)), INFERNO)
    np.testing.assert_allclose(inferno(np.array(0.5)), (INFERNO[7] + INFERNO[8]) / 2)
    luminance = inferno(np.linspace(0, 1, 100)) @ (0.2126, 0.7152, 0.0722)
    assert all(before < after for before, after in pairwise(luminance))


@pytest.mark.parametrize(
    ("times", "shown", "end"),
    [
        ([2, 2.5, 3], [0, 0.5, 1], 1.5),
        ([0, 1, 1, 1], [0, 1, 1 + 1 / 30, 1 + 2 / 30], (1 + 2 / 30) * 4 / 3),
        ([7], [0], 2),
    ],
)
def test_frames_are_shown_at_their_pace_and_never_at_one_time(times, shown, end):
    found, found_end = playing_times(times)
    assert found == pytest.approx(shown)
    assert found_end == pytest.approx(end)


@pytest.mark.parametrize("method", ["rollout", "gradient"])
@pytest.mark.parametrize("make", [mvit_b, mvit_v2_s, mvit_b_image])
def test_a_clip_of_two_views_plays_one_after_the_other(make, method):
    torch.manual_seed(0)
    num_frames = 1 if make is mvit_b_image else 4
    model = make(**SMALL, num_frames=num_frames).eval()
    views = torch.randint(0, 256, (2, 3, num_frames, 32, 32), dtype=torch.uint8)
    times = [[0.1 * j for j in range(num_frames)], [5 + 0.2 * j for j in range(num_frames)]]
    frames = decoded(io.BytesIO(attention_clip(model, views, times, normalise=normalise, method=method)))
    expected = [0, 2, 4] if num_frames == 1 else [0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.2]
    assert [time for time, _ in frames] == pytest.approx(expected, abs=1e-4)
    assert {image.shape for _, image in frames} == {(256, 512, 3)}
    video = normalise(views[1:])
    maps = saliency(model, video.squeeze(2) if num_frames == 1 else video, method)[0].numpy()
    drawn = attention_overlay(views[1].permute(1, 2, 3, 0).numpy(), maps)
    assert np.abs(frames[-2][1].astype(float) - drawn[-1]).mean() < 12  # what coding loses of noise


def normalise(video):
    return (video.float() / 255 - 0.45) / 0.225


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with random weights."""
    torch.manual_seed(0)
    cfg, labels = compose(["experiment=motion"]), Labels(("alpha", "beta"))
    model = build(cfg.model, num_classes=2)
    module = build(cfg.module, model=model, labels=labels, config=to_dict(cfg, resolve=False))
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    names = {"class_names": list(labels.names), "label_fingerprint": labels.fingerprint, "multi_label": False}
    entry = {"config": module.config, "unreadable": {}, "data_fingerprint": "", **names}
    state = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 1, "mvit_train": entry}
    torch.save(state, folder / "checkpoints" / "last.ckpt")
    return folder


def test_the_views_are_the_evaluations_and_the_times_their_frames(run, video):
    predictor = Predictor.load(run, overrides=["trainer.accelerator=cpu", "data.num_workers=0"])
    path, views = video("a.mp4", 90), Views(2, 3)
    ((pixels, times),) = timed_views(path, predictor.data, views)
    (batch,) = evaluation_views(predictor.data, [path], views, predictor.labels)
    np.testing.assert_array_equal(pixels, batch["video"].numpy())
    # 90 frames at 30 per second, clips of 32 that start at frames 0 and 58, 8 of them evenly from first to last
    expected = [[float(Fraction(start) / 30 + Fraction(31, 7 * 30) * j) for j in range(8)] for start in (0, 58)]
    assert times == [pytest.approx(expected[clip]) for clip in (0, 0, 0, 1, 1, 1)]


@pytest.mark.usefixtures("own_environment")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_predict_writes_where_the_model_looks(run, video, tmp_path, capsys, num_workers):
    path = video("a.mp4", 90)
    asked = ["task=predict", f"ckpt={run}", "views=2x1", f"data.num_workers={num_workers}", "trainer.accelerator=cpu"]
    assert main([*asked, f"input={path}", f"attention={tmp_path}/one.mp4"]) == 0
    frames = decoded(tmp_path / "one.mp4")
    step = 31 / 7 / 30
    assert [time for time, _ in frames] == pytest.approx([step * j for j in range(17)], abs=1e-4)
    assert {image.shape for _, image in frames} == {(256, 512, 3)}
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    several = f"input=[{path},{tmp_path}/broken.mp4]"
    assert main([*asked, several, f"attention={tmp_path}/maps"]) == 1
    written = [file for file in (tmp_path / "maps").rglob("*") if file.is_file()]
    assert [(file.name, len(decoded(file))) for file in written] == [("a.mp4", 17)]
    assert "broken.mp4: not a video" in capsys.readouterr().err


def test_mistakes_are_told_before_anything_is_read(run, video, tmp_path, capsys):
    asked = ["task=predict", f"ckpt={run}", f"input={video('a.mp4', 90)}", "attention=a.mp4"]
    for more, message in (("timeline=true", "not those of timeline"), ("overlay=a.mp4", "is where the overlay goes")):
        with pytest.raises(ConfigError, match=message):
            check(compose([*asked, more]))
    one = f"input=[{video('a.mp4', 90)},{video('b.mp4', 90, first_index=7)}]"
    assert main([*asked[:2], one, f"attention={tmp_path}/a.mp4", "data.num_workers=0"]) != 0
    assert "attention: " in capsys.readouterr().err
