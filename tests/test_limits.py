"""Shares of a device's limits, what binds, and the words for it: against figures worked out by hand."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.measurement.bounds import EXPLAINS, IDLE, Baseline, Limits, Observation, compute_dtype
from engine.measurement.limits import assess

REPOSITORY = Path(__file__).resolve().parent.parent
quick = settings(deadline=None)

# DistilBERT-base with four labels, as `engine.artefacts.operations.describe` counts it.
DISTILBERT: dict[str, Any] = {
    "reason": None,
    "flops": {"per_call": [0, 0, 0], "per_sequence": [1_185_792, 84_934_656, 18_432]},
    "activation_elements": {"per_call": [6, 3072, 0], "per_sequence": [3844, 235_034, 432]},
    "operators": 133,
    "gathered_parameters": 23_834_112,
}
FLOPS = 8 * (1_185_792 + 84_934_656 * 128 + 18_432 * 128**2)
"""Of 8 x 128 tokens: 89.4 GFLOP."""
FP32_BYTES, NF4_BYTES = 267_844_624, 71_000_000
TABLES = 23_834_112
ELEMENTS = 66_961_156

TORCH_FP32 = {"torch": "2.13.0", "parameters_by_dtype": {"float32": ELEMENTS}, "tf32": False}
ONNX_FP32 = {"onnxruntime": "1.31", "parameters_by_dtype": {"float32": ELEMENTS}, "integer_nodes": 0}
NF4 = {
    "torch": "2.13.0",
    "bitsandbytes": "0.50",
    "parameters_by_dtype": {"bfloat16": TABLES + 700_000, "uint8": 21_233_664},
    "compute_dtype": "bfloat16",
    "quantized_modules": 36,
    "repacked_for_cpu_modules": 36,
}
ONNX_INT8 = {
    "onnxruntime": "1.31",
    "parameters_by_dtype": {"int8": 42_000_000, "uint8": TABLES, "float32": 90_000},
    "integer_nodes": 112,
    "nodes_by_provider": {"CPUExecutionProvider": 240},
    "operators_by_provider": {"CPUExecutionProvider": {"DynamicQuantizeMatMul": 38, "LayerNormalization": 13}},
    "memory_copies": 0,
}


def way(library: str, how: str, rate: float | None) -> dict[str, Any]:
    return {"library": library, "how": how, "operations_per_s": rate, "reason": None if rate else "broken"}


def product(*ways: dict[str, Any]) -> dict[str, Any]:
    return max(ways, key=lambda item: item["operations_per_s"] or 0.0) | {"ways": list(ways)}


def ceilings(**changes: Any) -> dict[str, Any]:
    """Two cores with AVX-512, as measured: torch's FP32 is MKL's, which takes half of an AMD CPU."""
    return {
        "reason": None,
        "products": {
            "fp32": product(
                way("torch", "torch.matmul in float32", 190e9),
                way("onnxruntime", "ONNX Runtime's MatMul in float32", 500e9),
            ),
            "tf32": {"operations_per_s": None, "reason": "a CPU has none", "ways": []},
            "bf16": product(way("torch", "torch.matmul in bfloat16", 900e9)),
            "fp16": product(way("torch", "torch.matmul in float16", 7e9)),
            "int8": product(
                way("torch", "torch._int_mm, int8 x int8", 1900e9),
                way("onnxruntime", "ONNX Runtime's MatMulInteger, uint8 x int8", 2000e9),
            ),
        },
        "copy": {"bytes_per_s": 30e9},
        "launch": {"seconds": 2e-6},
        "cache_bytes": 32 * 2**20,
        "features": ["avx2", "avx512_vnni"],
    } | changes


A100 = ceilings(
    products={
        name: product(way("torch", f"torch.matmul in {name}", rate))
        for name, rate in {"fp32": 19e12, "tf32": 120e12, "bf16": 250e12, "fp16": 250e12, "int8": 400e12}.items()
    },
    copy={"bytes_per_s": 1.3e12},
    launch={"seconds": 5e-6},
    cache_bytes=40 * 2**20,
    features=None,
)


def cpu(latency_s: float | None = 0.9, precision: str = "fp32", **changes: Any) -> Observation:
    usual = {"rows": 8, "tokens": 1024, "weights_bytes": FP32_BYTES, "settings": TORCH_FP32}
    return Observation(precision, "cpu", latency_s=latency_s, **usual | changes)


def cuda(latency_s: float, device_s: float, precision: str = "fp32", **changes: Any) -> Observation:
    return dataclasses.replace(cpu(latency_s, precision, **changes), device="cuda", device_s=device_s)


def beside(
    row: Observation, comparison: str | None, found: dict[str, Any] | None = None, same_model: bool = True
) -> Baseline:
    return Baseline(row, assess(row, found or ceilings(), DISTILBERT), same_model, comparison)


def as_nf4(latency_s: float, **changes: Any) -> Observation:
    return cpu(latency_s, "nf4", weights_bytes=NF4_BYTES, settings=NF4 | changes)


def as_int8(latency_s: float, **changes: Any) -> Observation:
    return cpu(latency_s, "int8", weights_bytes=67_000_000, settings=ONNX_INT8 | changes)


# Figures


def test_shares_are_operations_and_bytes_by_time_and_ceiling():
    found = assess(cpu(0.5), ceilings(), DISTILBERT)
    assert found.operations_per_s == pytest.approx(FLOPS / 0.5) == pytest.approx(178.8e9, rel=1e-3)
    assert found.compute_dtype == "fp32" and found.ceiling_operations_per_s == 500e9
    assert found.compute_share == pytest.approx(FLOPS / 0.5 / 500e9)
    assert found.bytes_per_call == FP32_BYTES - 4 * TABLES
    assert found.bandwidth_share == pytest.approx((FP32_BYTES - 4 * TABLES) / 0.5 / 30e9)
    passed = 4 * (6 + 3072 * 128 + 8 * (3844 + 235_034 * 128 + 432 * 128**2))
    assert found.traffic_share == pytest.approx((FP32_BYTES - 4 * TABLES + passed) / 0.5 / 30e9)
    assert found.launches_share == pytest.approx(133 * 2e-6 / 0.5)
    assert found.binds == "compute" and found.reason is None
    assert found.sentence == (
        "It reaches 36% of the fastest FP32 products measured on this device (179 GFLOP/s of 500 GFLOP/s, "
        "ONNX Runtime's MatMul in float32); its own library's products (torch.matmul in float32) reach 190 GFLOP/s. "
        "Compute binds."
    )
    some = assess(cpu(1.2), ceilings(), DISTILBERT)
    assert some.binds == "compute"
    assert some.sentence.endswith("Compute is the nearest limit: at their best its products would take 39% of a call.")
    # 190 GFLOP/s is all that torch gives it: at 0.9 s it waits for its products, though far from the limit.
    assert assess(cpu(0.9), ceilings(), DISTILBERT).binds == "compute"
    assert assess(cpu(2.0), ceilings(), DISTILBERT).binds == "host"
    assert assess(cpu(0.9, settings=ONNX_FP32), ceilings(), DISTILBERT).binds == "host"


def test_a_mean_call_need_not_have_a_whole_shape():
    found = assess(cpu(0.1, rows=7.5, tokens=300), ceilings(), DISTILBERT)
    assert found.operations_per_s == pytest.approx(7.5 * (1_185_792 + 84_934_656 * 40 + 18_432 * 40**2) / 0.1)


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        (cpu(), "fp32"),
        (cpu(settings={}), "fp32"),
        (cpu(precision="bf16", settings={"parameters_by_dtype": {"bfloat16": 9, "float32": 1}}), "bf16"),
        # What was asked for is not what it is.
        (cpu(precision="bf16", settings=TORCH_FP32), "fp32"),
        (cuda(1, 1, "tf32", settings=TORCH_FP32 | {"tf32": True}), "tf32"),
        (cuda(1, 1, "tf32", settings=TORCH_FP32), "fp32"),
        (cuda(1, 1, settings=TORCH_FP32 | {"tf32": True}), "tf32"),
        (cpu(settings=TORCH_FP32 | {"tf32": True}), "fp32"),
        (as_nf4(1), "bf16"),
        (as_nf4(1, compute_dtype="float16"), "fp16"),
        (cuda(1, 1, "fp4", settings=NF4 | {"compute_dtype": "float32", "tf32": True}), "tf32"),
        (as_nf4(1, compute_dtype="bfloat16, float32"), None),
        (as_nf4(1, compute_dtype=None), None),
        (as_int8(1), "int8"),
        (as_int8(1, integer_nodes=0), "fp32"),
        (cpu(precision="int8", settings={"bitsandbytes": "0.50", "cpu_capability": "AVX512"}), "int8"),
        (cpu(precision="int8", settings={"bitsandbytes": "0.50", "cpu_capability": "AVX2"}), "fp32"),
        (cuda(1, 1, "int8", settings={"bitsandbytes": "0.50", "cpu_capability": "AVX2"}), "int8"),
    ],
)
def test_what_products_are_computed_in_is_what_was_audited(row, dtype):
    found, reason = compute_dtype(row)
    assert found == dtype and (reason is None) == (dtype is not None)


def test_tables_are_not_read_whatever_they_are_kept_in():
    def read(row: Observation) -> float | None:
        return assess(row, ceilings(), DISTILBERT).bytes_per_call

    assert read(as_nf4(1)) == NF4_BYTES - 2 * TABLES
    assert read(as_int8(1)) == 67_000_000 - TABLES
    kept = {"int8": 42_000_000, "float32": TABLES + 90_000}
    assert read(as_int8(1, parameters_by_dtype=kept)) == max(0, 67_000_000 - 4 * TABLES)
    assert read(cpu(weights_bytes=None)) is None


# What binds


@pytest.mark.parametrize(
    ("row", "found", "binds", "words"),
    [
        # The study's baseline: 44 ms, of which the products need 4.7.
        (cuda(0.044, 0.043), A100, None, "What binds is not known: its kernels were not timed"),
        (cuda(0.044, 0.044 * IDLE - 0.001), A100, "host", "busy for 29.8 of 44.0 ms of a call"),
        (cuda(0.006, 0.0059), A100, "compute", "Compute binds."),
        (cuda(0.0012, 0.0012, rows=1, tokens=16), A100, "launches", "would take 55% of a call if they did nothing"),
        (
            cuda(0.0005, 0.0005, rows=1, tokens=1),
            A100 | {"launch": {}},
            "bandwidth",
            "reading 173 MB of weights takes 27% of a call",
        ),
        (
            cpu(0.0006, rows=1, tokens=1, settings=ONNX_FP32),
            ceilings(copy={"bytes_per_s": 400e9}),
            "bandwidth",
            "takes 72% of a call",
        ),
        # A slow host, and too little work for it.
        (
            cpu(0.0025, rows=1, tokens=1, weights_bytes=100_000_000),
            ceilings(launch={"seconds": 1e-5}),
            "host",
            "would take 53% of a call if they did nothing",
        ),
        (cpu(3.0), ceilings(), "host", "no limit explains the call (reading the weights would take 0.19% of it"),
    ],
)
def test_what_binds_follows_the_rules(row, found, binds, words):
    limits = assess(row, found, DISTILBERT)
    assert limits.binds == binds
    assert words in limits.sentence


def test_weights_that_stay_in_the_cache_are_not_read_from_memory():
    small = cpu(0.001, rows=1, tokens=1, weights_bytes=TABLES * 4 + 20_000_000, settings=ONNX_FP32)
    found = assess(small, ceilings(), DISTILBERT)
    assert found.bandwidth_share == pytest.approx(20e6 / 0.001 / 30e9) and found.binds == "host"
    assert assess(small, ceilings(cache_bytes=10_000_000), DISTILBERT).binds == "bandwidth"
    faster = dataclasses.replace(small, latency_s=0.0005)
    said = assess(faster, ceilings(), DISTILBERT).sentence
    assert "Its weights stay in the cache: 133% of the copy bandwidth." in said
    # So many bytes in no cache: the copy was slow.
    cold = assess(faster, ceilings(cache_bytes=None), DISTILBERT)
    assert cold.binds == "bandwidth" and "read faster than the measured copy" in cold.sentence


def test_a_share_above_1_is_never_silent():
    found = assess(cpu(0.15), ceilings(), DISTILBERT)
    assert found.compute_share == pytest.approx(1.192, rel=1e-3)
    assert "119% of the fastest FP32 products" in found.sentence
    assert "which is impossible: the ceiling was measured too low, as happens on a noisy machine" in found.sentence


def test_ceilings_of_a_busy_machine_are_doubted():
    doubt = "Other processes used 0.90 CPUs while the ceiling was measured: it may be too low."
    assert doubt in assess(cpu(), ceilings(others_cpus=0.9), DISTILBERT).sentence
    for row, others in ((cpu(), 0.1), (cpu(), None), (cuda(0.04, 0.04), 0.9)):
        assert "Other processes" not in assess(row, ceilings(others_cpus=others), DISTILBERT).sentence


rates = st.floats(1e6, 1e16)
seconds = st.floats(1e-7, 1e4)


@quick
@given(
    latency_s=seconds,
    busy=st.floats(0.01, 1.1),
    rate=rates,
    bandwidth=st.floats(1e6, 1e14),
    launch_s=st.floats(1e-8, 1e-2),
    rows=st.floats(1, 1000),
    length=st.floats(1, 512),
    on_gpu=st.booleans(),
    cache=st.sampled_from([None, 0, 2**25, 2**33]),
    precision=st.sampled_from(["fp32", "nf4", "int8"]),
    comparison=st.sampled_from([None, "better", "worse", "no_difference"]),
    same_model=st.booleans(),
)
def test_every_row_has_true_shares_and_one_that_binds(
    latency_s, busy, rate, bandwidth, launch_s, rows, length, on_gpu, cache, precision, comparison, same_model
):
    found = ceilings(
        products={name: product(way("torch", f"torch.matmul in {name}", rate)) for name in ("fp32", "bf16", "int8")},
        copy={"bytes_per_s": bandwidth},
        launch={"seconds": launch_s},
        cache_bytes=cache,
    )
    audited = {"fp32": TORCH_FP32, "nf4": NF4, "int8": {"bitsandbytes": "0.50", "cpu_capability": "AVX512"}}
    row = Observation(
        precision,
        "cuda" if on_gpu else "cpu",
        rows,
        rows * length,
        latency_s,
        latency_s * busy if on_gpu else None,
        FP32_BYTES,
        audited[precision],
    )
    limits = assess(row, found, DISTILBERT, beside(row, comparison, found, same_model))
    assert limits.compute_share is not None and limits.bandwidth_share is not None and limits.reason is None
    assert limits.compute_share * rate == pytest.approx(limits.operations_per_s)
    assert limits.bandwidth_share * bandwidth * latency_s == pytest.approx(limits.bytes_per_call)
    assert limits.traffic_share >= limits.bandwidth_share > 0
    assert ("is impossible" in limits.sentence) == (limits.compute_share > 1)
    if limits.bandwidth_share > 1:
        assert "stay in the cache" in limits.sentence or "than the measured copy" in limits.sentence
    shares = {
        "compute": limits.compute_share,
        "bandwidth": limits.bandwidth_share,
        "launches": limits.launches_share,
    }
    if limits.binds in shares:
        assert shares[limits.binds] >= EXPLAINS and not (on_gpu and busy < IDLE - 1e-9)
    elif limits.binds is None:
        assert on_gpu and "What binds is not known" in limits.sentence
    else:
        assert limits.binds == "host"
    if limits.binds == "compute":
        assert limits.compute_share >= limits.launches_share
    if not on_gpu:
        assert limits.binds != "launches"
    assert limits.sentence.endswith(".") and "None" not in limits.sentence and "  " not in limits.sentence


# What is missing


@pytest.mark.parametrize(
    ("row", "found", "counted", "reason"),
    [
        (cpu(), None, DISTILBERT, "no ceilings were measured"),
        (cpu(), {"reason": "it took more than 120 s"}, DISTILBERT, "it took more than 120 s"),
        (cpu(), ceilings(), None, "the model's operations were not counted"),
        (cpu(), ceilings(), {"reason": "Tensor.item()", "flops": None}, "Tensor.item()"),
        (cpu(None), ceilings(), DISTILBERT, "no call was timed"),
        (as_nf4(1, compute_dtype="bfloat16, float32"), ceilings(), DISTILBERT, "bfloat16 and float32"),
        (
            cpu(precision="fp16", settings={"parameters_by_dtype": {"float16": 9}}),
            ceilings(products={"fp16": {"operations_per_s": None, "reason": "too slow", "ways": []}}),
            DISTILBERT,
            "FP16 products have no ceiling here: too slow",
        ),
        (cpu(), ceilings(products={}), DISTILBERT, "FP32 products have no ceiling here: it was not measured"),
    ],
)
def test_what_is_not_known_is_none_with_the_reason(row, found, counted, reason):
    limits = assess(row, found, counted)
    assert limits.compute_share is None and reason in (limits.reason or "")
    assert f"is not known: {limits.reason}." in limits.sentence
    assert limits.binds is None and "binds" not in limits.sentence


def test_without_ceilings_an_idle_device_is_still_seen():
    found = assess(cuda(0.044, 0.01), None, DISTILBERT)
    assert found.binds == "host" and "busy for 10.0 of 44.0 ms" in found.sentence
    assert found.operations_per_s == pytest.approx(FLOPS / 0.044)


def test_without_ceilings_nothing_is_said_of_how_far_from_its_best_it_is():
    found = assess(cpu(2.0, operators=PROFILE), {"reason": "the protocol says ceilings = false"}, DISTILBERT)
    assert found.binds == "compute" and found.compute_share is None
    assert "Compute binds, by its profile: products and attention take 60% of a call." in found.sentence
    for word in ("best", "take 0%", "too small to be fast"):
        assert word not in found.sentence


def test_memory_can_bind_where_operations_are_not_counted():
    # No share of compute, so nothing is left over to be the host's; but what fills the call does.
    counted = DISTILBERT | {"flops": None, "reason": "no"}
    assert assess(cpu(0.01), ceilings(), counted).binds == "bandwidth"
    assert assess(cpu(0.5), ceilings(), counted).binds is None


# Why it won or lost


def words(row: Observation, baseline: Baseline, found: dict[str, Any] | None = None) -> str:
    return assess(row, found or ceilings(), DISTILBERT, baseline).sentence


def test_4_bit_wins_on_a_cpu_by_bf16():
    said = words(as_nf4(0.35), beside(cpu(0.5), "better"))
    assert "Its weights take 71.0 MB instead of 268, but compute binds the baseline at this shape" in said
    assert (
        "Every call unpacks 4-bit weights to BF16 inside the product's kernel and computes the same products." in said
    )
    # 900 by the 190 that the baseline's library reaches.
    assert said.endswith(
        "It wins because its BF16 products run up to 4.7 times as fast as the baseline's in FP32 on this device, "
        "not because of its four bits."
    )


def test_4_bit_loses_by_unpacking():
    on_gpu = cuda(0.009, 0.009, "nf4", weights_bytes=NF4_BYTES, settings=NF4 | {"repacked_for_cpu_modules": 0})
    fp16 = cuda(0.0012, 0.0012, "fp16", settings={"parameters_by_dtype": {"float16": ELEMENTS}, "torch": "2.13"})
    said = words(on_gpu, beside(fp16, "worse", A100), A100)
    assert "unpacks 4-bit weights to BF16 and computes the same products." in said
    assert said.endswith("It loses because of the unpacking.")
    against_fp32 = words(on_gpu, beside(cuda(0.006, 0.006), "worse", A100), A100)
    assert "It loses because of the unpacking, although its BF16 products run up to 13 times as fast" in against_fp32
    slow = words(as_nf4(9.0, compute_dtype="float16"), beside(cpu(0.5), "worse"))
    assert "It loses because its FP16 products run only 0.037 times as fast as the baseline's in FP32" in slow


def test_4_bit_wins_where_reading_weights_is_what_takes_time():
    reading = {"launch": {}, "copy": {"bytes_per_s": 400e9}}
    baseline = beside(cpu(0.0006, rows=1, tokens=1, settings=ONNX_FP32), "better", ceilings(**reading))
    assert baseline.limits.binds == "bandwidth"
    said = words(dataclasses.replace(as_nf4(0.0004), rows=1, tokens=1), baseline, ceilings(**reading))
    assert "and reading the weights is what binds the baseline." in said and said.endswith(
        "It wins because it reads less."
    )


def test_int8_wins_by_its_instructions():
    said = words(as_int8(0.2), beside(cpu(0.5), "better"))
    assert "112 of its 240 graph nodes are INT8 nodes; activations are quantised at every call." in said
    assert said.endswith(
        "It wins because its INT8 products run up to 11 times as fast as the baseline's in FP32 on this device, "
        "2.6 times by the library alone (VNNI)."
    )
    by_itself = words(as_int8(0.2), beside(cpu(0.3, settings=ONNX_FP32), "better"))
    assert by_itself.endswith("run up to 4.0 times as fast as the baseline's in FP32 on this device (VNNI).")
    assert "GFLOP/s" not in said and "447 GOP/s of 2.00 TOP/s" in said


def test_int8_loses_without_instructions_or_by_what_it_adds():
    old = ceilings(features=["avx2"])
    old["products"] = old["products"] | {"int8": product(way("onnxruntime", "MatMulInteger", 150e9))}
    said = words(as_int8(1.0), beside(cpu(0.5), "worse", old), old)
    assert "It loses because its INT8 products run only 0.79 times as fast" in said
    assert said.endswith("(which has no instructions for INT8 products), and quantising comes on top.")
    said = words(as_int8(0.6), beside(cpu(0.5), "worse"))
    assert said.endswith("(VNNI): the work that INT8 adds or leaves takes more time than that saves.")


def test_dynamic_int8_on_a_gpu_runs_on_the_cpu():
    """The study's slowest row."""
    placed = {
        "nodes_by_provider": {"CUDAExecutionProvider": 160, "CPUExecutionProvider": 80},
        "operators_by_provider": {"CPUExecutionProvider": {"MatMulInteger": 38}, "CUDAExecutionProvider": {"Add": 9}},
        "memory_copies": 76,
    }
    row = cuda(0.089, 0.089, "int8", weights_bytes=67_000_000, settings=ONNX_INT8 | placed)
    found = assess(row, A100, DISTILBERT, beside(cuda(0.044, 0.043), "worse", A100))
    assert found.binds == "host" and found.ceiling_operations_per_s is None and found.compute_share is None
    assert "whose ceiling is not measured in a run on a GPU" in (found.reason or "")
    assert found.sentence.endswith(
        "ONNX Runtime has no CUDA kernels for dynamic INT8: 80 of its 240 graph nodes run on the CPU, "
        "with 76 copies between the two. That is why it loses."
    )
    # Shape arithmetic alone, which ONNX Runtime puts on the CPU by choice, does not make a row the host's.
    shapes = {"operators_by_provider": {"CPUExecutionProvider": {"Gather": 4}}}
    assert assess(dataclasses.replace(row, settings=row.settings | shapes), A100, DISTILBERT).ceiling_operations_per_s


def test_llm_int8_says_what_it_adds():
    audited = {"torch": "2", "bitsandbytes": "0.50", "cpu_capability": "AVX512", "quantized_modules": 36}
    said = words(cpu(0.4, "int8", settings=audited), beside(cpu(0.5), "better"))
    assert "multiplies outlier columns separately" in said and "It wins because its INT8 products" in said
    said = words(cpu(0.9, "int8", settings=audited | {"cpu_capability": "AVX2"}), beside(cpu(0.5), "worse"))
    assert "multiplies INT8 as FP32" in said and "FP32 products run only 1.0 times as fast" in said


def test_no_cause_is_named_where_none_is_shown():
    same = words(as_int8(0.5), beside(cpu(0.5), "no_difference"))
    assert "No difference in speed is shown, although its INT8 products" in same
    slow = ceilings()
    slow["products"] = slow["products"] | {"bf16": product(way("torch", "torch.matmul in bfloat16", 180e9))}
    assert words(as_nf4(0.4), beside(cpu(0.5), "better", slow), slow).endswith(
        "These figures do not explain why it wins."
    )
    for comparison in (None, "better", "worse", "no_difference"):
        said = words(as_nf4(0.4), beside(cpu(0.5), comparison, same_model=False))
        assert said.endswith("so the difference is not due to the precision alone.")
        assert "same products" not in said and "It wins" not in said and "It loses" not in said
        bare = assess(as_int8(0.4), None, None, Baseline(cpu(), assess(cpu(), None, None), True, comparison)).sentence
        assert "None" not in bare and "times as fast" not in bare and bare.endswith(".")


def test_the_same_products_by_another_library():
    row = cpu(0.3, settings=ONNX_FP32)
    assert words(row, beside(cpu(0.5), "better")).endswith(
        "Compute binds. It computes the baseline's products with another library: ONNX Runtime's MatMul in float32 "
        "reaches 500 GFLOP/s here, torch.matmul in float32 190 GFLOP/s."
    )
    assert "library" not in words(row, beside(cpu(0.5), "better", same_model=False))
    assert "library" not in words(row, beside(cpu(0.5, settings=ONNX_FP32), "no_difference"))
    # On a GPU one way is measured: nothing to tell the two apart by.
    assert "library" not in words(cuda(0.02, 0.02, settings=ONNX_FP32), beside(cuda(0.04, 0.04), "better", A100), A100)


def test_limits_are_plain_values():
    found = assess(as_nf4(0.3), ceilings(), DISTILBERT, beside(cpu(0.5), "better"))
    assert all(isinstance(value, float | str | None) for value in dataclasses.asdict(found).values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.binds = "host"  # type: ignore[misc]
    assert isinstance(found, Limits)


def test_no_model_library_is_imported_for_it():
    code = (
        "import sys, engine.measurement.limits, engine.machine.ceilings, engine.artefacts.preparer; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "onnx", "onnxruntime"} & set(done.stdout.split())


# What a profile adds

PROFILE: dict[str, Any] = {
    "reason": None,
    "by": "operators",
    "calls": 1,
    "shape": [8, 128],
    "wall_s": 0.5,
    "seconds": 0.45,
    "kinds": {"products": 0.25, "attention": 0.05, "elementwise": 0.1, "copies": 0.04, "other": 0.01},
}


def test_a_profile_says_where_the_time_goes_and_how_fast_products_are_while_they_run():
    found = assess(cpu(0.5, operators=PROFILE), ceilings(), DISTILBERT)
    # 89.4 GFLOP in 0.3 s, of 500 GFLOP/s.
    assert (
        "Of a profiled call: matrix products 50% (while they run, at 60% of the fastest), element by element 20%, "
        "fused attention 10%, between operators 10%, copies and look-ups 8.0%."
    ) in found.sentence
    assert found.binds == assess(cpu(0.5), ceilings(), DISTILBERT).binds, "figures decide what binds, not the profile"


def test_a_profile_that_slows_says_so_and_one_that_failed_says_nothing():
    slow = assess(cpu(0.25, operators=PROFILE), ceilings(), DISTILBERT)
    assert "Of a profiled call, 2.0 times as long as a timed one: matrix products" in slow.sentence
    for nothing in (None, {"reason": "no profiler"}):
        assert "profiled" not in assess(cpu(0.5, operators=nothing), ceilings(), DISTILBERT).sentence
    uncounted = assess(cpu(0.5, operators=PROFILE), ceilings(), None).sentence
    assert "matrix products 50%, element" in uncounted, "without a count there is no rate"


def test_where_no_limit_explains_a_call_the_profile_says_what_is_left():
    little = PROFILE | {"kinds": {"products": 0.15, "elementwise": 0.3}}
    without, seen = (assess(cpu(2.0, operators=o), ceilings(), DISTILBERT).sentence for o in (None, little))
    assert "The rest is calling operators" in without
    assert "The rest is" not in seen and "no limit explains the call" in seen and "element by element 60%" in seen


def test_products_that_take_most_of_a_call_bind_it_though_far_from_their_best():
    found = assess(cpu(2.0, operators=PROFILE), ceilings(), DISTILBERT)
    assert found.binds == "compute" and assess(cpu(2.0), ceilings(), DISTILBERT).binds == "host"
    assert (
        "Compute binds, far from its best: products and attention take 60% of a profiled call, and at their best would "
        "take 24%."
    ) in found.sentence


def test_a_ceiling_that_a_row_disproves_explains_nothing():
    """On a busy machine a library's products were measured a thousand times too slow; the row itself is faster."""
    found = ceilings()
    ways = found["products"]["fp32"]["ways"]
    found["products"]["fp32"]["ways"] = [ways[0] | {"operations_per_s": 5e7}, ways[1]]
    slow = assess(cpu(2.0), found, DISTILBERT)
    assert slow.binds == "host", "not compute by a ceiling that cannot be"
    int8 = assess(as_int8(0.5), found, DISTILBERT, beside(cpu(2.0), "better", found))
    assert "These figures do not explain why it wins." in int8.sentence and "times as fast" not in int8.sentence
    onnx = assess(cpu(0.5, settings=ONNX_FP32), found, DISTILBERT, beside(cpu(2.0), "better", found))
    assert "another library" not in onnx.sentence


# On a GPU: figures as measured on an H200

H200 = ceilings(
    products={
        name: product(way("torch", f"torch.matmul in {name}", rate))
        for name, rate in {"fp32": 51e12, "tf32": 422e12, "bf16": 750e12, "fp16": 738e12, "int8": 829e12}.items()
    },
    copy={"bytes_per_s": 4.1e12},
    launch={"seconds": 6.2e-6},
    cache_bytes=60 * 2**20,
    features=None,
)
TORCH_FP16 = {"torch": "2.11.0", "parameters_by_dtype": {"float16": ELEMENTS}, "tf32": False, "attention": "sdpa"}


def kernels(wall_s: float, calls: int = 100, **kinds: float) -> dict[str, Any]:
    """A profile of 256 x 128 tokens by kernels; `kinds` in seconds."""
    return {
        "reason": None,
        "by": "kernels",
        "calls": 5,
        "shape": [256, 128],
        "wall_s": wall_s,
        "seconds": sum(kinds.values()),
        "kinds": kinds,
        "top": [{"name": "kernel", "calls": calls - 10, "seconds": 0.001}],
        "rest": {"operators": 3, "calls": 10, "seconds": 0.0001},
    }


def full(latency_s: float, operators: dict[str, Any], **settings: Any) -> Observation:
    """DistilBERT-base in FP16 over 256 x 128 tokens."""
    row = cuda(latency_s, latency_s, "fp16", settings=TORCH_FP16 | settings, weights_bytes=FP32_BYTES // 2)
    return dataclasses.replace(row, rows=256, tokens=256 * 128, operators=operators)


def test_a_gpu_that_is_kept_busy_is_bound_by_its_products():
    profile = kernels(0.0086, products=0.0042, attention=0.0008, elementwise=0.0022, copies=0.0002)
    found = assess(full(0.0082, profile), H200, DISTILBERT)
    assert found.binds == "compute" and found.compute_share == pytest.approx(0.47, abs=0.01)
    # Of its kernels, not of what eager operators would be.
    assert found.launches_share == pytest.approx(100 * 6.2e-6 / 0.0082)


def test_the_kernels_say_how_long_a_gpu_works_though_events_stand_around_the_whole_call():
    few = kernels(0.0038, products=0.0003, elementwise=0.0001, attention=0.00002)
    found = assess(dataclasses.replace(full(0.0028, few), rows=8, tokens=1024), H200, DISTILBERT)
    assert found.binds == "host"
    assert "the device is busy for 0.420 of 2.80 ms of a call" in found.sentence
    assert "launching" not in found.sentence, "100 of 6.2 us are no quarter of it"
    many = assess(
        dataclasses.replace(full(0.0028, few | {"top": [{"calls": 140, "seconds": 1e-4}]}), rows=8, tokens=1024),
        H200,
        DISTILBERT,
    )
    assert "of a call; launching its kernels alone takes 33% of it." in many.sentence


def test_a_busy_gpu_whose_kernels_multiply_little_waits_for_memory():
    # Heads of 26, which no fused kernel takes.
    profile = kernels(0.0093, elementwise=0.0032, copies=0.0021, products=0.0019)
    found = assess(full(0.0800, profile | {"wall_s": 0.09, "seconds": 0.0720}), H200, DISTILBERT)
    assert found.binds == "bandwidth" and "host" not in found.sentence
    assert "Memory traffic binds, far from its best: kernels without products take" in found.sentence
    assert "None of PyTorch's fused attention kernels took its heads" in found.sentence
    mostly = assess(full(0.0800, kernels(0.0800, products=0.0300, attention=0.0070, copies=0.0300)), H200, DISTILBERT)
    assert mostly.binds == "compute" and "fused attention kernels" not in mostly.sentence
    eager = full(0.0800, profile | {"wall_s": 0.09, "seconds": 0.0720}, attention="eager")
    assert "fused attention kernels" not in assess(eager, H200, DISTILBERT).sentence


def test_kernels_of_a_cuda_graph_are_launched_together():
    profile = kernels(0.0009, products=0.0005, elementwise=0.0001)
    graphs = dataclasses.replace(full(0.0007, profile, cuda_graphs=True), rows=8, tokens=1024)
    assert assess(graphs, H200, DISTILBERT).launches_share is None


def test_launches_tell_nothing_of_the_work_but_how_long_the_host_waits():
    settings = {
        "onnxruntime": "1.31",
        "parameters_by_dtype": {"float16": ELEMENTS},
        "nodes_by_provider": {"CUDAExecutionProvider": 54},
    }
    launched = kernels(0.0072, products=0.0007, elementwise=0.0005, attention=0.0005) | {"by": "launches"}
    row = dataclasses.replace(full(0.0073, launched), settings=settings, device_s=None)
    found = assess(row, H200, DISTILBERT)
    assert found.binds == "compute" and found.launches_share is None
    assert "The host waits for the device for 76% of a profiled call." in found.sentence
    assert "while they run" not in found.sentence
    slow = assess(dataclasses.replace(row, latency_s=0.07), H200, DISTILBERT)
    assert slow.binds is None and "What binds is not known: its kernels were not timed" in slow.sentence
