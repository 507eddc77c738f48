"""Attention heads padded with zeros, through whole runs: measured, audited, shipped."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from engine import paths


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


def test_both_libraries_answer_as_before_with_wider_heads(measure, bench, write_suite, tmp_path):
    padded = {"pad_heads": True}
    narrow = {"model": "checkpoint:narrow"}
    suite = write_suite(
        tmp_path,
        [
            {"name": "fp32", **narrow},
            {"name": "padded", **narrow, "options": padded},
            {"name": "packed", **narrow, "options": padded, "padding": "packed"},
            {"name": "onnx", **narrow, "backend": "onnxruntime", "options": padded | {"fused": True}},
            {"name": "needs-none", "model": "checkpoint:wide", "options": padded},
        ],
        checkpoints=[checkpoint("narrow", 6, 10), checkpoint("wide", 5, 16)],
    )
    run = measure(suite)
    assert run.exit_code == 0, run.stderr
    reason = run.row("needs-none")["status_reason"]
    assert run.row("needs-none")["status"] == "unavailable" and "16 wide" in reason
    assert run.row("padded")["audit"]["settings"]["head_width"] == 16
    assert run.row("onnx")["audit"]["settings"]["fused_attention_nodes"] == 2
    assert run.row("padded")["weights_bytes"] > run.row("fp32")["weights_bytes"]
    logits = {name: np.array([e["logits"] for e in run.of(name)]) for name in ("fp32", "padded", "packed", "onnx")}
    for name in ("padded", "packed", "onnx"):
        assert np.abs(logits[name] - logits["fp32"]).max() < 1e-4, name
    # Its folder widens them by itself.
    done = bench("ship", run.run["id"], "padded", tmp_path / "shipped")
    assert done.returncode == 0, done.stderr
    checked = subprocess.run(
        [sys.executable, "load.py"], cwd=tmp_path / "shipped", capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "widen(model)" in (tmp_path / "shipped" / "load.py").read_text()
