"""What each backend says of a model that is not what was asked for: such a row is invalid."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine import backends
from engine.backends.base import Audit, Backend, LoadRequest

WEIGHTS = {"float32": 1000}


def loaded(backend: str, precision: str, device: str = "cpu", **options: Any) -> Backend:
    """A backend that was asked for this, without a model."""
    made = backends.get(backend)()
    made._request = LoadRequest(Path(), precision, device, 2, options, Path())
    made._options = made.parse_options(options)
    return made


@pytest.mark.parametrize(
    ("precision", "dtypes", "tf32", "wrong"),
    [
        ("fp32", {"float32": 9}, False, []),
        ("fp16", {"float16": 9}, False, []),
        ("tf32", {"float32": 9}, True, []),
        ("fp16", {"float16": 9, "float32": 1}, False, ["weights in float32 where float16 was asked for"]),
        ("fp32", {"bfloat16": 9}, False, ["weights in bfloat16 where float32 was asked for"]),
        ("fp32", {"float32": 9}, True, ["TF32 is on"]),
        ("tf32", {"float32": 9}, False, ["TF32 is off"]),
    ],
)
def test_pytorch(precision, dtypes, tf32, wrong):
    audit = Audit({"tf32": tf32})
    loaded("pytorch", precision)._judge(audit, Counter(dtypes))
    assert audit.wrong == wrong


@pytest.mark.parametrize(
    ("precision", "device", "facts", "operators", "settings", "wrong"),
    [
        ("fp32", "cpu", WEIGHTS, {"MatMul": 6}, {}, []),
        ("int8", "cpu", {"int8": 900, "float32": 100}, {"MatMulInteger": 6}, {}, []),
        ("int8", "cpu", WEIGHTS, {"MatMul": 6}, {}, ["no operator computes in INT8"]),
        ("int8", "cpu", {"int8": 900}, {"MatMul": 6}, {}, ["no operator computes in INT8"]),
        ("fp16", "cpu", WEIGHTS, {"MatMul": 6}, {}, ["weights in float32 where float16 was asked for"]),
        ("tf32", "cuda:0", WEIGHTS, {"MatMul": 6}, {"tf32": True}, []),
        ("tf32", "cuda:0", WEIGHTS, {"MatMul": 6}, {}, ["TF32 is off"]),
        ("fp32", "cuda:0", WEIGHTS, {"MatMul": 6}, {"tf32": True}, ["TF32 is on"]),
    ],
)
def test_onnx_runtime(precision, device, facts, operators, settings, wrong):
    audit = Audit({"tf32": False, "fused_attention_nodes": 0, "nodes_by_provider": {}} | settings)
    loaded("onnxruntime", precision, device)._judge(audit, {"elements_by_dtype": facts}, Counter(operators))
    assert audit.wrong == wrong


CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


@pytest.mark.parametrize(
    ("provider", "placement", "wrong", "deviations"),
    [
        ("cuda", {CUDA: {"MatMul": 90}}, [], []),
        ("cuda", {CUDA: {"Mul": 9, "MemcpyToHost": 2}, CPU: {"Gather": 1}}, [], ["1 of 10 graph nodes ran on the CPU"]),
        ("cuda", {CPU: {"MatMul": 9}}, [f"{CUDA} computes nothing"], ["9 of 9 graph nodes ran on the CPU"]),
        ("tensorrt", {TENSORRT: {"TRTKernel_graph_0": 1}}, [], []),
        ("tensorrt", {TENSORRT: {"TRTKernel_graph_0": 1}, CUDA: {"MemcpyFromHost": 2}}, [], []),
        (
            "tensorrt",
            {TENSORRT: {"a": 1, "b": 1}, CUDA: {"Attention": 6}, CPU: {"Shape": 2}},
            [],
            ["2 of 10 graph nodes ran on the CPU", "6 of 10 graph nodes ran by CUDA instead"],
        ),
        ("tensorrt", {CUDA: {"Mul": 4}}, [f"{TENSORRT} computes nothing"], ["4 of 4 graph nodes ran by CUDA instead"]),
    ],
)  # fmt: skip
def test_onnx_nodes_elsewhere_than_asked_for_are_told(provider, placement, wrong, deviations):
    audit = Audit({})
    loaded("onnxruntime", "fp32", "cuda:0", provider=provider)._judge_placement(audit, placement)
    assert audit.wrong == wrong and audit.deviations == deviations


@pytest.mark.parametrize(
    ("provider", "use_tf32", "override", "tf32"),
    [
        ("cuda", "0", None, False),
        ("cuda", "1", None, True),
        ("tensorrt", "0", None, True),
        ("tensorrt", "0", "0", False),
    ],
)
def test_tensorrt_computes_in_tf32_unless_it_is_overruled(provider, use_tf32, override, tf32, monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if override:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    backend = loaded("onnxruntime", "fp32", "cuda:0", provider=provider)
    backend._session = SimpleNamespace(get_provider_options=lambda: {CUDA: {"use_tf32": use_tf32}})
    assert backend._tf32() is tf32


def test_tensorrt_is_shown_the_smallest_and_the_largest_batch_and_no_other():
    seen = []

    def run(outputs, inputs):
        seen.append({name: array.shape for name, array in inputs.items()})
        return [np.zeros((1, 4), dtype=np.float32)]

    shapes = [{"input_ids": np.zeros(shape, dtype=np.int64)} for shape in ((8, 40), (8, 12), (3, 64), (8, 64))]
    for provider, met in (("cuda", []), ("tensorrt", [(3, 12), (8, 64)])):
        backend = loaded("onnxruntime", "fp32", "cuda:0", provider=provider)
        backend._session, backend._inputs = SimpleNamespace(run=run), ["input_ids", "attention_mask"]
        backend.meet(shapes)
        assert seen == [{"input_ids": shape, "attention_mask": shape} for shape in met]


@pytest.mark.parametrize(
    ("precision", "calibrated", "weights", "products", "wrong", "deviations"),
    [
        ("fp32", False, WEIGHTS, {"f32": 12}, [], []),
        ("int8", True, {"int8": 900}, {"u8": 12}, [], []),
        ("int8", False, WEIGHTS, {"f32": 12}, ["no weight is in INT8"], []),
        ("int8", True, {"int8": 900}, {"f32": 12}, ["no operator computes in INT8"], []),
        ("fp32", False, WEIGHTS, {"bf16": 12}, ["products are computed otherwise than in f32: 12 in bf16"], []),
        ("bf16", False, WEIGHTS, {"bf16": 9, "f32": 2}, [], ["products are computed otherwise than in bf16: 2 in f32"]),
    ],
)
def test_openvino(precision, calibrated, weights, products, wrong, deviations):
    options = {"calibration": {"dataset": "train.csv"}} if calibrated else {}
    audit = Audit({"parameters_by_dtype": weights, "integer_nodes": products.get("u8", 0)})
    loaded("openvino", precision, **options)._judge(audit, Counter(products))
    assert (audit.wrong, audit.deviations) == (wrong, deviations)


@pytest.mark.parametrize(
    ("kind", "nested", "packed", "compute", "wrong", "deviations"),
    [
        ("nf4", True, False, "bfloat16", [], []),
        ("fp4", True, False, "bfloat16", ["quantised as ['fp4']"], []),
        ("nf4", False, True, "float32", [], ["double quantisation is gone (the CPU kernel repacks"]),
        ("nf4", True, False, "float32", [], ["computed in float32 instead of bfloat16"]),
    ],
)
def test_bitsandbytes(kind, nested, packed, compute, wrong, deviations):
    state = SimpleNamespace(quant_type=kind, nested=nested, packing_format_for_cpu=packed)
    module = SimpleNamespace(weight=SimpleNamespace(quant_state=state), compute_dtype=f"torch.{compute}")
    audit = Audit({})
    loaded("bitsandbytes", "nf4", compute="bf16")._judge_4bit(audit, {"layer": module})
    assert audit.wrong == wrong
    assert len(audit.deviations) == len(deviations)
    assert all(said.startswith(begins) for said, begins in zip(audit.deviations, deviations, strict=True))
