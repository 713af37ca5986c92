"""Class orders that published models use, known by their fingerprints (`labels.fingerprint`).

Only fingerprints are kept: of the list in its order, and of its names sorted, which all orders of one set share.
Sources, read on 2026-11-22: torchvision 0.29's weight metadata (Kinetics-400, ImageNet names); timm 1.0.31
`data/_info/imagenet_synsets.txt` (ImageNet synsets); open-mmlab/mmaction2 `tools/data/*/label_map*.txt` (Kinetics-700,
Something-Something V2, Diving48); camenduru/VideoMamba-hf `kinetics_class_index.py` (Kinetics-400 as UniFormer and
VideoMamba count it); `classInd.txt` of UCF101; HMDB51's class folders.
"""

from typing import NamedTuple


class KnownOrder(NamedTuple):
    """A published class list: its fingerprint, that of its names sorted, and how many there are."""

    order: str
    names: str
    num_classes: int
    data: str
    how: str


KNOWN = (
    KnownOrder(
        "a8dafb93a120", "a8dafb93a120", 400, "Kinetics-400", "alphabetical (PySlowFast, torchvision, mmaction2)"
    ),
    KnownOrder("729d07c96a43", "729d07c96a43", 400, "Kinetics-400", "alphabetical, underscores for spaces"),
    KnownOrder("12054c1d688d", "a8dafb93a120", 400, "Kinetics-400", "the order of UniFormer and VideoMamba"),
    KnownOrder("a34c9fed41f5", "a34c9fed41f5", 700, "Kinetics-700", "alphabetical (mmaction2)"),
    KnownOrder("a31a2ad624a5", "a31a2ad624a5", 174, "Something-Something V2", "alphabetical (mmaction2)"),
    KnownOrder("3ec3894f8499", "01e7e1408d08", 101, "UCF101", "classInd.txt, upper and lower case alike"),
    KnownOrder("01e7e1408d08", "01e7e1408d08", 101, "UCF101", "class folders, upper case first (torchvision)"),
    KnownOrder("154ef596b603", "154ef596b603", 51, "HMDB51", "alphabetical"),
    KnownOrder("4f0abab23e5f", "4f0abab23e5f", 48, "Diving48", "alphabetical (mmaction2)"),
    KnownOrder(
        "385e02404994", "385e02404994", 1000, "ImageNet-1K", "synset ids, ascending (PySlowFast, torchvision, timm)"
    ),
    KnownOrder(
        "0b0f9fee7c95", "1a8120173a37", 1000, "ImageNet-1K", "names in the order of their synset ids (torchvision)"
    ),
)
KNOWN_ORDERS = {known.order: f"{known.data}, {known.how}" for known in KNOWN}
KNOWN_SETS = {known.names: known.data for known in KNOWN}
