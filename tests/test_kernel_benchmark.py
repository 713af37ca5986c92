"""`task=benchmark what=kernels`: agreement first, then turns; shapes of the published models."""

import json

import pytest
import torch

from mvit_train.__main__ import main
from mvit_train.benchmarks import kernels
from mvit_train.benchmarks.kernels import ATTENTIONS, POOLINGS, Case, attention, cases, check_equal, measure, pooling
from mvit_train.models import mvit_b, mvit_v2_s

CPU = torch.device("cpu")
SETTINGS = ["benchmark.rounds=1", "benchmark.device=cpu"]


def small(**kwargs) -> Case:
    make = dict(batch_size=2, dtype=torch.float32, device=CPU)
    return kernels.with_backends(attention(20, 10, 2, 4, **make), CPU, kernel=True, **kwargs)


def test_shapes_are_those_of_the_published_models():
    attentions, poolings = set(), set()
    for build in (mvit_b, mvit_v2_s):
        with torch.device("meta"):
            model = build()
        for block in model.blocks:
            attn = block.attn
            keys = 1 + torch.Size(attn.pool_k.spec.grid(attn.pool_k.thw)).numel()
            queries = 1 + torch.Size(attn.thw_out).numel()
            columns = 0 if build is mvit_b else attn.k_rel.shape[1]
            attentions.add((queries, keys, attn.num_heads, columns))
            for pool in (attn.pool_q, attn.pool_k):
                if pool is not None:
                    poolings.add((tuple(pool.thw), attn.num_heads, tuple(pool.spec.stride)))
    assert set(ATTENTIONS) <= attentions
    assert set(POOLINGS) <= poolings


def test_backends_take_turns_and_rows_are_ratios_to_the_reference():
    rows = list(measure(small(compiled=False), 2, CPU))
    assert [(row.passes, row.backend) for row in rows] == [
        *(("forward", "reference"), ("forward", "fast")),
        *(("both", "reference"), ("both", "fast")),
    ]
    assert rows[0].speed == (1, 1, 1)
    assert rows[3].tflop_per_sec == pytest.approx(3 * small(compiled=False).gflop / 1e3 / rows[3].seconds)


def test_a_backend_that_computes_something_else_is_not_timed():
    case = small(compiled=False)
    wrong = {"reference": case.backends["reference"], "fast": lambda *x: 1.1 * case.backends["fast"](*x)}
    with pytest.raises(ValueError, match=r"fast differs by .* nothing was timed"):
        check_equal(Case(**{**vars(case), "backends": wrong}))


def test_on_a_gpu_the_kernels_are_among_the_backends_and_compiled_is_asked_for():
    make = dict(batch_size=1, dtype=torch.bfloat16, device=CPU)
    case = pooling((2, 4, 4), 1, (1, 2, 2), **make)
    on_gpu = kernels.with_backends(case, torch.device("cuda"), compiled=True, kernel=True)
    assert list(on_gpu.backends) == ["reference", "fast", "triton", "compiled"]
    assert case.gflop == pytest.approx(2 * 27 * 96 * 2 * 2 * 2 / 1e9)


def test_the_command_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kernels, "cases", lambda *_, compiled: iter([small(compiled=compiled)]))
    threads = torch.get_num_threads()
    try:
        assert (
            main(
                [
                    "task=benchmark",
                    "what=kernels",
                    "benchmark.rounds=1",
                    "benchmark.device=cpu",
                    f"runs={tmp_path}",
                    "run_id=k",
                ]
            )
            == 0
        )
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "benchmark" / "k.json").read_text())
    assert result["notes"] == ["triton: absent, it needs an NVIDIA GPU: not measured"]
    assert {row["backend"] for row in result["rows"]} == {"reference", "fast"}
    assert "TFLOP/s" in capsys.readouterr().out


def test_every_shape_has_a_name_of_its_own():
    names = [case.name for case in cases(1, torch.float32, CPU, compiled=False)]
    assert len(names) == len(set(names)) == 5 + 8 + 4
