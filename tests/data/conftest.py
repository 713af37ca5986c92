import math
from collections.abc import Callable

import numpy as np
import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """Augmentation is tested on every kind of device that is here."""
    return request.param


@pytest.fixture
def follows(record_measured) -> Callable[..., None]:
    """`follows(what, samples, cdf)`: samples keep to a distribution function (Kolmogorov and Smirnov's distance, which
    1 of 1,000 fair samples exceeds)."""

    def check(what: str, samples: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> None:
        values, counts = np.unique(samples, return_counts=True)  # steps of whole numbers are compared where they end
        found = float(np.abs(counts.cumsum() / counts.sum() - cdf(values)).max())
        bound = 1.95 / math.sqrt(len(samples))
        record_measured(f"distance from its distribution: {what}", found, bound)
        assert found <= bound

    return check
