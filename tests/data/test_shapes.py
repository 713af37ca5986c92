import csv

import numpy as np
import pytest
from PIL import Image

from mvit_train.data.shapes import ShapeImages, draw_image

SMALL = dict(num_train=20, num_val=10, frame_size=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "set"
    ShapeImages(**SMALL)(root)
    return root


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_manifests_name_every_image_once_and_every_class_equally_often(made):
    for split, count in (("train", 2), ("val", 1)):
        rows = list(csv.DictReader((made / f"{split}.csv").read_text().splitlines()))
        assert sorted(row["label"] for row in rows) == sorted(ShapeImages.CLASSES * count)
        assert sorted(row["path"] for row in rows) == sorted(
            name for name in files(made) if name.startswith(split + "/")
        )
    assert tuple((made / "classes.txt").read_text().split()) == ShapeImages.CLASSES


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_scenes(made, tmp_path):
    ShapeImages(**SMALL)(tmp_path / "again")
    assert files(tmp_path / "again") == files(made)
    images = [content for name, content in files(made).items() if name.endswith(".png")]
    assert len(set(images)) == len(images) == 30
    with pytest.raises(ValueError, match=r"seed 0 \(wanted 1\)"):
        ShapeImages(**SMALL, seed=1)(made)


def test_an_image_is_what_was_drawn(made):
    drawn = draw_image("square", np.random.default_rng((0, 0, 0)), frame_size=32)
    assert np.array_equal(np.asarray(Image.open(made / "train" / "square_00000.png")), drawn)
    assert drawn.shape == (32, 32, 3)


def test_scenes_of_two_kinds_differ_in_their_figures_alone():
    scenes = {name: draw_image(name, np.random.default_rng(3), frame_size=64) for name in ("ring", "disc")}
    differing = np.abs(scenes["ring"].astype(int) - scenes["disc"]).max(-1) > 40
    assert 0.005 < differing.mean() < 0.2
