"""The kernels compile for an H200 without one: tensor cores are used, shared memory fits, next to nothing is spilled.

The interpreter runs Python and does not know what the compiler refuses, nor what a kernel costs in registers.
"""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="the kernels need Triton")

SHARED_BYTES, SPILLED_BYTES = 227 * 1024, 16

BUILD = """
import json, os, subprocess, tempfile
import torch, triton
from triton.backends.compiler import GPUTarget

class H200:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device=None: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(H200())
cuobjdump = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
launch = triton.runtime.jit.JITFunction.run
found = {}

def build(self, *args, warmup, **kwargs):
    kernel = launch(self, *args, warmup=True, **kwargs)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        said = subprocess.run([cuobjdump, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    usage = dict(word.split(":")[:2] for line in said.splitlines() if "REG" in line for word in line.split())
    found[f"{self.fn.__module__.split('_', 2)[-1]}.{self.fn.__name__}"] = [
        int(usage["REG"]), int(usage["STACK"]), kernel.metadata.shared, "wgmma" in kernel.asm["ptx"]
    ]

triton.runtime.jit.JITFunction.run = build
from mvit_train.ops import triton_attention, triton_attention_backward, triton_pooling

def make(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype)

x, weight, gamma = make(1, 6273, 1152).chunk(3, -1)[1], make(96, 1, 3, 3, 3, dtype=torch.float32), torch.empty(96)
_, pooled = triton_pooling.pool_norm(x, [8, 28, 28], weight, gamma, gamma, [1, 2, 2], 1, 1e-6, True)
triton_pooling._backward(pooled, x, [8, 28, 28], weight, gamma, pooled, [1, 2, 2], 1, 1e-6)
q, k, v, q_rel = make(1, 2, 6273, 96), make(1, 2, 1569, 96), make(1, 2, 1569, 96), make(1, 2, 6273, 36)
out, lse = triton_attention.attend(q, k, v, q_rel, torch.empty(1569, 36), 1)
triton_attention_backward.attend_backward(out, q, k, v, q_rel, torch.empty(1569, 36), out, lse, 1)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's tools come with Triton on Linux")
def test_kernels_build_for_an_h200(record_measured):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-c", BUILD], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert len(found) == 8
    for name, (_, spilled, shared, _) in found.items():
        record_measured(f"kernels/{name} for sm_90: bytes spilled", spilled, SPILLED_BYTES)
        assert spilled <= SPILLED_BYTES, name
        assert shared <= SHARED_BYTES, name
    by_tensor_cores = {name for name, (*_, wgmma) in found.items() if wgmma}
    assert len(by_tensor_cores) == 3, found
