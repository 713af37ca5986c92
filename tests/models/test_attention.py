"""Relative positions along one axis."""

import torch

from mvit_train.models.attention import axis_distances, table_of_length


def test_distances_where_queries_or_keys_are_coarser():
    assert axis_distances(4, 2).tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    assert axis_distances(2, 4).tolist() == [[3, 2, 1, 0], [5, 4, 3, 2]]
    assert axis_distances(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    fractions = axis_distances(20, 10)  # 312 pixels, third stage
    assert (fractions.min(), fractions.max()) == (0, 37)


def test_a_table_of_another_length_is_interpolated_between_its_rows():
    table = torch.arange(5.0)[:, None].repeat(1, 3)
    assert table_of_length(table, 5) is table
    resized = table_of_length(table, 10)
    assert resized.shape == (10, 3)
    torch.testing.assert_close(resized[:, 0], torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.0]))
