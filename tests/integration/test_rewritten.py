"""Rewritten classifiers through whole runs: measured, audited, shipped."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from engine import paths

pytestmark = pytest.mark.second_tier

RUN = ("fp32", "padded", "packed", "first", "both", "onnx", "onnx-first", "openvino-first")


def checkpoint(name: str, heads: int, width: int) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": str(paths.REPOSITORY / "data" / "news" / "train.csv"),
        "epochs": 0,
        "tokenizer": {"vocab_size": 500},
        "architecture": {
            "model_type": "bert", "vocab_size": 500, "hidden_size": heads * width, "num_attention_heads": heads,
            "intermediate_size": 80, "num_hidden_layers": 2,
        },
    }  # fmt: skip


def test_every_library_answers_as_before(measure, bench, write_suite, tmp_path):
    padded, first = {"pad_heads": True}, {"first_token": True}
    narrow = {"model": "checkpoint:narrow"}
    onnx, ov = {**narrow, "backend": "onnxruntime"}, {**narrow, "backend": "openvino"}
    suite = write_suite(
        tmp_path,
        [
            {"name": "fp32", **narrow},
            {"name": "padded", **narrow, "options": padded},
            {"name": "packed", **narrow, "options": padded, "padding": "packed"},
            {"name": "first", **narrow, "options": first},
            {"name": "both", **narrow, "options": padded | first | {"compile": "default"}},
            {"name": "onnx", **onnx, "options": padded | {"fused": True}},
            {"name": "onnx-first", **onnx, "options": first | {"fused": True}},
            {"name": "openvino-first", **ov, "options": first},
            {"name": "needs-none", "model": "checkpoint:wide", "options": padded},
            {"name": "packed-first", **narrow, "options": first, "padding": "packed"},
        ],
        checkpoints=[checkpoint("narrow", 6, 10), checkpoint("wide", 5, 16)],
    )
    run = measure(suite)
    assert run.exit_code == 0, run.stderr
    for name, said in (("needs-none", "16 wide"), ("packed-first", "first tokens")):
        assert run.row(name)["status"] == "unavailable" and said in run.row(name)["status_reason"]
    assert run.row("padded")["audit"]["settings"]["head_width"] == 16
    assert run.row("onnx")["audit"]["settings"]["fused_attention_nodes"] == 2
    assert run.row("padded")["weights_bytes"] > run.row("fp32")["weights_bytes"]
    logits = {name: np.array([e["logits"] for e in run.of(name)]) for name in RUN}
    for name in RUN:
        assert np.abs(logits[name] - logits["fp32"]).max() < 1e-4, name
    # Only what is computed counts as reached: the first token's layer is about half of two, its keys and values apart.
    counted = {name: run.row(name)["limits"]["operations_per_s"] * run.row(name)["latency_p50_s"] for name in RUN}
    assert counted["padded"] == pytest.approx(counted["fp32"], rel=0.2)
    assert 0.4 * counted["fp32"] < counted["first"] < 0.9 * counted["fp32"]
    # Its folder rewrites by itself.
    for name, call in (("padded", "widen(model)"), ("first", "keep_first_token(model)")):
        folder = tmp_path / name
        done = bench("ship", run.run["id"], name, folder)
        assert done.returncode == 0, done.stderr
        checked = subprocess.run([sys.executable, "load.py"], cwd=folder, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert call in (folder / "load.py").read_text()
