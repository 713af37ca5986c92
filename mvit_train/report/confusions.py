"""Which class is called which, in a form that a page of 400 classes can carry, and an order that shows its groups."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor


def sparse_confusions(tables: Mapping[str, Tensor]) -> dict[str, list[list[int]]]:
    """[label, predicted, videos] of every pair that occurs, per frame order; tables: (K, K) of each."""
    return {
        order: [[*place, int(table[tuple(place)])] for place in table.nonzero().tolist()]
        for order, table in tables.items()
    }


def similar_order(table: np.ndarray) -> list[int]:
    """The classes in an order that puts those next to each other that are taken for each other.

    Average linkage: the two groups whose classes are confused most, on average, become one, until nothing is confused;
    the ends that are most alike meet. Groups follow each other by size; of equal ones the first class decides.

    Args:
        table: (K, K) videos of a label (row) called by each class.
    """
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    alike = share + share.T  # (K, K)
    np.fill_diagonal(alike, 0)
    between, groups = alike.copy(), [[index] for index in range(len(table))]
    while between.any():
        a, b = divmod(int(between.argmax()), len(table))  # a < b, the first of equals
        sizes = np.array([len(groups[a]), len(groups[b])])
        between[a] = sizes @ between[[a, b]] / sizes.sum()
        between[:, a] = between[a]
        between[a, a], between[b], between[:, b] = 0, 0, 0
        groups[a] = _joined(groups[a], groups[b], alike)
        groups[b] = []
    return [index for group in sorted(groups, key=len, reverse=True) for index in group]


def _joined(left: list[int], right: list[int], alike: np.ndarray) -> list[int]:
    """One after the other, each as it is or turned round, so that the two that meet are alike."""
    ways = [(one, two) for one in (left, left[::-1]) for two in (right, right[::-1])]
    best = max(ways, key=lambda way: alike[way[0][-1], way[1][0]])
    return best[0] + best[1]
