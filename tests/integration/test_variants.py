"""Every technique beside the plain ones: built, measured, audited, unavailable with a reason, and shipped."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.artefacts.preparer import Preparer
from engine.errors import RequestError
from engine.machine.host import cpu_features
from engine.suite.reading import load_suite

REPOSITORY = Path(__file__).resolve().parents[2]
NEWS = REPOSITORY / "data" / "news"
TRAINING = {"dataset": str(NEWS / "train.csv"), "examples": 24}
ONNX, OPENVINO, TORCHAO = "onnxruntime", "openvino", "torchao"
VARIANTS = {
    "fp32": ("pytorch", "fp32", {}),
    "eager": ("pytorch", "fp32", {"attention": "eager"}),
    "compiled": ("pytorch", "fp32", {"compile": "reduce-overhead"}),
    "ao-weights": (TORCHAO, "int8", {"quantization": "weight-only"}),
    "ao-dynamic": (TORCHAO, "int8", {"quantization": "dynamic"}),
    "onnx": (ONNX, "fp32", {}),
    "onnx-fused": (ONNX, "fp32", {"fused": True}),
    "onnx-fp16": (ONNX, "fp16", {}),
    "onnx-static": (ONNX, "int8", {"per_channel": True, "calibration": TRAINING}),
    "onnx-kept": (ONNX, "int8", {"keep": ["attention"]}),
    "tensorrt": (ONNX, "fp16", {"provider": "tensorrt"}),
    "bound": (ONNX, "fp32", {"io_binding": True}),
    "ov": (OPENVINO, "fp32", {}),
    "ov-bf16": (OPENVINO, "bf16", {}),
    "ov-static": (OPENVINO, "int8", {"calibration": TRAINING}),
    "ov-weights": (OPENVINO, "int8", {}),
    "ov-deferring": (OPENVINO, "int8", {"calibration": TRAINING, "defer_to": "fp32"}),
}
EXACT = ("eager", "compiled", "onnx", "onnx-fused", "ov")
ROUNDED = (
    "ao-weights", "ao-dynamic", "onnx-fp16", "onnx-static", "onnx-kept", "ov-static", "ov-weights", "ov-deferring"
)  # fmt: skip
SHIPPED = ("compiled", "ao-dynamic", "onnx-fused", "onnx-fp16", "onnx-static", "ov", "ov-static", "ov-deferring")


@pytest.fixture(scope="module")
def measured(shaped_models, write_suite, measure, tmp_path_factory):
    tables = [
        {"name": name, "model": shaped_models["wide"], "backend": backend, "precision": precision, "options": options}
        for name, (backend, precision, options) in VARIANTS.items()
    ]
    workload = {"examples": 30, "seed": 3, "batch_size": 4, "max_length": 120, "padding": "longest"}
    return measure(write_suite(tmp_path_factory.mktemp("suite"), tables, name="techniques", workload=workload))


def settings(measured, variant):
    row = measured.row(variant)
    assert row["status"] == "measured", row["status_reason"]
    assert row["audit"]["wrong"] == [], variant
    return row["audit"]["settings"]


@pytest.mark.second_tier
def test_all_are_measured_or_say_what_they_need(measured):
    assert measured.exit_code == 0, measured.stderr
    unavailable = {row["variant"]: row["status_reason"] for row in measured.measurements if row["status"] != "measured"}
    assert unavailable.pop("tensorrt") == "TensorRT is for GPUs; it needs --device cuda"
    assert unavailable.pop("bound") == "IO binding is for GPUs; it needs --device cuda"
    if not {"avx512_bf16", "amx_bf16"} & set(cpu_features()):
        assert "AVX512-BF16 or AMX" in unavailable.pop("ov-bf16")
    assert unavailable == {}
    # Told at the start, before anything is built.
    lines = measured.stderr.splitlines()
    told = next(i for i, line in enumerate(lines) if "tensorrt: unavailable: TensorRT is for GPUs" in line)
    assert told < next(i for i, line in enumerate(lines) if "building" in line)


@pytest.mark.second_tier
@pytest.mark.parametrize("variant", [*EXACT, *ROUNDED])
def test_answers_are_the_models(measured, variant):
    found, exact = measured.logits(variant), measured.logits("fp32")
    largest, typical = np.abs(found - exact).max(), np.sqrt(np.square(found - exact).mean())
    if variant in EXACT:
        assert largest < 1e-4
    else:
        # Random weights are wide, and rounding adds up more than in a trained model; most without VNNI.
        assert largest > 1e-5, "it rounds"
        assert typical < 0.5 * exact.std(), "it is noise"


@pytest.mark.second_tier
def test_what_was_asked_for_is_what_runs(measured):
    assert settings(measured, "eager")["attention"] == "eager" != settings(measured, "fp32")["attention"]
    compiled = settings(measured, "compiled")
    assert compiled["compiled_graphs"] == compiled["recompilations"] + 1 and compiled["graph_breaks"] == 0
    # Thirty texts of many lengths, and each twice: in few shapes.
    assert compiled["recompilations"] < 6 and compiled["cuda_graphs"] is False
    assert measured.row("compiled")["audit"]["deviations"] == ["compiled without CUDA graphs, as these are for GPUs"]
    weights, dynamic = settings(measured, "ao-weights"), settings(measured, "ao-dynamic")
    assert weights["dynamic_modules"] == 0 and dynamic["dynamic_modules"] == dynamic["quantized_modules"] == 12
    assert dynamic["parameters_by_dtype"]["int8"] > 50_000
    assert settings(measured, "onnx-fused")["fused_attention_nodes"] == 2
    assert settings(measured, "onnx")["fused_attention_nodes"] == 0
    assert "computed in FP32" in measured.row("onnx-fp16")["audit"]["deviations"][0]
    static, kept = settings(measured, "onnx-static"), settings(measured, "onnx-kept")
    assert static["calibration_examples"] == 24 and static["integer_nodes"] > 0
    on_cpu = static["operators_by_provider"]["CPUExecutionProvider"]
    assert "DynamicQuantizeLinear" not in on_cpu
    # Twelve layers of the encoder and two of the head; attention's own products multiply activations.
    assert static["integer_nodes"] == 14 and on_cpu["MatMul"] == 4
    assert kept["parameters_by_dtype"]["float32"] > 0 and kept["integer_nodes"] > 0
    assert settings(measured, "ov")["products_by_precision"].keys() == {"f32"}
    ov = settings(measured, "ov-static")
    assert ov["integer_nodes"] > 0 and ov["calibration_examples"] == 24 and ov["threads"] == static["threads"]
    assert settings(measured, "ov-weights")["parameters_by_dtype"]["int8"] > 50_000


@pytest.mark.second_tier
def test_what_int8_is_unsure_of_is_answered_in_fp32(measured):
    deferring, exact = settings(measured, "ov-deferring"), measured.logits("ov")
    assert deferring["calibration_examples"] == 24 and deferring["deferral"]["compared_examples"] == 18
    assert deferring["deferral"]["to"] == "fp32" and deferring["integer_nodes"] > 0
    assert 0 < deferring["deferral"]["share"] < 1
    found = measured.logits("ov-deferring")
    same = np.isclose(found, exact, atol=1e-4).all(axis=1)
    assert 0 < same.sum() < len(same)
    # What INT8 was sure of has its own logits, two of which are at least the margin apart.
    best = np.sort(found[~same], axis=1)
    assert (best[:, -1] - best[:, -2] >= deferring["deferral"]["margin"]).all()
    assert (found.argmax(axis=1) == exact.argmax(axis=1)).all()
    weights = {row["variant"]: row["weights_bytes"] for row in measured.measurements}
    assert weights["ov-deferring"] > weights["ov"] + 0.2 * weights["ov-static"]


@pytest.mark.second_tier
def test_an_openvino_worker_has_no_torch_in_it(measured):
    peak = {row["variant"]: row["ram_peak_bytes"] for row in measured.measurements}
    assert peak["ov"] < 0.6 * peak["fp32"]


def test_what_builds_for_openvino_reports_to_nobody():
    program = (
        "import engine.backends.openvino\n"
        "import nncf.telemetry.wrapper as wrapper, openvino.tools.ovc.telemetry_utils as utils\n"
        "print(type(wrapper.telemetry).__name__, utils.tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.split() == ["MagicMock", "openvino.tools.ovc.telemetry_stub"]


@pytest.mark.second_tier
@pytest.mark.parametrize("variant", SHIPPED)
def test_its_own_code_gives_the_stored_logits(measured, bench, tmp_path, variant):
    settings(measured, variant)
    done = bench("ship", measured.run["id"], variant, tmp_path / variant)
    assert done.returncode == 0, done.stderr
    (found,) = re.findall(r"logits differ from the stored ones by (\S+) \(allowed", done.stdout)
    assert float(found) < 1e-4
    assert json.loads((tmp_path / variant / "expected.json").read_text())["variant"] == variant


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ({"dataset": str(NEWS / "test.csv"), "split": "train"}, "is what is measured; name training data"),
        ({"dataset": str(NEWS / "train.csv"), "examples": 10**6}, r"examples = 1000000, but .* that are not measured"),
        ({"dataset": "copy.csv"}, "has 0 that are not measured"),
    ],
)
def test_nothing_is_calibrated_on_what_is_measured(shaped_models, write_suite, tmp_path, calibration, said):
    shutil.copy(NEWS / "test.csv", tmp_path / "copy.csv")
    variant = {"model": shaped_models["wide"], "backend": ONNX, "precision": "int8"}
    variant["options"] = {"calibration": calibration}
    suite = load_suite(str(write_suite(tmp_path, [variant])))
    with Preparer(suite) as preparer, pytest.raises(RequestError, match=said):
        preparer.prepare(suite.variant[0])


@pytest.mark.second_tier
@pytest.mark.parametrize(
    "options", [{}, {"fused": True}, {"fused": True, "per_channel": True}, {"keep": ["attention"]}], ids=str
)
def test_optimum_quantises_as_onnx_runtimes_own_call_does(shaped_models, write_suite, tmp_path, options):
    """Products of two activations stay in floating point, fused graphs are taken: bare ORTQuantizer does neither."""
    variant = {"model": shaped_models["wide"], "backend": ONNX, "precision": "int8", "options": options}
    before = {"name": "before", **variant, "precision": "fp32", "options": {"fused": "fused" in options}}
    suite = load_suite(str(write_suite(tmp_path, [variant, before])))
    with Preparer(suite) as preparer:
        made, source = (preparer.prepare(each).folder / "model.onnx" for each in suite.variant)
    assert (made.parent / "ort_config.json").exists(), "optimum's record of what it did"
    done = subprocess.run(
        [sys.executable, "-c", BY_HAND, made, source, tmp_path / "by-hand.onnx", json.dumps(options)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["the same nodes"] and found["the same weights"] and not found["types"], "types cost time"
    # Six matrices a layer and two in the head; what is fused takes three of them at once.
    fused, kept = "fused" in options, "keep" in options
    assert found["integer products"] == 2 + 2 * (2 if kept else 4 if fused else 6), found


BY_HAND = """
import json, sys
from pathlib import Path
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
made, source, target = map(Path, sys.argv[1:4])
options = json.loads(sys.argv[4])
graph = onnx.load(source)
quantize_dynamic(
    graph, target, per_channel=options.get("per_channel", False), weight_type=QuantType.QInt8,
    reduce_range=%r, nodes_to_exclude=[n.name for n in graph.graph.node if "keep" in options and "attention" in n.name],
    extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
)
ours, theirs = onnx.load(made).graph, onnx.load(target).graph
print(json.dumps({
    "the same nodes": [n.SerializeToString() for n in ours.node] == [n.SerializeToString() for n in theirs.node],
    "the same weights": {t.name: t.SerializeToString() for t in ours.initializer}
        == {t.name: t.SerializeToString() for t in theirs.initializer},
    "types": len(ours.value_info),
    "integer products": sum(n.op_type in ("MatMulInteger", "QAttention", "DynamicQuantizeMatMul") for n in ours.node),
}))
""" % (not {"avx512_vnni", "avx_vnni"} & set(cpu_features()))
