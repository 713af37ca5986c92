"""The fingerprints of published class lists, made again from the lists that installed packages hold."""

import random

import pytest
from torchvision.models import ResNet50_Weights
from torchvision.models.video import MViT_V1_B_Weights

from mvit_train.known_labels import KNOWN, KNOWN_ORDERS, KNOWN_SETS
from mvit_train.labels import Labels, fingerprint
from mvit_train.models.weight_files import KINETICS_400

KINETICS = tuple(MViT_V1_B_Weights.DEFAULT.meta["categories"])
IMAGENET = tuple(ResNet50_Weights.DEFAULT.meta["categories"])
WITH_UNDERSCORES = tuple(name.replace(" ", "_") for name in KINETICS)


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (KINETICS, "Kinetics-400, alphabetical (PySlowFast, torchvision, mmaction2)"),
        (KINETICS_400, "Kinetics-400, alphabetical (PySlowFast, torchvision, mmaction2)"),
        (WITH_UNDERSCORES, "Kinetics-400, alphabetical, underscores for spaces"),
        (IMAGENET, "ImageNet-1K, names in the order of their synset ids (torchvision)"),
        (("a", "b"), None),
        (KINETICS[:399], None),
    ],
)
def test_published_lists_are_recognised(names, known):
    assert Labels(names).known() == known
    assert Labels(names).doubt() is None
    if known is not None:
        (entry,) = [entry for entry in KNOWN if entry.order == fingerprint(names)]
        assert (entry.names, entry.num_classes) == (fingerprint(sorted(names)), len(names))


@pytest.mark.parametrize(("names", "data"), [(KINETICS, "Kinetics-400"), (IMAGENET, "ImageNet-1K")])
def test_the_classes_of_a_published_list_in_an_order_of_their_own_are_doubted(names, data):
    mixed = list(names)
    random.Random(0).shuffle(mixed)
    doubt = Labels(tuple(mixed)).doubt()
    assert doubt is not None
    assert f"the {len(names)} classes are those of {data}, in an order that is none of the published ones" in doubt
    assert Labels(tuple(mixed)).known() is None


def test_every_published_order_is_told_from_the_others_and_its_set_is_of_one_data_set():
    assert len(KNOWN_ORDERS) == len(KNOWN)
    assert all(KNOWN_SETS[entry.names] == entry.data for entry in KNOWN)
    assert all(len(mark) == 12 for entry in KNOWN for mark in (entry.order, entry.names))
