"""What a shipped folder's texts say, from runs made by hand; whole folders are in tests/integration."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from row_builder import stored_row

from engine import backends
from engine.artefacts.preparer import Prepared
from engine.backends.base import Snippet, Source
from engine.errors import RequestError
from engine.run import reopening
from engine.ship import plan

AUDITED = {"linear_modules_kept": ["pre_classifier", "classifier"]}
RUN: dict[str, Any] = {
    "id": "01J0000000000000000000000A",
    "device": "cpu",
    "environment": {
        "threads": 3,
        "python": {"version": "3.11.7"},
        "distributions": {"numpy": "2.4.6", "tokenizers": "0.22.2"},
    },
}
ROW = stored_row(variant="v", max_length=64)
EVERY = [(name, precision) for name in backends.REGISTRY for precision in backends.get(name).precisions]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    settings = {
        "pad_ids": {"input_ids": 1, "attention_mask": 0, "token_type_ids": 2},
        "padding_side": "left",
        "truncation_side": "right",
    }
    (tmp_path / "tokenizer_settings.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text("{}")
    source = Source("m", tmp_path, {}, "0" * 64)
    return Prepared(source, tmp_path, tmp_path, ["a", "b"], 1, False, None, {})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("backend", "precision"), EVERY)
def test_every_backend_says_how_each_precision_is_loaded(
    backend: str, precision: str, device: str, prepared: Prepared
) -> None:
    snippet = backends.get(backend).snippet(precision, {}, device, AUDITED)
    assert snippet is not None and plan.TOLERANCES[precision] > 0
    code = plan._load(RUN | {"device": device}, ROW, prepared, snippet, ["x"])
    names = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
    assert names == {"call", "logits"}
    assert ("cuda" in code.lower()) == (device == "cuda")
    ast.parse(code + plan.SELF_CHECK)


def test_tensorrt_is_loaded_before_the_session_asks_for_it(prepared: Prepared) -> None:
    snippet = backends.get("onnxruntime").snippet("fp16", {"provider": "tensorrt"}, "cuda:0", AUDITED)
    assert snippet is not None
    code = plan._load(RUN | {"device": "cuda:0"}, ROW, prepared, snippet, ["x"])
    ast.parse(code)
    assert code.index('"NVIDIA_TF32_OVERRIDE"] = "0"') < code.index("import tensorrt_libs")
    tf32 = backends.get("onnxruntime").snippet("tf32", {"provider": "tensorrt"}, "cuda:0", AUDITED)
    assert tf32 is not None and "NVIDIA_TF32_OVERRIDE" not in tf32.code
    assert code.index("import tensorrt_libs") < code.index("TensorrtExecutionProvider") < code.index("InferenceSession")


def test_the_code_holds_the_runs_own_tokenising(prepared: Prepared) -> None:
    snippet = Snippet("import onnxruntime as ort", "call = print", (), ())
    code = plan._load(RUN, ROW, prepared, snippet, ["x"])
    assert "tokenizer.enable_truncation(64)\n" in code
    assert 'tokenizer.enable_padding(length=None, pad_id=1, pad_type_id=2, direction="left")\n' in code
    assert 'DEVICE, THREADS = "cpu", 3' in code and '"token_type_ids": np.array([item.type_ids' in code
    padded = plan._load(RUN, replace(ROW, padding="max_length"), prepared, snippet, ["x"])
    assert "enable_padding(length=64," in padded


def test_labels_of_others_stay_strings(prepared: Prepared) -> None:
    hostile = ['"]; import os; os.system("x") #', "a\nb", "{x}", "\\", "ümläut\u2028"]
    code = plan._load(RUN, ROW, prepared, Snippet("import numpy", "call = print", (), ()), hostile)
    (found,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LABELS"
    ]
    assert found == hostile


def test_a_version_that_pip_would_read_otherwise_is_refused() -> None:
    snippet = Snippet("", "", ("torch",), ())
    for version in (None, "2\n--index-url http://127.0.0.1", "2 --hash", "@ http://127.0.0.1/x.whl"):
        given = RUN["environment"] | {"distributions": RUN["environment"]["distributions"] | {"torch": version}}
        with pytest.raises(RequestError, match="does not say which version of torch"):
            plan._requirements(RUN | {"environment": given}, snippet)


def test_only_files_that_are_loaded_are_copied_and_under_plain_names(prepared: Prepared) -> None:
    for name in ("model.safetensors", "pytorch_model.bin", "notes.txt", "run.py"):
        (prepared.folder / name).write_text("x")
    snippet = Snippet("", "", (), ("config.json", "*.safetensors"))
    assert sorted(plan._files(prepared, snippet)) == [
        "model/config.json", "model/model.safetensors", "model/tokenizer.json",
    ]  # fmt: skip
    (prepared.folder / "a\nb.safetensors").write_text("x")
    with pytest.raises(RequestError, match="rename it"):
        plan._files(prepared, snippet)


def test_outputs_are_named_by_the_data_set_where_they_were_aligned(prepared: Prepared) -> None:
    assert plan._labels(ROW, prepared, ["World", "Sports"]) == ["a", "b"]
    assert plan._labels(replace(ROW, labels={"mapping": [1, 0]}), prepared, ["World", "Sports"]) == ["Sports", "World"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"status": "failed", "status_reason": "no memory"}, "was not measured .*: failed: no memory"),
        (
            {"status": "measured", "validity": "invalid", "validity_reason": "float32"},
            "nothing follows from it: float32",
        ),
    ],
)
def test_what_gave_nothing_is_not_shipped(row: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        reopening._chosen({1: stored_row(variant="v", **row)}, "v", None, "R")
