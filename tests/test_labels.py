import time

import pytest

from mvit_train.labels import Labels


def test_a_list_is_read_in_its_order_and_fingerprinted_by_it(tmp_path):
    (tmp_path / "classes.txt").write_text("b\na\n\n")
    labels = Labels.read(tmp_path / "classes.txt")
    assert labels.names == ("b", "a")
    assert labels.index == {"b": 0, "a": 1}
    assert labels.fingerprint != Labels(("a", "b")).fingerprint == Labels(("a", "b")).fingerprint


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        (("a", "b", "c"), "same", "the 3 classes of the data are those of the checkpoint"),
        (("a", "c", "b"), "permuted", "those of the checkpoint in another order, first at 1: 'c' against 'b'"),
        (("c", "a"), "subset", "the 2 classes of the data are among the 3 of the checkpoint"),
        (("d", "c", "b", "a"), "superset", "the 4 classes of the data are the 3 of the checkpoint and more: d"),
        (("a", "x"), "other", "are not the 3 of the checkpoint: only in the data: x; only in the checkpoint: b, c"),
    ],
)
def test_two_lists_are_the_same_permuted_contained_or_other_and_the_sentence_says_how(names, kind, words):
    comparison = Labels(names).compare(Labels(("a", "b", "c")), mine="the data", its="the checkpoint")
    assert comparison.kind == kind
    assert words in comparison.sentence


def test_a_sentence_about_many_classes_names_five_of_them():
    many, other = Labels(tuple(f"a{i:03d}" for i in range(300))), Labels(("b",))
    assert "only in the first: a000, a001, a002, a003, a004 and 295 more; only" in many.compare(other).sentence


def test_a_stored_list_must_have_the_fingerprint_beside_it():
    labels = Labels(("a", "b"))
    assert Labels.stored(["a", "b"], labels.fingerprint, "x") == Labels.stored(["a", "b"], None, "x") == labels
    with pytest.raises(
        ValueError, match=r"w\.pth: its 2 class names have the fingerprint .*, but .* is written beside"
    ):
        Labels.stored(["b", "a"], labels.fingerprint, "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: class names must be distinct"):
        Labels.stored(["a", "a"], None, "w.pth")


def test_a_hundred_thousand_classes_are_checked_in_a_moment():
    start = time.perf_counter()
    assert len(Labels(tuple(map(str, range(100_000))))) == 100_000
    assert time.perf_counter() - start < 5  # hours if every name were counted anew


def test_a_repeated_or_empty_class_list_is_refused(tmp_path):
    with pytest.raises(ValueError, match="these come twice: a"):
        Labels(("a", "b", "a"))
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no class"):
        Labels.read(tmp_path / "classes.txt")
