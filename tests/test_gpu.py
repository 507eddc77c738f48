"""The study's techniques on an NVIDIA GPU, at true size: the suite `shapes`, with few rounds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from engine import hardware
from engine.errors import RequestError


def why_not() -> str | None:
    """Why nothing can be measured on a GPU here; None where it can."""
    try:
        hardware.resolve_device("cuda")
        return None
    except RequestError as error:
        return f"needs an NVIDIA GPU: {error}"


REASON = why_not()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


@pytest.fixture(scope="module")
def shapes(bench, tmp_path_factory) -> dict[str, Any]:
    """variant -> its measurement and, as "logits", its answers; "run" -> the run."""
    file = tmp_path_factory.mktemp("gpu") / "run.json"
    settings = ["workload.examples=32", "protocol.rounds=8", "protocol.min_calls=8", "protocol.max_seconds=60"]
    changed = [part for setting in settings for part in ("--set", setting)]
    done = bench("run", "shapes", "--device", "cuda", "--json", file, *changed, timeout=540)
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    found: dict[str, Any] = {row["variant"]: row for row in written["measurements"]}
    exported = bench("export", written["run"]["id"], "--predictions", "--format", "json")
    assert exported.returncode == 0, exported.stderr
    for item in json.loads(exported.stdout)["predictions"]:
        found[item["variant"]]["logits"] = np.array([example["logits"] for example in item["examples"]])
    return found | {"run": written["run"]}


@pytest.fixture(scope="module")
def measured(shapes) -> dict[str, dict[str, Any]]:
    """variant -> measurement, of those that were measured."""
    return {name: row for name, row in shapes.items() if name != "run" and row["status"] == "measured"}


def test_every_variant_is_measured_or_unavailable_for_a_stated_reason(shapes, measured):
    for name, row in shapes.items():
        if name != "run" and name not in measured:
            assert row["status"] == "unavailable" and row["status_reason"], name
            print(name, "is unavailable:", row["status_reason"])
    # What needs no more than torch runs on every GPU.
    assert {"fp32", "fp16", "tinybert"} <= set(measured)
    assert all(row["device"].startswith("cuda") and row["validity"] != "invalid" for row in measured.values())
    assert all(row["accuracy"] is None and row["accuracy_reason"] for row in measured.values())


def test_memory_of_the_device_is_each_workers_own(measured):
    for name, row in measured.items():
        assert row["vram_source"].startswith("NVML"), name
        assert row["vram_peak_bytes"] > row["weights_bytes"] > 0, name
    # The study's TinyBERT needed as much as a model four times its size.
    assert measured["tinybert"]["vram_peak_bytes"] < measured["fp32"]["vram_peak_bytes"]
    torch = measured["fp32"]["memory"]
    assert torch["torch_reserved_peak_bytes"] >= torch["torch_allocated_peak_bytes"] > measured["fp32"]["weights_bytes"]


def test_fp32_is_fp32(measured):
    assert measured["fp32"]["audit"]["settings"]["tf32"] is False
    assert measured["fp32"]["audit"]["settings"]["parameters_by_dtype"].keys() == {"float32"}
    if "onnx-fp32" in measured:
        onnx = measured["onnx-fp32"]
        assert onnx["audit"]["settings"]["tf32"] is False
        assert onnx["audit"]["settings"]["providers"][0] == "CUDAExecutionProvider"
        assert np.abs(onnx["logits"] - measured["fp32"]["logits"]).max() < 1e-3
    # Three digits less, and not the same by accident.
    assert 0 < np.abs(measured["fp16"]["logits"] - measured["fp32"]["logits"]).max() < 0.1


def test_the_device_is_busy_for_no_longer_than_a_call(measured):
    for name in ("fp32", "fp16", "tinybert"):
        row = measured[name]
        assert 0 < row["device_p50_s"] <= 1.1 * row["latency_p50_s"], name


def test_dynamic_int8_runs_on_the_cpu_and_the_row_says_so(measured):
    if "onnx-int8" not in measured:
        pytest.skip("ONNX Runtime's CUDA provider does not load here")
    row = measured["onnx-int8"]
    settings = row["audit"]["settings"]
    assert settings["nodes_by_provider"]["CPUExecutionProvider"] > 0 and settings["integer_nodes"] > 0
    assert any("ran on the CPU" in text for text in row["audit"]["deviations"])


def test_4_bit_weights_are_smaller(measured):
    if "nf4" not in measured:
        pytest.skip("bitsandbytes does not run here")
    row = measured["nf4"]
    assert row["weights_bytes"] < 0.6 * measured["fp32"]["weights_bytes"]
    assert row["audit"]["settings"]["quant_types"] == ["nf4"] and row["audit"]["wrong"] == []
    assert row["audit"]["settings"]["double_quantized_modules"] == row["audit"]["settings"]["quantized_modules"]


def test_compiled_variants_replay_cuda_graphs(measured):
    if "fp16-cuda-graphs" not in measured:
        pytest.skip("torch.compile does not run here")
    settings = measured["fp16-cuda-graphs"]["audit"]["settings"]
    assert settings["cuda_graphs"] is True and settings["compiled_graphs"] > 0 and settings["graph_breaks"] == 0
    assert np.abs(measured["fp16-cuda-graphs"]["logits"] - measured["fp16"]["logits"]).max() < 0.05


@pytest.mark.parametrize(
    ("variant", "provider"),
    [("onnx-fp16-fused", "CUDAExecutionProvider"), ("tensorrt-fp16", "TensorrtExecutionProvider")],
)
def test_onnx_in_fp16_runs_by_the_provider_that_was_asked_for(measured, variant, provider):
    if variant not in measured:
        pytest.skip(f"{provider} does not load here")
    row = measured[variant]
    assert row["audit"]["settings"]["providers"][0] == provider and row["audit"]["wrong"] == []
    assert np.abs(row["logits"] - measured["fp32"]["logits"]).max() < 0.1


def test_openvino_is_unavailable_on_a_gpu(shapes):
    assert "needs --device cpu" in shapes["openvino-fp32"]["status_reason"]
