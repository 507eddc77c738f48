"""Proofs that a backend works: a small computation in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import backends
from engine.doctor import packages
from engine.errors import RequestError, one_line
from engine.machine import devices, gpus, host, locks, processes
from engine.machine.holders import Holder, Kind

if TYPE_CHECKING:
    pass

PROOF_SECONDS = 120.0
"""A first import of torch from a cluster's network file system takes a minute."""


# -- Proofs ----------------------------------------------------------------------------------------

_IMPORT = """
import importlib, json, sys
device, modules = sys.argv[1], sys.argv[2:]
for name in modules:
    importlib.import_module(name)
facts = {}
"""

_WORK = {
    "pytorch": """
import torch
x = torch.ones(64, 64, device=device)
assert float((x @ x).sum()) == 64.0 ** 3, "a product came out wrong"
""",
    "bitsandbytes": """
import bitsandbytes, torch
from bitsandbytes.functional import has_avx512bf16
layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.bfloat16).to(device).eval()
with torch.inference_mode():
    out = layer(torch.ones(2, 64, dtype=torch.bfloat16, device=device)).float().cpu()
assert bool(torch.isfinite(out).all()), "a 4-bit layer gave no finite numbers"
facts = {"repacks_on_cpu": bool(has_avx512bf16())}
""",
    "onnxruntime": """
import numpy, onnxruntime
from onnx import TensorProto, helper
providers, x = ["CPUExecutionProvider"], numpy.ones((64, 64), "float32")
if device != "cpu":
    onnxruntime.preload_dlls()
    providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.partition(":")[2]}))
x_info, y_info = (helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n in "xy")
graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "proof", [x_info], [y_info])
model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)
facts = {"providers": session.get_providers()}
assert device == "cpu" or facts["providers"][0] == "CUDAExecutionProvider", "fell back to the CPU"
assert float(session.run(None, {"x": x})[0].sum()) == 64.0 ** 3, "a product came out wrong"
""",
    "openvino": """
import numpy, openvino
from openvino import opset13
x = opset13.parameter([64, 64], numpy.float32)
model = openvino.Model([opset13.matmul(x, x, False, False)], [x])
product = openvino.Core().compile_model(model, "CPU")([numpy.ones((64, 64), "float32")])[0]
assert float(product.sum()) == 64.0 ** 3, "a product came out wrong"
""",
    "torchao": """
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_
layer = torch.nn.Sequential(torch.nn.Linear(64, 64)).to(device)
quantize_(layer, Int8WeightOnlyConfig())
assert bool(torch.isfinite(layer(torch.ones(2, 64, device=device))).all()), "an INT8 layer gave no finite numbers"
""",
}
"""A tiny piece of work for each backend; a backend that has none here only proves that it imports."""

_SAY = """
print(json.dumps(facts))
"""


@dataclass(frozen=True)
class Proof:
    """How a backend's piece of work went."""

    problem: str | None
    """One line; None where it worked."""
    facts: Mapping[str, Any]
    untried: str | None = None
    """Why nothing was tried out; None where it was."""


def prove(name: str, device: str, seconds: float = PROOF_SECONDS) -> Proof:
    """Import what backend `name` needs in a process of its own, and let it do its piece of work there."""
    work = _WORK.get(name, "")
    if "from onnx import" in work and not packages.is_installed("onnx"):
        work = ""  # Only the proof needs it, and building: that lack has a check of its own.
    code = _IMPORT + work + _SAY
    # Nothing here may go to the network, whatever is installed.
    around = dict(os.environ) if device == "cpu" else devices.worker_environment()
    env = around | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-c", code, device, *backends.get(name).modules]
    try:
        done = subprocess.run(
            processes.tie(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=processes.tied(env),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Proof(f"did not finish within {seconds:g} s", {})
    if done.returncode != 0:
        return Proof(_reason(done.stderr, done.returncode), {})
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return Proof(None, json.loads(said[-1]) if said else {})


def _reason(stderr: str, code: int) -> str:
    """The line of `stderr` that says most about why a process failed."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in stderr.splitlines()]
    lines = [line for line in lines if line]
    libraries = re.findall(r"([\w.+-]+\.so[\w.]*): cannot open shared object file", stderr)
    if libraries:
        return f"cannot load {', '.join(dict.fromkeys(libraries))}"
    if code < 0:
        lines.append(f"the process was ended by signal {-code}")
    return one_line(ValueError(lines[-1]), 240) if lines else f"ended with exit code {code}"


def prove_backends(gpu: gpus.Gpu | None) -> dict[tuple[str, str], Proof]:
    """A proof for each installed backend, on the CPU and on the GPU where there is one and nobody else has it."""
    installed = [name for name in backends.REGISTRY if packages.missing_modules(name) == []]
    jobs = [(name, "cpu") for name in installed]
    alone: list[tuple[str, str]] = []
    found: dict[tuple[str, str], Proof] = {}
    with ExitStack() as stack:
        if gpu is not None:
            on_gpu = [(name, f"cuda:{gpu.index}") for name in installed]
            try:
                stack.enter_context(locks.device_lock(devices.gpu_device(gpu), Holder(Kind.DOCTOR)))
                # Where the GPU admits one process, two would refuse each other.
                (alone if gpu.compute_mode == "EXCLUSIVE_PROCESS" else jobs).extend(on_gpu)
            except RequestError as error:
                found = dict.fromkeys(on_gpu, Proof(None, {}, one_line(error)))
        with ThreadPoolExecutor(max(1, min(len(jobs), host.usable_cores()))) as hands:
            found |= zip(jobs, hands.map(lambda job: prove(*job), jobs), strict=True)
        found |= {job: prove(*job) for job in alone}
    return {(name, where.partition(":")[0]): proof for (name, where), proof in found.items()}
