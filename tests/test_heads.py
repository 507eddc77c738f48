"""Heads that nobody has trained, told from their files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from engine.artefacts import heads


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def fresh(folder: Path) -> heads.Flag | None:
    config = config_of(folder)
    return heads.fresh(folder, config, len(config.get("id2label") or [0, 1]))


def written(folder: Path, width: int, deviation: float, dtype: type = np.float32, bias: float = 0.0) -> Path:
    random = np.random.default_rng(width)
    tensors = {
        "distilbert.weight": np.ones((4, 4), dtype),
        "distilbert.bias": np.ones(width, dtype),
        "classifier.weight": random.normal(0, deviation, (4, width)).astype(dtype),
        "classifier.bias": np.array([0, 0, 0, bias], dtype),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_head_that_was_saved_as_it_was_initialised_is_named(tiny_models):
    found = fresh(tiny_models["untrained"])
    assert found is not None and found.kind == "fresh"
    assert found.sentence.startswith("its head looks freshly initialised: all 4 biases are 0, and its 128 weights ")
    assert "(initializer_range = 0.2)" in found.sentence
    with safe_open(tiny_models["untrained"] / "model.safetensors", "np") as file:
        weights = file.get_tensor("classifier.weight")
    assert found.figures["deviation"] == pytest.approx(np.sqrt(np.mean(weights.astype(float) ** 2)), rel=1e-6)


def test_it_is_read_from_bf16_and_from_several_files(tiny_models):
    assert (tiny_models["untrained-bf16"] / "model.safetensors.index.json").exists()
    found, whole = fresh(tiny_models["untrained-bf16"]), fresh(tiny_models["untrained"])
    assert found and whole
    assert found.figures["deviation"] == pytest.approx(whole.figures["deviation"], rel=2e-3)


@pytest.mark.parametrize("name", ["distilbert", "permuted", "sst2", "bert", "headless", "fresh"])
def test_no_other_head_is(tiny_models, name):
    assert fresh(tiny_models[name]) is None


@pytest.mark.parametrize("width", [32, 312, 768])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_one_trained_bias_or_another_spread_is_enough(tmp_path, width, dtype):
    known = {"initializer_range": 0.02}
    assert heads.fresh(written(tmp_path, width, 0.02, dtype), known, 4) is not None
    assert heads.fresh(written(tmp_path, width, 0.02, dtype, bias=1e-6), known, 4) is None
    assert heads.fresh(written(tmp_path, width, 0.04, dtype), known, 4) is None
    # Of a model that does not say how it was initialised nothing is said.
    written(tmp_path, width, 0.02, dtype)
    assert heads.fresh(tmp_path, {}, 4) is heads.fresh(tmp_path, {"initializer_range": None}, 4) is None


def test_a_new_head_hardly_ever_escapes(tmp_path):
    random = np.random.default_rng(0)
    deviations = np.sqrt((random.normal(0, 1, (20_000, 128)) ** 2).mean(axis=1))
    assert np.mean(abs(deviations - 1) > heads.STANDARD_ERRORS / np.sqrt(256)) < 1e-3


def test_what_cannot_be_read_is_not_judged(tmp_path, tiny_models):
    known = config_of(tiny_models["untrained"])
    assert heads.fresh(tmp_path, known, 4) is None
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    assert heads.fresh(tmp_path, known, 4) is None
    whole = (tiny_models["untrained"] / "model.safetensors").read_bytes()
    # Its header and no tensor.
    (tmp_path / "model.safetensors").write_bytes(whole[: 12 + int.from_bytes(whole[:8], "little")])
    assert heads.fresh(tmp_path, known, 4) is None
    # Two layers with as many outputs as labels: it is not known which is the last.
    shutil.copy(tiny_models["untrained"] / "model.safetensors", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"two.weight": np.ones((4, 3)), "two.bias": np.ones(4)}, tmp_path / "model.safetensors")
    assert heads.fresh(tmp_path, known, 4) is None
