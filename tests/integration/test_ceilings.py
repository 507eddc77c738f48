"""What the device can reach, measured by a real process, and what real models ask of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.artefacts.preparer import Preparer
from engine.backends.openvino import PRODUCTS
from engine.errors import RequestError
from engine.machine import ceilings, devices, host
from engine.machine.devices import Device
from engine.measurement.polynomial import evaluate
from engine.suite.reading import load_suite

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = devices.cpu_device()


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return ceilings.measure(CPU, host.usable_cores())


@pytest.mark.second_tier
def test_a_cpu_has_a_ceiling_for_each_dtype(found):
    assert found["reason"] is None and found["device"] == "cpu" and found["threads"] == host.usable_cores()
    assert set(found["products"]) == set(ceilings.DTYPES)
    for dtype, product in found["products"].items():
        if dtype == "tf32":
            assert product["operations_per_s"] is None and "a CPU has not" in product["reason"]
            continue
        assert product["reason"] is None and product["how"] and product["repeats"] >= ceilings.ROUNDS / 2
        assert product["operations_per_s"] >= product["median_operations_per_s"] > 1e7, dtype
        # The best of all ways, each of which is told.
        rates = [way["operations_per_s"] for way in product["ways"]]
        assert product["operations_per_s"] == max(rate for rate in rates if rate)
        assert all(way["reason"] is None for way in product["ways"]), product["ways"]
    assert {way["library"] for way in found["products"]["int8"]["ways"]} == {"torch", "onnxruntime", "openvino"}


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_openvinos_product_is_computed_in_what_it_says(dtype):
    request = ceilings._openvino_product(dtype, 1, 64).func.__self__
    told = [operator.get_rt_info() for operator in request.get_compiled_model().get_runtime_model().get_ops()]
    computed = [str(about["runtimePrecision"].value) for about in told if about["layerType"].value in PRODUCTS]
    assert computed == [{"fp32": "f32", "int8": "u8"}[dtype]]


def test_memory_and_empty_operators_are_measured_too(found):
    copy = found["copy"]
    assert copy["bytes_per_s"] >= copy["median_bytes_per_s"] > 1e8
    assert copy["buffer_bytes"] > 2 * (found["cache_bytes"] or 0)
    assert found["host_to_device"] == {"bytes_per_s": None, "reason": "the device is the host"}
    assert 0 < found["launch"]["seconds"] <= found["launch"]["median_seconds"] < 1e-3
    assert found["features"] == host.cpu_features()
    assert found["others_cpus"] is None or 0 <= found["others_cpus"] <= (os.cpu_count() or 1)
    json.dumps(found)


def test_it_takes_seconds(found):
    # 4 s with two cores of one's own; tests share them.
    assert found["seconds"] < 20


def test_a_failure_is_a_reason_and_no_exception():
    late = ceilings.measure(CPU, 1, timeout_s=0.01)
    assert late == {"reason": "measuring the device's ceilings took more than 0 s and was ended"}
    (reason,) = ceilings.measure(replace(CPU, spec="cuda:99", kind="cuda"), 1).values()
    assert reason.startswith("the device's ceilings could not be measured: ") and "\n" not in reason


def test_what_others_use_is_told_from_what_it_uses_itself(monkeypatch):
    def cpus(*busy_s: float) -> float:
        for name, readings in (("perf_counter", [10.0, 12.0]), ("process_time", [1.0, 2.5])):
            monkeypatch.setattr(ceilings, name, iter(readings).__next__)
        monkeypatch.setattr(ceilings.Others, "_busy", iter(busy_s).__next__)
        return ceilings.Others().cpus()

    assert ceilings.Others._busy() > 0
    # 3.3 s in 2 s, of which it used 1.5 itself.
    assert cpus(50.0, 53.3) == pytest.approx(0.9)
    # Two clocks need not agree to the last tick.
    assert cpus(50.0, 51.4) == 0


def test_a_way_that_fails_leaves_the_others():
    def broken(size: int) -> ceilings.Call:
        raise RuntimeError(f"no memory for {size}")

    way = ceilings.Way("by hand", "torch", broken, (1, 2), float)
    ceilings._guarded(way, way.prepare, ceilings._host_clock)
    ceilings._guarded(way, way.work, ceilings._host_clock, 0, 0.01)
    good = ceilings.Way("by heart", "torch", lambda size: lambda: None, (1, 2, 4), float)
    ceilings._guarded(good, good.prepare, ceilings._host_clock)
    ceilings._guarded(good, good.work, ceilings._host_clock, 0, 0.001)
    product = ceilings._product_result([way, good])
    assert product["how"] == "by heart" and product["operations_per_s"] > 0
    assert product["ways"][0] == {
        "operations_per_s": None,
        "how": "by hand",
        "library": "torch",
        "reason": "RuntimeError: no memory for 1",
    }
    alone = ceilings._product_result([way])
    assert alone["operations_per_s"] is None and alone["reason"] == "RuntimeError: no memory for 1"


# Real models


@pytest.fixture(scope="module")
def counted(tiny_models, write_suite, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Operations of the tiny models, by name."""
    names = ("distilbert", "bert")
    variants = [{"name": name, "model": tiny_models[name]} for name in names]
    suite = load_suite(str(write_suite(tmp_path_factory.mktemp("suite"), variants)))
    with Preparer(suite) as preparer:
        prepared = {variant.name: preparer.prepare(variant) for variant in suite.variant}
    for item in prepared.values():
        assert item.operations is not None and item.operations["reason"] is None
    return {name: item.operations or {} for name, item in prepared.items()}


def test_operations_are_those_of_the_layers(counted):
    """Two for each weight of a linear layer and token, and attention's two products of n x n x dim a layer."""
    layers, dim, hidden, labels = 2, 32, 64, 4
    linear, attention = layers * (4 * dim * dim + 2 * dim * hidden), layers * 2 * dim
    head = dim * dim + dim * labels
    assert counted["distilbert"]["flops"] == {
        "per_call": [0, 0, 0],
        "per_sequence": [2 * head, 2 * linear, 2 * attention],
    }
    by_hand = 2 * linear * 4 * 48 + 2 * attention * 4 * 48**2 + 2 * head * 4
    assert evaluate(counted["distilbert"]["flops"], 4, 48) == by_hand
    dim, hidden = 36, 72
    assert counted["bert"]["flops"]["per_sequence"] == [
        2 * (dim * dim + dim * labels),
        2 * layers * (4 * dim * dim + 2 * dim * hidden),
        2 * layers * 2 * dim,
    ]


def test_tables_and_traffic_are_those_of_the_layers(counted):
    distilbert = counted["distilbert"]
    assert distilbert["gathered_parameters"] == (400 + 128) * 32
    assert counted["bert"]["gathered_parameters"] == (400 + 128 + 2) * 36
    # Each of a layer's linear maps reads and writes a state; fusion would leave no less than that.
    states = 2 * (4 * (32 + 32) + 2 * (32 + 64))
    assert states < distilbert["activation_elements"]["per_sequence"][1] < 10 * states
    assert 40 < distilbert["operators"] < 100


@pytest.mark.second_tier
def test_architectures_of_other_kinds_are_counted_or_say_why_not():
    code = """
        import json
        from transformers import AlbertConfig, DebertaV2Config, ModernBertConfig, RobertaConfig
        from engine.artefacts.operations import describe
        size = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=99)
        configs = [
            RobertaConfig(**size),
            AlbertConfig(embedding_size=16, **size),
            DebertaV2Config(relative_attention=True, pos_att_type=["p2c", "c2p"], **size),
            ModernBertConfig(pad_token_id=0, **size),
        ]
        inputs = ["input_ids", "attention_mask"]
        print(json.dumps({config.model_type: describe(config, inputs, 64) for config in configs}))
        print(json.dumps(describe(configs[0], inputs, 4)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    linear = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert lines[0]["roberta"]["flops"]["per_sequence"][1:] == [2 * linear, 2 * 2 * 2 * 32]
    # ALBERT widens its embeddings first.
    assert lines[0]["albert"]["flops"]["per_sequence"][1] == 2 * (linear + 16 * 32)
    for name, operations in lines[0].items():
        assert (operations["flops"] is None) == (operations["reason"] is not None), name
        assert (operations["operators"] is None) == (operations["reason"] is not None), name
    assert "could not be counted" in lines[1]["reason"] and "4 tokens at most" in lines[1]["reason"]


# A GPU


def gpu() -> Device | str:
    """The GPU, or why there is none to measure."""
    try:
        return devices.resolve_device("cuda")
    except RequestError as error:
        return f"needs an NVIDIA GPU: {error}"


GPU = gpu()


@pytest.mark.gpu
@pytest.mark.skipif(isinstance(GPU, str), reason=str(GPU))
def test_a_gpu_has_its_own_ceilings():
    assert isinstance(GPU, Device)
    found = ceilings.measure(GPU, host.usable_cores())
    assert found["reason"] is None and found["seconds"] < 10
    products = found["products"]
    for dtype in ("fp32", "fp16"):
        assert products[dtype]["reason"] is None and products[dtype]["operations_per_s"] > 1e11, dtype
    for dtype in ("tf32", "bf16", "int8"):
        assert products[dtype]["operations_per_s"] or products[dtype]["reason"], dtype
    # Tensor cores; and TF32 is off where FP32 is measured.
    assert products["fp16"]["operations_per_s"] > products["fp32"]["operations_per_s"]
    if products["tf32"]["operations_per_s"]:
        assert products["tf32"]["operations_per_s"] > 1.5 * products["fp32"]["operations_per_s"]
    assert found["copy"]["bytes_per_s"] > found["host_to_device"]["bytes_per_s"] > 1e8
    assert 1e-7 < found["launch"]["seconds"] < 1e-3
    assert found["cache_bytes"] > 0 and found["features"] is None
