import pytest

from mvit_train.labels import Labels


def test_a_list_is_read_in_its_order_and_fingerprinted_by_it(tmp_path):
    (tmp_path / "classes.txt").write_text("b\na\n\n")
    labels = Labels.read(tmp_path / "classes.txt")
    assert labels.names == ("b", "a")
    assert labels.index == {"b": 0, "a": 1}
    assert labels.fingerprint != Labels(("a", "b")).fingerprint == Labels(("a", "b")).fingerprint


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (("a", "b", "c"), None),
        (("a", "c", "b"), "same 3 classes in another order, first at 1: 'b' against 'c'"),
        (("a", "b"), "3 against 2 classes; only in the first: c; only in the second: none"),
    ],
)
def test_the_difference_of_two_lists_is_told_in_words(other, words):
    difference = Labels(("a", "b", "c")).difference(Labels(other))
    assert difference == words if words is None else words in difference


def test_a_repeated_or_empty_class_list_is_refused(tmp_path):
    with pytest.raises(ValueError, match="these come twice: a"):
        Labels(("a", "b", "a"))
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no class"):
        Labels.read(tmp_path / "classes.txt")
