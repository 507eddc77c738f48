"""What each backend says of a model that is not what was asked for: such a row is invalid."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def test_onnx_nodes_on_the_cpu_beside_a_gpu_are_told():
    audit = Audit({"tf32": False, "nodes_by_provider": {"CUDAExecutionProvider": 90, "CPUExecutionProvider": 10}})
    loaded("onnxruntime", "fp32", "cuda:0")._judge(audit, {"elements_by_dtype": WEIGHTS}, Counter())
    assert audit.wrong == [] and audit.deviations == ["10 of 100 graph nodes ran on the CPU"]


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
