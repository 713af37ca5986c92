"""How sure a number is: bootstrap intervals over the videos, and McNemar's exact test of a difference.

Every interval is a percentile bootstrap of 95 % (Efron 1979): the videos are drawn anew with replacement, as many as
there are, RESAMPLES times, from a fixed seed. All quantities take the same draws, so differences are paired. What is
summed is whole numbers, or multiples of 1 / FINE: sums are exact, and no order of additions changes a digit.
"""

from collections.abc import Iterator

import numpy as np

RESAMPLES, SEED = 2000, 0
RESAMPLES_PRECISION = 400  # of average precisions, which have to be ranked anew
FINE = 2.0**20
CHUNK = 4_000_000  # draws held at a time: 32 MB


def resampled_weights(num_videos: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """(r, N) float64, in all so many rows: how often a resample draws each of the N videos. Every row sums to N."""
    rng = np.random.default_rng(SEED)
    rows = max(CHUNK // num_videos, 1)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, num_videos, (count, num_videos))
        drawn += num_videos * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * num_videos).reshape(count, num_videos).astype(np.float64)


def resampled_class_sums(values: np.ndarray, labels: np.ndarray, num_classes: int) -> Iterator[np.ndarray]:
    """(r, K, M) float64, in all RESAMPLES rows: the sums of M values over the drawn videos of each class.

    values: (N, M); labels: (N,) classes.
    """
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    sorted_values = np.ascontiguousarray(values[order], dtype=np.float64)
    for weights in resampled_weights(len(labels)):
        sums = np.zeros((len(weights), num_classes, values.shape[1]))
        for index, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > start:
                sums[:, index] = weights[:, start:end] @ sorted_values[start:end]
        yield sums


def resampled_precisions(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(r, K) average precisions in percent of resamples, as `average_precisions`; NaN where no drawn video shows it.

    scores: (N, K); labels: (N, K) bool; weights: (r, N).
    """
    result = np.full((len(weights), scores.shape[1]), np.nan)
    for index in np.flatnonzero(labels.any(axis=0)).tolist():
        order = np.argsort(-scores[:, index], kind="stable")
        ranked = scores[order, index]
        last = np.searchsorted(-ranked, -ranked, side="right") - 1  # the end of those of equal score
        drawn, shows = weights[:, order], np.flatnonzero(labels[order, index])
        positives = np.cumsum(drawn[:, shows], axis=1)
        found = positives[:, np.searchsorted(shows, last[shows], side="right") - 1]
        listed = np.cumsum(drawn, axis=1)[:, last[shows]]
        total = positives[:, -1]
        precision = (drawn[:, shows] * found / np.maximum(listed, 1)).sum(axis=1) / np.maximum(total, 1)
        result[:, index] = np.where(total > 0, 100 * precision, np.nan)
    return result


def interval(samples: np.ndarray) -> list[float]:
    """[low, high]: the 2.5th and the 97.5th percentile of (R,) resampled values, those that are NaN left out."""
    return np.quantile(samples[~np.isnan(samples)], (0.025, 0.975)).tolist()


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """The mean over the K classes of (R, K, ...), NaN left out; NaN where there is nothing else."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)


def on_fine_grid(values: np.ndarray) -> np.ndarray:
    """float64 multiples of 1 / FINE nearest to the values, whose sums are exact."""
    return np.round(values.astype(np.float64) * FINE) / FINE


def mcnemar(right: np.ndarray, right_before: np.ndarray) -> dict[str, float]:
    """McNemar's exact test of a change of accuracy on the same videos, two-sided.

    Under the null hypothesis a video that is right only once is so before or after with equal chance: of n such videos
    k lie on the rarer side, p = 2 (C(n, 0) + ... + C(n, k)) / 2^n, at most 1. Whole numbers throughout: nothing is
    lost before the division; a p below 5e-324 comes out as 0.

    right, right_before: (N,) bool. Returns {"lost": right before alone, "won": right after alone, "p"}.
    """
    lost, won = int((right_before & ~right).sum()), int((right & ~right_before).sum())
    n, k = lost + won, min(lost, won)
    term = total = 1
    for i in range(1, k + 1):
        term = term * (n - i + 1) // i
        total += term
    return {"lost": lost, "won": won, "p": min(1.0, 2 * total / 2**n)}
