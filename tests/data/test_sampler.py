from collections import Counter

import numpy as np

from mvit_train.data.sampler import EpochShuffle, Shard


def epoch(number, **arguments):
    sampler = EpochShuffle(20, **{"batch_size": 4, "seed": 0, **arguments})
    sampler.set_epoch(number)
    return list(sampler)


def test_an_epoch_takes_every_video_once_in_an_order_of_its_own():
    first, second = epoch(0), epoch(1)
    assert sorted(index for _, index in first) == list(range(20))
    assert [index for _, index in first] != [index for _, index in second]
    assert first == epoch(0) != epoch(0, seed=1)
    assert {number for number, _ in second} == {1}


def test_two_ranks_together_see_the_batches_of_one_process():
    alone = epoch(3, batch_size=4)
    ranks = [epoch(3, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for step in range(5):
        together = ranks[0][step * 2 : step * 2 + 2] + ranks[1][step * 2 : step * 2 + 2]
        assert together == alone[step * 4 : step * 4 + 4]


def test_ranks_get_equal_full_batches_also_where_videos_do_not_divide():
    lengths = {len(epoch(0, batch_size=3, rank=rank, world_size=2)) for rank in range(2)}
    assert lengths == {9}  # 20 // 6 = 3 steps of 3
    tiny = EpochShuffle(3, batch_size=8, seed=0)
    assert len(tiny) == len(list(tiny)) == 8
    assert {index for _, index in tiny} == {0, 1, 2}


def test_an_epoch_goes_on_with_the_videos_that_are_left_in_steps_of_another_size():
    alone = [index for _, index in epoch(3, batch_size=1)]
    sampler = EpochShuffle(20, batch_size=3, seed=0)
    sampler.set_epoch(3)
    first = sampler.go_on(3, 8)
    assert first == 2  # of 6 steps; the other four take the 12 that are left
    assert [index for _, index in sampler][first * 3 :] == alone[8:]
    sampler.set_epoch(4)
    assert list(sampler) == epoch(4, batch_size=3)  # the next one is whole


def test_shards_cover_every_video_once_for_any_number_of_ranks():
    for world_size in (1, 2, 3, 5, 7):
        shards = [list(Shard(20, rank=rank, world_size=world_size)) for rank in range(world_size)]
        assert sorted(index for shard in shards for index in shard) == list(range(20))


def test_balanced_epochs_hold_every_class_equally_often_and_all_videos_take_turns():
    classes = np.array([0] * 14 + [1] * 4 + [2] * 2)
    seen = Counter()
    for number in range(6):
        indices = [index for _, index in epoch(number, classes=classes)]
        assert len(indices) == 20
        assert sorted(Counter(classes[indices]).values()) == [6, 7, 7]
        assert indices == [index for _, index in epoch(number, classes=classes)]
        seen.update(indices)
    assert set(seen) == set(range(20))
    largest = [seen[i] for i in range(14)]
    assert max(largest) - min(largest) <= 2  # 2 of 14 are left out of an epoch's 7, in turn
    assert min(seen[i] for i in (18, 19)) > max(largest)


def test_balanced_batches_mix_the_classes():
    classes = np.array([0] * 50 + [1] * 50)
    sampler = EpochShuffle(100, batch_size=10, seed=0, classes=classes)
    indices = [index for _, index in sampler]
    assert all(classes[indices[i : i + 10]].sum() == 5 for i in range(0, 100, 10))
