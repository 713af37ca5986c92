import av
import numpy as np
import pytest

WORDS = ("n01440764", "n01443537")


def draw(path, seed, codec="mjpeg", pix_fmt="yuvj444p"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def imagenet(tmp_path):
    root = tmp_path / "imagenet"
    for i, synset in enumerate(WORDS):
        for k in range(2):
            draw(root / f"train/{synset}/{synset}_{k}.JPEG", 10 * i + k)
    draw(root / "train/n01443537/n01443537_9.JPEG", 99, "png", "rgb24")  # the set has one such
    whole = (root / "train/n01440764/n01440764_0.JPEG").read_bytes()
    (root / "train/n01440764/n01440764_7.JPEG").write_bytes(whole[: len(whole) // 2])
    for k in range(2):
        draw(root / f"val/ILSVRC2012_val_{k + 1:08d}.JPEG", 20 + k)
    return root


def check(root, out, table):
    assert (out / "classes.txt").read_text() == "n01440764\nn01443537\n"
    assert table(out / "train.csv", "path", "label", "width", "height", "codec") == [
        (f"{root}/train/n01440764/n01440764_0.JPEG", "n01440764", "64", "48", "mjpeg"),
        (f"{root}/train/n01440764/n01440764_1.JPEG", "n01440764", "64", "48", "mjpeg"),
        (f"{root}/train/n01443537/n01443537_0.JPEG", "n01443537", "64", "48", "mjpeg"),
        (f"{root}/train/n01443537/n01443537_1.JPEG", "n01443537", "64", "48", "mjpeg"),
        (f"{root}/train/n01443537/n01443537_9.JPEG", "n01443537", "64", "48", "png"),
    ]
    assert table(out / "val.csv", "label") == ["n01443537", "n01440764"]
    assert table(out / "broken.csv", "video_id") == ["n01440764_7"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"
            "ILSVRC2012_val_00000001,n01443537 1 2 3 4 \n",
        ),
        ("imagenet_2012_validation_synset_labels.txt", "n01443537\nn01440764\n"),
    ],
)
def test_flat_validation_images_get_their_labels_from_a_list(imagenet, tmp_path, prepare, table, capsys, name, text):
    (imagenet / name).write_text(text)
    assert prepare("imagenet", imagenet, tmp_path / "out") == 0
    check(imagenet, tmp_path / "out", table)
    printed = capsys.readouterr().out
    assert "train: 5 of 1,281,167 annotated" in printed
    assert "val: 2 classes do not have 50 images, first n01440764 with 1" in printed


def test_validation_images_in_folders_need_no_list(imagenet, tmp_path, prepare, table):
    for number, synset in ((1, "n01443537"), (2, "n01440764")):
        (imagenet / f"val/{synset}").mkdir()
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (imagenet / "val" / name).rename(imagenet / f"val/{synset}/{name}")
    assert prepare("imagenet", imagenet, tmp_path / "out") == 0
    assert sorted(table(tmp_path / "out/val.csv", "label")) == ["n01440764", "n01443537"]


def test_labels_that_cannot_be_told_are_refused(imagenet, tmp_path, prepare, capsys):
    assert prepare("imagenet", imagenet, tmp_path / "out") == 1
    assert "give --val-labels (the devkit's ground truth numbers classes in another order" in capsys.readouterr().err
    labels = tmp_path / "labels.txt"
    labels.write_text("n01443537\n")
    assert prepare("imagenet", imagenet, tmp_path / "out", "--val-labels", labels) == 1
    assert "1 lines for 2 images: which is whose cannot be told" in capsys.readouterr().err
    labels.write_text("490\n361\n")
    assert prepare("imagenet", imagenet, tmp_path / "out", "--val-labels", labels) == 1
    assert "ILSVRC2012_val_00000001.JPEG has the label '490', none of the 2 synsets" in capsys.readouterr().err
