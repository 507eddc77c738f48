"""How checkpoints and artefacts are prepared, without making any: processes of the tests' own stand in for training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.artefacts import cache, lanes
from engine.artefacts.builder import BuildError
from engine.artefacts.lanes import BuildLanes
from engine.artefacts.preparer import Preparer
from engine.artefacts.training import request as training_request
from engine.backends.base import Recipe
from engine.errors import RequestError
from engine.machine import gpus as machine_gpus
from engine.machine import processes
from engine.machine.gpus import Gpu
from engine.suite.reading import load_suite
from engine.suite.spec import Suite

TRAIN = Path(__file__).resolve().parent.parent / "data" / "news" / "train.csv"
TINY = {"model_type": "distilbert", "dim": 64, "hidden_dim": 128, "n_layers": 1, "n_heads": 2}
BLANK = {
    "name": "blank", "architecture": TINY, "tokenizer": {"vocab_size": 300}, "dataset": TRAIN,
    "examples": 16, "max_length": 32, "epochs": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made already."""
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def suite_of(write_suite: Callable[..., Path], tmp_path: Path) -> Callable[..., Suite]:
    """suite_of(*checkpoints): a suite that makes them, with a variant of each."""

    def make(*checkpoints: dict[str, Any]) -> Suite:
        variants = [{"name": c["name"], "model": f"checkpoint:{c['name']}"} for c in checkpoints]
        return load_suite(str(write_suite(tmp_path, variants, checkpoints=list(checkpoints))))

    return make


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """training(lines): lines of sh that run in place of every training; gives the file that each adds a line to."""

    def put(lines: str) -> Path:
        script, log = tmp_path / "training", tmp_path / "started"
        script.write_text(f"#!/bin/sh\necho once >> '{log}'\n{lines}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return log

    return put


def test_training_sees_the_gpus_as_the_device_was_resolved(suite_of, training, monkeypatch):
    gpus = [
        Gpu(index, f"GPU-{letter * 8}", "GPU", 2**30, (8, 0), "580.65.06", (13, 0), "DEFAULT")
        for index, letter in enumerate("ba")
    ]
    monkeypatch.setattr(machine_gpus, "visible_gpus", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    training('echo "{\\"result\\": {\\"visible\\": \\"$CUDA_VISIBLE_DEVICES\\"}}"')
    suite = suite_of(BLANK)
    with Preparer(suite, "cuda:1") as preparer:
        folder = preparer.checkpoint(suite.checkpoints["blank"])
    assert json.loads((folder / cache.FACTS).read_text())["visible"] == "GPU-bbbbbbbb,GPU-aaaaaaaa"


def test_a_training_that_is_killed_fails_all_that_need_it_and_is_not_tried_again(suite_of, training):
    started = training("kill -9 $$")
    suite = suite_of(BLANK | {"name": "teacher"}, BLANK | {"name": "student", "teacher": "checkpoint:teacher"})
    with Preparer(suite) as preparer:
        found = {variant.name: error for variant, error in preparer.prepare_all(suite.variant)}
    assert all(isinstance(error, BuildError) for error in found.values())
    said = "checkpoint 'teacher': the process was ended by SIGKILL"
    assert {name: str(error) for name, error in found.items()} == {"teacher": said, "student": said}
    assert started.read_text() == "once\n"
    # Another time is another chance.
    with Preparer(suite) as preparer, pytest.raises(BuildError, match="ended by SIGKILL"):
        preparer.checkpoint(suite.checkpoints["teacher"])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("echo half of it >&2; kill -SEGV $$", "the process was ended by SIGSEGV"),
        ("echo 'RuntimeError: CUDA error: unspecified launch failure' >&2; exit 1", "CUDA error: unspecified launch"),
        ("exit 3", "exit code 3"),
        ('printf \'{"phase": "trai\'; kill -9 $$', "the process was ended by SIGKILL"),
    ],
)
def test_whatever_ends_a_training_is_one_line(suite_of, training, lines, said):
    training(lines)
    suite = suite_of(BLANK)
    with Preparer(suite) as preparer, pytest.raises(BuildError) as caught:
        preparer.checkpoint(suite.checkpoints["blank"])
    assert str(caught.value).startswith("checkpoint 'blank': ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_memory_was_short_that_is_the_reason(suite_of, training, monkeypatch):
    counts = iter([4, 5])
    monkeypatch.setattr(processes, "memory_kills", lambda: next(counts))
    training("kill -9 $$")
    suite = suite_of(BLANK)
    with Preparer(suite) as preparer, pytest.raises(BuildError, match="the system ran out of memory and ended"):
        preparer.checkpoint(suite.checkpoints["blank"])


def teacher_folder(folder: Path, config: str | None) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    if config is not None:
        (folder / "config.json").write_text(config)
    return folder


HEADED = {"architectures": ["DistilBertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "has no config.json"),
        ("{", "config.json is not readable"),
        ("[1]", "it holds no JSON object"),
        (json.dumps({"architectures": ["DistilBertModel"]}), "has no classification head"),
        (json.dumps(HEADED | {"id2label": {"a": "x", "b": "y"}}), "id2label in its config.json is {'a': 'x'"),
        (json.dumps(HEADED | {"id2label": {"0": "x", "2": "y"}}), "a name for each output, counted from 0"),
        (json.dumps(HEADED | {"id2label": ["x", "y"]}), "id2label in its config.json is ['x', 'y']"),
        (json.dumps(HEADED | {"id2label": "x"}), "id2label in its config.json is x;"),
        (json.dumps(HEADED | {"num_labels": "four"}), "the model only calls its outputs LABEL_0..1"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_line(suite_of, training, tmp_path, config, said):
    started = training("exit 1")
    student = BLANK | {"name": "student", "teacher": teacher_folder(tmp_path / "odd", config)}
    suite = suite_of(student)
    with Preparer(suite) as preparer, pytest.raises(RequestError) as caught:
        preparer.checkpoint(suite.checkpoints["student"])
    assert str(caught.value).startswith("checkpoint 'student': teacher ") and said in str(caught.value)
    assert str(tmp_path / "odd") in str(caught.value) and not started.exists()


# -- What is known again ---------------------------------------------------------------------------


def built(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the folder that `recipe` makes from some model."""
    preparer = Preparer.__new__(Preparer)
    preparer.lanes = BuildLanes(0.0, lambda text, share: None)
    monkeypatch.setattr(preparer.lanes, "ask", lambda request: {})
    return preparer._built("digest", recipe, "onnxruntime", Path("model"), "building").name


def test_an_artefact_is_another_by_other_libraries_or_another_version_of_the_code(monkeypatch):
    recipe = Recipe("onnx-fp32", {"keep": ["a"]}, ("onnx", "torch"))
    monkeypatch.setattr(lanes, "distribution_version", {"onnx": "1.23", "torch": "2.13"}.get)
    # As it was named before code had versions: what stored runs loaded is found by this.
    first = built(recipe, monkeypatch)
    assert first == "onnx-fp32-6b081aca4fd2bbd89b1d0d7f"
    assert built(replace(recipe, version=2), monkeypatch) != first
    monkeypatch.setattr(lanes, "distribution_version", {"onnx": "1.24", "torch": "2.13"}.get)
    other = built(recipe, monkeypatch)
    assert other not in (first, built(replace(recipe, version=2), monkeypatch))


def test_a_checkpoint_is_another_by_another_version_of_the_code(suite_of, training, tmp_path, monkeypatch):
    (tmp_path / "few.csv").write_text("text,label\nrain,a\nsnow,b\n")
    training('echo "{\\"result\\": {}}"')
    few = {"dataset": tmp_path / "few.csv", "label": "label", "labels": ["a", "b"], "examples": 0}
    suite = suite_of(BLANK | few)

    def made() -> str:
        with Preparer(suite) as preparer:
            return preparer.checkpoint(suite.checkpoints["blank"]).name

    first = made()
    assert first == "blank-f88dd4ac56fbb22c"
    monkeypatch.setattr(lanes, "distribution_version", lambda distribution: "another")
    assert made() == first, "libraries train no other model that a suite would know"
    monkeypatch.setattr(training_request, "VERSION", 2)
    assert made() != first
