"""Configuration: composition, the check of every node against its signature, building, and the command line."""

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from mvit_train import config, nodes
from mvit_train.__main__ import main
from mvit_train.config import ConfigError, build, check, compose
from mvit_train.nodes import locate
from mvit_train.signatures import FitError, Node

ROOT = Path(config.__file__).parents[1]

TARGETS = '''
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

class Optim:
    def __init__(self, *, lr: float, betas: tuple[float, float] = (0.9, 0.999)):
        self.lr, self.betas = lr, betas

class Sgd(Optim): ...

class Net:
    def __init__(self, *, width: int = 8, strides: tuple[int, ...] = (), pool: Literal["max", "conv"] = "max",
                 drop_path_rate: float = 0.0, num_classes: int):
        self.width, self.strides, self.num_classes = width, strides, num_classes

def wide(**overrides) -> Net:
    """A factory."""
    return Net(**{"width": 64, **overrides})

@dataclass
class Window:
    length: int
    name: str = "clip"

class Data:
    def __init__(self, *, root: Path | None, size: int, window: Window = Window(1), optim: Optim | None = None,
                 extras: list[Optim] = (), built_in: bool = True):
        self.root, self.size, self.window, self.optim, self.extras = root, size, window, optim, extras

    @classmethod
    def check_arguments(cls, arguments):
        assert arguments["built_in"] is True or "built_in" in arguments  # the default is filled in
        root = arguments.get("root")
        assert root is None or isinstance(root, Path)
        return {"root": "is not a folder"} if root is not None and not root.is_dir() else {}
'''

YAML = {
    "config": """
defaults: [_self_, {net: wide}, {experiment: null}]
task: train
seed: 0
clip: {size: 4}
optim: {_target_: mvit_train.fake.Optim, lr: 0.1}
data: {_target_: mvit_train.fake.Data, root: null, size: "${clip.size}", optim: "${optim}"}
""",
    "net/wide": "{_target_: mvit_train.fake.wide, drop_path_rate: 0.2}",
    "net/plain": "{_target_: mvit_train.fake.Net, strides: [1, 2]}",
    "experiment/big": "# @package _global_\n# A bigger net.\nclip: {size: 16}",
    "experiment/small": "# @package _global_\n# A smaller net.\nclip: {size: 2}",
}


@dataclass
class Clip:
    size: int


@dataclass
class Root:
    task: Literal["train", "evaluate"]
    seed: int
    clip: Clip
    net: Node
    optim: Node
    data: Node
    ckpt: Path | None = None


@pytest.fixture
def conf(tmp_path, monkeypatch) -> Path:
    """A small conf/ whose nodes call classes of a module mvit_train.fake."""
    fake = types.ModuleType("mvit_train.fake")
    monkeypatch.setitem(sys.modules, "mvit_train.fake", fake)
    monkeypatch.setattr(nodes, "ALLOWED_TARGETS", (*nodes.ALLOWED_TARGETS, "mvit_train.fake."))
    exec(TARGETS, fake.__dict__)
    for name, text in YAML.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(config, "conf_dir", lambda: tmp_path / "conf")
    monkeypatch.setattr(config, "Config", Root)
    monkeypatch.setattr(config, "INJECTED", {"net.num_classes": "the data's class list decides it"})
    return tmp_path / "conf"


def mistakes(*overrides: str) -> list[str]:
    try:
        check(compose(overrides))
    except ConfigError as error:
        return error.mistakes
    return []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("net.drop_path_rat=0.1", "net.drop_path_rat = 0.1: wide has no argument drop_path_rat; "
                                  "did you mean net.drop_path_rate?"),
        ("net.zzz=1", "net.zzz = 1: wide has no argument zzz; there are width, strides, pool, drop_path_rate"),
        ("lr=1", "lr = 1: there is no such setting; did you mean optim.lr?"),
        ("nett=plain", "nett = plain: there is no such setting; did you mean net?"),
        ("clip.sise=3", "clip.sise = 3: Clip has no argument sise; did you mean clip.size?"),
        ("optim.lr=abc", "optim.lr = abc: must be float"),
        ("optim.lr=null", "optim.lr = null: must be float"),
        ("seed=1.5", "seed = 1.5: must be int"),
        ("seed=true", "seed = true: must be int"),
        ("task=evaluat", "task = evaluat: must be one of train, evaluate; did you mean evaluate?"),
        ("net.pool=avg", "net.pool = avg: must be one of max, conv"),
        ("net.strides=3", "net.strides = 3: must be a list of int"),
        ("net.strides=[1,x]", "net.strides = [1, x]: must be a list of int: x must be int"),
        ("optim.betas=[0.9]", "optim.betas = [0.9]: must be a list of 2 float, got 1"),
        ("ckpt=3", "ckpt = 3: must be a path or null; to make it text, quote it: 'ckpt=\"...\"'"),
        ("data.optim._target_=mvit_train.fake.Window", "data.optim = {_target_: mvit_train.fake.Window, lr: 0.1}"),
        ("data.extras=[{_target_: mvit_train.fake.Sgd, lr: x}]", "data.extras.0.lr = x: must be float"),
        ("data.optim={lr: 1}", None),
        ("optim=null", "optim = null: must be a node with `_target_`"),
        ("net={width: 3}", None),
        ("~optim.lr", "optim.lr: is missing; Optim needs it"),
        ("seed=???", "seed: has no value yet; give seed=..."),
        ("seed='${nope}'", "seed = ${nope}: Interpolation key 'nope' not found"),
        ("clip='${data}'", None),
        ("data.window='${data}'", "data: nodes refer to each other in a circle"),
        ("net.num_classes=5", "net.num_classes = 5: cannot be set: the data's class list decides it"),
        ("net._target_=mvit_train.fake.wid", "net._target_ = mvit_train.fake.wid: does not exist: "
                                             "mvit_train.fake has no wid; did you mean wide?"),
        ("net._target_=mvit_train.fake.nowhere.Net", "net._target_ = mvit_train.fake.nowhere.Net: does not exist"),
        ("net._target_=mvit_train.fake.Optim", "net._target_: Optim must accept num_classes, but has no such argument"),
        ("net._partial_=true", "net._partial_ = true: wide has no argument _partial_"),
        ("data.root=/nowhere", "data.root = /nowhere: is not a folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_path_its_value_and_what_is_allowed(conf, override, message):
    found = mistakes(override)
    if message is None:
        assert found
    else:
        assert any(line.startswith(message) for line in found), found


def test_references_that_go_in_a_circle_are_a_mistake(conf):
    assert "in a circle" in mistakes("clip={size: '${optim}'}", "optim.lr='${clip}'")[0]
    assert "in a circle" in mistakes("seed='${ckpt}'", "ckpt='${seed}'")[0]


def test_all_mistakes_are_reported_at_once(conf):
    found = mistakes("net.drop_path_rat=0.1", "optim.lr=abc", "data.root=/nowhere", "data.sise=3", "task=x")
    assert [line.partition(" = ")[0] for line in found] == [
        "task", "optim.lr", "data.sise", "data.root", "net.drop_path_rat",
    ]  # fmt: skip


def test_a_value_read_in_several_places_is_reported_where_it_is_written(conf):
    assert mistakes("clip.size=abc") == ["clip.size = abc: must be int"]
    assert mistakes("optim.lr=abc") == ["optim.lr = abc: must be float"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("experiment=bigg", "experiment = bigg: conf/experiment has big, small; did you mean big?"),
        ("net=3", "net = 3: conf/net has plain, wide"),
        ("train", "train: is no override; write key=value"),
        ("=3", "=3: has no key"),
        ("ckpt=a/epoch=3.ckpt", "ckpt=a/epoch=3.ckpt: cannot be read"),
        ("seed=1,2", "seed=1,2: several values; a list is written seed=[a,b]"),
        ("hydra.run.dir=x", "hydra.run.dir=x: settings of Hydra itself have no effect here"),
        ("~seedy", "Could not delete"),
    ],
)
def test_an_override_that_cannot_be_applied_is_explained(conf, override, message):
    with pytest.raises(ConfigError) as error:
        compose([override])
    assert error.value.mistakes[0].startswith(message)


def test_overrides_that_cannot_be_applied_are_reported_at_once(conf):
    with pytest.raises(ConfigError, match="3 mistakes") as error:
        compose(["experiment=bigg", "net=plainn", "seed=3", "seed"])
    assert len(error.value.mistakes) == 3


def test_the_quoted_form_that_an_error_proposes_works(conf, tmp_path):
    file = tmp_path / "epoch=3.ckpt"
    with pytest.raises(ConfigError) as error:
        compose([f"ckpt={file}"])
    proposed = error.value.mistakes[0].rpartition("quote it: ")[2]
    assert compose([proposed.strip("'")]).ckpt == str(file)


def test_a_correct_configuration_has_no_mistakes(conf):
    for overrides in ([], ["net=plain"], ["experiment=big"], ["net.width=3", "optim.lr=1", "optim.betas=[0,1]"]):
        assert mistakes(*overrides) == []
    assert compose(["experiment=big"]).data.size == 16


def test_a_factory_accepts_the_arguments_of_what_it_returns(conf):
    assert mistakes("net.strides=[2,2]", "net.pool=conv") == []
    assert mistakes("net.width=x") == ["net.width = x: must be int"]


def test_a_node_may_be_of_a_subclass_of_what_is_asked_for(conf):
    assert mistakes("data.optim._target_=mvit_train.fake.Sgd") == []


def test_setting_a_value_below_a_reference_leaves_what_it_refers_to(conf):
    cfg = compose(["data.optim.lr=5"])
    assert (cfg.data.optim.lr, cfg.optim.lr) == (5, 0.1)


def test_a_saved_configuration_is_changed_by_overrides(conf):
    saved = {**config.to_dict(compose(["experiment=big", "optim.lr=7"])), "seed": 9}
    cfg = compose(["net=plain", "data.optim.lr=3"], saved)
    assert (cfg.seed, cfg.optim.lr, cfg.data.optim.lr, cfg.data.size) == (9, 7, 3, 16)
    assert cfg.net._target_ == "mvit_train.fake.Net"
    with pytest.raises(ConfigError, match="a checkpoint brings its own"):
        compose(["experiment=small"], saved)


@pytest.mark.parametrize(
    "target",
    ["os.system", "antigravity.fly", "mvit_trainer.x.Y", "mvit_train", "torch.load", 3, None, "lightning.pytorch.x"],
)
def test_a_foreign_target_is_refused_and_never_imported(conf, target):
    sys.modules.pop("antigravity", None)
    with pytest.raises(FitError, match="may only name"):
        locate(target)
    assert "antigravity" not in sys.modules
    assert "may only name" in mistakes(f"net._target_={target}")[0]


@pytest.mark.parametrize(
    "target",
    [
        "mvit_train.fake.os.system",
        "mvit_train.fake.Path",
        "mvit_train.models.math.sqrt",
        "mvit_train.fake.Net.__subclasses__",
        "mvit_train.fake.__loader__",
        "mvit_train.fake",
        "mvit_train.fake.",
    ],
)
def test_what_our_modules_import_from_elsewhere_is_no_target(conf, target):
    with pytest.raises(FitError):
        locate(target)


def test_building_refuses_foreign_targets_even_unchecked(conf):
    with pytest.raises(FitError, match="may only name"):
        build({"_target_": "mvit_train.fake.Data", "root": {"_target_": "os.getcwd"}, "size": 1})


def test_building_converts_to_the_annotated_types_and_passes_injected_arguments(conf, tmp_path):
    cfg = compose([
        "net.strides=[1,2]", "data.root=.", "data.window={length: 3}",
        "data.extras=[{_target_: mvit_train.fake.Sgd, lr: 2}]", "optim.betas=[0,1]",
    ])  # fmt: skip
    check(cfg)
    net, data = build(cfg.net, num_classes=7), build(cfg.data)
    assert (net.width, net.strides, net.num_classes) == (64, (1, 2), 7)
    assert (data.root, data.size, data.window.length, data.window.name) == (Path("."), 4, 3, "clip")
    assert (type(data.optim).__name__, data.optim.lr, data.optim.betas) == ("Optim", 0.1, (0.0, 1.0))
    assert (type(data.extras), type(data.extras[0]).__name__, data.extras[0].lr) == (list, "Sgd", 2.0)


def test_a_checkpoint_is_evaluated_with_its_own_configuration(conf, monkeypatch, tmp_path):
    saved = config.to_dict(compose(["experiment=big", "optim.lr=7"]))
    monkeypatch.setattr("mvit_train.checkpoint.resolve_checkpoint", lambda path: path)
    monkeypatch.setattr("mvit_train.checkpoint.read_checkpoint", lambda path: {"mvit_train": {"config": saved}})
    task = types.ModuleType("mvit_train.evaluate")
    exec("seen = []; run = seen.append", task.__dict__)
    monkeypatch.setitem(sys.modules, "mvit_train.evaluate", task)
    monkeypatch.setattr("mvit_train.__main__.SHARED", ())  # this configuration has no trainer
    assert main(["task=evaluate", f"ckpt={tmp_path}", "seed=5"]) == 0
    (cfg,) = task.seen
    assert (cfg.task, cfg.ckpt, cfg.seed, cfg.optim.lr, cfg.data.size) == ("evaluate", str(tmp_path), 5, 7, 16)


EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("task", ["train", "evaluate"])
def test_every_experiment_passes_the_check(experiment, task, tmp_path):
    (tmp_path / "weights.pth").touch()
    given = f"weights={tmp_path}/weights.pth" if task == "train" else f"ckpt={tmp_path}"
    cfg = compose([f"experiment={experiment}", f"task={task}", given, f"data.root={tmp_path}"])
    check(cfg)
    assert cfg.name == experiment


OWN = """
# @package _global_
defaults:
  - override /model: mvit_small
  - override /data: motion
  - override /augment: motion
  - override /optim: motion
name: mine
clip: {num_frames: 8, sampling_rate: 4, crop_size: 32}
data: {batch_size: 7}
"""


def test_an_experiment_may_lie_anywhere_and_the_command_line_still_wins(tmp_path):
    file = tmp_path / "my [own], experiment.yaml"
    file.write_text(OWN)
    cfg = compose([f"experiment={file}", "model=mvit_s", "clip.num_frames=16", "data.batch_size=3"])
    check(cfg)
    assert (cfg.name, cfg.model._target_, cfg.model.num_frames) == ("mine", "mvit_train.models.mvit_s", 16)
    assert (cfg.data.batch_size, compose([f"experiment={file}"]).data.batch_size) == (3, 7)
    file.write_text(OWN + "dta: {}\nmodel: {depht: 1}\n")
    with pytest.raises(ConfigError, match="2 mistakes"):
        check(compose([f"experiment={file}"]))


@pytest.mark.parametrize("text", [None, "- a\n", "defaults: 3\n", "a: [\n"])
def test_an_experiment_that_cannot_be_read_is_named(tmp_path, text):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=f"experiment = {file}: cannot be read as an experiment"):
        compose([f"experiment={file}"])


@pytest.mark.parametrize("run_id", ["1234", "007", "1_0", "a"])
def test_a_run_id_is_text_as_it_stands(run_id):
    cfg = compose([f"run_id={run_id}"])
    assert cfg.run_id == run_id
    check(cfg)
