"""The study's techniques on an NVIDIA GPU, at true size: the suite `shapes`, with few rounds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_distill import make

from engine.errors import RequestError
from engine.machine import devices, gpus


def why_not() -> str | None:
    """Why nothing can be measured on a GPU here; None where it can."""
    try:
        devices.resolve_device("cuda")
        return None
    except RequestError as error:
        return f"needs an NVIDIA GPU: {error}"


REASON = why_not()
QUICK = [
    part
    for setting in ("workload.examples=32", "protocol.rounds=8", "protocol.min_calls=8", "protocol.max_seconds=60")
    for part in ("--set", setting)
]
TRAIN = Path(__file__).resolve().parent.parent / "data" / "news" / "train.csv"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
TINYBERT = {
    "model_type": "bert", "hidden_size": 312, "num_hidden_layers": 4, "num_attention_heads": 12,
    "intermediate_size": 1200,
}  # fmt: skip
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


@pytest.fixture(scope="module")
def shapes(bench, tmp_path_factory) -> dict[str, Any]:
    """variant -> its measurement and, as "logits", its answers; "run" -> the run."""
    file = tmp_path_factory.mktemp("gpu") / "run.json"
    done = bench("run", "shapes", "--device", "cuda", "--json", file, *QUICK, timeout=540)
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


def test_its_file_opens_on_another_machine(bench, shapes, tmp_path):
    file, elsewhere = tmp_path / "shapes.run.zip", {"BENCH_DATA_DIR": str(tmp_path / "laptop")}
    assert bench("export", shapes["run"]["id"], "--format", "run", "--output", file).returncode == 0
    done = bench("import", file, env=elsewhere)
    assert done.returncode == 0, done.stderr
    rows = ("export", shapes["run"]["id"], "--format", "json")
    there, here = (bench(*rows, env=env).stdout for env in (elsewhere, None))
    assert json.loads(there)["measurements"] == json.loads(here)["measurements"]


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
        profile = row["audit"]["operators"]
        assert profile["by"] == "kernels" and profile["kinds"]["products"] > 0, name
        assert 0 < profile["seconds"] <= 1.1 * row["latency_p50_s"], name
        # Events stand around all that a call does.
        assert 0.9 * profile["seconds"] <= row["device_p50_s"] < 3 * row["latency_p50_s"], name


def test_clocks_and_temperature_are_read_at_both_ends(measured):
    for name, row in measured.items():
        for seen in row["conditions"]:
            for state in (seen["gpu_start"], seen["gpu_end"]):
                assert state["sm_clock_mhz"] > 100 and 10 < state["temperature_c"] < 110, name
                assert isinstance(state["slowed_by"], list) and (state["power_w"] is None or state["power_w"] > 1)


def test_what_binds_is_told_by_the_kernels_alone(measured):
    for name, row in measured.items():
        profile = row["audit"]["operators"]
        if row["backend"] == "onnxruntime":
            assert profile["by"] == "launches", name
            assert "while they run" not in row["limits"]["sentence"] or "host binds" in row["limits"]["sentence"], name
        elif row["binds"] == "host":
            assert profile["seconds"] < 0.7 * row["latency_p50_s"], name


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
    assert shapes["openvino-fp32"]["status"] == "unavailable"
    assert (
        "openvino" in shapes["openvino-fp32"]["status_reason"]
        or "--device cpu" in shapes["openvino-fp32"]["status_reason"]
    )


def test_memory_of_the_device_is_the_same_alone_and_beside_all_others(bench, measured, tmp_path):
    assert len(measured) > 4
    file = tmp_path / "alone.json"
    done = bench("run", "shapes", "--device", "cuda", "--variants", "fp32", "--json", file, *QUICK, timeout=300)
    assert done.returncode == 0, done.stderr
    (alone,) = json.loads(file.read_text())["measurements"]
    beside = measured["fp32"]
    assert alone["vram_source"] == beside["vram_source"]
    assert alone["vram_peak_bytes"] == pytest.approx(beside["vram_peak_bytes"], rel=0.02)
    for key in ("torch_allocated_peak_bytes", "torch_reserved_peak_bytes"):
        assert alone["memory"][key] == pytest.approx(beside["memory"][key], rel=0.02), key


def test_energy_is_the_devices_own_above_idle(measured):
    from_counter = {name: row["energy_j_per_1000_examples"] for name, row in measured.items()}
    if None in from_counter.values():
        pytest.skip("this GPU has no energy counter")
    assert all(joules > 0 for joules in from_counter.values())
    # Half as many bytes and faster products: the same answers for less.
    assert from_counter["fp16"] < from_counter["fp32"]
    for name, row in measured.items():
        energy = row["energy"]
        used_w = energy["joules"] / energy["seconds"]
        assert energy["idle_w"] < used_w < 2000 and energy["seconds"] > 1, name


def test_the_ceilings_are_the_gpus(shapes):
    found = shapes["run"]["ceilings"]
    rates = {dtype: item["operations_per_s"] for dtype, item in found["products"].items()}
    assert all(rates.values()), found["products"]
    assert rates["fp32"] < rates["tf32"] < rates["fp16"] < 5e15
    assert found["copy"]["bytes_per_s"] > found["host_to_device"]["bytes_per_s"] > 1e9
    assert 0 < found["launch"]["seconds"] < 1e-3


@pytest.fixture(scope="module")
def techniques(bench, write_suite, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """variant -> its measurement and its answers: what `shapes` has not, two layers of DistilBERT-base and TinyBERT."""
    folder = tmp_path_factory.mktemp("techniques")
    wide = {"model_type": "distilbert", "dim": 768, "n_layers": 2, "n_heads": 12, "hidden_dim": 3072}
    checkpoints = [
        {
            "name": name, "architecture": architecture | {"vocab_size": 4000}, "tokenizer": {"vocab_size": 4000},
            "dataset": TRAIN, "epochs": 0,
        }
        for name, architecture in (("wide", wide), ("narrow", TINYBERT))
    ]  # fmt: skip
    half = {"precision": "fp16"}
    ours = {
        "fp32": {},
        "tf32": {"precision": "tf32"},
        "fp16": half,
        "packed": half | {"padding": "packed"},
        "llm-int8": {"backend": "bitsandbytes", "precision": "int8"},
        "fp4": {"backend": "bitsandbytes", "precision": "fp4"},
        "weights-int8": {"backend": "torchao", "precision": "int8", "options": {"quantization": "weight-only"}},
        "dynamic-int8": {"backend": "torchao", "precision": "int8"},
        "onnx-tf32": {"backend": "onnxruntime", "precision": "tf32"},
        "onnx-bound": {"backend": "onnxruntime", "precision": "fp16", "options": {"fused": True, "io_binding": True}},
        "narrow": half | {"model": "checkpoint:narrow"},
        "padded": half | {"model": "checkpoint:narrow", "options": {"pad_heads": True}},
        "onnx-padded": {
            "model": "checkpoint:narrow", "backend": "onnxruntime", "precision": "fp16",
            "options": {"fused": True, "pad_heads": True},
        },
    }  # fmt: skip
    suite = write_suite(
        folder,
        [{"name": name, "model": "checkpoint:wide"} | variant for name, variant in ours.items()],
        workload={"examples": 64, "batch_size": 16, "max_length": 128, "padding": "max_length"},
        checkpoints=checkpoints,
    )
    done = bench("run", suite, "--device", "cuda", "--json", folder / "run.json", timeout=540)
    assert done.returncode == 0, done.stderr
    written = json.loads((folder / "run.json").read_text())
    found = {row["variant"]: row for row in written["measurements"]}
    exported = bench("export", written["run"]["id"], "--predictions", "--format", "json")
    for item in json.loads(exported.stdout)["predictions"]:
        found[item["variant"]]["logits"] = np.array([example["logits"] for example in item["examples"]])
    for name, row in found.items():
        print(name, row["status"], row["status_reason"], row["validity"], row["validity_reason"])
    return found


def moved(rows: dict[str, dict[str, Any]], name: str, other: str = "fp32") -> float:
    """The largest difference of a logit between two variants, as a share of the spread of the other's logits."""
    if rows[name]["status"] == "unavailable":
        pytest.skip(rows[name]["status_reason"])
    assert rows[name]["status"] == "measured", rows[name]["status_reason"]
    assert rows[name]["audit"]["wrong"] == [] and rows[name]["validity"] != "invalid"
    return float(np.abs(rows[name]["logits"] - rows[other]["logits"]).max() / np.ptp(rows[other]["logits"]))


@pytest.mark.parametrize("name", ["tf32", "onnx-tf32"])
def test_tf32_is_on_where_it_is_asked_for(techniques, name):
    assert 0 < moved(techniques, name) < 0.05
    assert techniques[name]["audit"]["settings"]["tf32"] is True
    assert techniques["fp32"]["audit"]["settings"]["tf32"] is False


def test_packed_batches_answer_as_padded_ones(techniques):
    assert moved(techniques, "packed", "fp16") < 0.05
    packed, padded = techniques["packed"], techniques["fp16"]
    assert packed["throughput_padded_tokens_per_s"] == pytest.approx(packed["throughput_tokens_per_s"])
    assert padded["throughput_padded_tokens_per_s"] > 1.5 * padded["throughput_tokens_per_s"]


@pytest.mark.parametrize("name", ["llm-int8", "fp4", "weights-int8", "dynamic-int8"])
def test_quantised_weights_are_smaller_and_answer_nearly_alike(techniques, name):
    # Of random weights, whose logits lie near each other.
    assert 0 < moved(techniques, name) < 1
    row = techniques[name]
    settings = row["audit"]["settings"]
    assert settings["quantized_modules"] == 12
    # Embeddings stay; of FP32's 14 million parameters in layers a quarter or an eighth is left.
    assert row["weights_bytes"] < 0.65 * techniques["fp32"]["weights_bytes"]
    if name == "fp4":
        assert settings["quant_types"] == ["fp4"]
    if name == "dynamic-int8":
        assert settings["dynamic_modules"] == 12


def test_bound_outputs_answer_alike(techniques):
    assert moved(techniques, "onnx-bound", "fp16") < 0.05
    assert techniques["onnx-bound"]["audit"]["settings"]["io_binding"] is True


def test_padded_heads_let_a_fused_kernel_attend(techniques):
    assert moved(techniques, "padded", "narrow") < 0.05
    assert techniques["padded"]["audit"]["settings"]["head_width"] == 32
    kinds = {name: techniques[name]["audit"]["operators"]["kinds"] for name in ("narrow", "padded")}
    assert kinds["padded"].get("attention", 0) > 0 and not kinds["narrow"].get("attention", 0)
    assert moved(techniques, "onnx-padded", "narrow") < 0.05


HIDDEN = ("unshare", "--pid", "--fork", "--mount-proc")


def test_memory_of_the_device_where_process_ids_are_others(bench, measured, tmp_path):
    """In a namespace of process ids, as in a container, NVML may number processes as the host does."""
    if not shutil.which(HIDDEN[0]) or subprocess.run([*HIDDEN, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a process namespace of its own: unshare is not permitted here")
    (gpu,) = [gpu for gpu in gpus.visible_gpus() if gpu.index == 0]
    if gpus.nvml_process_ids(gpu.uuid):
        pytest.skip("others are on the GPU: what it gained is not one process's")
    file = tmp_path / "alone.json"
    command = [sys.executable, "-m", "engine", "run", "shapes", "--device", "cuda", "--variants", "fp32"]
    done = subprocess.run(
        [*HIDDEN, *command, "--json", str(file), *QUICK],
        cwd=TRAIN.parents[2], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(file.read_text())["measurements"]
    print(row["vram_source"], row["vram_peak_bytes"], measured["fp32"]["vram_peak_bytes"], row["validity_reason"])
    assert row["vram_source"].startswith("NVML")
    assert row["vram_peak_bytes"] == pytest.approx(measured["fp32"]["vram_peak_bytes"], rel=0.05)
    # No process of ours is taken for a stranger.
    assert "other process" not in (row["validity_reason"] or "")


@pytest.mark.parametrize("mixing", [0.0, 0.5])
def test_training_gives_the_same_bytes_twice(tiny_models, tmp_path, mixing):
    """TinyBERT's heads are 26 wide, which few of the attention kernels take; each time is a process of its own."""
    student = {
        "architecture": TINYBERT,
        "teacher": tiny_models["distilbert"],
        "tokenizer": {"folder": str(tiny_models["distilbert"])},
        "label_names": LABELS,
        "mixing": mixing,
        "epochs": 2,
        "learning_rate": 2e-4,
        "device": "cuda:0",
    }
    first, again = (make(tmp_path, {name: student})[name] for name in ("first", "again"))
    for one in (first, again):
        assert one.result["device"] == "cuda:0" and one.result["train_accuracy"] is not None
    assert first.result["final_loss"] == again.result["final_loss"]
    assert first.digest("model.safetensors") == again.digest("model.safetensors")


HOLDING = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def all_memory_held_but(left_bytes: int) -> Iterator[None]:
    """Another process holds the GPU's memory, all but `left_bytes`."""
    command = [sys.executable, "-c", HOLDING, str(left_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


def test_a_variant_that_gets_no_memory_of_the_gpu_fails_alone_with_that_reason(bench, write_suite, tmp_path):
    wide = {"model_type": "distilbert", "dim": 768, "n_layers": 2, "n_heads": 12, "hidden_dim": 6144}
    checkpoint = {
        "name": "wide",
        "architecture": wide | {"vocab_size": 4000},
        "tokenizer": {"vocab_size": 4000},
        "dataset": TRAIN,
        "epochs": 0,
    }
    variants = [{"model": "checkpoint:wide", "batch_size": size, "name": f"batch-{size}"} for size in (8, 640)]
    workload = {"examples": 640, "max_length": 128, "padding": "max_length"}
    suite = write_suite(tmp_path, variants, workload=workload, checkpoints=[checkpoint])
    file = tmp_path / "run.json"
    # Two contexts and the small batches need about 1.6 GB; two activations of the large one 4 GB.
    with all_memory_held_but(3 * 2**30):
        done = bench("run", suite, "--device", "cuda", "--json", file, timeout=300)
    assert "Traceback" not in done.stderr
    rows = {row["variant"]: row for row in json.loads(file.read_text())["measurements"]}
    assert rows["batch-640"]["status"] == "failed" and "out of memory" in rows["batch-640"]["status_reason"]
    assert rows["batch-8"]["status"] == "measured"
    # That somebody else is on the GPU is seen, too.
    assert rows["batch-8"]["validity"] == "unstable"
    assert "1 other process was on the GPU" in rows["batch-8"]["validity_reason"]
