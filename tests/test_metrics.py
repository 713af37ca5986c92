import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from mvit_train.metrics import (
    ViewScores,
    confusion,
    headline,
    mean_class_accuracy,
    predict,
    summarize,
    topk_accuracy,
)

NUM_VIDEOS, NUM_CLASSES, NUM_VIEWS = 23, 7, 15


def softmax_scores() -> torch.Tensor:
    """(N, V, K) float32, of very different sizes: their float64 sums depend on the order of addition."""
    generator = torch.Generator().manual_seed(0)
    return (8 * torch.randn(NUM_VIDEOS, NUM_VIEWS, NUM_CLASSES, generator=generator)).softmax(dim=-1)


def add_places(meter: ViewScores, places: list[tuple[int, int]], batch: int, noise: float = 0.0) -> None:
    """noise: what a second copy of a view differs by, as it can on another device."""
    scores = (softmax_scores() + noise).clamp(0, 1)
    for start in range(0, len(places), batch):
        video, view = torch.tensor(places[start : start + batch]).T
        meter.add(video, view, scores[video, view])


def shard(rank: int, world_size: int, kind: str) -> list[tuple[int, int]]:
    """The (video, view) that a rank scores."""
    everything = [(video, view) for video in range(NUM_VIDEOS) for view in range(NUM_VIEWS)]
    if kind == "uneven":  # the last rank has few videos, in the opposite order
        mine = [place for place in everything if min(place[0] // 10, world_size - 1) == rank]
        return mine[::-1] if rank else mine
    if kind == "overlap":  # a padding sampler: every rank also repeats two videos of the next one, and one twice
        mine = [place for place in everything if place[0] % world_size == rank]
        padding = [place for place in everything if place[0] in (rank + 1, rank + 2)]
        return padding + mine + mine[:20]
    return everything[rank::world_size]  # "views": the views of a video lie on different ranks


KINDS = ("uneven", "overlap", "views")
ENSEMBLES = ("mean", "max")


def rank_main(rank: int, folder: Path) -> None:
    """Runs three ranks, then two of them, then one: starting processes is what takes time here."""
    for world_size in (3, 2, 1):
        if rank < world_size:
            store = f"file://{folder}/store{world_size}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
            for kind, ensemble in product(KINDS, ENSEMBLES):
                meter = ViewScores(NUM_VIDEOS, NUM_CLASSES, NUM_VIEWS, ensemble=ensemble)
                add_places(meter, shard(rank, world_size, kind), batch=4 + rank)
                meter.gather()
                meter.gather()  # a second call changes nothing
                torch.save((meter.by_video(), meter.complete), folder / f"{world_size}-{kind}-{ensemble}-{rank}.pt")
            copies = ViewScores(NUM_VIDEOS, NUM_CLASSES, NUM_VIEWS, ensemble="max")
            add_places(copies, shard(0, 1, "views"), batch=8, noise=0.125 * rank)  # every rank scores everything
            copies.gather()
            torch.save(copies.by_video(), folder / f"copies-{world_size}-{rank}.pt")
            lost = ViewScores(2, 2, 1, ensemble="max")
            lost.add(torch.tensor([rank % 2]), torch.tensor([0]), torch.full((1, 2), [0.5, math.nan][rank % 2]))
            lost.gather()
            torch.save(lost.by_video(), folder / f"nan-{world_size}-{rank}.pt")
            dist.destroy_process_group()


def test_one_two_and_three_ranks_give_the_digits_of_a_single_process(tmp_path):
    alone = {ensemble: ViewScores(NUM_VIDEOS, NUM_CLASSES, NUM_VIEWS, ensemble=ensemble) for ensemble in ENSEMBLES}
    for meter in alone.values():
        add_places(meter, shard(0, 1, "views"), batch=8)
        meter.gather()
    multiprocessing.spawn(rank_main, (tmp_path,), nprocs=3)
    results = [(path.stem.split("-")[2], torch.load(path)) for path in tmp_path.glob("[123]-*.pt")]
    assert len(results) == (1 + 2 + 3) * len(KINDS) * len(ENSEMBLES)
    for ensemble, (scores, complete) in results:
        assert complete.all()
        assert torch.equal(scores, alone[ensemble].by_video())
    copies = [torch.load(path) for path in tmp_path.glob("copies-*.pt")]
    assert len(copies) == 1 + 2 + 3
    assert all(torch.equal(scores, alone["max"].by_video()) for scores in copies)  # the lower rank's, not the higher
    lost = [torch.load(path) for path in tmp_path.glob("nan-*.pt")]
    assert len(lost) == 1 + 2 + 3
    assert all(scores[0].tolist() == [0.5, 0.5] and scores[1].isnan().all() for scores in lost)


def test_the_order_of_the_views_changes_no_digit():
    places = shard(0, 1, "views")
    orders = [places, places[::-1], sorted(places, key=lambda place: (37 * place[0] + 11 * place[1]) % 101)]
    sums = []
    for batch, order in enumerate(orders, start=1):
        meter = ViewScores(NUM_VIDEOS, NUM_CLASSES, NUM_VIEWS)
        add_places(meter, order, batch)
        sums.append(meter._total)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_the_mean_is_that_of_the_scores():
    meter = ViewScores(NUM_VIDEOS, NUM_CLASSES, NUM_VIEWS)
    add_places(meter, shard(0, 1, "views"), batch=16)
    assert meter.by_video().dtype == torch.float32
    torch.testing.assert_close(meter.by_video(), softmax_scores().double().mean(dim=1).float(), rtol=1e-6, atol=1e-11)


def test_the_maximum_is_that_of_the_scores_in_any_order_of_the_views():
    places = shard(0, 1, "views")
    for batch, order in ((16, places), (3, places[::-1])):
        meter = ViewScores(NUM_VIDEOS, NUM_CLASSES, NUM_VIEWS, ensemble="max")
        add_places(meter, order, batch)
        assert torch.equal(meter.by_video(), softmax_scores().amax(dim=1))


def test_a_view_counts_once_also_in_the_maximum():
    meter = ViewScores(num_videos=2, num_classes=2, num_views=2, ensemble="max")
    views = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.9, 0.9]])
    meter.add(torch.tensor([0, 0, 0]), torch.tensor([0, 1, 1]), views)
    assert meter.by_video()[0].tolist() == [0.75, 0.5]
    assert meter.by_video()[1].isnan().all()


def test_a_view_counts_once_however_often_it_comes():
    meter = ViewScores(num_videos=1, num_classes=2, num_views=2)
    first, second = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    meter.add(torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1]), torch.stack([first, second, second]))
    meter.add(torch.tensor([0]), torch.tensor([1]), first[None])
    assert meter.by_video().tolist() == [[0.625, 0.375]]


def test_videos_that_lack_a_view_are_not_complete_and_have_no_mean():
    meter = ViewScores(num_videos=3, num_classes=2, num_views=2)
    meter.add(torch.tensor([0, 2, 0]), torch.tensor([0, 1, 1]), torch.full((3, 2), 0.5))
    assert meter.complete.tolist() == [True, False, False]
    assert meter.by_video()[0].tolist() == [0.5, 0.5]
    assert meter.by_video()[1:].isnan().all()


@pytest.mark.parametrize(
    ("video", "view", "scores", "message"),
    [
        ([2], [0], [[0.5, 0.5]], r"video_index \[2\] leaves the range 0\.\.1"),
        ([-1], [0], [[0.5, 0.5]], "video_index"),
        ([0], [3], [[0.5, 0.5]], r"view_index \[3\] leaves the range 0\.\.2"),
        ([0], [0], [[4.0, -2.0]], "softmax or sigmoid scores, not logits"),
        ([0], [0], [[1.0, 0.0, 0.0]], "scores have shape"),
    ],
)
def test_a_batch_that_cannot_be_right_is_refused(video, view, scores, message):
    meter = ViewScores(num_videos=2, num_classes=2, num_views=3)
    with pytest.raises(ValueError, match=message):
        meter.add(torch.tensor(video), torch.tensor(view), torch.tensor(scores))


def test_nan_scores_are_kept_and_found_later():
    meter = ViewScores(num_videos=2, num_classes=2, num_views=1)
    meter.add(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([[0.5, 0.5], [math.nan, math.nan]]))
    assert meter.complete.all()
    with pytest.raises(ValueError, match="NaN scores in 1 of 2 rows: 1"):
        predict(meter.by_video())


SCORES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3], [0.6, 0.3, 0.1]])
LABELS = torch.tensor([0, 1, 0, 2])


@pytest.mark.parametrize(("k", "expected"), [(1, 25.0), (2, 75.0), (3, 100.0), (5, 100.0)])
def test_topk_equals_counting_by_hand(k, expected):
    assert topk_accuracy(SCORES, LABELS, k) == expected


def test_topk_equals_torch_topk_without_ties():
    scores, labels = softmax_scores()[:, 0], torch.arange(NUM_VIDEOS) % NUM_CLASSES
    for k in range(1, NUM_CLASSES + 1):
        hits = (scores.topk(k).indices == labels[:, None]).any(dim=1)
        assert topk_accuracy(scores, labels, k) == pytest.approx(100 * hits.double().mean().item())


@pytest.mark.parametrize(("label", "expected"), [(0, [100.0, 100.0]), (1, [0.0, 100.0]), (2, [0.0, 0.0])])
def test_equal_scores_go_to_the_lower_class(label, expected):
    scores = torch.full((1, 3), 1 / 3)
    assert [topk_accuracy(scores, torch.tensor([label]), k) for k in (1, 2)] == expected
    assert predict(scores).tolist() == [0]


def test_mean_class_accuracy_weighs_classes_alike_and_skips_those_without_videos():
    scores = torch.eye(4)[torch.tensor([0, 0, 0, 1, 0])]
    assert mean_class_accuracy(scores, torch.tensor([0, 0, 0, 1, 1])) == 75.0


def test_confusion_counts_labels_by_row_and_predictions_by_column():
    assert confusion(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 2]), 3).tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("function", [lambda s, t: topk_accuracy(s, t, 1), mean_class_accuracy])
def test_nan_no_videos_and_unknown_labels_are_errors(function):
    broken = SCORES.clone()
    broken[[1, 3], 0] = math.nan
    with pytest.raises(ValueError, match="NaN scores in 2 of 4 rows: 1, 3"):
        function(broken, LABELS)
    with pytest.raises(ValueError, match="no videos"):
        function(SCORES[:0], LABELS[:0])
    with pytest.raises(ValueError, match=r"labels reach 0\.\.3, classes are 0\.\.2"):
        function(SCORES, LABELS + torch.tensor([0, 0, 0, 1]))


def test_summarize_equals_counting_by_hand():
    assert summarize(SCORES, LABELS, ["a", "b", "c"]) == {
        "top1": 25.0,
        "top5": 100.0,
        "mean_class_accuracy": pytest.approx(50 / 3),
        "per_class": {
            "a": {"videos": 2, "top1": 50.0, "most_predicted": "a", "most_predicted_share": 50.0},
            "b": {"videos": 1, "top1": 0.0, "most_predicted": "c", "most_predicted_share": 100.0},
            "c": {"videos": 1, "top1": 0.0, "most_predicted": "a", "most_predicted_share": 100.0},
        },
    }


def test_summarize_has_none_for_a_class_without_videos():
    summary = summarize(SCORES[:2], LABELS[:2], ["a", "b", "c"])
    assert summary["per_class"]["c"] == {
        "videos": 0,
        "top1": None,
        "most_predicted": None,
        "most_predicted_share": None,
    }


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "a"]])
def test_summarize_wants_one_name_per_class(names):
    with pytest.raises(ValueError, match="3 classes need as many different names"):
        summarize(SCORES, LABELS, names)


def test_summarize_of_several_labels_a_video_is_the_mean_average_precision():
    labels = torch.nn.functional.one_hot(LABELS, 3).bool()
    summary = summarize(SCORES, labels, ["a", "b", "c"])
    assert summary.keys() == {"mAP", "per_class"}
    assert [headline(multi_label=False), headline(multi_label=True)] == ["top1", "mAP"]
