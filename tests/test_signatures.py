"""Values against annotations."""

from pathlib import Path
from typing import Any, Literal

import pytest

from mvit_train.signatures import FitError, describe, fit


@pytest.mark.parametrize(
    ("value", "annotation", "fitted"),
    [
        (1, float, 1.0), ("1e-3", float, 1e-3), (3, float | int, 3), (3, int | float | None, 3),
        (None, int | None, None), ("a", str | Path, "a"), ("a", Path | None, Path("a")), ([2], tuple[int], (2,)),
        ([], tuple[int, ...], ()), ([1], list[float], [1.0]), ({"a": 1}, dict[str, float], {"a": 1.0}),
        ("16", Literal[16, "16"], "16"), ([[1, 2]], tuple[tuple[int, int], ...], ((1, 2),)), ("x", Any, "x"),
    ],
)  # fmt: skip
def test_a_value_takes_the_annotated_type(value, annotation, fitted):
    assert fit(value, annotation) == fitted
    assert type(fit(value, annotation)) is type(fitted)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, int), (True, float), (1, bool), (1.0, int), (1, str), (None, str), ("a", list[str]), ("a", int | float),
        (True, Literal[1]), ([1], int), ({"a": "b"}, dict[str, int]), (3, Path),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(value, annotation):
    with pytest.raises(FitError, match="must be"):
        fit(value, annotation)


def test_annotations_are_described_in_words():
    assert describe(tuple[int, int] | None) == "a list of 2 int or null"
    assert describe(Literal["a", "b"]) == "one of a, b"
    assert describe(Literal["a", 1] | Literal["b"] | None) == "one of a, 1, b or null"
    assert describe(list[float] | Path) == "a list of float or a path"
