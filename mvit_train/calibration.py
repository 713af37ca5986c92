"""Whether scores mean what they say: reliability table, expected calibration error, negative log-likelihood."""

from typing import Any

import numpy as np

from mvit_train.statistics import on_fine_grid

BINS = 15
SMALLEST = float(np.finfo(np.float32).tiny)  # what float32 may have rounded to 0; -log of it is 87.3


def calibration(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How the scores compare with how often they are right (Guo et al. 2017, arXiv 1706.04599), BINS of equal width.

    Of videos of one label each, labels (N,), the score of the class called and whether it is right; of several labels
    a video, labels (N, K) bool, every score by itself and whether the video shows the class. A score on the edge of two
    bins belongs to the upper one, 1 to the last.

    scores: (N, K) probabilities. Returns {"ece": percent, "nll": nats, "bins": [{"low", "high", "count", "confidence":
    mean score in percent, "accuracy": percent}]}; the last two are None for an empty bin.
    """
    if labels.ndim == 2:
        confidence, right = scores.ravel(), labels.ravel()
    else:
        called = scores.argmax(axis=1)  # numpy too takes the first of several maxima
        confidence, right = scores[np.arange(len(scores)), called], called == labels
    confidence = confidence.astype(np.float64)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count, hits = (np.bincount(place, weights, BINS) for weights in (None, right.astype(np.float64)))
    mass = np.bincount(place, on_fine_grid(confidence), BINS)
    rows = [
        {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "count": int(count[index]),
            "confidence": 100 * mass[index] / count[index] if count[index] else None,
            "accuracy": 100 * hits[index] / count[index] if count[index] else None,
        }
        for index in range(BINS)
    ]
    ece = 100 * np.abs(mass - hits).sum() / len(confidence)
    return {"ece": float(ece), "nll": float(negative_log_likelihood(scores, labels).mean()), "bins": rows}


def negative_log_likelihood(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) float64, in nats, rounded to multiples of 2^-20: -log of the label's score; of several labels a video the
    mean over the classes of the binary cross-entropy. Scores count as at least SMALLEST."""
    if labels.ndim == 2:
        own = np.where(labels, scores, 1 - scores.astype(np.float64))
        return on_fine_grid(-np.log(np.maximum(own, SMALLEST)).mean(axis=1))
    own = scores[np.arange(len(scores)), labels].astype(np.float64)
    return on_fine_grid(-np.log(np.maximum(own, SMALLEST)))
