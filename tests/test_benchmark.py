"""The comparison with torchvision and PyTorchVideo: equality first, then turns, ratios and memory, at small sizes."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision

from mvit_train.__main__ import main
from mvit_train.benchmark import Benchmark, compare, contestants, multiply_adds, table
from mvit_train.benchmarks.peers import AbsentError, build_ours, build_peer, check_equal
from mvit_train.benchmarks.timing import cpu_mb_added, make_step, take_turns
from mvit_train.config import ConfigError, check, compose
from mvit_train.models import MViT

SMALL: dict[str, Any] = dict(num_frames=4, crop_size=32)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("peer", "model", "bound"),
    [("torchvision", "mvit_b", 1e-5), ("torchvision", "mvit_v2_s", 1e-5), ("pytorchvideo", "mvit_b", 1e-4)],
)
def test_a_peer_with_our_weights_gives_our_logits(peer, model, bound, record_measured):
    ours = build_ours(model, **SMALL)
    video = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    difference = check_equal(peer, build_peer(peer, model, ours), ours, video)
    record_measured(f"benchmark/{peer} {model}: max |difference| / max |logit|", difference, bound)
    assert difference <= bound


def test_the_peers_are_the_networks_that_the_packages_publish():
    with torch.device("meta"):
        for model, published in (("mvit_b", "mvit_v1_b"), ("mvit_v2_s", "mvit_v2_s")):
            ours = build_ours(model, num_frames=16, crop_size=224)
            theirs = getattr(torchvision.models.video, published)(dropout=0.0, stochastic_depth_prob=0.0)
            assert str(build_peer("torchvision", model, ours)) == str(theirs)


def test_other_weights_are_found_before_anything_is_timed():
    ours = build_ours("mvit_b", **SMALL)
    theirs = build_peer("torchvision", "mvit_b", ours)
    with torch.no_grad():
        next(theirs.parameters()).mul_(1.01)
    with pytest.raises(ValueError, match=r"torchvision's logits differ .* more than 1e-05; nothing was timed"):
        check_equal("torchvision", theirs, ours, torch.randn(1, 3, 4, 32, 32))


def test_every_parameter_of_the_compared_weights_is_drawn():
    for name, parameter in build_ours("mvit_v2_s", **SMALL).named_parameters():
        assert parameter.std() > 0, name


@pytest.mark.parametrize(
    ("hidden", "peer", "model", "why"),
    [
        ("torchvision.models.video.mvit", "torchvision", "mvit_b", "cannot be imported"),
        ("pytorchvideo.models.vision_transformers", "pytorchvideo", "mvit_b", "cannot be imported"),
        (None, "pytorchvideo", "mvit_v2_s", "has no MViTv2"),
        (None, "hiera", "mvit_v2_s", "is measured with 16 frames of 224 pixels alone"),
    ],
)
def test_a_peer_that_is_not_there_is_reported_absent(monkeypatch, hidden, peer, model, why):
    if hidden:
        monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(AbsentError, match=why):
        build_peer(peer, model, build_ours(model, **SMALL))
    notes: list[str] = []
    settings = Benchmark(peers=(peer,), **SMALL)
    assert list(contestants(model, settings, CPU, notes)) == ["ours"]
    assert notes[0].startswith(f"{model}: {peer} is absent: {why}")


def test_hiera_is_timed_but_not_compared(monkeypatch):
    class Other(torch.nn.Linear):
        def forward(self, input):
            return super().forward(input.mean((2, 3, 4)))

    hiera = SimpleNamespace(hiera_base_16x224=lambda pretrained: Other(3, 400))
    monkeypatch.setitem(sys.modules, "hiera", hiera)
    notes: list[str] = []
    networks = contestants("mvit_v2_s", Benchmark(peers=("hiera",)), CPU, notes)
    assert {name: type(network) for name, network in networks.items()} == {"hiera": Other, "ours": MViT}
    assert notes == ["mvit_v2_s: hiera is Hiera-B, another network, of 0.0 M parameters"]


def test_all_take_turns_after_a_warm_up():
    calls: list[str] = []
    times = take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, 2, CPU)
    assert "".join(calls) == "abc" * 3
    assert {name: len(seconds) for name, seconds in times.items()} == dict(a=2, b=2, c=2)


def test_a_training_step_computes_gradients_and_drops_them():
    model, seen = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), []
    model[1].weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.abs().sum()))
    make_step(model, torch.ones(2, 3, 1, 2, 2), precision="bf16", kind="train")()
    make_step(model, torch.ones(2, 3, 1, 2, 2), precision="fp32", kind="forward")()
    assert len(seen) == 1
    assert seen[0] > 0
    assert model[1].weight.grad is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_step_adds_its_gradients_and_what_it_keeps_to_the_memory_of_a_process():
    added = cpu_mb_added("ours", "mvit_b", dict(num_frames=4, crop_size=64), 1, "fp32")
    assert added is not None
    assert 146 < added < 250  # 36.5 M gradients are 146 MB, and about 25 MB are kept for them


def test_rows_are_ratios_to_the_first_peer():
    settings = Benchmark(peers=("torchvision",), precisions=("bf16",), steps=("forward",), rounds=1, **SMALL)
    ((theirs, ours),) = compare("mvit_v2_s", settings, CPU, [])
    assert (theirs.who, theirs.speed, ours.who) == ("torchvision", (1, 1, 1), "ours")
    assert ours.speed[0] == pytest.approx(theirs.seconds / ours.seconds)
    assert ours.clips_per_sec == pytest.approx(1 / ours.seconds)
    assert (ours.added_mb, ours.mfu) == (None, None)
    assert len(table([theirs, ours]).splitlines()) == 4


def test_multiply_adds_for_mfu_are_those_of_the_model():
    assert multiply_adds("mvit_b", dict(num_frames=16, crop_size=224)) / 1e9 == pytest.approx(70.60, abs=0.01)


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mvit_train.benchmark.cpu_mb_added", lambda who, *_: {"torchvision": 170.0, "ours": 160.0}[who])
    threads = torch.get_num_threads()
    settings = ["models=[mvit_b]", "peers=[torchvision]", "precisions=[fp32]", "steps=[forward,train]", "rounds=1"]
    settings += ["num_frames=4", "crop_size=32", "device=cpu"]
    try:
        overrides = [f"benchmark.{setting}" for setting in settings]
        assert main(["task=benchmark", *overrides, f"runs={tmp_path}", "run_id=small"]) == 0
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    file = tmp_path / "benchmark" / "small.json"
    assert str(file) in out
    assert "load average" in out
    assert "the logits of torchvision and ours differ by" in out
    result = json.loads(file.read_text())
    assert result["context"]["versions"].startswith("python 3")
    assert result["settings"]["num_frames"] == 4
    assert [(row["step"], row["who"]) for row in result["rows"]] == [
        *(("forward", "torchvision"), ("forward", "ours")),
        *(("train", "torchvision"), ("train", "ours")),
    ]
    assert [row["added_mb"] for row in result["rows"]] == [None, None, 170, 160]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.models=[vit_b]", "benchmark.models = [vit_b]: must be a list of one of mvit_b, mvit_v2_s"),
        ("benchmark.steps=[]", "benchmark.steps = []: names nothing to measure"),
        ("benchmark.rounds=0", "benchmark.rounds = 0: must be more than 0"),
        ("benchmark.batch_sizes=[0]", "benchmark.batch_sizes = [0]: must be more than 0"),
        ("benchmark.round=3", "did you mean benchmark.rounds?"),
        ("what=all", "what = all: is for task=complexity"),
    ],
)
def test_what_cannot_be_measured_is_a_mistake_of_the_configuration(override, message):
    with pytest.raises(ConfigError) as error:
        check(compose(["task=benchmark", override]))
    assert message in str(error.value)


def test_a_gpu_that_is_not_there_is_a_mistake(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"benchmark\.device = cuda: PyTorch sees no GPU here"):
        check(compose(["task=benchmark", "benchmark.device=cuda"]))
