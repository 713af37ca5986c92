"""Files of weights into models: what is loaded, fitted, reported, refused."""

import os
import pickle

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.models._meta import _KINETICS400_CATEGORIES

from mvit_train import models
from mvit_train.models import load_pretrained, mvit_b, mvit_b_image, mvit_v2_s, mvit_v2_s_image
from mvit_train.models.weight_files import KINETICS_400, read_weights

SMALL = dict(num_frames=4, crop_size=32)
HEAD = ("head.projection.weight", "head.projection.bias")


@pytest.fixture
def saved(tmp_path, randomised):
    """`saved(model, **beside)`: a file of PySlowFast's kind with random weights, and more beside them."""

    def save(model, extra=None, **beside):
        path = tmp_path / "weights.pyth"
        torch.save({"model_state": randomised(model).state_dict() | (extra or {}), "epoch": 7, **beside}, path)
        return path

    return save


def save_shapes(build, path):
    """A file with the shapes of a model of any size, all of whose tensors are one stored zero."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build().state_dict().items()}
    torch.save({"model_state": {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}}, path)
    return path


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, expected):
    return all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_what_a_file_gives_to_a_model_is_reported(saved, four_blocks):
    source, model = mvit_b(**four_blocks | SMALL), mvit_b(**four_blocks | SMALL)
    path = saved(source, extra={"mask_token": torch.zeros(1, 1, 64), "pred_head.0.weight": torch.zeros(3, 64)})
    report = load_pretrained(model, path, strict="exact")
    assert same(model, state(source))
    assert (report.kind, report.share, report.head) == (
        "SlowFast",
        1.0,
        "loaded; the file names no classes, their order is taken to be the same",
    )
    assert set(report.loaded) == set(model.state_dict())
    assert (report.resized, report.inflated, report.left_at_init) == ({}, {}, ())
    assert report.unused == ("mask_token", "pred_head.0.weight")
    assert str(report).splitlines() == [
        f"weights: {path} (SlowFast), {len(report.loaded)} tensors loaded; head {report.head}",
        "  2 unused: mask_token, pred_head.0.weight",
    ]


def test_maskfeat_s_pre_training_has_a_backbone_without_a_last_norm_and_its_own_heads(tmp_path, four_blocks):
    model = mvit_v2_s(**four_blocks | SMALL, expand_in="mlp")
    backbone = {name: t for name, t in model.state_dict().items() if not name.startswith(("norm.", "head."))}
    last = backbone["blocks.3.attn.rel_pos_h"]
    backbone["blocks.3.attn.rel_pos_h"] = torch.zeros(2 * len(last) + 1, last.shape[1])  # its last stage keeps 14 x 14
    torch.save(
        {"model_state": backbone | {"mask_token": last, "pred_head.transforms.0.0.weight": last}}, tmp_path / "w"
    )
    report = load_pretrained(model, tmp_path / "w")
    assert report.left_at_init == ("norm.weight", "norm.bias", *HEAD)
    assert report.unused == ("mask_token", "pred_head.transforms.0.0.weight")
    assert list(report.resized) == ["blocks.3.attn.rel_pos_h"]


def test_an_older_file_of_ours_before_zip_archives_is_read(tmp_path, four_blocks):
    model = mvit_b(**four_blocks | SMALL)
    torch.save(model.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert load_pretrained(model, tmp_path / "a.pth").kind == "SlowFast"


def test_our_own_checkpoints_are_read_with_their_classes(tmp_path, four_blocks, randomised):
    source, model = randomised(mvit_b(**four_blocks | SMALL)), mvit_b(**four_blocks | SMALL)
    names = [f"class {i}" for i in range(11)]
    lightning = {"state_dict": {f"model.{name}": tensor for name, tensor in source.state_dict().items()}, "epoch": 3}
    torch.save(lightning | {"mvit_train": {"class_names": names, "config": None}}, tmp_path / "best.ckpt")
    report = load_pretrained(model, tmp_path / "best.ckpt", strict="exact", class_names=names)
    assert same(model, state(source))
    assert (report.kind, report.head, report.class_names) == ("mvit_train", "loaded", tuple(names))


# Sizes


def test_positions_are_resized_as_pyslowfast_does(saved, four_blocks):
    source, model = mvit_b(**four_blocks | SMALL), mvit_b(**four_blocks, num_frames=8, crop_size=48)
    report = load_pretrained(model, saved(source))
    space, time = source.pos_embed_spatial, source.pos_embed_temporal
    wide = interpolate(space.unflatten(1, (8, 8)).permute(0, 3, 1, 2), size=(12, 12), mode="bicubic")
    long = interpolate(time.transpose(1, 2), size=4, mode="linear")
    torch.testing.assert_close(model.pos_embed_spatial, wide.flatten(2).transpose(1, 2))
    torch.testing.assert_close(model.pos_embed_temporal, long.transpose(1, 2))
    assert {name: str(change) for name, change in report.resized.items()} == {
        "pos_embed_spatial": "(1, 64, 16) to (1, 144, 16), bicubic in space",
        "pos_embed_temporal": "(1, 2, 16) to (1, 4, 16), linear",
    }


def test_relative_positions_are_resized_linearly(saved, four_blocks):
    source, model = mvit_v2_s(**four_blocks | SMALL), mvit_v2_s(**four_blocks, num_frames=8, crop_size=48)
    report = load_pretrained(model, saved(source))
    for axis, length in (("h", 23), ("t", 7)):
        before = source.blocks[0].attn.get_parameter(f"rel_pos_{axis}")
        after = interpolate(before.T[None], size=length, mode="linear")[0].T
        torch.testing.assert_close(model.blocks[0].attn.get_parameter(f"rel_pos_{axis}"), after)
    assert len(report.resized) == 3 * 4


def test_a_joint_table_is_resized_on_its_grid_and_keeps_the_class_token_s_row(saved, four_blocks):
    joint = four_blocks | dict(pos_embed="joint")
    source = mvit_b(**joint | SMALL)
    path = saved(source)
    longer, wider = mvit_b(**joint, num_frames=8, crop_size=32), mvit_b(**joint, num_frames=4, crop_size=48)
    for model, how in ((longer, "linear in time"), (wider, "bicubic in space")):
        assert load_pretrained(model, path).resized["pos_embed"].how == how
        assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0])
    before, longer, wider = (m.pos_embed[0, 1:].unflatten(0, m.thw) for m in (source, longer, wider))
    weights = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    torch.testing.assert_close(longer, torch.einsum("ts,shwc->thwc", weights, before))
    frames = interpolate(before.permute(0, 3, 1, 2), size=(12, 12), mode="bicubic")
    torch.testing.assert_close(wider, frames.permute(0, 2, 3, 1))


def test_a_joint_table_of_an_unknown_grid_is_refused(saved, four_blocks):
    joint = four_blocks | dict(pos_embed="joint")
    path = saved(mvit_b(**joint | SMALL))
    with pytest.raises(ValueError, match="not in the file as the model has them: pos_embed"):
        load_pretrained(mvit_b(**joint, num_frames=8, crop_size=48), path)  # 128 positions: 2 x 8 x 8, 8 x 4 x 4?
    with pytest.raises(ValueError, match="class token: yes in the file, no in the model"):
        load_pretrained(mvit_b(**joint | SMALL, cls_token=False), path)


def test_a_still_clip_gives_an_inflated_model_the_logits_of_its_image(saved, four_blocks, record_measured):
    """Without a class token every frame's keys are the image's, repeated, and attention is the same."""
    image = mvit_v2_s_image(**four_blocks | dict(crop_size=32))
    video = mvit_v2_s(**four_blocks | SMALL, cls_token=False, kv_stride=(1, 4, 4)).eval()
    report = load_pretrained(video, saved(image))
    assert report.inflated["patch_embed.proj.weight"].how == "centre in time"
    assert report.inflated["blocks.3.attn.pool_v.weight"].how == "centre in time"
    assert report.inflated["blocks.3.attn.rel_pos_t"].how == "zeros"
    picture = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected, found = image(picture), video(picture[:, :, None].expand(-1, -1, 4, -1, -1))
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    record_measured("inflation: logits of an image and of its still clip", difference, 1e-5)
    assert difference <= 1e-5


def test_an_image_s_positions_become_those_of_space_and_time_starts_from_zero(saved, four_blocks):
    image, video = mvit_b_image(**four_blocks | dict(crop_size=48)), mvit_b(**four_blocks | SMALL)
    report = load_pretrained(video, saved(image))
    assert str(report.inflated["pos_embed_spatial"]) == (
        "(1, 145, 16) to (1, 64, 16), copied from pos_embed, bicubic in space"
    )
    assert torch.equal(video.pos_embed_class, image.pos_embed[:, :1])
    assert not video.pos_embed_temporal.any()
    assert report.unused == ()
    spaced = mvit_b(**four_blocks | SMALL, pos_embed="space")
    report = load_pretrained(video, saved(spaced))
    assert list(report.inflated) == ["pos_embed_temporal"]
    joint = mvit_b(**four_blocks | SMALL, pos_embed="joint")
    load_pretrained(joint, saved(image))
    frames = joint.pos_embed[0, 1:].unflatten(0, (2, 64))
    assert torch.equal(frames[0], frames[1])


def test_a_class_token_that_images_had_none_of_starts_anew(saved, four_blocks):
    report = load_pretrained(
        mvit_v2_s(**four_blocks | SMALL), saved(mvit_v2_s_image(**four_blocks | dict(crop_size=32)))
    )
    assert report.left_at_init == ("cls_token",)


# Graphs


@pytest.mark.parametrize(
    ("file", "model", "words"),
    [
        ("mvit_b_24_32x3()", "mvit_b()", ["blocks: 24 in the file, 16 in the model", "  mvit_b_24_32x3 fits"]),
        (
            "mvit_b(full_kv_pooling=False)",
            "mvit_b()",
            [
                "12 not in the file as the model has them: blocks.14.attn.pool_k.weight, ",
                "pool the key and value by weights: 0-13 in the file, 0-15 in the model",
                "  mvit_b(full_kv_pooling=False) fits",
            ],
        ),
        ("mvit_b()", "mvit_b(full_kv_pooling=False)", ["100.0 % of the model's elements", "  mvit_b fits"]),
        ("mvit_b()", "mvit_b(pool='max')", ["pool the key and value by weights: 0-15 in the file, none in the model"]),
        (
            "mvit_b_32x3()",
            "mvit_b(pool_kernel='s+1')",
            ["of the query pooling: (3, 3, 3)", "  mvit_b_32x3 fits"],
        ),
        (
            "mvit_v2_l()",
            "mvit_v2_l(expand_in='mlp')",
            ["channels grow in: attention in the file, mlp in the model", "  mvit_v2_l fits"],
        ),
        ("mvit_v2_s(expand_in='mlp')", "mvit_v2_s()", ["mlp in the file", "  mvit_v2_s(expand_in='mlp') fits"]),
        (
            "mvit_v2_b_image(cls_token=True)",
            "mvit_v2_b_image()",
            ["token: yes", "_b_image(cls_token=True) fits"],
        ),
        (
            "mvit_v2_s()",
            "mvit_b()",
            [
                "position embedding: none in the file, separate in the model",
                "relative positions: space_time in the file, none in the model",
                "  mvit_v2_s fits",
            ],
        ),
        ("mvit_b_image()", "mvit_v2_s()", ["position embedding: joint in the file", "  mvit_b fits"]),
        ("mvit_v2_b_image()", "mvit_v2_s()", ["blocks: 24 in the file", "  mvit_v2_b fits"]),
        (
            "mvit_b_image(pos_embed='separate')",  # PyTorchVideo's mvit_base_16
            "mvit_b_image()",
            ["position embedding: separate in the file", "  mvit_b_image(pos_embed='separate') fits"],
        ),
        ("mvit_b()", "mvit_b_image()", ["input: video in the file, images in the model", "  mvit_b fits"]),
        ("mvit_b(dim_mul=3, head_mul=3)", "mvit_b()", ["none of the published variants fits"]),
        ("vit_b()", "mvit_b()", ["patch kernel: (1, 16, 16) in the file", "  vit_b fits"]),
    ],
)
def test_a_file_of_another_graph_is_refused_and_the_variant_that_would_fit_is_named(file, model, words, tmp_path):
    def build(call):
        return eval(call, vars(models))

    path = save_shapes(lambda: build(file), tmp_path / "w.pyth")
    with torch.device("meta"):
        built = build(model)
    with pytest.raises(ValueError, match=r"w\.pyth \(SlowFast\) does not fit") as error:
        load_pretrained(built, path)
    for part in words:
        assert part in str(error.value)


@pytest.mark.parametrize("variant", models.VARIANTS)
def test_every_variant_s_weights_fit_it(variant, tmp_path):
    path = save_shapes(variant, tmp_path / "w.pyth")
    with torch.device("meta"):
        model = variant()
    assert load_pretrained(model, path, strict="exact").share == 1.0


def test_a_refusal_leaves_the_model_as_it_was(saved, four_blocks):
    model = mvit_b(**four_blocks | SMALL)
    before = state(model)
    with pytest.raises(ValueError, match="does not fit"):
        load_pretrained(model, saved(mvit_b(**four_blocks | SMALL, expand_in="attention")))
    assert same(model, before)


def test_a_file_that_lacks_parameters_is_refused_with_their_names_and_the_share(saved, four_blocks):
    source = mvit_b(**four_blocks | SMALL)
    path = saved(source)
    lacking = {name: tensor for name, tensor in source.state_dict().items() if ".mlp." not in name}
    torch.save({"model_state": lacking}, path)
    with pytest.raises(ValueError, match=r"42\.5 % .* asks for 100 %") as error:
        load_pretrained(mvit_b(**four_blocks | SMALL), path)
    assert "16 not in the file as the model has them: blocks.0.mlp.fc1.weight, " in str(error.value)
    assert "and 12 more" in str(error.value)
    with pytest.raises(ValueError, match=r"42\.\d % .* strict='partial' asks for 50 %"):
        load_pretrained(mvit_b(**four_blocks | SMALL), path, strict="partial")


def test_half_a_model_is_enough_for_partial(saved, four_blocks):
    source = mvit_b(**four_blocks | SMALL, expand_in="attention")
    model = mvit_b(**four_blocks | SMALL)
    report = load_pretrained(model, saved(source), strict="partial")
    assert 0.5 <= report.share < 1
    assert torch.equal(model.blocks[0].norm1.weight, source.blocks[0].norm1.weight)
    assert "blocks.2.proj.weight" in report.left_at_init
    with pytest.raises(ValueError, match="channels grow in"):
        load_pretrained(model, saved(source))


def test_exact_wants_every_tensor_as_it_is(saved, four_blocks):
    path = saved(mvit_b(**four_blocks | SMALL))
    with pytest.raises(ValueError, match="strict='exact' asks for 100 %, unchanged"):
        load_pretrained(mvit_b(**four_blocks, num_frames=8, crop_size=32), path, strict="exact")
    with pytest.raises(ValueError, match="head replaced: 11 classes in the file, 5 here"):
        load_pretrained(mvit_b(**four_blocks | SMALL | dict(num_classes=5)), path, strict="exact")
    with pytest.raises(ValueError, match="into an MViT, not into a Linear"):
        load_pretrained(torch.nn.Linear(1, 1), path)


# Classes


def test_the_list_of_kinetics_400_is_torchvision_s():
    assert list(KINETICS_400) == _KINETICS400_CATEGORIES


@pytest.mark.parametrize("kind", ["SlowFast", "pytorchvideo", "torchvision"])
def test_a_video_file_of_400_classes_is_in_the_order_of_kinetics_400(kind, four_blocks, tmp_path):
    from mvit_train.models.formats import from_ours

    model = mvit_b(**four_blocks | SMALL | dict(num_classes=400))
    torch.save(from_ours(model.state_dict(), kind), tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").class_names == KINETICS_400
    few = mvit_b(**four_blocks | SMALL | dict(num_classes=2))
    report = load_pretrained(few, tmp_path / "w.pth", class_names=["zumba", "abseiling"])
    assert report.head == "rows by class name: the 2 classes of the model are among the 400 of the file"
    assert torch.equal(few.head.projection.weight, model.head.projection.weight[[399, 0]])


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (1, "; the file names no classes, their order is taken to be the same: Kinetics-400, alphabetical"),
        (-1, ", but the 400 classes are those of Kinetics-400, in an order that is none of the published ones"),
    ],
)
def test_weights_without_class_names_are_judged_by_the_order_of_the_data(order, words, four_blocks, saved):
    images = mvit_b_image(**four_blocks | dict(crop_size=32, num_classes=400))
    report = load_pretrained(images, saved(images), class_names=KINETICS_400[::order])
    assert words in report.head


def test_an_image_file_of_400_classes_is_not_kinetics(four_blocks, saved):
    path = saved(mvit_b_image(**four_blocks | dict(crop_size=32, num_classes=400)))
    assert read_weights(path).class_names is None


@pytest.mark.parametrize(
    ("file", "mine", "head", "rows"),
    [
        (["a", "b", "c"], ["a", "b", "c"], "loaded", [0, 1, 2]),
        (
            ["a", "b", "c"],
            ["c", "a", "b"],
            "rows by class name: the 3 classes of the model are those of the file in another order",
            [2, 0, 1],
        ),
        (
            ["a", "b", "c"],
            ["c", "a"],
            "rows by class name: the 2 classes of the model are among the 3 of the file",
            [2, 0],
        ),
        (["a", "b", "c"], ["a", "b", "d"], "replaced: the 3 classes of the model are not the 3 of the file", None),
        (["a", "b", "c"], ["a", "b", "c", "d"], "replaced: the 4 classes of the model are the 3 of the file and", None),
        (["a", "b", "c"], None, "loaded", [0, 1, 2]),
        (None, ["a", "b", "c"], "loaded; the file names no classes, their order is taken to be the same", [0, 1, 2]),
        (None, ["a", "b"], "replaced: 3 classes in the file, 2 here", None),
    ],
)
def test_the_head_follows_the_class_names(file, mine, head, rows, four_blocks, saved):
    source = mvit_b(**four_blocks | SMALL | dict(num_classes=3))
    model = mvit_b(**four_blocks | SMALL | dict(num_classes=3 if mine is None else len(mine)))
    before = state(model)
    report = load_pretrained(model, saved(source, **({} if file is None else {"class_names": file})), class_names=mine)
    assert report.head.startswith(head)
    assert report.has_head == (rows is not None)
    assert report.class_names == (None if file is None else tuple(file))
    expected = before["head.projection.weight"] if rows is None else source.head.projection.weight[rows]
    assert torch.equal(model.head.projection.weight, expected)
    assert set(HEAD) <= set(report.left_at_init) or rows is not None


def test_class_names_that_cannot_be_the_head_s_are_refused(four_blocks, saved):
    model = mvit_b(**four_blocks | SMALL)
    path = saved(model, class_names=["a", "b"])
    with pytest.raises(ValueError, match="names 2 classes, but its head has 11"):
        load_pretrained(model, path)
    with pytest.raises(ValueError, match="class_names that are no list of text"):
        load_pretrained(model, saved(model, class_names=[1, 2]))
    with pytest.raises(ValueError, match="2 class names are given for a model of 11 classes"):
        load_pretrained(model, saved(model), class_names=["a", "b"])


def test_a_file_without_a_head_leaves_it_at_init(four_blocks, saved):
    model = mvit_b(**four_blocks | SMALL)
    path = saved(model)
    torch.save({name: t for name, t in model.state_dict().items() if "head" not in name}, path)
    report = load_pretrained(model, path)
    assert report.left_at_init == HEAD
    assert report.head == "left at init: the file has none that fits"


# Files


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_a_file_that_holds_code_is_refused_and_does_not_run(tmp_path, monkeypatch, four_blocks):
    monkeypatch.chdir(tmp_path)
    model = mvit_b(**four_blocks | SMALL)
    for new in (True, False):
        torch.save(
            {"model_state": model.state_dict(), "cfg": Malicious()}, "bad.pyth", _use_new_zipfile_serialization=new
        )
        with pytest.raises(ValueError, match=r"bad\.pyth holds more than tensors and plain values \(posix\.mkdir\)"):
            load_pretrained(model, tmp_path / "bad.pyth")
    (tmp_path / "plain.pyth").write_bytes(pickle.dumps({"model_state": Malicious()}, protocol=2))
    with pytest.raises(ValueError, match=r"plain\.pyth"):
        load_pretrained(model, tmp_path / "plain.pyth")
    assert not (tmp_path / "owned").exists()
    pickle.loads((tmp_path / "plain.pyth").read_bytes())  # what it would have done
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["w.pyth", "w.safetensors"])
def test_damaged_and_foreign_files_are_refused_with_their_name(name, tmp_path, four_blocks):
    model = mvit_b(**four_blocks | SMALL)
    path = tmp_path / name
    with pytest.raises(ValueError, match=name):
        load_pretrained(model, path)  # there is none
    torch.save(model.state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"hello\n" * 50, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is no complete"):
            load_pretrained(model, path)
    if name == "w.pyth":
        for content, words in (
            ([1, 2], "holds a list, not a state dict"),
            ({"model_state": 3}, "holds a int where"),
            ({"fc.weight": torch.zeros(3)}, "not the parameters of an MViT"),
        ):
            torch.save(content, path)
            with pytest.raises(ValueError, match=rf"{name}.*{words}"):
                load_pretrained(model, path)
