"""Models that a suite makes: made once, used by variants and as teachers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from engine import paths
from engine.artefacts.preparer import Preparer
from engine.suite.reading import load_suite

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = REPOSITORY / "data" / "news" / "train.csv"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
TINY = {"model_type": "distilbert", "dim": 64, "hidden_dim": 128, "n_layers": 1, "n_heads": 2}


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> inode and time of change: what was not touched has the same."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def made() -> dict[str, Path]:
    """Checkpoint name -> its folder."""
    found = [path for path in (paths.local_data() / "checkpoints").iterdir() if path.is_dir()]
    return {path.name.rpartition("-")[0]: path for path in found}


@pytest.fixture(scope="module")
def family(write_suite, tmp_path_factory):
    """A suite with a fine-tuned checkpoint, one distilled from it, and one with random weights."""
    common = {"architecture": TINY, "dataset": TRAIN, "examples": 256, "max_length": 32, "batch_size": 16}
    onnx = {"backend": "onnxruntime"}
    return write_suite(
        tmp_path_factory.mktemp("suite"),
        [
            {"name": "teacher", "model": "checkpoint:family-teacher", **onnx},
            {"name": "student", "model": "checkpoint:family-student", **onnx},
            {"name": "blank", "model": "checkpoint:family-blank", **onnx},
        ],
        name="family",
        workload={"examples": 200, "batch_size": 8, "max_length": 32},
        protocol={"threads": 1},
        checkpoints=[
            {
                "name": "family-student",
                **common,
                "teacher": "checkpoint:family-teacher",
                "tokenizer": "teacher",
                "epochs": 1,
                "seed": 1,
            },
            {
                "name": "family-teacher",
                **common,
                "tokenizer": {"vocab_size": 600},
                "epochs": 12,
                "learning_rate": 2e-3,
            },
            {"name": "family-blank", **common, "tokenizer": {"vocab_size": 600}, "epochs": 0},
        ],
    )


@pytest.fixture(scope="module")
def first(family, measure):
    return measure(family)


@pytest.mark.second_tier
def test_checkpoints_are_made_and_measured(first):
    assert first.exit_code == 0, first.stderr
    assert {"family-teacher", "family-student", "family-blank"} <= set(made())
    assert not list((paths.local_data() / "checkpoints").glob(".*.draft"))
    for name in ("teacher", "student"):
        row = first.row(name)
        assert row["accuracy"] is not None and row["labels"]["how"] == "name"
        assert row["labels"]["model_labels"] == LABELS
    # Twelve epochs over 256 texts are enough to know these by heart.
    facts = json.loads((made()["family-teacher"] / "facts.json").read_text())
    assert facts["steps"] == 12 * 16 and facts["train_accuracy"] > 0.6


@pytest.mark.second_tier
def test_a_checkpoint_is_an_ordinary_folder(first):
    folder = made()["family-teacher"]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"] and config["dim"] == 64
    assert list(config["id2label"].values()) == LABELS
    assert {"model.safetensors", "tokenizer.json"} <= set(files_of(folder))


@pytest.mark.second_tier
def test_the_student_is_another_model_that_resembles_its_teacher(first):
    teacher, student = first.logits("teacher"), first.logits("student")
    assert np.abs(teacher - student).max() > 0.01
    config = json.loads((made()["family-student"] / "config.json").read_text())
    assert config["inference_bench"]["method"] == "distilled"
    facts = json.loads((made()["family-student"] / "facts.json").read_text())
    # 256 texts in batches of 16, once.
    assert facts["steps"] == 16 and 0.25 < facts["teacher_agreement"] <= 1
    assert first.row("student")["agreement"] == pytest.approx(np.mean(teacher.argmax(axis=1) == student.argmax(axis=1)))


@pytest.mark.second_tier
def test_random_weights_have_no_accuracy(first):
    row = first.row("blank")
    assert row["status"] == "measured" and row["throughput_samples_per_s"] > 0
    assert row["accuracy"] is row["accuracy_low"] is row["correct"] is row["macro_f1"] is None
    assert "random" in row["accuracy_reason"] and row["index_match_rate"] is not None
    # That its head is new is said once.
    assert row["quality"]["flags"] == []
    assert "no accuracy" in first.stdout


@pytest.mark.second_tier
def test_a_second_run_makes_nothing(first, family, measure):
    before = {name: files_of(folder) for name, folder in made().items()}
    second = measure(family)
    assert second.exit_code == 0, second.stderr
    assert {name: files_of(folder) for name, folder in made().items()} == before
    assert "making it" not in second.stderr and "building" not in second.stderr
    for name in ("teacher", "student", "blank"):
        assert second.logits(name).tolist() == first.logits(name).tolist()


@pytest.mark.second_tier
def test_another_recipe_makes_another_checkpoint(first, family):
    suite = load_suite(str(family), ["checkpoint.family-blank.seed=7"])
    with Preparer(suite) as preparer:
        other = preparer.checkpoint(suite.checkpoints["family-blank"])
        assert other == preparer.checkpoint(suite.checkpoints["family-blank"])
    (one,) = set((paths.local_data() / "checkpoints").glob("family-blank-*")) - {other}
    one, other = one / "model.safetensors", other / "model.safetensors"
    assert one.stat().st_size == other.stat().st_size and one.read_bytes() != other.read_bytes()


def training_of(pid: int) -> int | None:
    """The process that trains a checkpoint for process `pid`, if there is one."""
    for child in psutil.Process(pid).children():
        try:
            if "engine.artefacts.training" in child.cmdline():
                return child.pid
        except psutil.Error:
            continue
    return None


@pytest.mark.second_tier
@pytest.mark.parametrize("command", ["run", "fetch"])
def test_a_training_that_is_killed_fails_its_variants_alone(
    tiny_models, write_suite, live, wait_until, tmp_path, command
):
    endless = {
        "name": f"endless-{command}", "architecture": TINY, "tokenizer": {"vocab_size": 600}, "dataset": TRAIN,
        "max_length": 32, "epochs": 100_000,
    }  # fmt: skip
    variants = [
        {"name": "other", "model": tiny_models["distilbert"]},
        {"name": "made", "model": f"checkpoint:{endless['name']}"},
        {"name": "made-too", "model": f"checkpoint:{endless['name']}"},
    ]
    suite, file = write_suite(tmp_path, variants, checkpoints=[endless]), tmp_path / "run.json"
    process = live(command, suite, "--device", "cpu", *(["--json", file] if command == "run" else []))
    pid = wait_until(lambda: training_of(process.process.pid), 120, lambda: process.said)
    os.kill(pid, signal.SIGKILL)
    assert process.end(240) == 1 and "Traceback" not in process.said, process.said
    why = f"checkpoint '{endless['name']}': the process was ended by SIGKILL"
    if command == "fetch":
        told = [line for line in process.lines if line.startswith("failed: ")]
        assert told == [f"failed: made: {why}", f"failed: made-too: {why}"]
    else:
        rows = {row["variant"]: row for row in json.loads(file.read_text())["measurements"]}
        assert {name: row["status"] for name, row in rows.items()} == {
            "other": "measured", "made": "failed", "made-too": "failed"
        }  # fmt: skip
        assert rows["made"]["status_reason"] == rows["made-too"]["status_reason"] == f"preparing: {why}"
    assert endless["name"] not in made() and not list((paths.local_data() / "checkpoints").glob(".*.draft"))


@pytest.mark.second_tier
def test_a_teacher_that_only_numbers_its_labels_needs_them_declared(tiny_models, write_suite, bench, tmp_path):
    student = {
        "name": "from-generic",
        "architecture": TINY,
        "teacher": tiny_models["generic"],
        "tokenizer": "teacher",
        "dataset": TRAIN,
        "examples": 64,
        "max_length": 32,
        "epochs": 1,
    }
    variant = {"model": "checkpoint:from-generic", "backend": "onnxruntime"}
    suite = write_suite(tmp_path, [variant], name="undeclared", checkpoints=[student])
    done = bench("run", suite, "--device", "cpu")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "checkpoint 'from-generic'" in last and "teacher_labels" in last
    assert "LABEL_0" in last and "from-generic" not in made()

    suite = write_suite(tmp_path, [variant], name="declared", checkpoints=[student | {"teacher_labels": "by-order"}])
    declared = load_suite(str(suite))
    with Preparer(declared) as preparer:
        preparer.checkpoint(declared.checkpoints["from-generic"])
    config = json.loads((made()["from-generic"] / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS


@pytest.mark.second_tier
def test_a_teacher_with_other_labels_is_refused(tiny_models, write_suite, bench, tmp_path):
    student = {
        "name": "from-sst2",
        "architecture": TINY,
        "teacher": tiny_models["sst2"],
        "tokenizer": "teacher",
        "dataset": TRAIN,
        "examples": 64,
    }
    suite = write_suite(tmp_path, [{"model": "checkpoint:from-sst2"}], name="foreign", checkpoints=[student])
    done = bench("run", suite, "--device", "cpu")
    assert done.returncode == 2 and "from-sst2" not in made()
    last = done.stderr.strip().splitlines()[-1]
    assert "checkpoint 'from-sst2'" in last and "NEGATIVE, POSITIVE" in last and "teacher_labels" in last
