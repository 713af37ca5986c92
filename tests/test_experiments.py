"""Every experiment composes, passes the check, and has the model and the recipe that its paper gives (facts.md 3.1)."""

import re

import pytest
import torch

from mvit_train.config import ConfigError, build, check, compose, conf_dir
from mvit_train.models import load_pretrained

FILES = sorted((conf_dir() / "experiment").glob("*.yaml"))
CLASSES = {"k400": 400, "k600": 600, "k700": 700, "ssv2": 174, "charades": 157, "in1k": 1000, "motion": 10}

# parameters in M (with the data set's classes), clips of the paper's step, its peak learning rate, epochs, warm-up,
# weight decay, drop path, repeats, flip, label smoothing, mixup and cutmix, clip of the gradient, views
SCRATCH = (512, 1.6e-3, 200, 30, 0.05)
KINETICS = dict(repeats=2, flip=0.5, smoothing=0.1, mix=(0.8, 1.0), grad_clip=1.0, optimizer="AdamW")
SSV2 = dict(repeats=1, flip=0.0, smoothing=0.1, mix=(0.8, 1.0), grad_clip=None, optimizer="SGD")
CHARADES = dict(repeats=1, flip=0.5, smoothing=0.0, mix=(0.0, 0.0), grad_clip=1.0, optimizer="SGD")
IMAGES = dict(repeats=1, flip=0.5, smoothing=0.1, mix=(0.8, 1.0), grad_clip=1.0, optimizer="AdamW")
TABLE = {
    "k400_mvit_b": (36.61, *SCRATCH, 0.2, "5x1", KINETICS),
    "k400_mvit_b_32x3": (36.61, *SCRATCH, 0.2, "5x1", KINETICS),
    "k400_mvit_s": (26.1, *SCRATCH, 0.2, "5x1", KINETICS),
    "k400_vit_b": (87.2, *SCRATCH, 0.2, "5x1", KINETICS),
    "k400_mvit_v2_s": (34.54, *SCRATCH, 0.2, "5x1", KINETICS),
    "k400_mvit_v2_b": (51.2, *SCRATCH, 0.3, "5x1", KINETICS),
    "k400_mvit_b_64x3": (36.6, 512, 1.6e-4, 5, 0, 0.05, 0.2, "3x3", KINETICS),
    "k400_mvit_v2_l": (213.4, 128, 1.6e-5, 30, 0, 1e-8, 0.75, "5x3", {**KINETICS, "repeats": 1, "mix": (0.0, 0.0)}),
    "k600_mvit_b": (36.8, *SCRATCH, 0.2, "5x1", KINETICS),
    "k600_mvit_b_32x3": (36.8, *SCRATCH, 0.2, "5x1", KINETICS),
    "k600_mvit_b_24_32x3": (53.3, *SCRATCH, 0.3, "5x1", KINETICS),
    "k600_mvit_v2_b": (51.4, *SCRATCH, 0.3, "5x1", KINETICS),
    "k700_mvit_v2_b": (51.4, *SCRATCH, 0.3, "3x3", KINETICS),
    "ssv2_mvit_b": (36.4, 512, 0.02, 100, 3, 1e-4, 0.4, "1x3", SSV2),
    "ssv2_mvit_b_32x3": (36.5, 512, 0.02, 100, 3, 1e-4, 0.4, "1x3", SSV2),
    "ssv2_mvit_v2_s": (34.4, 512, 0.02, 100, 3, 1e-4, 0.4, "1x3", SSV2),
    "ssv2_mvit_v2_b": (51.1, 512, 0.02, 100, 3, 1e-4, 0.4, "1x3", SSV2),
    "ssv2_mvit_v2_l": (213.1, 512, 0.02, 40, 3, 1e-4, 0.75, "1x3", {**SSV2, "mix": (0.0, 0.0), "grad_clip": 2.0}),
    "charades_mvit_b": (36.4, 256, 0.6, 200, 5, 1e-7, 0.45, "10x3", CHARADES),
    "charades_mvit_b_32x3": (36.4, 256, 0.6, 200, 5, 1e-7, 0.45, "10x3", CHARADES),
    "in1k_mvit_b": (37.0, 4096, 4e-3, 300, 70, 0.05, 0.1, "1x1", IMAGES),
    "in1k_mvit_b_24": (53.5, 4096, 4e-3, 300, 70, 0.05, 0.3, "1x1", IMAGES),
    "in1k_mvit_b_24_wide_320": (72.9, 4096, 4e-3, 300, 70, 0.05, 0.3, "1x1", IMAGES),
    "in1k_mvit_v2_t": (24.2, 2048, 2e-3, 300, 70, 0.05, 0.1, "1x1", IMAGES),
    "in1k_mvit_v2_s": (34.9, 2048, 2e-3, 300, 70, 0.05, 0.1, "1x1", IMAGES),
    "in1k_mvit_v2_b": (51.5, 2048, 2e-3, 300, 70, 0.05, 0.3, "1x1", IMAGES),
    "in1k_mvit_v2_l": (218.0, 2048, 2e-3, 300, 70, 0.1, 0.5, "1x1", IMAGES),
}

OF_OUR_OWN = ("motion", "shapes", "small", "finetune")  # no rows of a paper


@pytest.fixture
def composed(tmp_path):
    """The configuration of an experiment, with a folder and a file where it needs them."""
    (tmp_path / "weights.pth").touch()

    def compose_one(name: str, *overrides: str):
        text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
        weights = [f"weights={tmp_path}/weights.pth"] if "weights: <" in text else []
        cfg = compose([f"experiment={name}", f"data.root={tmp_path}", *weights, *overrides])
        check(cfg)
        return cfg

    return compose_one


def test_every_file_is_in_the_table():
    assert {file.stem for file in FILES} == {*TABLE, *OF_OUR_OWN}


@pytest.mark.parametrize("name", TABLE)
def test_an_experiment_is_the_published_recipe(composed, name):
    parameters, clips, lr, epochs, warmup, decay, drop_path, views, recipe = TABLE[name]
    cfg = composed(name)
    with torch.device("meta"):
        model = build(cfg.model, num_classes=CLASSES[name.partition("_")[0]])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.15)
    optim = build(cfg.optim)
    assert optim.scaled_lr(clips) == pytest.approx(lr)
    assert (cfg.trainer.max_epochs, optim.warmup_epochs, optim.weight_decay) == (epochs, warmup, decay)
    assert type(optim).__name__.removesuffix("Cosine") == recipe["optimizer"]
    assert model.blocks[-1].drop_path.rate == pytest.approx(drop_path)
    data = build(cfg.data)
    assert (data.repeats, data.transform.crop.flip, cfg.views) == (recipe["repeats"], recipe["flip"], views)
    mixup = build(cfg.augment.mixup)
    assert (mixup.label_smoothing, (mixup.mixup_alpha, mixup.cutmix_alpha)) == (recipe["smoothing"], recipe["mix"])
    assert cfg.trainer.gradient_clip_val == recipe["grad_clip"]
    assert data.erasing.probability == 0.25
    sampling = {"ssv2": "segment", "charades": "dense"}.get(name.partition("_")[0], "window")
    assert data.sampling == sampling
    assert cfg.module.get("ensemble", "mean") == ("max" if name.startswith("charades") else "mean")


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("in1k") or name.endswith("v2_l")])
def test_images_and_large_models_take_the_statistics_of_imagenet(composed, name):
    cfg = composed(name)
    assert (list(cfg.module.mean), list(cfg.module.std)) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_header_says_what_where_and_what_to_expect(file, composed):
    text = file.read_text()
    head = text.partition("defaults:")[0]
    assert "Hardware: " in head
    assert "Expected: " in head
    command = re.search(r"python -m mvit_train(?: experiment=(\w+))?", head)
    assert command is not None
    assert (command[1] or "motion") == file.stem
    assert f"name: {file.stem}\n" in text
    composed(file.stem)


def test_small_takes_the_weights_of_motion_as_they_are(composed, tmp_path):
    file = tmp_path / "motion.pth"
    torch.save(build(composed("motion").model, num_classes=10).state_dict(), file)
    report = load_pretrained(build(composed("small").model, num_classes=3), file)
    assert (report.resized, report.left_at_init) == ({}, ("head.projection.weight", "head.projection.bias"))
    assert composed("small").data.sampling == "segment"


def test_fine_tuning_takes_the_head_s_full_rate_only_there(composed):
    cfg = composed("finetune")
    with torch.device("meta"):
        model = build(cfg.model, num_classes=5)
    optimizer, _ = build(cfg.optim).build(model, clips_per_step=8, steps_per_epoch=1, max_epochs=30)
    rates = {group["initial_lr"] for group in optimizer.param_groups}
    assert (max(rates), min(rates)) == (pytest.approx(2e-4), pytest.approx(2e-4 * 0.75**17))
    assert (cfg.module.patience, cfg.module.linear_probe) == (8, 5000)


def test_motion_is_the_default(composed):
    assert compose([]) == compose(["experiment=motion"])


ABLATIONS = re.findall(r"^\| `(model[^|]+)` \|", (conf_dir() / "experiment" / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("overrides", ABLATIONS)
def test_every_ablation_in_the_readme_builds(composed, overrides):
    cfg = composed("k400_mvit_b", *overrides.split())
    with torch.device("meta"):
        build(cfg.model, num_classes=400)


def test_the_readme_lists_ablations():
    assert len(ABLATIONS) >= 20


@pytest.mark.parametrize("name", ["ssv2_mvit_b", "finetune"])
def test_what_must_start_from_weights_says_so(tmp_path, name):
    with pytest.raises(ConfigError, match=r"weights = <.*>: is what to start from; give weights=FILE"):
        check(compose([f"experiment={name}", f"data.root={tmp_path}"]))
    check(compose([f"experiment={name}", "task=complexity"]))
