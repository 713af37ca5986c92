"""The prediction for many GPUs: by hand, on processes of this CPU, and as the command line prints it."""

import json

import pytest

from mvit_train.__main__ import main
from mvit_train.benchmarks.cluster import Cluster
from mvit_train.scaling import Scaling, predict

NODES = Cluster(per_node=8, link=100.0, node_link=50.0, latency=1e-5, bucket_bytes=25e6)


def test_an_exchange_within_a_node_and_between_nodes_takes_what_rings_take():
    assert NODES.exchange_sec(1e9, 1) == 0
    assert NODES.exchange_sec(1e9, 8) == pytest.approx(2 * 7 / 8 * 1e9 / 100e9 + 14e-5)
    assert NODES.exchange_sec(1e9, 16) == pytest.approx(2 * 7 / 8 * 0.01 + 2 * 1 / 2 * 0.02 + 16e-5)


def test_an_exchange_hides_behind_the_backward_pass_except_for_its_last_bucket():
    last = NODES.exchange_sec(25e6, 8)
    assert NODES.step_sec(0.3, 100e6, 1) == 0.3
    assert NODES.step_sec(0.3, 100e6, 8) == pytest.approx(0.3 + last)  # 0.2 s of backward, 0.002 of exchange
    slow = Cluster(per_node=8, link=0.1, node_link=50.0, latency=0.0, bucket_bytes=25e6)
    assert slow.step_sec(0.3, 100e6, 8) == pytest.approx(0.3 + 4 * 0.4375 - 0.2)
    bare = Cluster(per_node=8, link=0.1, node_link=50.0, latency=0.0, bucket_bytes=25e6, overlap=0.0)
    assert bare.step_sec(0.3, 100e6, 8) == pytest.approx(0.3 + 4 * 0.4375)


def test_hours_follow_from_clips_and_a_model_of_more_multiply_adds_is_as_much_slower():
    settings = Scaling(clips_per_sec=500.0, gpus=(1, 8), dollars_per_gpu_hour=2.0)
    alone, node = predict("k400_mvit_b", settings, [])
    assert alone.clips_per_sec == pytest.approx(500)
    assert alone.hours == pytest.approx(200 * 240_000 * 2 / 500 / 3600)
    assert alone.dollars == pytest.approx(2 * alone.hours)
    assert 0.9 < node.efficiency < 1
    assert node.hours == pytest.approx(alone.hours / 8 / node.efficiency)
    larger = predict("k400_mvit_b_32x3", settings, [])[0]
    assert larger.clips_per_sec == pytest.approx(500 * 70.6 / 170, rel=0.01)


def test_the_command_compares_processes_predicts_and_writes_both(tmp_path, capsys):
    sizes = ["scale.check_frames=2", "scale.check_crop=32", "scale.rounds=2", "scale.check=[1,2]"]
    asked = ["scale.clips_per_sec=500", "scale.experiments=[k400_mvit_s]", f"runs={tmp_path}", "run_id=a"]
    assert main(["task=benchmark", "what=scale", *sizes, *asked]) == 0
    result = json.loads((tmp_path / "benchmark" / "a.json").read_text())
    assert [row["gpus"] for row in result["rows"]] == [1, 8, 64, 128]
    one, two = result["checks"]
    assert one["error"] == 0
    assert two["measured"]["exchange"] > one["measured"]["exchange"] >= 0
    assert two["predicted"] > one["predicted"] > 0
    assert two["error"] == pytest.approx(two["predicted"] / two["measured"]["step"] - 1)
    out = capsys.readouterr().out
    assert "step predicted" in out
    assert "predicted, one GPU: 500 clips/s of k400_mvit_b, by multiply-adds" in out


def test_without_a_gpu_and_a_speed_nothing_is_predicted(tmp_path, capsys):
    assert main(["task=benchmark", "what=scale", "scale.check=[]", f"runs={tmp_path}", "run_id=a"]) == 0
    assert "no GPU here: give scale.clips_per_sec" in capsys.readouterr().out
    assert json.loads((tmp_path / "benchmark" / "a.json").read_text())["rows"] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [("scale.gpus=[0]", "must be more than 0"), ("scale.experiments=[k4000]", "no experiment in conf/experiment")],
)
def test_settings_that_make_no_sense_are_refused(override, message, capsys):
    assert main(["task=benchmark", "what=scale", override]) == 2
    assert message in capsys.readouterr().err
