"""What W&B is shown of a validation: clips that play, answers that are those of the scores, confusions that add up."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from mvit_train.labels import Labels
from mvit_train.media import ValidationMedia, answer, chain, confused, confusions, matrix_picture, thumbnail
from mvit_train.metrics import ViewScores

NAMES = ("a", "b", "c", "d")
VIDEOS, UNREADABLE = 10, 6
LABELS = torch.arange(VIDEOS) % len(NAMES)


class Run:
    """Keeps what is logged."""

    on = True

    def __init__(self):
        self.logged = []

    def log_media(self, make, step):
        self.logged.append((step, make()))


class Videos:
    paths = [f"{i}.mp4" for i in range(VIDEOS)]

    def __len__(self):
        return VIDEOS

    def target_tensor(self):
        return LABELS


@pytest.fixture
def module():
    """A module after a validation of ten videos, of which one could not be read."""
    torch.manual_seed(0)
    scores = ViewScores(VIDEOS, len(NAMES), 1)
    index = torch.tensor([i for i in range(VIDEOS) if i != UNREADABLE])
    scores.add(index, torch.zeros_like(index), torch.rand(len(index), len(NAMES)).softmax(1))
    data = SimpleNamespace(splits={"val": Videos()}, sampling_rate=30, target_fps=None)
    return SimpleNamespace(data=data, labels=Labels(NAMES), scores={"forward": scores})


def validate(callback, module, *, epoch=0, max_epochs=1, world_size=1, rank=0):
    trainer = SimpleNamespace(
        is_global_zero=rank == 0,
        sanity_checking=False,
        world_size=world_size,
        max_epochs=max_epochs,
        current_epoch=epoch,
        global_step=10 * (epoch + 1),
    )
    clips = torch.arange(VIDEOS, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 3, 6, 200, 200) * 20
    callback.on_validation_start(trainer, module)
    for rows in torch.arange(VIDEOS).split(4):
        kept = rows[rows != UNREADABLE]
        callback.on_validation_batch_end(trainer, module, None, {"video": clips[kept], "video_index": kept}, 0)
    callback.on_validation_end(trainer, module)


@pytest.mark.parametrize(
    ("num_clips", "world_size", "shown"),
    [(4, 1, [0, 2, 5, 7]), (64, 1, [0, 1, 2, 3, 4, 5, 7, 8, 9]), (3, 2, [0, 2]), (2, 4, [0, 4])],
)
def test_the_same_readable_videos_spread_over_the_split_are_shown(tmp_path, module, num_clips, world_size, shown):
    run = Run()
    callback = ValidationMedia(run, tmp_path, num_clips)
    for epoch in range(2):
        validate(callback, module, epoch=epoch, max_epochs=2, world_size=world_size)
    assert [step for step, _ in run.logged] == [10, 20]
    for _, found in run.logged:
        table = found["val/clips"]
        assert [row[1] for row in table.rows] == [f"{i}.mp4" for i in shown]
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert [row[2] for row in table.rows] == [NAMES[i % 4] for i in shown]


def test_clips_are_small_short_and_those_that_were_scored(tmp_path, module):
    run = Run()
    validate(ValidationMedia(run, tmp_path, 3), module)
    ((_, found),) = run.logged
    assert [row[0].name for row in found["val/clips"].rows] == ["clip-0.mp4", "clip-3.mp4"]  # 6 cannot be read
    with av.open(str(found["val/clips"].rows[1][0])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.duration / av.time_base) <= 2.1  # six frames, one a second, were asked for
    assert (len(frames), frames[0].shape) == (6, (160, 160, 3))
    assert abs(float(np.mean(frames)) - 60) < 4  # video 3 is of grey 60


def test_a_run_keeps_clips_of_twenty_validations_and_answers_of_all(tmp_path, module):
    run = Run()
    callback = ValidationMedia(run, tmp_path, 2)
    for epoch in range(200):
        validate(callback, module, epoch=epoch, max_epochs=200)
    with_clips = [step for step, found in run.logged if found["val/clips"].rows[0][0] is not None]
    assert len(run.logged) == 200
    assert with_clips == [10, *range(100, 2001, 100)]


def test_other_ranks_and_runs_without_a_tracker_collect_nothing(tmp_path, module):
    run = Run()
    validate(ValidationMedia(run, tmp_path, 4), module, rank=1)
    run.on = False
    validate(ValidationMedia(run, tmp_path, 4), module)
    assert run.logged == []
    assert list(tmp_path.iterdir()) == []


def test_an_answer_is_truth_top_three_and_loss():
    scores = torch.tensor([0.1, 0.2, 0.05, 0.65])
    assert answer(scores, torch.tensor(1), NAMES) == [
        *("b", "d", pytest.approx(0.65), "b", pytest.approx(0.2), "a", pytest.approx(0.1)),
        pytest.approx(-np.log(0.2)),
    ]
    several = answer(scores, torch.tensor([True, False, False, True]), NAMES)
    expected = -np.mean([np.log(0.1), np.log(0.8), np.log(0.95), np.log(0.65)])
    assert (several[0], several[-1]) == ("a;d", pytest.approx(expected))


def test_confused_pairs_are_the_largest_counts_off_the_diagonal():
    counts = np.array([[5, 0, 3, 0], [0, 9, 0, 1], [0, 0, 0, 0], [4, 0, 0, 4]])
    assert confused(counts, NAMES) == [["d", "a", 4, 50.0], ["a", "c", 3, 37.5], ["b", "d", 1, 10.0]]


def test_the_order_of_the_matrix_sets_confused_classes_side_by_side():
    counts = 10 * np.eye(6, dtype=int)
    for one, other in ((0, 4), (1, 3), (2, 5)):
        counts[one, other] = 3
    order = chain(counts)
    assert sorted(order) == list(range(6))
    places = {c: place for place, c in enumerate(order)}
    assert all(abs(places[one] - places[other]) == 1 for one, other in ((0, 4), (1, 3), (2, 5)))


def test_the_picture_has_a_square_for_each_pair():
    picture = np.asarray(matrix_picture(np.array([[1, 1], [0, 0]])))
    assert picture.shape == (640, 640, 3)
    assert picture[0, 0].tolist() == [132, 152, 181]  # half way to dark blue
    assert picture[-1, 0].tolist() == [255, 255, 255]
    assert matrix_picture(np.eye(700)).size == (700, 700)


def test_confusions_agree_with_the_scores():
    scores, labels = torch.eye(4)[[0, 1, 1, 3]], torch.tensor([0, 1, 2, 3])
    found = confusions(scores, labels, NAMES)
    assert found["val/confused_pairs"].rows == [["c", "b", 1, 100.0]]
    assert found["val/confusion"].caption.endswith("classes in order: a, b, c, d")


def test_thumbnails_keep_small_clips_as_they_are():
    clip = torch.randint(0, 256, (3, 4, 32, 32), dtype=torch.uint8)
    assert np.array_equal(thumbnail(clip), clip.permute(1, 2, 3, 0).numpy())
    assert thumbnail(torch.full((3, 4, 320, 320), 7, dtype=torch.uint8)).tolist()[0][0][0] == [7, 7, 7]
