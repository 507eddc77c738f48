"""A profile's operators by kind and by time, and what of a trace leaves the machine."""

from __future__ import annotations

import json

import pytest

from engine.measurement import operators
from engine.measurement.operators import Operator, Profile


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "products"),
        ("aten::mm", "products"),
        ("aten::_int_mm", "products"),
        ("FusedMatMul", "products"),
        ("MatMulIntegerToFloat", "products"),
        ("DynamicQuantizeMatMul", "products"),
        ("bitsandbytes::gemv_4bit", "products"),
        ("ampere_sgemm_128x64_tn", "products"),
        ("sm80_xmma_gemm_f16f16_f16f32", "products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm>", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("QAttention", "attention"),
        ("fmha_cutlassF_f16_aligned_64x64_rf_sm80", "attention"),
        ("DynamicQuantizeLinear", "quantising"),
        ("bitsandbytes::dequantize_4bit", "quantising"),
        ("kDequantizeBlockwise<__half, 512, 64, 8, 2>", "quantising"),
        ("aten::copy_", "copies"),
        ("aten::t", "copies"),
        ("Memcpy HtoD (Pageable -> Device)", "copies"),
        ("Gather", "copies"),
        ("Transpose", "copies"),
        ("Unsqueeze", "copies"),
        ("aten::embedding", "copies"),
        ("aten::native_layer_norm", "elementwise"),
        ("SkipLayerNormalization", "elementwise"),
        ("BiasGelu", "elementwise"),
        ("Softmax", "elementwise"),
        ("aten::add", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4>", "elementwise"),
        # As an H200 names them.
        ("nvjet_sm90_hsh_256x128_64x4_1x2_h_bz_coopA_bias_TNT", "products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64", "attention"),
        ("triton_tem_fused_addmm_gelu_4", "products"),
        ("triton_per_fused_add_native_layer_norm_view_2", "elementwise"),
        ("triton_poi_fused__scaled_dot_product_cudnn_attention__to_copy_expand_masked_fill_sub", "elementwise"),
        ("triton_red_fused__safe_softmax__to_copy_add_exp_expand_masked_fill", "elementwise"),
        ("void at::native::elementwise_kernel<128, 2, gpu_kernel_impl_nocast<CUDAFunctor_add<f", "elementwise"),
        ("mystery", "other"),
    ],
)
def test_names_tell_the_kind_of_work(name: str, kind: str) -> None:
    assert operators.kind(name) == kind


def found(*seconds: float, wall_s: float = 10.0, calls: int = 2) -> dict:
    made = [Operator(f"op{index}", 4, each) for index, each in enumerate(seconds)]
    return operators.facts(Profile("operators", [*made, Operator("MatMul", 8, 4.0)], wall_s, None), calls, (8, 128))


def test_figures_are_those_of_one_call_and_add_up() -> None:
    facts = found(*[0.1] * 20)
    assert facts["wall_s"] == 5.0 and facts["seconds"] == pytest.approx(3.0)
    assert facts["top"][0] == {"name": "MatMul", "calls": 4.0, "seconds": 2.0}
    assert len(facts["top"]) == operators.TOP and facts["rest"]["operators"] == 21 - operators.TOP
    assert facts["kinds"] == pytest.approx({"products": 2.0, "other": 1.0})
    lines = operators.lines(facts)
    assert sum(line.share for line in lines) == pytest.approx(1.0)
    assert [line.name for line in lines[-2:]] == ["9 others", "between operators"]
    assert lines[-1].seconds == pytest.approx(2.0) and lines[0].kind == "products"
    assert [lines[0].counted, lines[-1].counted] == ["4", "–"]
    thirds = operators.facts(Profile("operators", [Operator("MatMul", 8, 4.0)], 10.0, None), 3, (8, 128))
    assert operators.lines(thirds)[0].counted == "2.67"
    assert json.loads(json.dumps(facts)) == facts
    assert "together 3,000 of the 5,000 ms" in operators.caption(facts)
    launches = facts | {"by": "launches"}
    assert operators.lines(launches)[-1].name == "waiting for the device"
    assert "whose time on the device is not known" in operators.caption(launches)


def test_operators_of_one_name_are_one_and_many_at_once_are_no_negative_time() -> None:
    same = [Operator("MatMul", 1, 3.0), Operator("MatMul", 2, 3.0)]
    facts = operators.facts(Profile("kernels", same, 4.0), 1, (1, 8))
    assert facts["top"] == [{"name": "MatMul", "calls": 3.0, "seconds": 6.0}]
    assert [line.share for line in operators.lines(facts)] == [1.0, 0.0]


def test_a_trace_keeps_events_and_nothing_of_the_machine() -> None:
    secret = "/home/somebody/model.onnx"
    raw = {
        "host_name": "node17",
        "traceName": secret,
        "traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "ts": 0, "args": {"name": f"python {secret}"}},
            {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 2, "ts": 1.5, "dur": 2.5,
             "args": {"External id": 3, "stack": secret, "Input Dims": [[1, 2]]}},
            {"ph": "X", "cat": "Trace", "name": "Profiler (0)", "pid": "Spans", "tid": "Profiler", "ts": 0, "dur": 9.0},
            {"ph": "i", "name": "Record Window End", "pid": "", "tid": "", "ts": 9.0, "s": "g"},
        ],
    }  # fmt: skip
    made = operators.trace(raw, {"variant": "fp32"})
    text = json.dumps(made)
    assert secret not in text and "node17" not in text and "python" not in text
    assert [(e["pid"], e["tid"]) for e in made["traceEvents"]] == [(1, 0), (1, 2)], "numbers alone"
    event = made["traceEvents"][1]
    assert (event["name"], event["ts"], event["dur"]) == ("aten::mm", 1.5, 2.5)
    assert event["args"] == {"External id": 3, "Input Dims": [[1, 2]]}
    assert made["otherData"] == {"variant": "fp32"}
    assert operators.trace(raw["traceEvents"], {})["traceEvents"] == made["traceEvents"], "ONNX Runtime writes a list"
