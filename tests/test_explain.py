"""The recipe in words and numbers: every experiment has a screen, and a changed setting is a difference in it."""

import re
from itertools import pairwise

import pytest

from mvit_train import explain
from mvit_train.__main__ import main
from mvit_train.checkup.findings import WIDTH
from mvit_train.config import ConfigError, check, compose, conf_dir
from mvit_train.explain import Header, frame_numbers, screen
from mvit_train.papers.differences import SETTINGS, differences
from mvit_train.papers.recipes import DATA_SETS, PAPERS, Recipe, data_set
from mvit_train.papers.released import RELEASED
from mvit_train.papers.training_plan import TrainingPlan

FILES = {file.stem: file for file in sorted((conf_dir() / "experiment").glob("*.yaml"))}
PUBLISHED = [name for name in FILES if data_set(name)]
PAPER, PYSLOWFAST = "Differences from the paper", "Differences from PySlowFast"


def plan_of(*overrides: str) -> TrainingPlan:
    cfg = compose(["task=explain", *overrides])
    check(cfg)
    return TrainingPlan(cfg)


def explained(*overrides: str) -> str:
    """The screen, wrapped lines joined; multiply-adds are not counted."""
    return re.sub(r"\n {4,17}(?=[^ ])", " ", screen(plan_of(*overrides), 70.8))


def lines_under(title: str, text: str) -> list[str]:
    """The lines of a section, what is not stated left out."""
    section = text[text.index(title) :].partition("\n\n")[0]
    return [line.strip() for line in section.splitlines()[1:] if "not stated there" not in line]


@pytest.mark.parametrize("name", FILES)
def test_every_experiment_is_explained_on_one_screen(name):
    plan = plan_of(f"experiment={name}")
    text = screen(plan, 70.8)
    lines = text.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= WIDTH
    num_params = sum(parameter.numel() for parameter in plan.model.parameters())
    assert f"{num_params:,} parameters" in text
    assert {parameter.device.type for parameter in plan.model.parameters()} == {"meta"}
    assert "None" not in text
    assert "there is no conf/experiment" not in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_header_of_an_experiment_predicts_the_same_hours(name):
    head = " ".join(line.lstrip("# ") for line in FILES[name].read_text().partition("defaults:")[0].splitlines())
    gflops = re.search(r"x ([\d.]+) G multiply-adds", head)
    hours = re.search(r"([\d,]+) to ([\d,]+) hours", head)
    videos = re.search(r"epochs x ([\d,]+) (videos|images)", head)
    assert gflops
    assert hours
    assert videos
    plan = plan_of(f"experiment={name}", "trainer.devices=1")
    assert videos[1] == f"{plan.num_videos:,}"
    predicted = plan.gpu_hours(float(gflops[1]))
    assert predicted is not None
    for found, written in zip(predicted, hours.groups(), strict=True):
        assert found == pytest.approx(float(written.replace(",", "")), rel=0.06, abs=0.5)


def test_kinetics_numbers_on_eight_devices():
    text = explained("experiment=k400_mvit_b", "trainer.devices=8")
    for words in (
        "mvit_b, 400 classes: 36,610,672 parameters, 70.8 G",
        "Kinetics-400 as published: 240,000 videos",
        "32 = 4 (data.batch_size) x 8 (trainer.devices) x 1 (num_nodes); 16 videos, 2 copies each",
        "0.0001: optim.lr=0.0016 is for 512 clips",
        "1e-06 at epoch 0, linearly to 0.0001 at 30; then a half-cosine, 6.4e-05 at 100, to 1e-06 at 200",
        "0.05 on 108 tensors of 36,518,784 parameters, 0 on 205 tensors of 91,888",
        "200 epochs x 15,000 steps: 3,000,000 steps",
        "96,000,000",
        "0 4 8 12 16 21 25 29 33 37 42 46 50 54 58 63; 5 clips begin at 0 59 118 177 236",
        "expected       78.4 % top-1, 93.5 % top-5 with 5x1 views (paper; torchvision's weights 78.5",
        "120 to 210 of one H200, predicted, not measured",
    ):
        assert words in text


def test_the_papers_hardware_leaves_no_difference_from_the_paper():
    text = explained("experiment=k400_mvit_b", "trainer.devices=8", "trainer.num_nodes=16")
    assert lines_under(PAPER, text) == ["none"]
    assert "not stated there: data.sampling, trainer.gradient_clip_val, trainer.precision" in text
    assert lines_under(PYSLOWFAST, text) == ["views: here 5x1, PySlowFast 10 clips"]


# Where an experiment, on the hardware that its header names, is not the paper's recipe.
DEVIATIONS = {
    **{name: {"augment.crop.crop"} for name in PUBLISHED if name.startswith("ssv2")},
    **{name: {"trainer.max_epochs", "data.repeats"} for name in PUBLISHED if name.startswith("in1k_mvit_b")},
    "ssv2_mvit_v2_l": {"augment.crop.crop", "clips of an optimiser step"},  # 64 GPUs x 1 clip
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_on_its_hardware_an_experiment_differs_from_the_paper_only_where_it_says_so(name):
    nodes = re.search(r"trainer.num_nodes=(\d+)", FILES[name].read_text())
    assert nodes
    overrides = [f"experiment={name}", "trainer.devices=8", f"trainer.num_nodes={nodes[1]}"]
    if name == "k400_mvit_b_64x3":
        assert PAPERS[name].clips_per_step is None
    found = differences(plan_of(*overrides).recipe, PAPERS[name], "paper")
    assert {line.partition(":")[0] for line in found} == DEVIATIONS.get(name, set())


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optim.lr=1e-3", "optim.lr: here 0.001 for 512 clips, paper 0.0016 for 512 clips (MViT, Sec. D.1)"),
        ("data.repeats=1", "data.repeats: here 1, paper 2 (MViT, Sec. D.1)"),
        (
            "augment.crop.pixels.policy=rand-m9-n4-mstd0.5-inc1",
            "augment.crop.pixels: here rand-m9-n4-mstd0.5-inc1, paper rand-m7-n4-mstd0.5-inc1 (MViT, Sec. D.1)",
        ),
        ("model.pool=max", "model: here mvit_b pool=max, paper mvit_b (MViT, Table 4)"),
        ("views=10x3", "views: here 10x3, paper 5x1 (MViT, Table 4)"),
        ("augment=ssv2", "augment.crop.crop.flip: here 0, paper 0.5 (MViT, Sec. D.1)"),
        ("augment.erasing=null", "augment.erasing: here 0, paper 0.25 (MViT, Sec. D.1)"),
        ("optim=ssv2", "optim: here SGD, paper AdamW (MViT, Sec. D.1)"),
        ("trainer.max_epochs=100", "trainer.max_epochs: here 100, paper 200 (MViT, Sec. D.1)"),
        ("module.mean=[0.5,0.5,0.5]", "module.mean: here 0.5, 0.5, 0.5, paper 0.45, 0.45, 0.45 (MViT, Sec. D.1)"),
    ],
)
def test_a_changed_setting_is_a_difference(override, line):
    assert line in lines_under(PAPER, explained("experiment=k400_mvit_b", override))


def test_the_same_rate_for_another_batch_is_no_difference():
    text = explained("experiment=k400_mvit_b", "optim.lr=1e-4", "optim.lr_batch=32")
    assert not [line for line in lines_under(PAPER, text) if line.startswith("optim.lr")]


def test_pyslowfasts_deviations_are_listed():
    small = lines_under(PYSLOWFAST, explained("experiment=ssv2_mvit_v2_s"))
    assert "optim.lr: here 0.02 for 512 clips, PySlowFast 0.0025 for 16 clips (for 512: 0.08)" in small
    large = lines_under(PYSLOWFAST, explained("experiment=k400_mvit_b_32x3"))
    assert "model: here mvit_b_32x3, PySlowFast mvit_b_24_32x3" in large
    mixed = lines_under(PYSLOWFAST, explained("experiment=k400_mvit_v2_s", "trainer.precision=bf16-mixed"))
    assert mixed == ["trainer.precision: here bf16-mixed, PySlowFast 32-true"]
    unclipped = lines_under(PYSLOWFAST, explained("experiment=k400_mvit_v2_s", "trainer.gradient_clip_val=null"))
    assert unclipped == ["trainer.gradient_clip_val: here none, PySlowFast 1"]


def test_the_tables_are_of_experiments_that_exist_and_every_field_has_a_setting():
    assert set(PAPERS) == set(PUBLISHED)
    assert set(RELEASED) <= set(PUBLISHED)
    assert {name.partition("_")[0] for name in PUBLISHED} == set(DATA_SETS)
    assert set(SETTINGS) == set(Recipe.__annotations__) - {"section", "row"}


def test_a_name_without_a_published_recipe_is_said_to_have_none():
    text = explained("experiment=k400_mvit_b", "name=mine")
    assert "mine has no published recipe to compare with" in text
    assert "not known: no data.root" in text
    assert "400 classes, for want of data" in text
    assert "how many steps is not known" in text
    assert PYSLOWFAST not in text
    assert Header.read("mine") == Header()


def test_a_folder_of_videos_counts_instead_of_the_published_data_set(tmp_path):
    for split, count in (("train", 7), ("val", 2)):
        rows = [f"{i}.mp4,{'ab'[i % 2]}" for i in range(count)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
    text = explained("experiment=k400_mvit_b", f"data.root={tmp_path}", "trainer.devices=1")
    assert "7 videos for training, 2 for validation, 2 classes" in text
    assert "mvit_b, 2 classes" in text
    assert "200 epochs x 3 steps: 600 steps" in text


def test_weights_that_are_still_to_be_given_are_no_mistake_here():
    assert "trained on Kinetics-400: to be given as weights=FILE" in explained("experiment=ssv2_mvit_b")


@pytest.mark.parametrize("override", ["data.root=/nowhere", "weights=/nowhere.pth", "optim.lr=abc"])
def test_other_mistakes_are_still_told(override):
    with pytest.raises(ConfigError):
        plan_of("experiment=ssv2_mvit_b", override)


def test_frames_come_from_the_samplers_of_training_and_test():
    segments = plan_of("experiment=ssv2_mvit_v2_s")
    assert frame_numbers(segments, 1) == [[9, 28, 46, 65, 84, 102, 121, 140, 159, 177, 196, 215, 233, 252, 271, 289]]
    dense = plan_of("experiment=charades_mvit_b")
    assert [clip[0] for clip in frame_numbers(dense, 10)][::9] == [0, 239]
    (clip,) = frame_numbers(dense, None)
    assert {after - before for before, after in pairwise(clip)} == {4}


def test_accumulated_batches_and_layer_decay_are_counted():
    text = explained("experiment=k400_mvit_b", "trainer.devices=2", "trainer.accumulate_grad_batches=4")
    assert "32 = 4 (data.batch_size) x 2 (trainer.devices) x 1 (num_nodes) x 4 (accumulate_grad_batches)" in text
    assert "96,000,000" in text
    text = explained("experiment=k400_mvit_b", "optim.layer_decay=0.75", "module.ema_decay=0.999")
    assert "0.75 from the head to each block before it" in text
    assert "0.05 on 108 tensors" in text
    assert "weights averaged, decay 0.999" in text


def test_max_steps_ends_a_run_earlier():
    assert plan_of("experiment=k400_mvit_b", "trainer.devices=8", "trainer.max_steps=10").num_clips == 320


def test_the_command_prints_the_screen(monkeypatch, capsys):
    monkeypatch.setattr(explain, "view_gflops", lambda model: 0.01)
    assert main(["task=explain"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mvit_train explain: motion\n\nModel\n")
    assert "motion videos, built in: 1,000 for training, 200 for validation" in out
    assert "not predicted: at 0.01 G a view" in out


def test_what_fine_tuning_adds_is_said():
    settings = ("module.frozen_stages=2", "module.patience=8", "module.linear_probe=500")
    text = explained("experiment=k400_mvit_b", *settings)
    assert "the embeddings and the first 2 stages: 1,642,848 parameters" in text
    assert "0.05 on 82 tensors" in text  # 108 without the frozen ones
    assert "after 8 validations in a row" in text
    assert "at most 500 training videos" in text
    assert not re.search("frozen|ends early|linear probe", explained("experiment=k400_mvit_b"))
