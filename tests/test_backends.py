"""What backends say of themselves without a model library: recipes, refusals, shapes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine import backends
from engine.backends import base, bitsandbytes, openvino
from engine.backends.base import Source
from engine.backends.pytorch import bucketed
from engine.machine import devices, libraries
from engine.suite.spec import Variant
from engine.worker import handle

SOURCE = Source("model", Path(), {}, "")
TRAINING = {"dataset": "train.csv", "examples": 8}


def kinds(backend: str, precision: str, **options: object) -> list[str]:
    return [recipe.kind for recipe in backends.get(backend).recipes(precision, options)]


def test_what_is_built_follows_from_precision_and_options():
    assert kinds("onnxruntime", "fp16", fused=True) == ["onnx-fp32", "onnx-fused", "onnx-fp16"]
    assert kinds("onnxruntime", "int8") == ["onnx-fp32", "onnx-int8-dynamic"]
    assert kinds("onnxruntime", "int8", calibration=TRAINING) == ["onnx-fp32", "onnx-int8-static"]
    assert kinds("openvino", "fp32") == ["onnx-fp32", "openvino"]
    assert kinds("openvino", "int8", calibration=TRAINING) == ["onnx-fp32", "openvino-int8"]
    # What does not defer is built, and found again, as before there was deferring.
    plain, deferring = (
        backends.get("openvino").recipes("int8", {"calibration": TRAINING, **more})[1].settings
        for more in ({}, {"defer_to": "fp32"})
    )
    assert "defer_to" not in plain and deferring == plain | {"defer_to": "fp32"}
    # Two backends share one export.
    assert backends.get("openvino").recipes("fp32", {})[0] == backends.get("onnxruntime").recipes("fp32", {})[0]


@pytest.mark.parametrize(
    ("backend", "options", "said"),
    [
        ("onnxruntime", {"calibration": {"examples": 8}}, "options.calibration.dataset: "),
        ("onnxruntime", {"calibration": {**TRAINING, "labels": 1}}, "options.calibration.labels: "),
        ("pytorch", {"compile": "fast"}, "options.compile: found 'fast'; should be 'default', 'reduce-overhead' or"),
        ("torchao", {"quantization": "static"}, "options.quantization: found 'static'"),
        ("openvino", {"calibrate": TRAINING}, "did you mean 'calibration'"),
        ("openvino", {"defer_to": "fp32"}, "options.defer_to: needs options.calibration, whose texts show how far"),
        ("openvino", {"calibration": {**TRAINING, "examples": 4}, "defer_to": "fp32"}, "calibration.examples = 8"),
        ("openvino", {"calibration": TRAINING, "defer_to": "int8"}, "options.defer_to: found 'int8'; should be 'fp32'"),
    ],
)
def test_a_wrong_option_is_named(backend, options, said):
    with pytest.raises(ValueError, match=said):
        backends.get(backend).parse_options(options)


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"dim": 768, "hidden_dim": 3072}, None),
        ({"hidden_size": 312, "intermediate_size": 1200}, "hidden_size is 312"),
        ({"hidden_size": 320, "intermediate_size": 1200}, "intermediate_size is 1200"),
        # A whole number of kernel blocks of 32 is not enough: inputs come in quantisation blocks.
        ({"dim": 96, "hidden_dim": 384}, "dim is 96"),
        ({"dim": None}, None),
    ],
)
@pytest.mark.parametrize("precision", ["nf4", "fp4"])
def test_4_bit_on_a_cpu_with_a_kernel_for_it_needs_whole_blocks(monkeypatch, precision, config, refused):
    def said(device: str, features: list[str], precision: str = precision) -> str | None:
        monkeypatch.setattr(bitsandbytes, "cpu_features", lambda: features)
        source = Source("model", Path(), config, "")
        return backends.get("bitsandbytes").unavailable(precision, {}, device, source)

    found = said("cpu", ["avx2", "avx512_bf16"])
    if refused is None:
        assert found is None
    else:
        assert "multiples of 64" in found and refused in found and "needs --device cuda" in found
    # Without that kernel weights are unpacked at every call; LLM.int8 and a GPU know no such blocks.
    assert said("cpu", ["avx2", "avx512f"]) is None
    assert said("cuda:0", ["avx512_bf16"]) is None
    assert said("cpu", ["avx512_bf16"], "int8") is None


def test_what_is_not_installed_is_named_with_its_command(monkeypatch):
    device = devices.cpu_device()

    def refusal(backend: str, precision: str) -> str | None:
        return handle.refusal(Variant(name="v", model="m", backend=backend, precision=precision), device, SOURCE)

    assert refusal("openvino", "fp32") is refusal("torchao", "int8") is None
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    assert refusal("openvino", "fp32") is None
    assert refusal("openvino", "int8") == "INT8 is made by NNCF: `pip install -r requirements.txt` installs it"
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    assert refusal("openvino", "fp32") == "needs openvino: `pip install -r requirements.txt` installs it"
    assert "torchao" in str(refusal("torchao", "int8"))


def test_what_the_hardware_lacks_is_named(monkeypatch):
    def refusal(backend: str, precision: str, device: str, **options: object) -> str | None:
        return backends.get(backend).unavailable(precision, options, device, SOURCE)

    monkeypatch.setattr(openvino, "cpu_features", lambda: ["avx2"])
    assert "AVX512-BF16 or AMX" in str(refusal("openvino", "bf16", "cpu"))
    monkeypatch.setattr(openvino, "cpu_features", lambda: ["avx2", "amx_bf16"])
    assert refusal("openvino", "bf16", "cpu") is None
    assert "needs --device cpu" in str(refusal("openvino", "fp32", "cuda:0"))
    monkeypatch.setattr(libraries, "find", lambda name: None if "nvinfer.so" in name else name)
    # Nobody is sent for a library, or a GPU, that would not help.
    for device in ("cpu", "cuda:0"):
        assert 'needs provider = "cuda"' in str(refusal("onnxruntime", "int8", device, provider="tensorrt"))
    lacks = refusal("onnxruntime", "fp16", "cuda:0", provider="tensorrt")
    assert lacks == "needs TensorRT 10 (libnvinfer.so.10): `pip install 'tensorrt-cu13<11'` installs it"
    monkeypatch.setattr(libraries, "find", lambda name: name)
    assert refusal("onnxruntime", "fp16", "cuda:0", provider="tensorrt") is None
    static = {"calibration": {"dataset": "train.csv"}}
    assert "needs --device cpu" in str(refusal("onnxruntime", "int8", "cuda:0", **static))
    assert refusal("onnxruntime", "int8", "cuda:0") is refusal("onnxruntime", "int8", "cpu", **static) is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "C++ compiler" in str(refusal("pytorch", "fp32", "cpu", compile="default"))
    assert refusal("pytorch", "fp32", "cuda:0", compile="default") is None


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((8, 128), (8, 128)), ((3, 17), (4, 32)), ((1, 5), (1, 16)), ((5, 100), (8, 128)), ((24, 41), (24, 48))],
)
def test_compiled_batches_have_few_shapes(shape, wanted):
    config = SimpleNamespace(pad_token_id=7, max_position_embeddings=512)
    ids = np.arange(1, shape[0] * shape[1] + 1).reshape(shape)
    made = bucketed({"input_ids": ids, "attention_mask": np.ones(shape, dtype=np.int64)}, config)
    assert made["input_ids"].shape == made["attention_mask"].shape == wanted
    assert (made["input_ids"][: shape[0], : shape[1]] == ids).all()
    assert (made["input_ids"][:, shape[1] :] == 7).all() and not made["attention_mask"][:, shape[1] :].any()
    # A row of nothing but masked tokens would give no number.
    assert made["attention_mask"][:, 0].all()


def test_a_compiled_model_is_asked_for_no_position_that_it_has_not():
    config = SimpleNamespace(pad_token_id=None, max_position_embeddings=50)
    made = bucketed({"input_ids": np.ones((8, 49), dtype=np.int64)}, config)
    assert made["input_ids"].shape == (8, 49)
